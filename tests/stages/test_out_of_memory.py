"""Out of memory: smaller micro-batches and the same scores, or an error that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ecif.errors import DoesNotFitError
from ecif.influence import Embedded
from ecif.run import Run
from ecif.settings import MethodSettings
from ecif.stages import cases, edit, removal, score
from ecif.stages.column_rows import Rows
from ecif.stages.column_sources import Sources
from ecif.stages.engine import Engine
from ecif.stages.memory import MicroBatch, Refusal, batch_bounded, is_out_of_memory, tried
from ecif.stages.wanted import Wanted
from tests.stages.test_fit import fit_all, write_tar
from tests.stages.test_fit import prepare as prepare_any
from tests.tiny import CONFIG, write_model

CPU = torch.device("cpu")
SCORES = ("influence", "positive_influence", "negative_influence", "clip_score", "neg_clip_loss")
# Of the largest score of a column, when the fit ran out of memory, too; scoring alone: docs/devices.md.
TOLERANCE = {"fp32": 1e-4, "fp64": 1e-6}  # the files hold float32


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two shards: that a size is remembered shows in the second."""
    for n in range(2):
        write_tar(tmp_path / "raw" / f"{n:05d}.tar", 12, 100 * n, bad=(4,))
    write_tar(tmp_path / "validation.tar", 8, 1000)
    write_model(tmp_path / "model")
    return tmp_path


def prepare(root: Path, **changes: Any) -> tuple[Run, Engine]:
    """As small as scores can be told apart."""
    return prepare_any(root, **{"segmentations": 1, "sketches": 2, "logra_rank": 2} | changes)


def narrow(engine: Engine, most: int) -> list[int]:
    """Make the towers run out of memory with more than `most` samples; gives the sizes of the attempts that did."""
    refused: list[int] = []

    def guarded(run: Callable[..., Any]) -> Callable[..., Any]:
        def guard(x: torch.Tensor, *more: torch.Tensor) -> Any:
            if len(x) > most:
                refused.append(len(x))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return run(x, *more)

        return guard

    for tower in (engine.towers.image, engine.towers.text):
        tower.stem, tower._tail = guarded(tower.stem), guarded(tower._tail)
    return refused


def scored(root: Path, most: int | None = None, **changes: Any) -> tuple[pl.DataFrame, list[str], list[int]]:
    """Scores of the corpus, what was said, and the attempts that failed."""
    run, engine = prepare(root, **changes)
    said: list[str] = []
    engine.micro.say = said.append
    refused = [] if most is None else narrow(engine, most)
    fit_all(run, engine)
    direction = score.load_direction(run, engine)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    urls = [run.layout.scores(run.score_key, shard.name) for shard in run.inventory.shards]
    return pl.concat([pl.read_parquet(url) for url in urls]), said, refused


def assert_same(found: pl.DataFrame, expected: pl.DataFrame, tolerance: float, columns: tuple[str, ...]) -> None:
    others = ["uid", "status", "batch", "position", "batch_n"]
    assert found.select(others).equals(expected.select(others))
    for name in columns:
        want = expected[name].fill_null(0).to_numpy()
        assert np.abs(found[name].fill_null(0).to_numpy() - want).max() <= tolerance * np.abs(want).max(), name


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"trainable": "heads", "precision": "fp32"}, 5),
        ({"trainable": "last:1", "precision": "fp32"}, 5),
        ({"trainable": "all", "precision": "fp64"}, 4),
        ({"trainable": "last:1", "precision": "fp64", "curvature": "fisher", "logra_init": "random"}, 3),
        ({"trainable": "last:1", "precision": "fp64", "curvature": "pointwise", "columns": ("harm",)}, 5),
        ({"trainable": "heads", "precision": "fp64", "columns": ("self_influence", "forward_inf"), "index": True}, 2),
    ],
)
def test_what_runs_out_of_memory_goes_on_with_the_same_scores(corpus: Path, changes: dict[str, Any], most: int) -> None:
    plain, nothing, _ = scored(corpus, micro_batch=64, **changes)
    found, said, refused = scored(corpus, most, micro_batch=64, out=str(corpus / "narrow"), **changes)
    columns = (*SCORES, *changes.get("columns", ()))
    assert_same(found, plain, TOLERANCE[changes["precision"]], columns)
    assert nothing == []
    # Once for each halving, and never again: not in the next shard, nor in another stage.
    assert len(said) == len(refused)
    assert refused == sorted(set(refused), reverse=True)
    assert said[-1].startswith(
        f"cpu: out of memory with {refused[-1]} samples at once, going on with a micro-batch of "
    )


