"""Pictures are made once: what the last page showed is shown again without a tar, and nothing that is out of date."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ecif.layout import Layout
from ecif.progress import Silent
from ecif.report.pictures import Shown, pictures
from tests.conftest import MakeTar
from tests.report.pages import Corpus
from tests.report.test_gallery import Opening, noise, pair


class Pages:
    """A corpus of two shards, and the storage that counts which of them are opened."""

    def __init__(self, corpus: Corpus, root: str) -> None:
        self.corpus, self.layout, self.storage = corpus, Layout(root), Opening()
        self.shards = corpus.inventory().by_name()

    def show(self, pairs: list[Any]) -> tuple[Shown, list[str]]:
        """The exhibits, and the tars that it took."""
        self.storage.opened.clear()
        found = pictures(self.layout, self.storage, pairs, self.shards, "txt", Silent())
        return found, sorted(name for name in self.storage.opened if name.endswith(".tar"))

    def kept(self) -> list[str]:
        """URLs of what is kept."""
        return [file.url for file in self.storage.list(f"{self.layout.root}/", ".pictures.parquet")]


@pytest.fixture
def pages(tmp_path: Any, make_tar: MakeTar) -> Pages:
    corpus = Corpus(tmp_path, make_tar)
    for name in ("00", "01"):
        corpus.add(name, [0.0] * 4, images=[noise(seed) for seed in range(4)])
    return Pages(corpus, str(tmp_path / "kept"))


def test_the_same_pairs_take_no_tar(pages: Pages) -> None:
    pairs = [pair("00", 1), pair("01", 2), pair("00", 3)]
    first, opened = pages.show(pairs)
    assert opened == ["00.tar", "01.tar"]
    assert all(one.trouble is None for one in first.values())
    assert pages.show(pairs) == (first, [])
    assert pages.show(pairs[:1]) == ({("00", 1): first["00", 1]}, [])


def test_one_more_pair_takes_its_tar_only(pages: Pages) -> None:
    first, _ = pages.show([pair("00", 1)])
    both, opened = pages.show([pair("00", 1), pair("01", 2)])
    assert opened == ["01.tar"]
    assert both["00", 1] == first["00", 1]


@pytest.mark.parametrize("change", ["etag", "size"])
def test_a_replaced_tar_is_looked_at_again(pages: Pages, change: str) -> None:
    pages.show([pair("00", 1), pair("01", 2)])
    value: Any = {"etag": "other", "size": 1}[change]
    pages.shards = {**pages.shards, "01": replace(pages.shards["01"], **{change: value})}
    assert pages.show([pair("00", 1), pair("01", 2)])[1] == ["01.tar"]


def test_a_place_that_holds_another_pair_is_looked_at_again(pages: Pages) -> None:
    pages.show([pair("00", 1)])
    shown, opened = pages.show([replace(pair("00", 1), key="another")])
    assert opened == ["00.tar"]
    assert "is now 000001" in str(shown["00", 1].trouble)


def test_a_damaged_file_is_no_error(pages: Pages) -> None:
    first, _ = pages.show([pair("00", 1)])
    (url,) = pages.kept()
    pages.storage.publish(url, b"PAR1 nothing", replace=True)
    assert pages.show([pair("00", 1)]) == (first, ["00.tar"])


def test_a_trouble_is_not_kept(pages: Pages) -> None:
    shown, _ = pages.show([pair("00", 99)])
    assert shown["00", 99].trouble == "not found in the input shard any more"
    assert pages.kept() == []
    gone = pages.show([pair("nowhere", 0)])[0]
    assert gone["nowhere", 0].trouble == "its shard is not in the inventory"
