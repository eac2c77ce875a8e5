"""The fit as a flow: `clean` finds it done, and a fit that waits for a shard says so."""

from __future__ import annotations

from pathlib import Path

from prefect.client.schemas.objects import StateType

from ecif.layout import Layout
from ecif.run import open_run
from ecif.settings import saved
from flows.clean import run_clean
from flows.fit import fit
from tests.squares import Corpus, Notes, files


def test_clean_goes_on_with_the_direction(corpus: Corpus) -> None:
    settings = corpus.settings()
    fitted = fit(corpus.sources, saved(settings))
    assert fitted["failed"] == []
    assert fitted["direction"] == Layout(settings.out).direction(fitted["fit_key"])
    before = files(corpus.out)
    assert any(name.endswith("direction.safetensors") for name in before)
    assert not any("scores" in name for name in before)

    again = fit(corpus.sources, saved(settings))
    assert {**again, "seconds": {}} == {**fitted, "seconds": {}}
    assert files(corpus.out) == before

    stages = Notes()
    assert run_clean(corpus.sources, settings, stages).written == 4
    assert "fit" not in stages.stages
    after = files(corpus.out)
    assert {name: after[name] for name in before} == before


def test_a_fit_that_waits_for_a_shard_is_no_success(corpus: Corpus) -> None:
    settings = corpus.settings(fit_pairs=1_000)  # all four shards
    run = open_run(corpus.sources, settings)
    place = Path(run.layout.partial(run.fit_key, "00001"))
    place.mkdir(parents=True)  # so no file can be written there
    state = fit(corpus.sources, saved(settings), return_state=True)
    assert (state.type, state.name) == (StateType.COMPLETED, "ShardsFailed")
    waiting = state.result()
    assert waiting["direction"] is None
    assert [item["shard"] for item in waiting["failed"]] == ["00001"]

    place.rmdir()
    assert fit(corpus.sources, saved(settings))["direction"] is not None
