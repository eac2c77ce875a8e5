"""The validation loss, averaged over segmentations, and its gradient: against autograd of the loss written out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ecif import contrastive
from ecif.run import Run
from ecif.segmentation import segment
from ecif.stages import edit, fit, fitted, harm, removal, score
from ecif.stages.batches import load_batch
from ecif.stages.engine import Engine
from ecif.stages.spool import Spool
from ecif.stages.stems import rows
from ecif.stages.validation import Validation, load_validation, spooled
from ecif.towers import SCALE
from tests.stages.test_fit import COLOURS, fit_all, label, prepare, write_tar
from tests.tiny import write_model


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three shards, and validation pairs of which two cannot be decoded, so that their batches differ in size."""
    for n in range(3):
        write_tar(tmp_path / "raw" / f"{n:05d}.tar", 12, 100 * n)
    write_tar(tmp_path / "validation.tar", 13, 1000, bad=(1003, 1008))
    write_model(tmp_path / "model")
    return tmp_path


def validated(run: Run, engine: Engine) -> Validation:
    return load_validation(run.validation, run.settings, run.storage, engine)


def pairs_of(run: Run, engine: Engine) -> Any:
    return spooled(run.validation, run.settings.caption, run.storage, engine)


def terms(
    run: Run, engine: Engine, samples: Spool, values: dict[str, Tensor], k: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Pos / 2 of the pairs of each batch of segmentation k, decoded anew, as functions of the parameters."""
    scale = values[SCALE].exp() if SCALE in values else engine.towers.scale
    for places in segment(samples.keys, run.settings.batch_size, run.settings.seed, k).batches:
        batch = load_batch(engine, samples, places.tolist())
        if batch.size >= 2:
            ((image, text),) = batch.states
            s = contrastive.logits(*engine.towers.embed(values, image, text), scale)
            captions_B = batch.competing(run.settings)
            yield batch.rows, contrastive.positive(s if captions_B is None else contrastive.mask_equal(s, captions_B))


@pytest.mark.parametrize("masked", ["compete", "mask"])
@pytest.mark.parametrize("trainable", ["heads", "last:1", "all"])
def test_loss_and_gradient_are_the_means_over_the_segmentations(corpus: Path, trainable: str, masked: str) -> None:
    """Of small batches some lose all pairs but one: segmentations of different sizes count alike."""
    run, engine = prepare(
        corpus, trainable=trainable, equal_captions=masked, batch_size=3, validation_segmentations=5, micro_batch=3
    )
    found = validated(run, engine)
    values = {name: p.clone().requires_grad_() for name, p in engine.towers.parameters.items()}
    losses, sizes = [], []
    with pairs_of(run, engine) as samples:
        for k in range(5):
            found_k = list(terms(run, engine, samples, values, k))
            sizes.append(sum(len(part) for _, part in found_k))
            losses.append(torch.cat([part for _, part in found_k]).mean() / 2)
    expected = torch.stack(losses).mean()
    assert len(set(sizes)) > 1
    assert found.loss == pytest.approx(expected.item(), rel=1e-12)
    assert (found.pairs, found.refused) == (11, {"undecodable_image": 2})
    for name, gradient in zip(values, torch.autograd.grad(expected, list(values.values())), strict=True):
        torch.testing.assert_close(found.gradient[name], gradient, rtol=1e-9, atol=1e-12)
    assert (SCALE in values) == (trainable == "all")


def test_one_segmentation_is_the_first_of_several(corpus: Path) -> None:
    """And more of them are another loss."""
    run, engine = prepare(corpus, batch_size=4, validation_segmentations=1)
    one = validated(run, engine)
    values = dict(engine.towers.parameters)
    with pairs_of(run, engine) as samples:
        alone = torch.cat([part for _, part in terms(run, engine, samples, values, 0)]).mean() / 2
    assert one.loss == pytest.approx(alone.item(), rel=1e-12)
    run, engine = prepare(corpus, batch_size=4, validation_segmentations=2)
    assert validated(run, engine).loss != one.loss


def test_pairs_of_one_batch_are_cut_in_one_way(corpus: Path) -> None:
    found = []
    for count in (1, 6):
        run, engine = prepare(corpus, batch_size=13, validation_segmentations=count)
        found.append(validated(run, engine))
    assert found[0].loss == found[1].loss
    assert all(torch.equal(part, found[1].gradient[name]) for name, part in found[0].gradient.items())


@pytest.mark.parametrize(("trainable", "passes"), [("heads", 1), ("last:1", 2), ("all", 2)])
def test_stems_do_not_run_once_more_for_each_segmentation(corpus: Path, trainable: str, passes: int) -> None:
    run, engine = prepare(corpus, trainable=trainable, batch_size=4, validation_segmentations=7)
    stem, seen = engine.towers.image.stem, 0

    def counted(images: Tensor) -> tuple[Tensor, ...]:
        nonlocal seen
        seen += len(images)
        return stem(images)

    engine.towers.image.stem = counted
    validated(run, engine)
    assert seen == passes * 11


@pytest.mark.parametrize("trainable", ["heads", "last:1"])
def test_single_gradients_have_the_direction_as_their_mean(corpus: Path, trainable: str) -> None:
    """What `harm` holds pairs against is each pair's part of the same loss."""
    run, engine = prepare(corpus, trainable=trainable, batch_size=4, validation_segmentations=3, logra_rank=8)
    fit_all(run, engine)
    found = fit.load_fit(run, engine)
    project = fit.load_projection(run, engine, engine.towers.dtype)
    rows_VK = harm.validation_rows(run, engine, found, project).double()
    values = {name: p.clone().requires_grad_() for name, p in engine.towers.parameters.items()}
    sums_VK, counts_V = torch.zeros(13, project.size, dtype=torch.float64), torch.zeros(13)
    with pairs_of(run, engine) as samples:
        for k in range(3):
            for places, part in terms(run, engine, samples, values, k):
                for row, term in zip(places, part / 2, strict=True):
                    gradient = torch.autograd.grad(term, list(values.values()), retain_graph=True)
                    sums_VK[row] += project.project(dict(zip(values, gradient, strict=True)))
                    counts_V[row] += 1
    assert counts_V.tolist() == [0 if place in (3, 8) else 3 for place in range(13)]
    expected = found.curvature.solve(sums_VK[counts_V > 0] / 3)
    torch.testing.assert_close(rows_VK, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    gradient_K = project.project(fitted.load_by_parameter(run.layout.gradient(run.fit_key), run, engine))
    direction_K = found.curvature.solve(gradient_K)
    torch.testing.assert_close(rows_VK.mean(0), direction_K, rtol=1e-5, atol=1e-6 * float(direction_K.abs().max()))


def test_influence_is_the_change_of_the_averaged_loss(corpus: Path) -> None:
    """An edit that is small enough to be linear changes the loss over all segmentations by the removed influences."""
    run, engine = prepare(corpus, batch_size=4, validation_segmentations=4, damping="1e5", segmentations=1)
    fit_all(run, engine)
    direction = score.load_direction(run, engine)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    names = corpus / "names.txt"
    names.write_text("\n".join(f"00001/{key:09d}" for key in (101, 104, 109)), "utf-8")
    gone = removal.by_names(run, str(names))
    for shard in edit.todo(run, gone):
        edit.map_shard(run, engine, shard, gone)
    outcome = edit.reduce(run, engine, gone, str(corpus / "edited.safetensors"))
    assert outcome.before == validated(run, engine).loss
    assert outcome.actual == pytest.approx(outcome.predicted, rel=0.02)
    assert outcome.actual != 0


def test_segmentations_are_nothing_to_a_loss_over_prompts(corpus: Path) -> None:
    classes = {name: [f"a {name} thing"] for name in COLOURS}
    (corpus / "prompts.json").write_text(json.dumps({"label": "class", "classes": classes}))
    label(corpus)
    found, keys = [], set()
    for count in (1, 6):
        run, engine = prepare(
            corpus,
            objective=f"prompts:{corpus / 'prompts.json'}",
            validation=(str(corpus / "labelled.tar"),),
            batch_size=4,
            validation_segmentations=count,
        )
        found.append(validated(run, engine))
        keys.add(run.fit_key)
    assert len(keys) == 1
    assert found[0].loss == found[1].loss
    assert all(torch.equal(part, found[1].gradient[name]) for name, part in found[0].gradient.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_come_back_by_number(dtype: torch.dtype) -> None:
    values = torch.randn(5, 3, dtype=dtype)
    with rows() as kept:
        kept.write([7, 0, 3], values[:3])
        kept.write([1, 3], values[3:])
        assert torch.equal(kept.read([3, 7, 1, 0, 3]), values[[4, 0, 3, 1, 4]])
        assert kept.read([]).shape == (0, 3)
