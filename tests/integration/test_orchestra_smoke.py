"""The shortest way through everything that is shipped: deploy, a worker, a run, an event, and what it brings.

SQLite and moto instead of PostgreSQL and Ceph, so that it runs wherever Python does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType

from bench.places import Server, fresh_bucket
from bench.scenes import CLEAN, MONTHLY
from tests.integration.faultproxy import proxied
from tests.integration.field import Field, announce, eventually, runs_of, start, wait
from tests.integration.orchestra import Orchestra

pytestmark = [pytest.mark.integration, pytest.mark.smoke, pytest.mark.timeout(600)]


@pytest.fixture
def orchestra(tmp_path: Path) -> Iterator[Orchestra]:
    found = Orchestra(tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.close()


def test_deployments_clean_a_corpus_and_what_arrives_later(
    orchestra: Orchestra, moto: Server, model: tuple[Path, Path]
) -> None:
    with proxied(moto.endpoint) as proxy:
        field = Field(moto, fresh_bucket(moto, "smoke"), proxy, model)
        field.arrive(3)
        orchestra.deploy(field.declaration(MONTHLY))
        for pool in orchestra.pools:
            orchestra.worker(f"worker-{pool}", pool, field.environment)
        first = wait(orchestra, start(orchestra, CLEAN))
        assert first.state is not None
        assert first.state.type is StateType.COMPLETED
        stamps = field.out.stamps()
        assert {f"{number:05d}.tar" for number in range(3)} <= set(stamps)

        (name,) = field.arrive(1, "later/")
        announce(orchestra, f"{field.raw.url}/later/")
        (run, *_) = eventually(lambda: runs_of(orchestra, "clean-on-arrival"), "a run that the event starts")
        ended = wait(orchestra, run.id)
        assert ended.parameters["prefix"] == f"{field.raw.url}/later/"
        assert ended.state is not None
        assert ended.state.type is StateType.COMPLETED
        after = field.out.stamps()
        assert f"_ecif/manifest/{name}.json" in after
        tars = [name for name in stamps if name.endswith(".tar")]
        assert {name: after[name] for name in tars} == {name: stamps[name] for name in tars}
