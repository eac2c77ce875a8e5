"""What Prefect shows: bounded, and harmless whatever names the data have."""

from __future__ import annotations

import html
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flows.artifacts import COLUMNS, ROWS, Worst, markdown, row, table
from flows.counts import ShardCount
from flows.outcome import Outcome


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=60), st.integers(1, 8))
def test_worst_keeps_the_shards_that_lost_the_largest_share(sizes: list[tuple[int, int]], limit: int) -> None:
    worst = Worst(limit)
    shares: dict[str, float] = {}
    for number, (lost, kept) in enumerate(sizes):
        name, samples = f"{number:03d}", lost + kept
        worst.add({"shard": name}, lost, samples)
        shares[name] = lost / samples if samples else 1.0
    found = [item["shard"] for item in worst.rows()]
    assert len(found) == min(limit, len(sizes))
    assert [shares[name] for name in found] == sorted(shares.values(), reverse=True)[:limit]


def test_the_table_is_bounded_and_begins_with_the_failures() -> None:
    worst = Worst()
    for number in range(ROWS + 50):
        worst.add(row(ShardCount(f"{number:05d}", 10, {"ok": 10}, 9, 1, 0)), 1, 10)
    failed = [{"shard": "bad", "stage": "score", "reason": "is cut", "passing": False}]
    rows = table(Outcome("out", failed=failed), worst)
    assert len(rows) == ROWS
    assert (rows[0]["shard"], rows[0]["state"], rows[0]["reason"]) == ("bad", "failed in score", "is cut")
    assert all(tuple(item) == COLUMNS for item in rows)


def test_the_page_shows_names_from_the_data_as_text() -> None:
    hostile = "[x](javascript:alert(1)) <script>`|# \n\n# headline"
    failed: list[dict[str, Any]] = [{"shard": hostile, "stage": "score", "reason": hostile, "passing": False}] * 30
    page = markdown(Outcome(hostile, failed=failed, report=hostile))
    assert "<script" not in page
    assert "](" not in page
    assert "\n# headline" not in page
    assert "and 10 more" in page
    assert html.unescape(markdown(Outcome("a_b/&c*"))).startswith("# a_b/&c*\n")


def test_a_shard_counts_as_lost_what_is_not_kept_or_has_no_score() -> None:
    scored = ShardCount("a", 10, {"ok": 7, "no_caption": 3})
    assert (scored.unscored, scored.lost, row(scored)["state"]) == (3, 3, "scored")
    written = ShardCount("a", 10, {"ok": 7, "no_caption": 3}, kept=6, dropped=3, quarantined=1)
    assert (written.unscored, written.lost, row(written)["state"]) == (3, 4, "written")
