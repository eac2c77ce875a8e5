"""A fixed part of the fault matrix (`python -m bench.faults`): every fault once in every stage, in front of Ceph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.faults import BALLAST, FAULTS, STAGES, Fault, try_often
from bench.matrix import Log, World, on_server
from bench.places import remove_bucket
from bench.trial import Nursery
from tests.integration.conftest import Store
from tests.integration.faultproxy import Proxy, proxied

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

CUTS = 8
BUCKET = "ecif-test-fault-matrix"


@pytest.fixture(scope="module")
def proxy(ceph: Store) -> Iterator[Proxy]:
    with proxied(ceph.server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def world(ceph: Store, proxy: Proxy, nursery: Nursery, model: tuple[Path, Path]) -> Iterator[World]:
    yield on_server(model, nursery, ceph.server, BUCKET, BALLAST, proxy.url)
    remove_bucket(ceph.server, BUCKET)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_same_bytes_or_a_clear_error(world: World, proxy: Proxy, fault: Fault, tmp_path: Path) -> None:
    log = Log(tmp_path / "faults.jsonl")
    met = 0
    for stage in (stage for stage in STAGES if stage in fault.stages):
        times = CUTS if fault is FAULTS[0] and stage in ("apply", "score") else 1
        results = try_often(world, stage, fault, proxy, times, 0, log)
        met += sum(result["hits"] > 0 for result in results)
        for result in results:
            assert result["wrong"] == [], f"{stage}: {result}"
    assert met
