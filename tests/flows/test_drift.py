"""What a run does about drift: says so, fits again beside the output, once."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.flow_engine import run_flow

from ecif import manifest
from ecif.drift import check
from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.run import Run, open_run
from ecif.settings import Settings, saved
from ecif.stability import Drift
from ecif.storage import Storage
from flows.clean import clean, run_clean
from flows.drift import refit_out, respond
from flows.parameters import public
from tests.conftest import MakeTar
from tests.squares import SHARDS, Corpus, Notes, files, pairs

FOUND = Drift("clip_score", 1, 1_000, 0, 20_000, psi=0.5, ks=0.2, limit=0.3)


def _run(corpus: Corpus, score_key: str = "0123456789abcdef", **changes: Any) -> Run:
    """The run of an output, as far as drift needs to know it."""
    settings = corpus.settings(**changes)
    return Run(settings, Layout(settings.out), settings.storage(), Inventory((), ()), (), "fit", score_key)


def test_shards_of_another_kind_are_noticed_after_scoring(corpus: Corpus, make_tar: MakeTar) -> None:
    sources = [str(corpus.raw)]
    run_clean(sources, corpus.settings(), Notes())
    (corpus.raw / "00004.tar").write_bytes(make_tar(pairs(4)))
    without_captions = [member for member in pairs(5) if member[0].endswith(".png")]
    (corpus.raw / "00005.tar").write_bytes(make_tar(without_captions))
    run_clean(sources, corpus.settings(), Notes())
    run = open_run(sources, corpus.settings())
    alike, other = check(run, ["00004"]), check(run, ["00005"])
    assert alike is not None
    assert other is not None
    assert (alike.drifted, other.drifted) == (False, True)
    assert other.unscored == other.pairs == len(without_captions)


def test_asking_says_what_to_type_and_changes_nothing(corpus: Corpus, tmp_path: Path) -> None:
    notes = Notes()
    assert respond(FOUND, corpus.sources, _run(corpus, on_drift="ask"), notes) is None
    assert "have drifted" in notes.notes[0]
    assert f"--out {corpus.out}-refit-01234567" in notes.notes[1]
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize(("found", "on_drift"), [(FOUND, "ignore"), (replace(FOUND, psi=0.1), "refit")])
def test_what_is_ignored_or_no_drift_is_only_noted(corpus: Corpus, found: Drift, on_drift: str) -> None:
    notes = Notes()
    assert respond(found, corpus.sources, _run(corpus, on_drift=on_drift), notes) is None
    assert len(notes.notes) == 1


def test_a_refit_goes_into_an_output_of_its_own(corpus: Corpus) -> None:
    first = run_clean(corpus.sources, corpus.settings(), Notes())
    before = files(corpus.out)
    run = _run(corpus, first.score_key, on_drift="refit")

    @flow
    def arrivals() -> str | None:
        return respond(FOUND, corpus.sources, run, Notes())

    place = arrivals()
    assert place == refit_out(str(corpus.out), first.score_key)
    assert len(manifest.done(Layout(place), Storage())) == SHARDS
    assert files(corpus.out) == before
    again = files(Path(place))
    assert arrivals() == place
    assert files(Path(place)) == again


@flow
def stand_in(sources: list[str], settings: dict[str, Any], prefix: str | None = None) -> str | None:
    """Finds drift, whatever the shards."""
    chosen = Settings(**settings)
    run = Run(chosen, Layout(chosen.out), chosen.storage(), Inventory((), ()), (), "fit", "0123456789abcdef")
    return respond(FOUND, sources, run, Notes())


def test_a_deployment_has_the_refit_done_by_one_other_run_of_it(corpus: Corpus) -> None:
    parameters: dict[str, Any] = {
        "sources": corpus.sources,
        "settings": saved(corpus.settings(on_drift="refit")),
        "prefix": f"{corpus.raw}/day/",
    }
    with get_client(sync_client=True) as client:
        target = client.create_deployment(client.create_flow(stand_in), uuid.uuid4().hex)
        runs = [client.create_flow_run_from_deployment(target, parameters=parameters) for _ in range(2)]
        for run in runs:
            assert run_flow(stand_in, flow_run=run, parameters=run.parameters) == f"{corpus.out}-refit-01234567"
        of_it = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[target]))
        ours = {run.id for run in runs}
        (refit,) = [run for run in client.read_flow_runs(flow_run_filter=of_it) if run.id not in ours]
    given = clean.validate_parameters(refit.parameters)
    assert given["settings"] == public({**parameters["settings"], "out": f"{corpus.out}-refit-01234567"})
    assert (given["sources"], given["prefix"]) == (corpus.sources, None)
