"""Every tar is opened once and read forward, and pictures fit their part of the page whatever they show."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ecif.progress import Silent
from ecif.report.gallery import BUDGET, exhibit, exhibits, room_of
from ecif.report.numbers import ScoredPair
from ecif.storage import Storage
from tests.conftest import MakeTar
from tests.report.pages import Corpus


class Opening(Storage):
    """Notes what is opened."""

    __slots__ = ("opened",)

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def open(self, url: str, *args: Any, **options: Any) -> Any:
        self.opened.append(url.rpartition("/")[2])
        return super().open(url, *args, **options)


def noise(seed: int, edge: int = 400) -> bytes:
    """An image that compresses badly."""
    target = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (edge, edge // 2, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def pair(name: str, index: int) -> ScoredPair:
    return ScoredPair("u", f"{name}{index:04d}", name, index, {}, dropped=False)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [noise(seed) for seed in range(8)]


@pytest.mark.parametrize("budget", [4_000_000, 400_000, 80_000])
def test_a_page_stays_within_its_budget(tmp_path: Any, make_tar: MakeTar, images: list[bytes], budget: int) -> None:
    corpus = Corpus(tmp_path, make_tar)
    for name in ("00", "01"):
        corpus.add(name, [0.0] * 8, images=images)
    storage = Opening()
    pairs = [pair(name, index) for index in (7, 2, 5, 2) for name in ("01", "00")]
    shown = exhibits(pairs, corpus.inventory().by_name(), storage, "txt", Silent(), budget // 6)
    assert sorted(storage.opened) == ["00.tar", "01.tar"]
    assert set(shown) == {(one.shard, one.index) for one in pairs}
    uris = [one.image or "" for one in shown.values()]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
    assert sum(map(len, uris)) <= budget
    sizes = {Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size for uri in uris}
    assert sizes == {4_000_000: {(160, 320)}, 400_000: {(160, 320)}, 80_000: {(128, 256)}}[budget]
    assert {(one.width, one.height) for one in shown.values()} == {(200, 400)}
    assert {one.caption for one in shown.values()} == {f"caption {n}-{i}" for n in ("00", "01") for i in (2, 5, 7)}


@given(st.integers(1, 5_000))
def test_so_many_pictures_stay_within_the_budget(count: int) -> None:
    assert count * room_of(count) <= BUDGET
    assert room_of(count) >= room_of(count + 1)


def test_a_small_picture_without_room_becomes_coarse_like_others() -> None:
    tiny = noise(0, 64)
    assert (exhibit(tiny, "a").image or "").startswith("data:image/png;base64,")
    coarse = exhibit(tiny, "a", room=3_000)
    assert (coarse.image or "").startswith("data:image/jpeg;base64,")
    assert coarse.tiny
