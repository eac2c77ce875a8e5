"""Further score columns through the whole stage, against per-sample gradients by autograd and dense algebra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecif import contrastive
from ecif.detectors import OPTIONAL
from ecif.errors import UsageError
from ecif.run import Run
from ecif.segmentation import segment
from ecif.settings import MethodSettings
from ecif.stages import engine as engines
from ecif.stages import fit, fitted, harm, score
from ecif.stages.batches import load_batch
from ecif.stages.engine import Engine
from ecif.stages.program import Program
from ecif.stages.reading import read_pairs
from ecif.stages.spool import spool
from tests.stages.test_fit import corpus as corpus
from tests.stages.test_fit import fit_all, prepare

SHARD = 0  # of the corpus; all of its images can be decoded


def scored(root: Path, **changes: Any) -> tuple[Run, Engine, pl.DataFrame]:
    run, engine = prepare(root, **changes)
    for one in (run, *run.other_fits().values()):
        fit_all(one, engine)
    direction = score.load_direction(run, engine)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    return run, engine, pl.read_parquet(run.layout.scores(run.score_key, run.inventory.shards[SHARD].name))


def autograd(run: Run, engine: Engine) -> tuple[Tensor, Tensor, Tensor]:
    """Per-sample gradients of Pos, of NegX, and of Pos with the other pairs' embeddings detached, flat, (N, P) each.

    Means over the segmentations; in the order of the tar.
    """
    shard = run.inventory.shards[SHARD]
    values = {name: p.clone().requires_grad_() for name, p in engine.towers.parameters.items()}
    wanted = list(values.values())

    def flat(term: Tensor) -> Tensor:
        parts = torch.autograd.grad(term, wanted, retain_graph=True, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(wanted, parts, strict=True)]
        )

    size = sum(p.numel() for p in wanted)
    found = torch.zeros(3, shard.samples or 0, size, dtype=torch.float64)
    with spool() as samples:
        samples.add(read_pairs(shard.url, shard.name, run.storage, "txt", engine.limits))
        for k in range(run.settings.segmentations):
            for rows in segment(samples.keys, run.settings.batch_size, run.settings.seed, k).batches:
                ((image, text),) = load_batch(engine, samples, rows.tolist()).states
                u, v = engine.towers.embed(values, image, text)
                scale = engine.towers.scale
                s = contrastive.logits(u, v, scale)
                pos, neg = contrastive.positive(s), contrastive.negative_exact(s)
                for i, row in enumerate(rows.tolist()):
                    own = torch.arange(len(rows)) == i
                    own_u = torch.where(own[:, None], u, u.detach())
                    own_v = torch.where(own[:, None], v, v.detach())
                    alone = contrastive.positive(contrastive.logits(own_u, own_v, scale))[i]
                    for part, term in enumerate((pos[i], neg[i], alone)):
                        found[part, row] += flat(term) / run.settings.segmentations
    return found[0], found[1], found[2]


def flat_of(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([part.double().reshape(-1) for part in tensors.values()])


def test_columns_of_gradients_are_those_of_autograd(corpus: Path) -> None:
    """Two heads, no compression: every quantity from dense gradients, solves and norms."""
    pointwise = ("tracin", "if_ekfac", "trak", "vif", "self_influence", "gradient_l1", "gradient_l2")
    relative = ("theta_relative", "l_relative", "relative_influence")
    run, engine, frame = scored(corpus, columns=(*pointwise, *relative), logra_rank=64, segmentations=1)
    a, b, alone = autograd(run, engine)
    project = fit.load_projection(run, engine, torch.float64)
    gradient = flat_of(fitted.load_by_parameter(run.layout.gradient(run.fit_key), run, engine))
    found = fit.load_fit(run, engine)
    d = a + b
    assert project.size == len(gradient)  # nothing is projected away, and the identity keeps the order
    others = {
        column: flat_of(fitted.load_by_parameter(run.layout.direction(one.fit_key), one, engine))
        for column, one in run.other_fits().items()
    }
    solved_a, solved_b = found.curvature.solve(a), found.curvature.solve(b)
    influence = d @ found.curvature.solve(gradient)
    own = (d * found.curvature.solve(d)).sum(1)
    inside = []
    for n in range(len(d)):
        basis = torch.linalg.svd(torch.stack([solved_a[n], solved_b[n]]), full_matrices=False).Vh
        inside.append(float((basis @ gradient).norm() / gradient.norm()))
    expected = {
        "tracin": a @ gradient,
        "if_ekfac": alone @ others["if_ekfac"],
        "trak": alone @ others["trak"],
        "vif": influence,
        "self_influence": own,
        "gradient_l1": a.abs().sum(1),
        "gradient_l2": a.norm(dim=1),
        "theta_relative": influence / (solved_a + solved_b).norm(dim=1),
        "l_relative": influence / own.sqrt(),
        "relative_influence": torch.tensor(inside) * influence.sign(),
    }
    for name, column in expected.items():
        np.testing.assert_allclose(frame[name].to_numpy(), column.numpy(), rtol=2e-5, atol=1e-9, err_msg=name)


def test_harm_adds_the_falls_of_single_validation_losses(corpus: Path) -> None:
    run, engine, frame = scored(corpus, columns=("harm",), logra_rank=64, segmentations=1, validation_segmentations=1)
    a, _, _ = autograd(run, engine)
    found = fit.load_fit(run, engine)
    values = {name: p.clone().requires_grad_() for name, p in engine.towers.parameters.items()}
    rows = []
    with spool() as samples:
        url = str(corpus / "validation.tar")
        samples.add(read_pairs(url, "validation", run.storage, "txt", engine.limits), "validation/")
        for places in segment(samples.keys, 8, 0, 0).batches:
            ((image, text),) = load_batch(engine, samples, places.tolist()).states
            s = contrastive.logits(*engine.towers.embed(values, image, text), engine.towers.scale)
            for term in contrastive.positive(s) / 2:
                parts = torch.autograd.grad(term, list(values.values()), retain_graph=True)
                rows.append(torch.cat([part.reshape(-1) for part in parts]))
    influence = a @ found.curvature.solve(torch.stack(rows)).T
    np.testing.assert_allclose(influence.mean(1).numpy(), frame["positive_influence"].to_numpy(), rtol=1e-4, atol=1e-10)
    np.testing.assert_allclose(influence.neg().clamp(min=0).mean(1).numpy(), frame["harm"].to_numpy(), rtol=1e-4)
    with pytest.raises(UsageError, match="--objective contrastive"):
        harm.validation_rows(
            replace(run, settings=run.settings.model_copy(update={"objective": "prompts:x"})),
            engine,
            found,
            found.projection,
        )


@pytest.mark.parametrize("trainable", ["heads", "last:1"])
def test_the_index_holds_the_projected_gradients_of_both_roles(corpus: Path, trainable: str) -> None:
    run, engine, frame = scored(corpus, index=True, trainable=trainable, logra_rank=3)
    stored = load_tensors(Path(run.layout.index(run.score_key, run.inventory.shards[SHARD].name)).read_bytes())
    a, b, _ = autograd(run, engine)
    project = fit.load_projection(run, engine, torch.float64)
    sizes = [p.numel() for p in engine.towers.parameters.values()]
    for number, (role, rows) in enumerate((("positive", a), ("negative", b))):
        expected = torch.stack(
            [
                project.project(
                    {
                        name: part.reshape(p.shape)
                        for (name, p), part in zip(engine.towers.parameters.items(), row.split(sizes), strict=True)
                    }
                )
                for row in rows
            ]
        )
        assert stored[role].dtype == torch.float16
        got = stored[role].double() * stored["scale"][:, number : number + 1].double()
        largest = expected.abs().amax(1, keepdim=True)
        assert float(((got - expected) / largest).abs().max()) < 1e-3
    assert stored["row"].tolist() == frame["index"].to_list()
    # Products with the projected direction are the influence.
    found = fit.load_fit(run, engine)
    gradient = fitted.load_by_parameter(run.layout.gradient(run.fit_key), run, engine)
    w = found.curvature.solve(project.project(gradient))
    positive, negative = (
        stored[role].double() * stored["scale"][:, n : n + 1].double()
        for n, role in enumerate(("positive", "negative"))
    )
    scale = frame["influence"].abs().max()
    assert isinstance(scale, float)
    np.testing.assert_allclose(((positive + negative) @ w).numpy(), frame["influence"].to_numpy(), atol=2e-3 * scale)


def test_lengths_of_deeper_parameters_are_estimated_by_probes(corpus: Path) -> None:
    """150 probes come within a few standard errors of the exact lengths, and the signs are those of the influence."""
    names = ("theta_relative", "l_relative", "relative_influence", "gradient_norm")
    few = {"columns": names, "column_probes": 150, "segmentations": 1, "logra_rank": 2}
    run, engine, frame = scored(corpus, trainable="last:1", **few)
    a, b, _ = autograd(run, engine)
    found = fit.load_fit(run, engine)
    sizes = [p.numel() for p in engine.towers.parameters.values()]

    def named(row: Tensor) -> dict[str, Tensor]:
        parts = zip(engine.towers.parameters.items(), row.split(sizes), strict=True)
        return {name: part.reshape(p.shape) for (name, p), part in parts}

    def project(rows: Tensor) -> Tensor:
        return torch.stack([found.projection.project(named(row)) for row in rows])

    d = project(a + b)
    influence = frame["influence"].cast(pl.Float64).to_numpy()
    expected = {
        "theta_relative": influence / found.curvature.solve(d).norm(dim=1).numpy(),
        "l_relative": influence / (d * found.curvature.solve(d)).sum(1).sqrt().numpy(),
        "gradient_norm": (a + b).norm(dim=1).numpy(),
    }
    for name, column in expected.items():
        ratio = frame[name].cast(pl.Float64).to_numpy() / column
        assert np.abs(ratio - 1).max() < 5 / (2 * 150) ** 0.5, name
    assert (np.sign(frame["relative_influence"].to_numpy()) == np.sign(influence)).all()
    assert (frame["relative_influence"].abs() <= 1).all()


def test_columns_that_compare_a_training_run(corpus: Path) -> None:
    weights = load_file(corpus / "model" / "weights.safetensors")
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: part + 0.01 * torch.randn(part.shape, generator=generator) if part.dim() > 1 else part
        for name, part in weights.items()
    }
    save_file(noisy, corpus / "earlier.safetensors")
    files = (str(corpus / "earlier.safetensors"), str(corpus / "model" / "weights.safetensors"))
    _, _, frame = scored(
        corpus,
        columns=("aum", "average_similarity", "forward_inf", "clip_logit", "lemon", "deep_knn"),
        checkpoints=files,
    )
    assert all(frame[name].is_finite().all() for name in ("aum", "average_similarity", "forward_inf", "lemon"))
    _, _, first = scored(corpus, pretrained=files[0], out=str(corpus / "earlier-out"))
    expected = (first["clip_score"] + frame["clip_score"]).to_numpy() / 2
    np.testing.assert_allclose(frame["average_similarity"].to_numpy(), expected, rtol=1e-5)
    with pytest.raises(UsageError, match="--checkpoints"):
        scored(corpus, columns=("aum",), out=str(corpus / "other"))


def test_only_the_model_that_reads_has_processes_that_decode(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Program] = []

    class Noted(Program):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    monkeypatch.setattr(engines, "Program", Noted)
    weights = str(corpus / "model" / "weights.safetensors")
    _, engine, frame = scored(corpus, columns=("aum",), checkpoints=(weights, weights), processes=1)
    assert frame["aum"].is_finite().all()
    assert [program is engine.program for program in started] == [True]


def test_columns_are_part_of_the_key_and_change_no_other_score(corpus: Path) -> None:
    plain, _, before = scored(corpus)
    more, _, after = scored(corpus, columns=("clip_logit", "self_influence", "outlier_gradient"))
    assert (plain.fit_key, plain.score_key) != (more.fit_key, more.score_key)
    assert plain.fit_key == more.fit_key
    assert after.select(before.columns).equals(before)
    assert after.columns == [*before.columns, "clip_logit", "self_influence", "outlier_gradient"]


def test_unknown_columns_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no column 'clip'"):
        MethodSettings(columns=("clip",))
    assert MethodSettings(columns=("trak", "aum", "trak")).columns == ("aum", "trak")
    assert set(OPTIONAL) >= {"theta_relative", "lemon"}


def test_a_further_column_can_decide_and_is_reported(corpus: Path) -> None:
    from ecif.inventory import load
    from ecif.policy.settings import PolicySettings
    from ecif.progress import Silent
    from ecif.report import build_report
    from ecif.settings import Settings
    from ecif.stages.plan import plan

    run, _, _ = scored(corpus, columns=("lemon",))
    storage, layout = run.storage, run.layout
    decision = plan(layout, storage, PolicySettings(detector="lemon", drop_count=5), run.score_key)
    frames = [pl.read_parquet(layout.scores(run.score_key, shard.name)) for shard in run.inventory.shards]
    both = pl.concat(frames).filter(pl.col("status") == "ok")["lemon"].sort(descending=True)
    assert (decision.n_dropped, decision.threshold) == (5, both[4])
    page = build_report(
        layout, storage, load(layout, storage), decision, run.score_key, failed={}, progress=Silent()
    ).decode()
    assert "distance of the pair and of its neighbours" in page
    with pytest.raises(UsageError, match="score again with --columns trak"):
        plan(layout, storage, PolicySettings(detector="trak", drop_count=5), run.score_key)
    with pytest.raises(ValueError, match="add --columns"):
        Settings(detector="lemon")


def test_equal_captions_can_be_left_out_of_the_competition(corpus: Path) -> None:
    """Fit, validation loss and scores all see the masked logits: against autograd along the saved direction."""
    run, engine, frame = scored(corpus, equal_captions="mask", segmentations=1, index=True, logra_rank=64)
    plain, _, other = scored(corpus)
    assert run.fit_key != plain.fit_key
    assert not np.allclose(frame["neg_clip_loss"].to_numpy(), other["neg_clip_loss"].to_numpy())
    shard = run.inventory.shards[SHARD]
    w = score.load_direction(run, engine).tensors
    expected = np.zeros(shard.samples or 0)
    with spool() as samples:
        samples.add(read_pairs(shard.url, shard.name, run.storage, "txt", engine.limits))
        for rows in segment(samples.keys, 8, 0, 0).batches:
            batch = load_batch(engine, samples, rows.tolist())
            ((image, text),) = batch.states
            values = {name: p.clone().requires_grad_() for name, p in engine.towers.parameters.items()}
            s = contrastive.logits(*engine.towers.embed(values, image, text), engine.towers.scale)
            same = torch.tensor([[a == b for a in batch.captions] for b in batch.captions])
            s = s.masked_fill(same & ~torch.eye(len(s), dtype=torch.bool), -1e4)
            for row, term in zip(rows, contrastive.positive(s) + contrastive.negative_exact(s), strict=True):
                parts = torch.autograd.grad(term, list(values.values()), retain_graph=True)
                expected[row] = sum(float((g * w[n]).sum()) for n, g in zip(values, parts, strict=True))
    np.testing.assert_allclose(frame["influence"].to_numpy(), expected, rtol=1e-5, atol=1e-12)
    stored = load_tensors(Path(run.layout.index(run.score_key, shard.name)).read_bytes())
    positive, negative = (
        stored[role].double() * stored["scale"][:, n : n + 1].double()
        for n, role in enumerate(("positive", "negative"))
    )
    largest = float(np.abs(expected).max())
    np.testing.assert_allclose(((positive + negative) @ flat_of(w)).numpy(), expected, atol=2e-3 * largest)
