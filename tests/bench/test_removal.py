"""The study of removal: what is taken away, how a model is judged, what the tables say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from bench.method.removal import Study, chosen
from bench.method.removal_corpora import Corpus, HeldOut, Recipe, verdict
from bench.method.removal_scores import badness
from bench.method.removal_tables import ALL, EDITED, ORACLE, RANDOM, SHARE, VALUABLE, Cell, paper, summary, tables
from ecif.demo import corpus, training
from ecif.towers.loading import load

SCORES = {"influence": np.array([0.3, -1.0, 2.0, 0.3, 0.1, -4.0, 0.0, 0.2, 1.0, -0.5])}
WRONG = np.array([False, True, True, False, False, False, False, False, True, False])


def test_the_worst_go_first_and_ties_in_the_order_of_the_corpus() -> None:
    assert chosen("influence", 0.2, SCORES, WRONG, 0).tolist() == [2, 8]
    assert chosen("influence", 0.3, SCORES, WRONG, 0).tolist() == [0, 2, 8]
    assert chosen(VALUABLE, 0.3, SCORES, WRONG, 0).tolist() == [1, 5, 9]
    assert chosen(ORACLE, 1.0, SCORES, WRONG, 0).tolist() == [1, 2, 8]
    assert chosen("influence", 0.29, SCORES, WRONG, 0).tolist() == [2, 8]


def test_random_removal_is_nested_and_follows_the_seed() -> None:
    small, large = (set(chosen(RANDOM, fraction, {}, WRONG, 4).tolist()) for fraction in (0.3, 0.7))
    assert (len(small), len(large)) == (3, 7)
    assert small < large
    assert any(set(chosen(RANDOM, 0.3, {}, WRONG, seed).tolist()) != small for seed in range(3))


def test_a_model_is_judged_by_hits_and_cross_entropy() -> None:
    s = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    found = verdict(s, torch.tensor([0, 1, 1]))
    assert found.accuracy == pytest.approx(2 / 3)
    want = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))]
    assert found.loss == pytest.approx(sum(want) / 3, rel=1e-6)


def test_the_error_is_that_of_the_mean_over_the_seeds() -> None:
    assert summary([1.0, 2.0, 3.0], 2) == f"2.00 ± {1 / math.sqrt(3):.2f}"
    assert summary([0.5], 1, signed=True) == "+0.5 ± nan"


def test_tables_compare_with_random_removal_of_the_same_seed() -> None:
    trained = {}
    for seed in (0, 1):
        trained[seed, ALL, 0.0] = Cell(0.40 + 0.1 * seed, 1.6, 0, 0, 5.0)
        trained[seed, ORACLE, 1.0] = Cell(0.45 + 0.1 * seed, 1.5, 3, 3, 5.0)
        trained[seed, RANDOM, SHARE] = Cell(0.39 + 0.1 * seed, 1.7, 1, 0, 5.0)
        trained[seed, "influence", SHARE] = Cell(0.42 + 0.1 * seed, 1.65, 1, 1, 5.0)
        trained[seed, VALUABLE, SHARE] = Cell(0.30 + 0.1 * seed, 2.0, 1, 0, 5.0)
    accuracy, loss, gain, gain_in_loss, wrong = tables(trained, [{"influence": 0.8}, {"influence": 0.9}], [SHARE])
    assert "| influence | 47.0 ± 5.0 |" in accuracy
    assert "nothing: 45.0 ± 5.0; oracle: 50.0 ± 5.0" in accuracy
    assert "| most valuable | 2.000 ± 0.000 |" in loss
    # The seeds differ by ten points; what was removed makes three in each of them.
    assert "| influence | +3.0 ± 0.0 | +3.0 ± 0.0 |" in gain
    assert "| influence | -0.050 ± 0.000 | -0.050 ± 0.000 |" in gain_in_loss
    assert "random" not in gain.split("---")[-1]
    assert "| influence | 100.0 ± 0.0 | 0.850 ± 0.050 |" in wrong
    edits = {
        (seed, what): (
            Cell(0.41 + 0.1 * seed, 1.6, 1, 0, 0.5),
            {"relative_step": 0.02, "predicted": -0.1, "actual": -0.2, "test_edit": 0.3, "test_again": 0.4},
        )
        for seed in (0, 1)
        for what in EDITED
    }
    text = paper(trained, edits)
    assert "| influence | trained again | 47.0 ± 5.0 | 1.650 ± 0.000 | 5.0 ± 0.0 |" in text
    assert "| influence | edited | 46.0 ± 5.0 | 1.600 ± 0.000 | 0.5 ± 0.0 |" in text
    changes = "| random | 2.0 ± 0.0 | -0.1000 ± 0.0000 | -0.2000 ± 0.0000 | +0.3000 ± 0.0000 | +0.4000 ± 0.0000 |"
    assert changes in text


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """64 rendered scenes in two shards, and a model that trains on them in a second."""
    root = tmp_path_factory.mktemp("scenes")
    made = corpus.build(root, pairs=64, validation_pairs=16, shards=2, wrong=0.25, seed=0)
    config = root / "tiny.json"
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 18, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    config.write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    data, held_out = training.read(made.shards, config), training.read((made.validation,), config)
    wrong = dict(pl.read_parquet(made.truth).select("uid", "misaligned").rows())
    test = HeldOut(held_out.images, held_out.captions, torch.arange(16))
    truth = np.array([wrong[uid] for uid in data.uids])
    return Corpus("small", made.shards, made.validation, config, data, truth, test, Recipe(1, 16, 1e-3), None)


def test_scores_come_in_the_order_of_the_corpus(small: Corpus, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    small.train(np.arange(64), 0, weights)
    found = badness(small, weights, tmp_path, ["clip_score", "influence", "tracin"], {})
    loaded = load(str(small.config), str(weights))
    with torch.no_grad():
        u = loaded.model.encode_image(small.data.images, normalize=True)  # type: ignore[operator]
        v = loaded.model.encode_text(loaded.tokenize(list(small.data.captions)), normalize=True)  # type: ignore[operator]
    np.testing.assert_allclose(found["clip_score"], -(u * v).sum(1).numpy(), atol=1e-5)
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(found, (64,))
    with pytest.raises(ValueError, match="no classes"):
        badness(small, weights, tmp_path, ["influence_classes"], {})


def test_the_contrastive_loss_of_the_test_pairs(small: Corpus, tmp_path: Path) -> None:
    """Sixteen pairs are one batch: open_clip's loss of it."""
    weights = tmp_path / "weights.safetensors"
    small.train(np.arange(64), 0, weights)
    loaded = load(str(small.config), str(weights))
    model: Any = loaded.model
    with torch.no_grad():
        u = model.encode_image(small.test.images, normalize=True)
        v = model.encode_text(loaded.tokenize(list(small.test.captions)), normalize=True)
        s, same = model.logit_scale.exp() * u @ v.T, torch.arange(16)
        want = torch.nn.functional.cross_entropy(s, same) + torch.nn.functional.cross_entropy(s.T, same)
    assert small.contrastive_loss(weights, masked=False) == pytest.approx(float(want) / 2, rel=1e-5)


def test_a_study_goes_on_where_it_was(small: Corpus, tmp_path: Path) -> None:
    study = Study(small, tmp_path, ["influence"], {})
    scores = study.scores(0)
    first = study.retrained(0, "influence", 0.25, scores)
    assert (first.removed, first.wrong) == (
        16,
        int(small.wrong[chosen("influence", 0.25, scores, small.wrong, 0)].sum()),
    )
    cell, outcome = study.edited(0, "influence", scores)
    assert (cell.removed, outcome["removed"], outcome["shards"]) == (6, 6, 2)
    changes = study.changes(0, "influence", scores)
    assert all(np.isfinite(list(changes.values())))
    assert changes["test_edit"] != changes["test_again"]
    other = Study(small, tmp_path, ["influence"], {"negative_role": "first-order"})
    assert not np.array_equal(other.scores(0)["influence"], scores["influence"])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = Study(small, tmp_path, ["influence"], {})
    assert again.retrained(0, "influence", 0.25, again.scores(0)) == first
    assert again.edited(0, "influence", again.scores(0)) == (cell, outcome)
    assert again.changes(0, "influence", again.scores(0)) == changes
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