def test_trace_and_edit_go_on_too(corpus: Path) -> None:
    run, engine = prepare(corpus, trainable="last:1", precision="fp64", micro_batch=64)
    fit_all(run, engine)
    direction = score.load_direction(run, engine)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    names = corpus / "names.txt"
    names.write_text("\n".join(f"00000/{key:09d}" for key in range(3)), "utf-8")
    gone = removal.by_names(run, str(names))
    tests, _ = cases.from_tar(str(corpus / "validation.tar"), run, engine)
    captions = [case.caption for case in tests]

    def gradients(which: Engine) -> list[dict[str, torch.Tensor]]:
        asked = [
            *cases.among_candidates(which, tests[:5], captions),
            *cases.among_validation(run, which, tests[:2]),
        ]
        return [one.gradient for one in asked]

    def edited(which: Engine, weights: str) -> edit.Outcome:
        for shard in edit.todo(run, gone):
            edit.map_shard(run, which, shard, gone)
        return edit.reduce(run, which, gone, str(corpus / weights))

    expected, outcome = gradients(engine), edited(engine, "plain.safetensors")
    for partial in Path(run.layout.edit_partials(gone.key)).iterdir():
        partial.unlink()
    _, other = prepare(corpus, trainable="last:1", precision="fp64", micro_batch=64)
    said: list[str] = []
    other.micro.say = said.append
    refused = narrow(other, 2)
    again = edited(other, "narrow.safetensors")
    assert refused
    assert again.predicted == pytest.approx(outcome.predicted, rel=1e-9)
    assert again.after == pytest.approx(outcome.after, rel=1e-6)
    other.micro.size = 64
    for found, want in zip(gradients(other), expected, strict=True):
        for name, part in want.items():
            torch.testing.assert_close(found[name], part, rtol=1e-9, atol=1e-12)
    assert other.micro_batch == 2


def test_a_single_sample_that_does_not_fit_ends_in_advice(corpus: Path) -> None:
    run, engine = prepare(corpus, micro_batch=4)
    engine.micro.say = lambda text: None
    refused = narrow(engine, 0)
    with pytest.raises(DoesNotFitError, match=r"micro-batch of 1 \(CUDA out of memory.*--trainable.*--batch-size"):
        fit_all(run, engine)
    assert refused == [4, 2, 1]


def test_what_the_contrastive_batch_takes_is_not_tried_again_with_less(corpus: Path) -> None:
    attempts = []

    def compute() -> None:
        attempts.append(1)
        torch.empty(1 << 45)

    with (
        pytest.raises(DoesNotFitError, match=r"contrastive batch of 512 pairs.*--batch-size.*not lowered for you"),
        batch_bounded(CPU, MethodSettings(batch_size=512)),
    ):
        compute()
    assert attempts == [1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 80 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
)
def test_refusals_of_allocators_are_known(error: Exception) -> None:
    assert is_out_of_memory(error)

    def fail() -> None:
        raise error

    assert isinstance(tried(fail), Refusal)


@pytest.mark.parametrize(
    "said",
    ["mat1 and mat2 shapes cannot be multiplied", "could not create a primitive descriptor for a matmul primitive"],
)
def test_other_errors_are_not_taken_for_it(said: str) -> None:
    def fail() -> None:
        raise RuntimeError(said)

    with pytest.raises(RuntimeError, match=said):
        tried(fail)
    with pytest.raises(RuntimeError, match=said), batch_bounded(CPU, MethodSettings()):
        fail()


