"""The pairs of a study: those with all scores, the same wherever they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ecif import detectors
from ecif.calibration import state
from ecif.effects.population import draw
from ecif.errors import InputError, UsageError
from ecif.layout import Layout
from ecif.storage import Storage
from tests.calibration.world import CANARIES, SCORES, build

NAMES = ("clip_score", "influence")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Six shards of 200 pairs, the last of each without scores."""
    root: Path = tmp_path_factory.mktemp("world")
    return build(root, pairs=200, planted=40).layout


def _tables(layout: Layout) -> dict[str, str]:
    return {f"{n:05d}": layout.scores(SCORES, f"{n:05d}") for n in range(6)}


def _table(layout: Layout) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(url) for url in _tables(layout).values()])


def test_all_scored_pairs_in_the_order_of_their_shards(layout: Layout) -> None:
    found = draw(Storage(), _tables(layout), NAMES, None, 10_000)
    expected = _table(layout).filter(pl.col("status") == "ok")
    assert found.pairs.rows() == expected.select("uid", "key", "shard", "index").rows()
    for name in NAMES:
        assert np.array_equal(found.worse[name], expected[name].to_numpy())
    assert (len(found), found.left_out, found.shards) == (6 * 199, 0, sorted(_tables(layout)))


def test_a_score_that_is_higher_for_worse_pairs_is_turned(layout: Layout) -> None:
    found = draw(Storage(), _tables(layout), ("harm",), None, 10_000)
    expected = _table(layout).filter(pl.col("status") == "ok")
    assert np.array_equal(found.worse["harm"], -expected["harm"].to_numpy())


def test_the_learned_detector_ranks_as_it_does_in_a_plan(layout: Layout) -> None:
    model = state.calibrate(layout, Storage(), SCORES, CANARIES).model
    found = draw(Storage(), _tables(layout), (detectors.LEARNED,), model, 10_000)
    expected = model.misalignment(_table(layout).filter(pl.col("status") == "ok"))
    assert np.array_equal(found.worse[detectors.LEARNED], -expected.astype(np.float32))


def test_some_are_drawn_whatever_the_order_of_the_tables(layout: Layout) -> None:
    tables = _tables(layout)
    one = draw(Storage(), tables, NAMES, None, 250)
    other = draw(Storage(), dict(reversed(tables.items())), NAMES, None, 250)
    assert len(one) == 250
    assert len(one.shards) == 2
    assert one.pairs.rows() == other.pairs.rows()
    assert one.digest == other.digest != draw(Storage(), tables, NAMES, None, 251).digest
    places = one.pairs.select("shard", "index").rows()
    assert places == sorted(places)


def test_a_score_that_is_not_finite_is_an_error_that_names_the_table(layout: Layout, tmp_path: Path) -> None:
    broken = pl.read_parquet(_tables(layout)["00000"]).with_columns(influence=pl.lit(None, pl.Float32))
    broken.write_parquet(tmp_path / "broken.parquet")
    with pytest.raises(InputError, match=r"broken\.parquet: row 0 is marked ok"):
        draw(Storage(), {"00000": str(tmp_path / "broken.parquet")}, NAMES, None, 10)


def test_tables_without_a_scored_pair_are_refused(layout: Layout, tmp_path: Path) -> None:
    pl.read_parquet(_tables(layout)["00000"]).tail(1).write_parquet(tmp_path / "none.parquet")
    with pytest.raises(UsageError, match="no pair has all of the scores clip_score, influence"):
        draw(Storage(), {"00000": str(tmp_path / "none.parquet")}, NAMES, None, 10)
