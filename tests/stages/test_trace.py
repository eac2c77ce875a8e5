"""Trace-back: every influence against autograd, both sources against each other, order, and a planted mistake."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ecif import contrastive
from ecif.demo.training import train
from ecif.errors import UsageError
from ecif.run import Run, open_run
from ecif.segmentation import segment
from ecif.stages import cases, score, trace
from ecif.stages.cases import Asked, Case
from ecif.stages.engine import Engine
from ecif.stages.fitted import Fit, load_fit
from ecif.stages.reading import read_pairs
from ecif.stages.trace import Contribution, Options, Traced
from tests.squares import Notes
from tests.stages.test_cases import CANDIDATES, square
from tests.stages.test_fit import corpus as corpus  # the fixture
from tests.stages.test_fit import fit_all, prepare, settings

ALL = 100  # more than the corpus holds
CASES = [Case("red", square("red"), "a red thing"), Case("navy", square("navy"), "a navy thing", "a pink thing")]


@dataclass(frozen=True)
class Truth:
    """By (shard, index): gradients of both roles, averaged over the segmentations, flat."""

    a: dict[tuple[str, int], Tensor]
    b: dict[tuple[str, int], Tensor]


def truth(run: Run, engine: Engine, shards: int = 3) -> Truth:
    """By reverse-mode autograd over whole batches, of the first shards."""
    found = Truth({}, {})
    towers, chosen = engine.towers, run.settings
    for shard in run.inventory.shards[:shards]:
        pairs = read_pairs(shard.url, shard.name, run.storage, "txt", engine.limits)
        chunks = list(engine.chunks(pairs, []))
        read = [pair for chunk in chunks for pair in chunk.pairs]
        image = towers.image_stem(torch.cat([chunk.images for chunk in chunks]))
        text = towers.text_stem([pair.caption for pair in read])
        values = {name: p.clone().requires_grad_() for name, p in towers.parameters.items()}
        u, v = towers.embed(values, image, text)
        scale = values["logit_scale"].exp() if "logit_scale" in values else towers.scale

        for k in range(chosen.segmentations):
            for rows in segment([pair.key for pair in read], chosen.batch_size, chosen.seed, k).batches:
                s = contrastive.logits(u[rows], v[rows], scale)
                for kept, terms in ((found.a, contrastive.positive(s)), (found.b, contrastive.negative_exact(s))):
                    for row, term in zip(rows, terms, strict=True):
                        parts = torch.autograd.grad(term, list(values.values()), retain_graph=True)
                        place = (shard.name, read[row].index)
                        flat = torch.cat([part.flatten() for part in parts]) / chosen.segmentations
                        kept[place] = kept[place] + flat if place in kept else flat
    return found


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in gradient.values()])


def ask(run: Run, engine: Engine, given: list[Case] = CASES) -> list[Asked]:
    return cases.among_candidates(engine, given, CANDIDATES)


def by_pair(traced: Traced, n: int) -> dict[tuple[str, int], Contribution]:
    both = traced.found[n, "responsible"] + traced.found[n, "supporting"]
    assert len({(c.shard, c.index) for c in both}) == len(both)
    return {(c.shard, c.index): c for c in both}


@pytest.mark.parametrize("trainable", ["heads", "last:1"])
def test_influence_equals_autograds_products(corpus: Path, trainable: str) -> None:
    """<w, grad(Pos_n + NegX_n)> of every pair of the corpus for two cases, and relative-IS within its own error."""
    heads = trainable == "heads"
    run, engine = prepare(corpus, trainable=trainable, damping="0.5", segmentations=2 if heads else 1)
    fit_all(run, engine)
    fit, asked, exact = load_fit(run, engine), ask(run, engine), truth(run, engine, 3 if heads else 1)
    progress = Notes()
    traced = trace.trace(run, engine, fit, asked, Options(ALL, "influence", 30 if heads else 0), progress)
    assert (traced.by_index, traced.pairs, traced.failed) == (False, 70, ())
    assert progress.advanced == 72
    for n, one in enumerate(asked):
        w = flat(fit.solve(one.gradient))
        found = by_pair(traced, n)
        assert len(found) == 70
        for place in exact.a:
            c = found[place]
            assert c.positive_influence == pytest.approx(float(w @ exact.a[place]), rel=1e-8, abs=1e-14)
            assert c.negative_influence == pytest.approx(float(w @ exact.b[place]), rel=1e-8, abs=1e-14)
            assert c.influence == pytest.approx(c.positive_influence + c.negative_influence)
            assert c.key == f"{c.index + 100 * int(c.shard):09d}"
        if not heads:
            assert all(c.relative is None for c in found.values())
            continue
        places = list(found)
        truths = brute_force(fit, one, exact, places)
        estimates = np.array([[found[p].relative, found[p].relative_se] for p in places], dtype=float)
        scores = (estimates[:, 0] - truths) / estimates[:, 1]
        assert np.abs(scores).max() < 5
        assert 0.4 < np.std(scores) < 2


def brute_force(fit: Fit, one: Asked, exact: Truth, places: list[tuple[str, int]]) -> np.ndarray:
    """relative-IS of pairs, letter by letter; without compression, projected gradients are the gradients."""
    size = fit.projection.size
    h_inverse = fit.curvature.solve(torch.eye(size, dtype=torch.float64))
    g = fit.projection.project(one.gradient)
    assert float(g.norm()) == pytest.approx(one.gradient_norm)
    values = []
    for place in places:
        columns = -h_inverse @ torch.stack([exact.a[place], exact.b[place]], 1)
        inner = torch.linalg.pinv(columns.T @ columns, hermitian=True)
        values.append(float((g @ columns @ inner @ columns.T @ g).sqrt() / g.norm()))
    return np.array(values)


def keep_index(run: Run, engine: Engine) -> None:
    """Score the corpus as `--index` does."""
    direction = score.load_direction(run, engine)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)


def test_stored_gradients_say_the_same_without_the_model(corpus: Path) -> None:
    """Within half precision; the relative forms are then exact, not estimated."""
    run, engine = prepare(corpus, damping="0.5", index=True)
    fit_all(run, engine)
    fit, asked, exact = load_fit(run, engine), ask(run, engine), truth(run, engine)
    passed = trace.trace(run, engine, fit, asked, Options(ALL, "influence", 0))
    keep_index(run, engine)
    progress = Notes()
    stored = trace.trace(run, engine, fit, asked, Options(ALL, "influence", 0), progress)
    assert (stored.by_index, stored.pairs, progress.advanced) == (True, 70, 72)
    h_inverse = fit.curvature.solve(torch.eye(fit.projection.size, dtype=torch.float64))
    for n, one in enumerate(asked):
        expected, found = by_pair(passed, n), by_pair(stored, n)
        assert found.keys() == expected.keys()
        w = flat(fit.solve(one.gradient)).norm()
        for place, c in found.items():
            rounding = float(w * (exact.a[place].norm() + exact.b[place].norm())) * 2**-11
            assert c.influence == pytest.approx(expected[place].influence, abs=rounding)
            assert (c.uid, c.key) == (expected[place].uid, expected[place].key)
            assert c.clip_score == pytest.approx(expected[place].clip_score, abs=1e-6)
            d = exact.a[place] + exact.b[place]
            assert c.l_relative == pytest.approx(c.influence / float(d @ h_inverse @ d) ** 0.5, rel=2e-3)
            assert c.theta_relative == pytest.approx(c.influence / float((h_inverse @ d).norm()), rel=2e-3)
            assert c.relative_se == 0
        truths = brute_force(fit, one, exact, list(found))
        np.testing.assert_allclose([c.relative or 0.0 for c in found.values()], truths, atol=2e-3)
    # One shard without stored gradients, and the whole corpus goes through the model.
    Path(run.layout.index(run.score_key, "00001")).unlink()
    assert not trace.trace(run, engine, fit, asked[:1], Options(1, "influence", 0)).by_index


def test_stored_gradients_are_not_used_where_they_lack_the_complement(corpus: Path) -> None:
    run, engine = prepare(corpus, damping="0.5", complement="keep", logra_rank=3, index=True)
    fit_all(run, engine)
    fit, asked = load_fit(run, engine), ask(run, engine)
    exact = truth(run, engine)
    keep_index(run, engine)
    traced = trace.trace(run, engine, fit, asked, Options(ALL, "l-relative", 40))
    assert not traced.by_index
    for n, one in enumerate(asked):
        w = flat(fit.solve(one.gradient))
        project = fit.projection
        for place, c in by_pair(traced, n).items():
            d = exact.a[place] + exact.b[place]
            assert c.influence == pytest.approx(float(w @ d), rel=1e-8, abs=1e-14)
            # d^T H^-1 d with the complement of d over delta, against its estimate: four standard errors.
            split = dict(zip(one.gradient, d.split([p.numel() for p in one.gradient.values()]), strict=True))
            solved = flat(fit.solve({name: split[name].reshape(p.shape) for name, p in one.gradient.items()}))
            assert c.l_relative is not None
            assert c.l_relative / (c.influence / float(d @ solved) ** 0.5) == pytest.approx(1, abs=4 / (2 * 40) ** 0.5)
        assert project.size < len(w)


@pytest.mark.parametrize("rank_by", ["influence", "relative", "theta-relative", "l-relative"])
def test_a_few_pairs_are_the_first_of_all_in_every_order(corpus: Path, rank_by: trace.RankBy) -> None:
    """What is merged shard by shard is the head of the whole list; the sign of the influence says the side."""
    run, engine = prepare(corpus, damping="0.5")
    fit_all(run, engine)
    fit, asked = load_fit(run, engine), ask(run, engine)
    whole = trace.trace(run, engine, fit, asked, Options(ALL, rank_by, 8))
    few = trace.trace(run, engine, fit, asked, Options(4, rank_by, 8))
    for n in range(len(asked)):
        for side, sign in (("responsible", -1), ("supporting", 1)):
            rows = whole.found[n, side]  # type: ignore[index]
            assert few.found[n, side] == rows[:4]  # type: ignore[index]
            assert all(np.sign(c.influence) == sign for c in rows)
            merits = [abs(getattr(c, rank_by.replace("-", "_"))) for c in rows]
            assert merits == sorted(merits, reverse=True)
    assert all((c.l_relative is None) == (rank_by != "l-relative") for c in few.found[0, "responsible"])


def test_a_planted_mistake_is_the_most_responsible_pair(corpus: Path) -> None:
    """A model is trained with the test image under a wrong caption, and asked about that caption."""
    with tarfile.open(corpus / "raw" / "00001.tar", "a", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in (("planted.png", square("red")), ("planted.txt", b"a pink thing")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    weights = corpus / "trained.safetensors"
    tars = sorted((corpus / "raw").iterdir())
    train(tars, corpus / "model" / "model.json", weights, epochs=30, batch_size=24, lr=3e-3, seed=0, augment=False)
    run, engine = prepare(corpus, pretrained=str(weights), batch_size=24)
    fit_all(run, engine)
    asked = ask(run, engine, [Case("red", square("red"), "a red thing", "a pink thing")])
    orders: tuple[trace.RankBy, ...] = ("influence", "relative")
    for rank_by in orders:
        traced = trace.trace(run, engine, load_fit(run, engine), asked, Options(3, rank_by, 60))
        first, second, _ = traced.found[0, "responsible"]
        assert first.key == "planted"
        assert first.influence < 5 * second.influence


def test_a_shard_that_cannot_be_read_is_set_aside(corpus: Path) -> None:
    run, engine = prepare(corpus)
    fit_all(run, engine)
    (corpus / "raw" / "00001.tar").write_bytes((corpus / "raw" / "00001.tar").read_bytes()[:5000])
    traced = trace.trace(run, engine, load_fit(run, engine), ask(run, engine), Options(3, "influence", 0))
    assert [failure.shard for failure in traced.failed] == ["00001"]
    assert traced.pairs == 48
    assert "00001" not in {c.shard for side in traced.found.values() for c in side}


def test_relative_orders_need_probes(corpus: Path) -> None:
    run, engine = prepare(corpus)
    fit_all(run, engine)
    fit, asked = load_fit(run, engine), ask(run, engine)
    for options in (Options(3, "relative", 0), Options(3, "influence", 2)):
        with pytest.raises(UsageError, match="--probes"):
            trace.trace(run, engine, fit, asked, options)


def test_the_key_names_all_that_decides(corpus: Path) -> None:
    run, _ = prepare(corpus)
    options = Options(3, "influence", 8)
    first = trace.key(run, CASES, None, options)
    assert first == trace.key(run, CASES, None, options)
    mistaken = Case("red", square("red"), "a red thing", "a blue thing")
    more = open_run([str(corpus / "raw")], settings(corpus))
    others = {
        trace.key(run, CASES[:1], None, options),
        trace.key(run, [mistaken, CASES[1]], None, options),
        trace.key(run, CASES, ["a", "b"], options),
        trace.key(run, CASES, None, Options(4, "influence", 8)),
        trace.key(run, CASES, None, Options(3, "relative", 8)),
    }
    assert len(others | {first}) == 6
    assert trace.key(more, CASES, None, options) == first
