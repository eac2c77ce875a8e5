"""What Prefect shows: bounded, made from what lies in storage, and harmless whatever names the data have."""

from __future__ import annotations

import base64
import json
import logging
import re
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from ecif.progress import Silent
from ecif.report.gather import gather
from ecif.report.numbers import Numbers
from ecif.report.tally import SHOWN
from ecif.selection import Decision
from ecif.stability import Drift
from flows import artifacts, harmless, pages
from flows.counts import ShardCount
from flows.outcome import Outcome
from flows.pages import COLUMNS, ROWS, Worst, row
from tests.conftest import MakeTar
from tests.report.pages import SCORES, Corpus

HOSTILE = "[x](javascript:alert(1)) ![y](http://z) <script>`|# \n\n# headline"
DEAD = "http://127.0.0.1:1/api"
DRIFT = Drift("influence", 2, 1000, 3, 20000, 0.4, 0.2, 0.26)


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


def test_a_shard_counts_as_lost_what_is_not_kept_or_has_no_score() -> None:
    scored = ShardCount("a", 10, {"ok": 7, "no_caption": 3})
    assert (scored.unscored, scored.lost, row(scored)["state"]) == (3, 3, "scored")
    written = ShardCount("a", 10, {"ok": 7, "no_caption": 3}, kept=6, dropped=3, quarantined=1)
    assert (written.unscored, written.lost, row(written)["state"]) == (3, 4, "written")


def _failed(count: int, name: str = "bad", reason: str = "is cut") -> list[dict[str, Any]]:
    return [{"shard": name, "stage": "score", "reason": reason, "passing": False}] * count


def test_the_table_of_shards_is_bounded_and_begins_with_the_failures() -> None:
    worst = Worst()
    for number in range(ROWS + 50):
        worst.add(row(ShardCount(f"{number:05d}", 10, {"ok": 10}, 9, 1, 0)), 1, 10)
    rows = pages.shards(Outcome("out", failed=_failed(1)), worst, {"00050": "https://host/00050.tar"})
    assert len(rows) == ROWS
    assert (rows[0]["shard"], rows[0]["state"], rows[0]["reason"]) == ("bad", "failed in score", "is cut")
    assert rows[1]["shard"] == "[00050](https://host/00050.tar)"
    assert all(tuple(item) == COLUMNS for item in rows)


def test_names_from_the_data_are_text_on_the_page_and_in_the_cells() -> None:
    """Cells of tables are markdown, too: a name must not load a picture from anywhere."""
    outcome = Outcome(HOSTILE, failed=_failed(30, HOSTILE, HOSTILE * 100), report=HOSTILE)
    page = pages.outcome_page(outcome)
    cells = json.dumps(pages.shards(outcome, Worst(), {HOSTILE: HOSTILE}))
    for text in (page, cells):
        assert not re.search(r"(?<!\\)(<|!\[|\]\()", text.replace(r"\\", "\\"))
    assert "\n# headline" not in page
    assert "and 10 more" in page
    assert len(page) < 40_000


@pytest.fixture
def scored(tmp_path: Path, make_tar: MakeTar) -> tuple[Corpus, Decision, Numbers]:
    """An output with scores and a cut, and its numbers."""
    found = Corpus(tmp_path, make_tar)
    found.add("00", [float(i) for i in range(-10, 30)])
    found.add("01", [float(i) for i in range(-5, 25)] + [None] * 5)
    decision = found.decide(drop=Decimal("0.1"))
    numbers = gather(found.layout, found.storage, found.inventory(), decision, SCORES, {}, Silent())
    return found, decision, numbers


def test_the_worst_pairs_lead_to_their_shard_and_to_the_report(scored: tuple[Corpus, Decision, Numbers]) -> None:
    _, _, numbers = scored
    rows = pages.pairs(numbers, "https://host/report.html", {"00": "https://host/00.tar"})
    assert len(rows) == SHOWN
    first = rows[0]
    assert (first["rank"], first["pair"], first["index"], first["fate"]) == (1, "000000", 0, "dropped")
    assert (first["influence"], first["clip score"]) == ("−10.0", "10.0")
    assert first["shard"] == "[00](https://host/00.tar)"
    assert first["picture"] == "[report](https://host/report.html#pairs)"
    assert {item["fate"] for item in rows} == {"dropped", "kept"}


def test_the_page_of_scores_holds_a_drawing_that_stands_alone(scored: tuple[Corpus, Decision, Numbers]) -> None:
    _, decision, numbers = scored
    page = pages.scores(decision, numbers)
    (data,) = re.findall(r"!\[[^]]*\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", page)
    drawing = ElementTree.fromstring(base64.b64decode(data))
    kinds = [element.tag.rpartition("}")[2] for element in drawing.iter()]
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"style", "rect", "path", "text"} <= set(kinds)
    assert not {"script", "image", "use", "a"} & set(kinds)
    assert "7 in all" in page
    assert "| clip score | −29.0 |" in page
    assert len(page) < 40_000


def test_drift_says_what_was_compared() -> None:
    page = pages.drift(DRIFT)
    assert page.startswith("# Drifted\n")
    assert "| stability index (PSI) | 0.400 |" in page


def _artifacts(run: str) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
        found = client.read_artifacts(artifact_filter=wanted)
    return {artifact.key: artifact for artifact in found if artifact.key is not None}


def test_the_server_shows_everything(scored: tuple[Corpus, Decision, Numbers]) -> None:
    corpus, decision, numbers = scored
    outcome = Outcome("out", decision_key=decision.key, failed=_failed(2), seconds={"score": 3.0, "write": 1.0})

    @flow
    def shows() -> str:
        bar = artifacts.stage_bar("score")
        for done in range(1000):
            bar(done / 100_000)  # below one percent: the server hears nothing
        bar(1.0)
        shards = corpus.inventory().shards
        artifacts.publish(outcome, Worst(), inventory=shards, decision=decision, numbers=numbers, drift=DRIFT)
        return str(flow_run.id)

    found = _artifacts(shows())
    assert set(found) == {
        artifacts.progress_key("score"),
        artifacts.OUTCOME_KEY,
        artifacts.SCORES_KEY,
        artifacts.PAIRS_KEY,
        artifacts.SHARDS_KEY,
        artifacts.DRIFT_KEY,
        artifacts.STAGES_KEY,
    }
    bar = found[artifacts.progress_key("score")]
    assert (bar.data, bar.description) == (100, "stage score: 100 %")
    assert json.loads(found[artifacts.STAGES_KEY].data) == [
        {"stage": "score", "seconds": 3.0, "share": "75%"},
        {"stage": "write", "seconds": 1.0, "share": "25%"},
    ]
    assert len(json.loads(found[artifacts.PAIRS_KEY].data)) == SHOWN


def test_a_server_that_is_away_is_said_once_and_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harmless, "_SAID", set())
    with temporary_settings({PREFECT_API_URL: DEAD}), caplog.at_level(logging.WARNING, "ecif"):
        bar = artifacts.stage_bar("score")
        bar(0.5)
        bar(1.0)
        artifacts.publish(Outcome("out"), Worst())
    said = [message for message in caplog.messages if "the run goes on" in message]
    assert len([message for message in said if "progress" in message]) == 1
    assert len(said) == 4


def test_a_bar_that_could_not_be_made_is_made_when_the_server_is_back() -> None:
    @flow
    def shows() -> str:
        bar(0.5)
        return str(flow_run.id)

    with temporary_settings({PREFECT_API_URL: DEAD}):
        bar = artifacts.stage_bar("write")
    assert _artifacts(shows())[artifacts.progress_key("write")].data == 50
