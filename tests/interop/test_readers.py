"""What the consumers' own code reads from a cleaned output, as it stands."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip_train.data
import pytest
import torch
import webdataset as wds
import wids
from open_clip_train.data import get_dataset_size, get_wds_dataset

from ecif.cli import run
from tests.interop.cleaned import SHARDS, Cleaned, uid

ENTRY = np.dtype("u8,u8")


@pytest.fixture
def brace(done: Cleaned) -> str:
    """The cleaned tars as a user would type them."""
    return f"{done.root}/{{00000000..{SHARDS - 1:08d}}}.tar"


def _pixels(image: Any) -> torch.Tensor:
    """(3, H, W) as open_clip's transforms give them."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_webdataset(done: Cleaned, brace: str) -> None:
    read = list(wds.WebDataset(brace, shardshuffle=False).decode("pilrgb").to_tuple("__key__", "png", "txt", "json"))
    assert [key for key, *_ in read] == done.left
    assert [text for _, _, text, _ in read] == [f"caption {key}" for key in done.left]
    assert [record["uid"] for *_, record in read] == [uid(key) for key in done.left]
    assert {image.size for _, image, *_ in read} == {(8, 8)}


def test_open_clip_knows_the_size_and_trains_on_all(done: Cleaned, brace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # open_clip 3.3 trains with webdataset <= 0.2.86, which did not mark the end of a tar; later ones need not.
    unmarked = partial(open_clip_train.data.tar_file_expander, eof_value=None)
    monkeypatch.setattr(open_clip_train.data, "tar_file_expander", unmarked)
    assert get_dataset_size(brace) == (None, SHARDS)
    assert run(["export", done.root, "--beside", "--sizes"]) == 0
    assert get_dataset_size(brace) == (len(done.left), SHARDS)
    asked = SimpleNamespace(
        train_data=brace,
        train_num_samples=None,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        workers=0,
        batch_size=3,
        world_size=1,
    )
    data = get_wds_dataset(asked, _pixels, is_train=True, tokenizer=lambda text: [text])
    assert (data.dataloader.num_samples, data.dataloader.num_batches) == (9, 3)
    images, texts = zip(*data.dataloader, strict=True)
    assert {tuple(batch.shape) for batch in images} == {(3, 3, 8, 8)}
    assert sorted(text for batch in texts for text in batch) == [f"caption {key}" for key in done.left]


@pytest.mark.parametrize("beside", [False, True], ids=["index", "beside"])
def test_wids(done: Cleaned, tmp_path: Path, beside: bool) -> None:
    assert run(["export", done.root, "--wids", *(["--beside"] if beside else [])]) == 0
    index = f"{done.root}/wids.json" if beside else done.output.layout.wids()
    read = wids.ShardListDataset(index, cache_dir=str(tmp_path / "cache"), keep=True)
    assert len(read) == len(done.left)
    assert [read[place]["__key__"] for place in range(len(read))] == done.left
    assert read[8][".png"].size == (8, 8)
    assert read[4][".txt"] == f"caption {done.left[4]}"


def test_the_search_of_the_datacomp_resharder(done: Cleaned, tmp_path: Path) -> None:
    file = tmp_path / "keep.npy"
    assert run(["export", done.root, "--uids", str(file)]) == 0
    subset = np.load(file, mmap_mode="r")
    assert subset.dtype == ENTRY

    def copies(key: str) -> int:
        wanted = np.array([divmod(int(uid(key), 16), 2**64)], ENTRY)[0]
        return int(np.searchsorted(subset, wanted, "right") - np.searchsorted(subset, wanted, "left"))

    assert [copies(key) for key in done.left] == [1] * len(done.left)
    assert [copies(key) for key in done.went] == [0] * len(done.went)