def test_a_failed_attempt_leaves_no_tensor_behind() -> None:
    class Held:
        pass

    seen: list[weakref.ref[Held]] = []

    def fail() -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert isinstance(tried(fail), Refusal)
    assert seen[0]() is None


def test_parts_cover_all_samples_once_whatever_fails() -> None:
    said: list[str] = []
    micro = MicroBatch(100, CPU, said.append)

    def work(rows: slice) -> list[int]:
        if rows.stop - rows.start > 7:
            raise MemoryError
        return list(range(50))[rows]

    found = list(micro.parts(50, work))
    assert [row for _, part in found for row in part] == list(range(50))
    assert [rows.stop - rows.start for rows, _ in found] == [6] * 8 + [2]
    assert len(said) == 3  # 50 -> 25 -> 12 -> 6
    assert micro.size == 6


LIMITED = """
import resource, sys
from pathlib import Path

import torch

from ecif.errors import DoesNotFitError
from ecif.stages.embedding import embed_shard
from ecif.stages.pulls import influences
from tests.stages.test_out_of_memory import large_batch, prepare

run, engine = prepare(Path(sys.argv[1]), trainable="last:1", precision="fp32", micro_batch=512)
engine.micro.say = lambda text: print(text)
generator = torch.Generator().manual_seed(0)
direction = {name: torch.randn(p.shape, generator=generator) for name, p in engine.towers.parameters.items()}
(shard,) = run.inventory.shards
for engine.micro.size in (128, 64, 32, 16, 8, 4, 2, 1):  # oneDNN makes its code for every shape that may come
    embed_shard(run, engine, shard, [direction])
engine.micro.size = 512

taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]), -1))
little = embed_shard(run, engine, shard, [direction])
try:
    large_batch(16384)
except DoesNotFitError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))

engine.micro.size = 512
much = embed_shard(run, engine, shard, [direction])
keys = [pair.key for pair in much.pairs]
assert keys == [pair.key for pair in little.pairs]
for found, wanted in zip(*(influences(one.embedded, keys, run.settings)[:2] for one in (little, much))):
    print(float((found - wanted).abs().max() / wanted.abs().max()))
"""


def large_batch(size: int) -> None:
    """Influence in a contrastive batch of random embeddings."""
    settings = MethodSettings(batch_size=size, segmentations=1)
    u = torch.nn.functional.normalize(torch.randn(size, 4), dim=1)
    embedded = Embedded(u, u, u[None], u[None], 10.0, (0.0,))
    rows = Rows(settings, Sources(Wanted.of(settings), {"influence": {}}), embedded, [], torch.arange(size))
    with batch_bounded(CPU, settings):
        score.score_rows(rows, [str(n) for n in range(size)])


def test_a_process_with_little_memory_scores_as_one_with_much(tmp_path: Path) -> None:
    """The allocator itself refuses: the address space of a process is limited while it embeds."""
    text = CONFIG["text_cfg"] | {"context_length": 77, "width": 128, "heads": 2, "layers": 1}
    vision = CONFIG["vision_cfg"] | {"layers": 1}
    write_model(tmp_path / "model", CONFIG | {"text_cfg": text, "vision_cfg": vision})
    write_tar(tmp_path / "raw" / "00000.tar", 160)
    write_tar(tmp_path / "validation.tar", 8, 1000)
    halvings: list[str] = []
    # glibc takes another 64 MiB of addresses whenever two threads meet, and keeps what it took for large tensors in its
    # heap: one arena, and nothing large in it. How much the allocator has in hand before the limit is set is up to it:
    # in some runs 160 MiB more are enough.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    for room in (160, 128, 96, 64):
        command = [sys.executable, "-c", LIMITED, str(tmp_path), str(room << 20)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
        assert ended.returncode == 0, ended.stderr
        *halvings, refused, positive, negative = ended.stdout.splitlines()
        if halvings:
            break
    assert halvings
    assert halvings[0].startswith("cpu: out of memory with 160 samples at once, going on with a micro-batch of 128;")
    assert "contrastive batch of 16,384 pairs" in refused
    assert max(float(positive), float(negative)) <= 1e-5
