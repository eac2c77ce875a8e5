"""The loops that scoring is held against do the same work: every pair once, with the model's own input."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import draft, endtoend, growth, overlap
from bench.decoded import write_model
from bench.sampling import sampled
from ecif.shards.decode import Pair, decode_image
from ecif.shards.tar import Limits
from ecif.stages.reading import read_pairs
from ecif.storage import Storage
from ecif.towers.loading import load


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], str, str]:
    folder = tmp_path_factory.mktemp("raw")
    growth.write_tar(folder / "whole.tar", 0)
    tars = [endtoend.cut(folder / "whole.tar", count, folder / f"{count}.tar") for count in (12, 9)]
    return tars, *write_model(folder, growth.CONFIG)


def test_loops_by_hand_take_what_scoring_takes(files: tuple[list[Path], str, str]) -> None:
    tars, model, weights = files
    loaded = load(model, weights)
    scoring = endtoend.Scoring(tars, model, weights, "heads", 8, batch_size=4, workers=2)
    batches = list(endtoend.in_threads(tars, loaded, 8))
    images = torch.stack([image for batch in batches for image, _ in batch])
    captions = [caption for batch in batches for _, caption in batch]
    pairs = [one for tar in tars for one in read_pairs(str(tar), "s", Storage(), "txt", scoring.engine.limits)]
    chunks = list(scoring.engine.chunks(pairs, []))
    assert captions == [pair.caption for pair in pairs if isinstance(pair, Pair)]
    assert torch.equal(images, torch.cat([scoring.engine.towers.to_input(chunk.images) for chunk in chunks]))
    assert [len(batch) for batch in batches] == [8, 8, 5]
    assert endtoend.embed(loaded, iter(batches)) == 21
    assert scoring() == 21


def test_workers_of_a_loader_share_the_samples(files: tuple[list[Path], str, str], monkeypatch: Any) -> None:
    tars, model, weights = files
    loaded = load(model, weights)
    for given in (tars, tars[:1]):
        seen = []
        for worker in range(2):
            info = type("Info", (), {"id": worker, "num_workers": 2})()
            monkeypatch.setattr(endtoend, "get_worker_info", lambda info=info: info)
            seen += [caption for _, caption in endtoend.Decoded(given, loaded)]
        assert sorted(seen) == sorted(caption for _, caption in endtoend.samples(given))


def test_ratios_are_to_the_loops_by_hand_of_the_same_round() -> None:
    calls: list[str] = []

    def work(name: str) -> int:
        calls.append(name)
        return sum(range(10_000))  # something that takes time

    rows = endtoend.measure({name: partial(work, name) for name in ("by hand, a", "heads")}, 2)
    assert calls == ["by hand, a", "heads"] * 3  # the first round warms up
    assert rows[0]["ratio_per_second"] == rows[0]["ratio_per_cpu_second"] == [1, 1, 1]
    assert [row["variant"] for row in rows] == ["by hand, a", "heads"]


def test_a_stand_in_device_gets_every_pair(files: tuple[list[Path], str, str]) -> None:
    tars, model, weights = files
    of = endtoend.Scoring(tars, model, weights, "heads", 8, workers=1)
    for across in (False, True):
        assert overlap.loop(of, of.engine, of.run.inventory.shards, 1e6, across=across) > 0


def test_pictures_are_made_larger_and_stay_in_order(files: tuple[list[Path], str, str], tmp_path: Path) -> None:
    tars, _, _ = files
    tar = draft.enlarged(tars[0], tmp_path / "larger.tar", 5, 40)
    pairs = [one for one in read_pairs(str(tar), "s", Storage(), "txt", Limits()) if isinstance(one, Pair)]
    assert [pair.key for pair in pairs] == [f"{number:06d}" for number in range(5)]
    assert {decode_image(pair.image).size for pair in pairs} == {(40, 40)}


def test_samples_tell_what_a_thread_does() -> None:
    found = sampled(lambda: np.linalg.matrix_power(np.eye(300), 3000))
    assert found["MainThread"].total() > 0
