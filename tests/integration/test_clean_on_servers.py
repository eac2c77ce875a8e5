"""The whole way on real servers, input and output: fit, score, plan, apply, verify; nothing pending at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.matrix import on_server
from bench.places import Server
from bench.trial import Nursery
from tests.integration.conftest import Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_clean(store: Store, new_bucket: Callable[[Server], str], nursery: Nursery, model: tuple[Path, Path]) -> None:
    world = on_server(model, nursery, store.server, new_bucket(store.server), ballast=2 << 20)
    written = world.undisturbed(world.stages["apply"])
    assert {f"{number:05d}.tar" for number in range(4)} <= set(written)
    world.undisturbed(world.stages["verify"])
    verified = world.answers["verify"]
    assert verified["ok"]
    assert (verified["shards"], verified["samples"], verified["dropped"]) == (4, 48, 12)
    world.undisturbed(world.stages["repack"])
    assert world.nursery.run(world.stages["verify"].arguments, world.environment).code == 0
    assert world.out.leftovers() == 0
