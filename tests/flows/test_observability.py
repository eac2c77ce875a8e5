"""A whole run that is watched: what it leaves, that a second run leaves the same, and that no watching ends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort

from ecif import logs, metrics
from flows import artifacts
from flows.clean import run_clean
from tests.squares import SAMPLES, Corpus

OF_THE_OUTPUT = (artifacts.OUTCOME_KEY, artifacts.SCORES_KEY, artifacts.PAIRS_KEY, artifacts.SHARDS_KEY)


def _shown() -> dict[str, Any]:
    """Artifacts of the run that ended last, by key.

    Other tests leave runs on the server that are yet to start, and so would be the last to have started.
    """
    ended = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED])))
    of_clean = FlowFilter(name=FlowFilterName(any_=["clean"]))
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(
            flow_filter=of_clean, flow_run_filter=ended, sort=FlowRunSort.END_TIME_DESC, limit=1
        )[0]
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return {found.key: found.data for found in client.read_artifacts(artifact_filter=wanted) if found.key}


def test_watching_ends_no_run_and_a_second_run_shows_the_same(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = corpus.raw / "00002.tar"
    bad.write_bytes(bad.read_bytes()[:3000])
    # Nothing of this works: a folder has the file's name, nobody listens at the gateway, a file is where the folder
    # of announcements should be.
    blocked = tmp_path / "blocked.prom"
    blocked.mkdir()
    monkeypatch.setenv(metrics.FILE, str(blocked))
    monkeypatch.setenv(metrics.PUSH, "http://127.0.0.1:1")
    announced = corpus.out / "_ecif/announced"
    announced.parent.mkdir(parents=True)
    announced.touch()
    first = run_clean(corpus.sources, corpus.settings(), logs.progress())
    before = _shown()
    assert (first.written, len(first.failed)) == (3, 1)
    assert announced.is_file()

    announced.unlink()
    file = tmp_path / "ecif.prom"
    monkeypatch.setenv(metrics.FILE, str(file))
    monkeypatch.delenv(metrics.PUSH)
    monkeypatch.setenv(logs.VARIABLE, "json")
    capsys.readouterr()
    again = run_clean(corpus.sources, corpus.settings(), logs.progress())
    after = _shown()
    assert {key: after[key] for key in OF_THE_OUTPUT} == {key: before[key] for key in OF_THE_OUTPUT}
    assert {row["shard"] for row in json.loads(after[artifacts.PAIRS_KEY])} <= {"00000", "00001", "00003"}
    # What the first run could not say is made up for.
    assert len(list(announced.iterdir())) == 1

    counted = metrics.parse(file.read_text("utf-8"))
    out = again.out
    assert counted["ecif_corpus_samples", (out, "kept")] == again.kept
    assert counted["ecif_corpus_shards", (out, "failed")] == 1
    assert counted["ecif_corpus_statuses", (out, "ok")] == 3 * SAMPLES
    assert counted["ecif_run_finished_timestamp_seconds", (out,)] > 0
    # The one shard that was tried again, and no other.
    assert {stage for name, (stage, *_) in counted if name == "ecif_groups_total"} <= {"score"}

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert len({line["run"] for line in lines if "run" in line}) == 1
    assert any("set aside" in line["message"] for line in lines)
