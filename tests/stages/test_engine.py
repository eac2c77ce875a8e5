"""Samples become micro-batches in their order, whatever the threads, and the towers' input to the last bit."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from ecif.cores import cores
from ecif.settings import ScoreSettings
from ecif.shards.decode import Pair, Refused, decode_image
from ecif.stages.engine import TASK, Engine, load_engine
from ecif.stages.spool import image_digest
from ecif.towers import Towers
from tests.tiny import write_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    model, weights = write_model(tmp_path_factory.mktemp("model"))
    return str(model), str(weights)


def engine(files: tuple[str, str], **changes: object) -> Engine:
    model, weights = files
    return load_engine(ScoreSettings(model=model, pretrained=weights, device="cpu", **changes))  # type: ignore[arg-type]


def samples(count: int, side: int = 40) -> list[Pair | Refused]:
    """Smooth pictures as JPEGs; every seventh image is damaged, every eleventh sample was refused before."""
    found: list[Pair | Refused] = []
    for number in range(count):
        waves = np.sin(np.arange(side)[:, None] * (number % 5 + 1) / side) + np.cos(np.arange(side) * number / side)
        picture = np.stack([waves, waves.T, -waves], 2) * 60 + 128
        buffer = io.BytesIO()
        PIL.Image.fromarray(picture.astype(np.uint8)).save(buffer, "JPEG", quality=95)
        data = buffer.getvalue()[: 100 if number % 7 == 3 else None]
        key = f"{number:03d}"
        if number % 11 == 5:
            found.append(Refused(key, key, number, "no_caption", "none"))
        else:
            found.append(Pair(key, key, number, data, f"caption {number}"))
    return found


@pytest.mark.parametrize(("workers", "micro"), [(0, 128), (0, 10), (1, 10), (3, TASK), (3, 7)])
def test_micro_batches_are_the_same_whatever_the_threads(files: tuple[str, str], workers: int, micro: int) -> None:
    given = samples(50)
    of = engine(files, workers=workers, micro_batch=micro)
    refused: list[Refused] = []
    chunks = list(of.chunks(iter(given), refused))
    good = [one for number, one in enumerate(given) if isinstance(one, Pair) and number % 7 != 3]
    assert [len(chunk.pairs) for chunk in chunks[:-1]] == [micro] * (len(chunks) - 1)
    assert [pair for chunk in chunks for pair in chunk.pairs] == good
    assert [one.key for one in refused] == [one.key for one in given if one not in good]
    assert {one.status for one in refused} == {"no_caption", "undecodable_image"}
    assert [digest for chunk in chunks for digest in chunk.digests] == [image_digest(pair.image) for pair in good]
    tokens = of.towers.loaded.tokenize([pair.caption for pair in good])
    assert torch.equal(torch.cat([chunk.tokens for chunk in chunks]), tokens)
    whole = torch.stack([of.towers.loaded.transform(decode_image(pair.image)) for pair in good])
    assert torch.equal(torch.cat([of.towers.to_input(chunk.images) for chunk in chunks]), whole)
    assert chunks[0].images.dtype == torch.uint8


def test_a_draft_is_close_to_the_whole_and_not_the_same(files: tuple[str, str]) -> None:
    given = [one for one in samples(12, side=64) if isinstance(one, Pair)]
    inputs = []
    for decode in ("full", "draft"):
        of = engine(files, workers=0, decode=decode)
        inputs.append(torch.cat([chunk.images for chunk in of.chunks(given, [])]).float())
    difference = (inputs[0] - inputs[1]).abs()
    assert inputs[0].shape == inputs[1].shape
    assert 0 < difference.mean() < 4
    assert not torch.equal(inputs[0], inputs[1])


def test_there_is_a_thread_for_each_core_unless_it_is_said(files: tuple[str, str]) -> None:
    assert engine(files).workers == cores()
    assert engine(files, workers=5).workers == 5


def test_computing_begins_before_a_shard_is_read_whole(files: tuple[str, str]) -> None:
    """A shard without an end gives micro-batches, and reading keeps a bounded distance."""
    of = engine(files, workers=2, micro_batch=4)
    pair = next(one for one in samples(1) if isinstance(one, Pair))
    read = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal read
        while True:
            read += 1
            yield Pair(pair.uid, pair.key, read, pair.image, pair.caption)

    chunks = of.chunks(endless(), [])
    for taken in range(1, 6):
        assert len(next(chunks).pairs) == 4
        assert read <= 4 * taken + (of.workers + 2 + 2) * TASK
    chunks.close()  # type: ignore[attr-defined]


def test_bytes_and_numbers_are_one_input(files: tuple[str, str], tmp_path: Path) -> None:
    towers = engine(files).towers
    numbers = torch.randn(2, 3, 16, 16)
    assert torch.equal(towers.to_input(numbers), numbers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_the_transform_refuses_does_not_cost_its_shard(files: tuple[str, str], workers: int) -> None:
    """One line of pixels, resized by its longer side, has no height left."""
    of = engine(files, workers=workers)
    transform = image_transform_v2(PreprocessCfg(size=16, resize_mode="longest"), is_train=False)
    towers = Towers(replace(of.towers.loaded, transform=transform), "heads", torch.device("cpu"))
    line = io.BytesIO()
    PIL.Image.new("RGB", (1, 64)).save(line, "PNG")
    given = samples(3)
    given[1] = Pair("line", "line", 1, line.getvalue(), "a line")
    refused: list[Refused] = []
    (chunk,) = replace(of, towers=towers).chunks(iter(given), refused)
    assert [pair.key for pair in chunk.pairs] == ["000", "002"]
    ((status, detail),) = [(one.status, one.detail) for one in refused]
    assert status == "undecodable_image"
    assert detail.startswith("the model's transform refuses 1 x 64 pixels: ")
