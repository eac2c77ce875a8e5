"""The child: projected per-sample gradients of the plain model by one library, timed on request.

    python -m bench.peers.collect LIBRARY SIZES

SIZES is JSON. For every line read from standard input one line of JSON is written: CPU and wall seconds of collecting
all samples once, and how many numbers a sample has. First comes a line with the library's version and, for a check that
all compute the same thing, the norms of the unprojected gradients of the first samples.

Each library is used as its documentation does it, in the faster of its variants, and projects with dense random
matrices that are made before the clock starts:

    ecif      ecif.gradients.linear, on token ids in memory
    bergson   an InMemoryCollector run by CollectorComputer, with a Rademacher projection; parameters are frozen but for
              the token embedding, as its own workers do
    dattri    LoGraAttributor.cache with Hessian `Identity`, offload `none`; uncovered parameters are frozen, too
    training  no library: a forward and backward pass with the gradients of the same weights, for scale
    along     no gradients: what the gradients are wanted for, the derivative of every loss along one direction, by
              forward mode; its direction is lifted from a projected one, so that the rows of `ecif` times that one are
              the same numbers, which is checked before the clock starts
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from bench.peers.plain import Sizes, build, losses

CHECKED = 8  # samples whose unprojected norms are compared
Collect = Callable[[], Tensor]


def ecif(model: nn.Module, ids: Tensor, modules: list[str], sizes: Sizes, rank: int, folder: str) -> Collect:
    """(samples, K)."""
    from ecif import logra
    from ecif.gradients.linear import linear_gradients

    shapes = {f"{name}.weight": tuple(model.get_parameter(f"{name}.weight").shape) for name in modules}
    project = logra.build(shapes, rank or 10**6, 10**12, 0, torch.device("cpu"), torch.float32)
    return lambda: torch.cat([linear_gradients(model, losses, some, project) for some in ids.split(sizes.batch)])


def along(model: nn.Module, ids: Tensor, modules: list[str], sizes: Sizes, rank: int, folder: str) -> Collect:
    """(samples, 1)."""
    from ecif import logra

    weights = {f"{name}.weight": model.get_parameter(f"{name}.weight").detach() for name in modules}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    project = logra.build(shapes, rank or 10**6, 10**12, 0, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(1)
    projected_K = torch.randn(project.size, generator=generator) / project.size**0.5
    direction = project.lift(projected_K)

    as_module = Losses(model)

    def run() -> Tensor:
        found = []
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            for some in ids.split(sizes.batch):
                _, slope, *_ = jvp(
                    lambda w, x=some: functional_call(as_module, {f"model.{n}": p for n, p in w.items()}, (x,)),
                    (weights,),
                    (direction,),
                )
                found.append(slope)
        return torch.cat(found).unsqueeze(1)

    if rank:
        rows = ecif(model, ids, modules, sizes, rank, folder)()
        torch.testing.assert_close(run().squeeze(1), rows @ projected_K, rtol=1e-3, atol=1e-3)
    return run


class Losses(nn.Module):
    """The losses as a module, so that weights can be given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return losses(self.model, ids)


def training(model: nn.Module, ids: Tensor, modules: list[str], sizes: Sizes, rank: int, folder: str) -> Collect:
    """No per-sample gradients: the sums over the batches, one row each."""
    weights = [model.get_parameter(f"{name}.weight") for name in modules]

    def run() -> Tensor:
        for some in ids.split(sizes.batch):
            torch.autograd.grad(losses(model, some).sum(), weights)
        return torch.zeros(len(ids), 0)

    return run


def bergson(model: Any, ids: Tensor, modules: list[str], sizes: Sizes, rank: int, folder: str) -> Collect:
    """(samples, K)."""
    library, configs = import_module("bergson"), import_module("bergson.config")
    computer = import_module("bergson.collector.collector").CollectorComputer
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    data = import_module("datasets").Dataset.from_dict({"input_ids": ids.tolist()})
    config = configs.IndexConfig(run_path=os.path.join(folder, "run"), projection_dim=rank)
    config.partial_run_path.mkdir(parents=True, exist_ok=True)
    processor = library.GradientProcessor(projection_dim=rank or None)
    batches = [list(range(i, min(i + sizes.batch, len(ids)))) for i in range(0, len(ids), sizes.batch)]

    def run() -> Tensor:
        collector = library.InMemoryCollector(
            model=model, data=data, cfg=config, processor=processor, target_modules=set(modules)
        )
        computer(model, data, collector=collector, batches=batches, cfg=config).run_with_collector_hooks()
        return torch.cat([collector.gradients[name] for name in modules], 1)

    return run


def dattri(model: nn.Module, ids: Tensor, modules: list[str], sizes: Sizes, rank: int, folder: str) -> Collect:
    """(samples, K)."""
    logra = import_module("dattri.algorithm.logra")
    blocks = import_module("dattri.algorithm.block_projected_if.block_projected_if")

    model.requires_grad_(False)
    for name in modules:
        model.get_submodule(name).requires_grad_(True)

    def loss(model: nn.Module, batch: dict[str, Tensor], device: str) -> Tensor:
        return losses(model, batch["input_ids"]).mean()  # it multiplies by the size of the batch again

    task = import_module("dattri.task").AttributionTask(loss_func=loss, model=model, checkpoints=[model.state_dict()])
    common: dict[str, Any] = {"layer_names": modules, "hessian": "Identity", "offload": "none", "cache_dir": folder}
    if rank:
        attributor = logra.LoGraAttributor(task, proj_dim=rank**2, **common)
    else:
        whole = {"device": "cpu", "proj_dim": -1, "proj_max_batch_size": 64, "proj_type": "identity"}
        attributor = blocks.BlockProjectedIFAttributor(
            task, sparsifier_kwargs=whole, projector_kwargs=dict(whole), **common
        )
    rows: Any = [{"input_ids": one} for one in ids]
    loader: DataLoader[dict[str, Tensor]] = DataLoader(rows, batch_size=sizes.batch)

    def run() -> Tensor:
        attributor.cache(loader)
        stored = attributor.offload_manager.cached_gradients
        return torch.cat([stored[i] for i in sorted(stored)])

    return run


LIBRARIES = {"ecif": ecif, "bergson": bergson, "dattri": dattri, "training": training, "along": along}


def main() -> None:
    """Answer each line of standard input with one measurement."""
    library, sizes = sys.argv[1], Sizes(**json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is not an answer
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as folder:
        model, ids, modules = build(sizes)
        whole = LIBRARIES[library](model, ids[:CHECKED], modules, sizes, 0, os.path.join(folder, "whole"))
        norms = whole().double().norm(dim=1).tolist()
        collect = LIBRARIES[library](model, ids, modules, sizes, sizes.rank, os.path.join(folder, "projected"))
        collect()  # compiles, allocates
        name = "torch" if library in ("training", "along") else library
        print(
            json.dumps({"version": version(name), "torch": torch.__version__, "norms": norms}), file=answers, flush=True
        )
        for _ in sys.stdin:
            cpu, wall = time.process_time(), time.perf_counter()
            rows = collect()
            found = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "size": rows.shape[1]}
            print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
