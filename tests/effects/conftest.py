"""A scored output over a tiny rendered corpus, with clean pairs of other scenes to judge by."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ecif import inventory
from ecif.demo import corpus
from ecif.layout import Layout
from ecif.sources import expand
from ecif.storage import Storage

SCORES = "0123456789ab"
MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 18, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


@dataclass(frozen=True, slots=True)
class Scored:
    """An output, clean pairs, a model config, and the corpus: 160 pairs in two shards."""

    out: Path
    judge: Path
    model: Path
    made: corpus.Corpus

    def arguments(self, *more: str) -> list[str]:
        """A study that takes a second or two, with other or further options."""
        usual = {"--evaluation": str(self.judge), "--model-config": str(self.model), "--drop": "0.25"}
        usual |= {"--seeds": "2", "--epochs": "1", "--batch-size": "40"}
        kept = [word for option, value in usual.items() if option not in more for word in (option, value)]
        return ["bench", "effects", str(self.out), *kept, *more]

    def results(self) -> dict[str, bytes]:
        """The files of the results, by name."""
        return {path.name: path.read_bytes() for path in sorted((self.out / "_ecif" / "effects").rglob("0*.json"))}


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    """Nobody writes to it."""
    return corpus.build(tmp_path_factory.mktemp("effects"), pairs=160, validation_pairs=30, shards=2, wrong=0.2, seed=3)


@pytest.fixture
def scored(rendered: corpus.Corpus, tmp_path: Path) -> Scored:
    """Scores that know a little of the truth; the first pair of the first shard has none."""
    out, storage = tmp_path / "out", Storage()
    layout = Layout(str(out))
    inventory.take(expand([str(rendered.raw / "*.tar")], storage), layout, storage, {})
    random = np.random.default_rng(0)
    for (shard,), part in pl.read_parquet(rendered.truth).sort("key").group_by("shard"):
        samples = _order(rendered.raw / f"{shard}.tar")
        table = pl.DataFrame({"key": samples}).join(part, on="key", maintain_order="left").with_row_index("index")
        noise = random.normal(size=(2, len(table)))
        table = table.with_columns(
            status=pl.when((pl.col("index") == 0) & (pl.lit(shard) == "00000")).then(pl.lit("no_image")).otherwise(
                pl.lit("ok")
            ),
            clip_score=pl.Series(noise[0]).cast(pl.Float32) - pl.col("misaligned"),
            influence=pl.Series(noise[1]).cast(pl.Float32),
        )  # fmt: skip
        url = Path(layout.scores(SCORES, str(shard)))
        url.parent.mkdir(parents=True, exist_ok=True)
        table.drop("misaligned", "kind", "original_caption", "caption").write_parquet(url)
    meta = {"fit_key": "f" * 12, "settings": {"caption": "txt", "canaries": 0.0}, "versions": {}}
    storage.publish_json(layout.score_meta(SCORES), meta)
    model = tmp_path / "model.json"
    model.write_text(json.dumps(MODEL))
    judge = tmp_path / "judge.tar"
    shutil.copy(rendered.validation, judge)
    return Scored(out, judge, model, rendered)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _order(tar: Path) -> list[str]:

    with tarfile.open(tar) as opened:
        return list(dict.fromkeys(name.partition(".")[0] for name in opened.getnames()))
