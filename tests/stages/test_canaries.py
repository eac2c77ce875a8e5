"""Canaries through the whole stage: a table of their own, and not a byte of the scores changed by them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ecif import canaries, detectors
from ecif.canaries.captions import Canary
from ecif.inventory import Shard
from ecif.keys import canary_key
from ecif.progress import Silent
from ecif.run import Run
from ecif.stages import score
from ecif.stages.canaries import Canaries, schema
from ecif.stages.column_rows import Rows
from ecif.stages.embedding import embed_shard
from ecif.stages.engine import Engine
from ecif.stages.wanted import Wanted
from tests.stages.test_fit import corpus as corpus
from tests.stages.test_fit import fit_all, prepare, write_tar
from tests.stages.test_out_of_memory import narrow

BATCH = ("clip_logit", "tracin", "forward_inf", "aum", "vif", "trak", "if_ekfac", "average_similarity")
NOT_THEIRS = ("self_influence", "gradient_l2", "outlier_gradient", "theta_relative")


def ready(root: Path, **changes: Any) -> tuple[Run, Engine, score.Direction]:
    run, engine = prepare(root, **{"sketches": 2, "logra_rank": 2} | changes)
    for one in (run, *run.other_fits().values()):
        fit_all(one, engine)
    return run, engine, score.load_direction(run, engine)


def scored(root: Path, most: int | None = None, **changes: Any) -> tuple[Run, pl.DataFrame]:
    """All shards scored; the canaries of all of them."""
    run, engine, direction = ready(root, **changes)
    if most is not None:
        narrow(engine, most)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    return run, table(run)


def table(run: Run) -> pl.DataFrame:
    key = canary_key(run.score_key, run.settings.canaries)
    return pl.concat([pl.read_parquet(run.layout.canaries(key, shard.name)) for shard in run.inventory.shards])


def tables(run: Run) -> dict[str, bytes]:
    """The score files, and what stands beside them."""
    found = Path(run.layout.scores_of(run.score_key)).rglob("00*")
    return {path.name: path.read_bytes() for path in sorted(found)}


@pytest.mark.parametrize("trainable", ["heads", "last:1"])
def test_not_a_byte_of_the_scores_depends_on_canaries(corpus: Path, trainable: str) -> None:
    columns = ("clip_logit", "vif", "tracin", "forward_inf", "lemon", "deep_knn", *NOT_THEIRS)
    changes = {"trainable": trainable, "precision": "fp32", "columns": columns, "index": True, "column_probes": 4}
    without, with_some = (
        scored_bytes(corpus, out=str(corpus / name), canaries=share, **changes)
        for name, share in (("none", 0.0), ("some", 0.3))
    )
    assert len(without) == 6
    assert with_some == without


def scored_bytes(root: Path, **changes: Any) -> dict[str, bytes]:
    run, engine, direction = ready(root, **changes)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    assert Path(run.layout.root, "_ecif", "canary").exists() == bool(run.settings.canaries)
    return tables(run)


def test_the_table_has_a_row_for_each_canary_of_a_scored_host(corpus: Path) -> None:
    run, found = scored(corpus, canaries=0.5, columns=("clip_logit", "lemon", *NOT_THEIRS))
    assert dict(found.schema) == schema(Wanted.of(run.settings))
    # All that a score file has, in its order, but for whose row it is.
    scores = pl.concat([pl.read_parquet(run.layout.scores(run.score_key, s.name)) for s in run.inventory.shards])
    assert found.columns[:3] == list(canaries.IDENTITY)
    assert found.columns[3:] == scores.columns[scores.columns.index("status") + 1 :]
    # Of 24, 22 and 24 pairs that could be read.
    assert found.group_by("shard").len().sort("shard")["len"].to_list() == [12, 11, 12]
    assert found.select("shard", "index").equals(
        found.select("shard", "index").sort("shard", "index").unique(maintain_order=True)
    )
    hosts = found.join(scores, on=["shard", "index"], suffix="_real")
    assert (hosts["status"] == "ok").all()
    assert set(found["kind"]) == set(canaries.KINDS)
    assert found.select(NOT_THEIRS).null_count().row(0) == (len(found),) * len(NOT_THEIRS)
    given = [*detectors.NAMES, "influence_se", "clip_logit", "lemon"]
    assert found.select(given).null_count().row(0) == (0,) * len(given)
    assert np.isfinite(found.select(given).to_numpy()).all()
    # Not the scores of their hosts.
    assert (hosts["clip_score"] != hosts["clip_score_real"]).all()


def planted(run: Run, engine: Engine, shard: Shard, direction: score.Direction) -> list[Canary]:
    """The canaries that scoring plants."""
    sources = direction.sources
    found = embed_shard(run, engine, shard, list(sources.directions.values()), embedders=sources.embedders)
    assert found.embedded is not None
    rows = Rows(run.settings, sources, found.embedded, found.others, torch.tensor(found.captions))
    return Canaries.plant(shard.name, engine, found, rows, run.settings.canaries).planted


def rewritten(shard: Shard, captions: dict[int, str], root: Path) -> Shard:
    """The shard with other captions in its tar."""
    path = root / "rewritten.tar"
    with tarfile.open(shard.url) as source, tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, info in enumerate(source):
            member = source.extractfile(info)
            assert member is not None
            data = member.read()
            if number % 2 and number // 2 in captions:
                data = captions[number // 2].encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return replace(shard, url=str(path), size=path.stat().st_size, etag="")


@pytest.mark.parametrize(
    ("equal", "role", "trainable"),
    [("mask", "exact", "heads"), ("mask", "first-order", "last:1"), ("compete", "exact", "all")],
)
def test_a_canary_has_the_scores_of_a_pair_with_its_caption(
    corpus: Path, equal: str, role: str, trainable: str
) -> None:
    """The tar is written again with the wrong caption, and scored as if it were the corpus: one canary of each kind."""
    weights = str(corpus / "model" / "weights.safetensors")
    columns = BATCH if trainable == "heads" else BATCH[:3]
    run, engine, direction = ready(
        corpus, canaries=0.5, columns=columns, equal_captions=equal, negative_role=role, trainable=trainable,
        checkpoints=(weights,), micro_batch=7,
    )  # fmt: skip
    shard = run.inventory.shards[1]  # two of its images cannot be decoded
    found = score.score_frame(run, engine, shard, direction, Silent())[3]
    assert found is not None
    plain = replace(run, settings=run.settings.model_copy(update={"canaries": 0.0}))
    ours = {canary.kind: canary for canary in planted(run, engine, shard, direction)}
    assert set(ours) == set(canaries.KINDS)
    places = [n for n in range(24) if n not in (0, 5)]
    for kind, canary in ours.items():
        index = places[canary.host]
        frame, _, _, none = score.score_frame(
            plain, engine, rewritten(shard, {index: canary.caption}, corpus), direction, Silent()
        )
        assert none is None
        (got,), (want,) = found.filter(index=index).to_dicts(), frame.filter(index=index).to_dicts()
        assert got["kind"] == kind
        for name in (*detectors.NAMES, "influence_se", *columns):
            assert got[name] == pytest.approx(want[name], rel=2e-6, abs=1e-9), (kind, name)


def test_columns_of_the_whole_shard_see_all_its_canaries_at_once(corpus: Path) -> None:
    columns = ("lemon", "deep_knn")
    run, engine, direction = ready(corpus, canaries=0.3, columns=columns)
    shard = run.inventory.shards[0]
    found = score.score_frame(run, engine, shard, direction, Silent())[3]
    assert found is not None
    captions = {canary.host: canary.caption for canary in planted(run, engine, shard, direction)}
    assert sorted(captions) == found["index"].to_list()
    frame = score.score_frame(run, engine, rewritten(shard, captions, corpus), direction, Silent())[0]
    for name in columns:
        np.testing.assert_allclose(found[name], frame.filter(pl.col("index").is_in(list(captions)))[name], rtol=1e-6)


def test_hosts_that_are_not_scored_have_no_canary_and_every_scored_shard_has_a_table(corpus: Path) -> None:
    write_tar(corpus / "raw" / "00002.tar", 0)
    write_tar(corpus / "raw" / "00001.tar", 3, 600)
    run, found = scored(corpus, canaries=0.5, min_batch=4)
    assert set(found["shard"]) == {"00000"}
    for name in ("00001", "00002"):
        key = canary_key(run.score_key, 0.5)
        assert pl.read_parquet(run.layout.canaries(key, name)).is_empty()


def test_another_share_is_another_table_and_the_same_scores(corpus: Path) -> None:
    run, found = scored(corpus, canaries=0.2)
    # Their scores are there: the shards are not scored again for other canaries.
    more, engine, direction = ready(corpus, canaries=0.5)
    assert more.score_key == run.score_key
    assert score.score_shard(more, engine, more.inventory.shards[0], direction).skipped
    assert canary_key(run.score_key, 0.5) != canary_key(run.score_key, 0.2)
    _, again = scored(corpus, canaries=0.5, out=str(corpus / "other"))
    assert len(again) > len(found)
    both = found.join(again, on=["shard", "index"], suffix="_again")
    assert len(both) == len(found)


def test_what_does_not_fit_is_embedded_in_smaller_parts(corpus: Path) -> None:
    _, whole = scored(corpus, canaries=0.5, columns=("forward_inf",), micro_batch=64)
    _, parts = scored(corpus, 2, canaries=0.5, columns=("forward_inf",), micro_batch=64, out=str(corpus / "narrow"))
    assert parts.select(canaries.IDENTITY).equals(whole.select(canaries.IDENTITY))
    for name in ("influence", "clip_score", "forward_inf"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-9)
