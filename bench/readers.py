"""Clean a small corpus and read it back with the code of those who train on such shards.

    python -m bench.readers --work DIR

The samples that have to come are those that Python's tarfile finds in the input, without those of the ledgers. A line
for each reader says how many it read, what came first, and whether it was all of them and nothing else; the exit code
tells, too. open_clip gives no keys, so that its captions are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from bench.matrix import table
from bench.trial import execute
from bench.world import SHARDS, corpus, stages, write_model

HEAD = ("reader", "samples", "first", "ok")
STAGES = ("inventory", "fit", "score", "plan", "apply")
Sample = dict[str, str]  # key, caption, uid


def clean(work: Path) -> Path:
    """Lay out a corpus in `work/raw` and clean it; returns the output.

    Raises:
        SystemExit: a stage failed.
    """
    for folder in ("raw", "out"):
        shutil.rmtree(work / folder, ignore_errors=True)
    for name, data in corpus().items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(data)
    out = work / "out"
    by_name = stages(str(work), str(out), write_model(work / "model"))
    for name in STAGES:
        _run(by_name[name].arguments)
    _run(("export", str(out), "--uids", str(work / "keep.npy")))
    _run(("export", str(out), "--sizes", "--wids", "--beside"))
    return out


def _run(arguments: Sequence[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        code = execute(arguments)
    if code:
        raise SystemExit(f"{' '.join(arguments)}: exit code {code}")


def survivors(work: Path) -> list[Sample]:
    """Who has to be there, in order."""
    left = []
    for path in sorted((work / "raw").glob("*.tar")):
        gone = set(pl.read_parquet(work / "out" / "_ecif" / "ledger" / f"{path.stem}.parquet")["key"])
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, extension = member.name.split(".", 1)
                found.setdefault(key, {})[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
        left += [
            {"key": key, "caption": parts["txt"].decode(), "uid": pl.read_json(io.BytesIO(parts["json"]))["uid"][0]}
            for key, parts in found.items()
            if key not in gone
        ]
    return left


def by_webdataset(out: Path) -> list[str]:
    """Keys, images decoded."""
    import webdataset as wds

    read = wds.WebDataset(_tars(out), shardshuffle=False).decode("pilrgb").to_tuple("__key__", "png", "txt", "json")
    return [key for key, *_ in read]


def by_open_clip(out: Path) -> list[str]:
    """Captions of one epoch of the training loader, which reads `sizes.json`, sorted."""
    import open_clip_train.data as loader
    import torch

    # open_clip 3.3 trains with webdataset <= 0.2.86, which did not mark the end of a tar; later ones need not.
    loader.tar_file_expander = partial(loader.tar_file_expander, eof_value=None)
    size, _ = loader.get_dataset_size(_tars(out))
    asked = SimpleNamespace(
        train_data=_tars(out),
        train_num_samples=None,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        workers=0,
        batch_size=size,
        world_size=1,
    )

    def pixels(image: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    data = loader.get_wds_dataset(asked, pixels, is_train=True, tokenizer=lambda text: [text])
    return sorted(text for _, texts in data.dataloader for text in texts)


def by_wids(out: Path) -> list[str]:
    """Keys by index, through `_ecif/index/wids.json`."""
    import wids

    cache = out.parent / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    index = out / "_ecif" / "index" / "wids.json"
    read = wids.ShardListDataset(str(index), cache_dir=str(cache), keep=True, transformations=[])
    return [read[place]["__key__"] for place in range(len(read))]


def by_uids(out: Path) -> list[str]:
    """Uids of the list, as numpy reads it."""
    return [f"{high:016x}{low:016x}" for high, low in np.load(out.parent / "keep.npy", mmap_mode="r").tolist()]


READERS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "webdataset": (by_webdataset, "key"),
    "open_clip": (by_open_clip, "caption"),
    "wids": (by_wids, "key"),
    "uid list": (by_uids, "uid"),
}


def _tars(out: Path) -> str:
    return f"{out}/{{00000..{SHARDS - 1:05d}}}.tar"


def main() -> None:
    """Print the table; exit with 1 when a reader did not read what it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work.resolve()
    out = clean(work)
    due = survivors(work)
    rows, wrong = [], False
    for name, (read, what) in READERS.items():
        expected = [sample[what] for sample in due]
        found = read(out)
        ok = found == (expected if what == "key" else sorted(expected))
        wrong |= not ok
        rows.append((name, len(found), found[0] if found else "", "yes" if ok else "no"))
    print(table(HEAD, iter(rows)))
    sys.exit(wrong)


if __name__ == "__main__":
    main()
