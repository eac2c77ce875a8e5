"""The whole flow on a tiny corpus: what it leaves, what it repeats, what it survives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from ecif import inventory, manifest, packs
from ecif.errors import ConflictError, MissingFileError, TooManyFailedError
from ecif.layout import Layout
from ecif.settings import saved
from ecif.stages.verify import verify
from ecif.storage import Storage
from flows import artifacts
from flows.clean import clean, run_clean
from flows.outcome import Outcome
from tests.conftest import Bucket
from tests.squares import SAMPLES, Corpus, Notes, files


def _last_run() -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


def _timeless(outcome: Outcome) -> Outcome:
    return replace(outcome, seconds={})


def test_cleans_and_a_second_run_changes_nothing(corpus: Corpus, tmp_path: Path) -> None:
    settings = corpus.settings()
    outcome = run_clean(corpus.sources, settings, Notes())

    assert (outcome.shards, outcome.scored, outcome.written) == (4, 4, 4)
    assert (outcome.pairs, outcome.dropped, outcome.kept) == (4 * SAMPLES, SAMPLES, 3 * SAMPLES)
    assert outcome.statuses == {"ok": 4 * SAMPLES}
    assert outcome.failed == []
    layout, storage = Layout(settings.out), Storage()
    found = verify(layout, storage, inventory.load(layout, storage))
    assert (found.ok, found.shards, found.dropped) == (True, 4, SAMPLES)
    assert list(outcome.seconds) == ["inventory", "fit", "score", "plan", "write", "index", "report"]

    before = files(tmp_path / "out")
    second = Notes()
    again = run_clean(corpus.sources, settings, second)
    assert files(tmp_path / "out") == before
    assert _timeless(again) == _timeless(outcome)
    assert not {"fit", "score", "write"} & set(second.stages)


def test_further_columns_bring_their_own_fits_and_an_index(corpus: Corpus, tmp_path: Path) -> None:
    """PCA, a column that rests on another curvature and stored gradients: all through the flow, and resumable."""
    corpus.values.update(columns=("if_ekfac", "l_relative"), index=True, logra_init="pca")
    settings = corpus.settings()
    outcome = run_clean(corpus.sources, settings, Notes())
    assert (outcome.scored, outcome.written, outcome.failed) == (4, 4, [])
    storage, layout = Storage(), Layout(settings.out)
    fits = [info.url for info in storage.list(layout.fits(), "/meta.json")]
    assert sorted(storage.read_json(url)["curvature"] for url in fits) == ["ekfac", "ggn"]
    assert len(storage.list(layout.scores_of(outcome.score_key) + "/index", ".safetensors")) == 4
    before = {file: file.stat().st_mtime_ns for file in Path(settings.out).rglob("*.safetensors")}
    again = run_clean(corpus.sources, settings, Notes())
    assert _timeless(again) == _timeless(outcome)
    assert {file: file.stat().st_mtime_ns for file in Path(settings.out).rglob("*.safetensors")} == before


def test_artifacts_show_the_outcome(corpus: Corpus) -> None:
    outcome = run_clean(corpus.sources, corpus.settings(), Notes())
    run = _last_run()
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        found = {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=wanted)}
    page = found[artifacts.OUTCOME_KEY]
    assert page.type == "markdown"
    assert outcome.headline() in str(page.data)
    table = json.loads(str(found[artifacts.SHARDS_KEY].data))
    assert {row["shard"] for row in table} == {"00000", "00001", "00002", "00003"}
    assert sum(row["dropped"] for row in table) == outcome.dropped
    for stage in outcome.seconds:
        bar = found[artifacts.progress_key(stage)]
        assert (bar.type, bar.data) == ("progress", 100)


def test_without_a_policy_nothing_is_written(corpus: Corpus, tmp_path: Path) -> None:
    outcome = run_clean(corpus.sources, corpus.settings(drop=None), Notes())
    assert (outcome.scored, outcome.written, outcome.decision_key) == (4, 0, None)
    assert outcome.statuses == {"ok": 4 * SAMPLES}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_ecif"]
    assert outcome.report is not None
    assert Path(outcome.report).is_file()
    # The same output with a policy goes on from the scores that are there.
    scores = files(tmp_path / "out/_ecif/scores")
    later = run_clean(corpus.sources, corpus.settings(), Notes())
    assert later.written == 4
    assert files(tmp_path / "out/_ecif/scores") == scores


def test_a_broken_shard_is_set_aside_and_the_others_go_on(corpus: Corpus) -> None:
    bad = corpus.raw / "00002.tar"
    bad.write_bytes(bad.read_bytes()[:3000])
    notes = Notes()
    outcome = run_clean(corpus.sources, corpus.settings(), notes)
    (failure,) = outcome.failed
    assert (failure["shard"], failure["stage"], failure["passing"]) == ("00002", "score", False)
    assert str(bad) in failure["reason"]
    assert (outcome.scored, outcome.written, outcome.dropped) == (3, 3, 3 * SAMPLES // 4)
    assert any(str(bad) in note for note in notes.notes)
    assert _last_run().state_name == "ShardsFailed"
    # It is tried again, and still the others stand.
    again = run_clean(corpus.sources, corpus.settings(), Notes())
    assert _timeless(again) == _timeless(outcome)


def test_outputs_that_were_deleted_are_made_again_past_the_cache(corpus: Corpus, tmp_path: Path) -> None:
    settings = corpus.settings()
    outcome = run_clean(corpus.sources, settings, Notes())
    out, layout = tmp_path / "out", Layout(settings.out)
    before = files(out)
    score, shard = Path(layout.scores(outcome.score_key, "00001")), "00003"
    score.unlink()
    for url in (layout.manifest(shard), layout.tar(shard), layout.ledger(shard)):
        Path(url).unlink()
    notes = Notes()
    again = run_clean(corpus.sources, settings, notes)
    assert _timeless(again) == _timeless(outcome)
    after = files(out)
    assert {name: content for name, (content, _) in after.items() if "/scores/" not in name} == {
        name: content for name, (content, _) in before.items() if "/scores/" not in name
    }
    assert score.is_file()
    assert sum("cache" in note for note in notes.notes) == 2  # the score and the shard


def test_an_empty_prefect_home_resumes_by_manifests(corpus: Corpus, tmp_path: Path) -> None:
    settings = corpus.settings()
    run_clean(corpus.sources, settings, Notes())
    layout, out = Layout(settings.out), tmp_path / "out"
    before = files(out)
    Path(layout.manifest("00001")).unlink()  # as if the writer had been killed before its last step
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "nothing"}):
        notes = Notes()
        run_clean(corpus.sources, settings, notes)
    assert "score" not in notes.stages
    assert notes.advanced >= SAMPLES
    after = files(out)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"_ecif/manifest/00001.json"}
    assert {name: content for name, (content, _) in after.items()} == {name: c for name, (c, _) in before.items()}


def test_a_prefix_selects_among_the_sources(corpus: Corpus) -> None:
    whole = [str(corpus.raw)]
    first = run_clean(whole, corpus.settings(), Notes())
    arrivals = corpus.raw / "2026-11-22"
    arrivals.mkdir()
    for name in ("00000", "00001"):
        (arrivals / f"{name}.tar").write_bytes((corpus.raw / f"{name}.tar").read_bytes())
    elsewhere = corpus.raw / "later.tar"
    elsewhere.write_bytes((corpus.raw / "00003.tar").read_bytes())

    arrived = clean(whole, saved(corpus.settings()), prefix=str(arrivals))

    assert (arrived["shards"], arrived["written"]) == (2, 2)
    assert arrived["decision_key"] == first.decision_key
    done = manifest.done(Layout(corpus.settings().out), Storage())
    assert done == {"00000", "00001", "00002", "00003", "2026-11-22/00000", "2026-11-22/00001"}


def test_a_prefix_outside_the_sources_brings_nothing_in(corpus: Corpus, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "00000.tar").write_bytes((corpus.raw / "00000.tar").read_bytes())
    outcome: dict[str, Any] = clean(corpus.sources, saved(corpus.settings()), prefix=str(secret))
    assert (outcome["shards"], outcome["scored"], outcome["decision_key"]) == (0, 0, None)


def test_one_output_holds_one_decision(corpus: Corpus, tmp_path: Path) -> None:
    run_clean(corpus.sources, corpus.settings(), Notes())
    before = files(tmp_path / "out")
    with pytest.raises(ConflictError, match="choose a new --out"):
        run_clean(corpus.sources, corpus.settings(drop="0.5"), Notes())
    assert files(tmp_path / "out") == before


def test_a_wrong_request_is_refused_before_it_becomes_a_run(corpus: Corpus) -> None:
    run_clean(corpus.sources, corpus.settings(drop=None), Notes())
    before = _last_run().id
    with pytest.raises(MissingFileError, match="nowhere"):
        run_clean([str(corpus.raw / "nowhere.tar")], corpus.settings(), Notes())
    assert _last_run().id == before


def test_object_storage_works_and_its_secrets_stay_out_of_the_database(corpus: Corpus, s3_bucket: Bucket) -> None:
    for path in sorted(corpus.raw.iterdir()):
        s3_bucket.client().put_object(Bucket=s3_bucket.name, Key=f"raw/{path.name}", Body=path.read_bytes())
    settings = corpus.settings(out=f"{s3_bucket.url}/clean", storage_options=s3_bucket.options)
    outcome = run_clean([f"{s3_bucket.url}/raw/{{00000..00003}}.tar"], settings, Notes())
    assert (outcome.written, outcome.dropped) == (4, SAMPLES)
    parameters = json.dumps(_last_run().parameters)
    assert s3_bucket.options["secret"] not in parameters
    assert s3_bucket.options["endpoint_url"] not in parameters
    with pytest.raises(ParameterTypeError, match="ECIF_STORAGE_OPTIONS"):
        clean([s3_bucket.url], {**saved(settings), "storage_options": s3_bucket.options})


def test_survivors_are_packed_and_arrivals_go_on_behind_them(corpus: Corpus, tmp_path: Path) -> None:
    later = corpus.raw / "00003.tar"
    later.rename(tmp_path / "later.tar")
    settings = corpus.settings(repack=5)
    outcome = run_clean(corpus.sources, settings, Notes())
    layout, storage = Layout(settings.out), Storage()
    assert "pack" in outcome.seconds
    first = files(tmp_path / "out")
    assert sum(packed.samples for packed in packs.shards(layout, storage)) == outcome.kept
    (tmp_path / "later.tar").rename(later)
    again = run_clean(corpus.sources, settings, Notes())
    assert again.written == 4
    assert sum(packed.samples for packed in packs.shards(layout, storage)) == again.kept > outcome.kept
    made = {name: content for name, content in files(tmp_path / "out").items() if name.endswith((".tar", ".parquet"))}
    assert {name: content for name, content in first.items() if name in made}.items() <= made.items()
    found = verify(layout, storage, inventory.load(layout, storage))
    assert found.ok, found.violations
    with pytest.raises(ConflictError, match=r"shards of 5 samples .*not as shards one to one"):
        run_clean(corpus.sources, corpus.settings(), Notes())


def test_columns_are_written_beside_untouched_shards(corpus: Corpus, tmp_path: Path) -> None:
    settings = corpus.settings(write="columns")
    outcome = run_clean(corpus.sources, settings, Notes())
    assert (outcome.written, outcome.dropped, outcome.failed) == (4, SAMPLES, [])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"{number:05d}.parquet" for number in range(4)),
        "_ecif",
    ]
    layout, storage = Layout(settings.out), Storage()
    found = verify(layout, storage, inventory.load(layout, storage))
    assert found.ok, found.violations


def test_too_many_failures_end_the_run(corpus: Corpus, tmp_path: Path) -> None:
    for number in (0, 2):
        tar = corpus.raw / f"{number:05d}.tar"
        tar.write_bytes(tar.read_bytes()[:700])
    assert len(run_clean(corpus.sources, corpus.settings(max_failed=2), Notes()).failed) == 2
    with pytest.raises(TooManyFailedError, match=r"2 shards failed, and --max-failed is 1"):
        run_clean(corpus.sources, corpus.settings(max_failed=1, out=str(tmp_path / "other")), Notes())
