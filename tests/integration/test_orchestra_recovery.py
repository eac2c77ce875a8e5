"""The scenes of `python -m bench.recovery`: a part dies in the middle of a run, and nothing is lost."""

from __future__ import annotations

import pytest

from bench.scenes import SCENES, SHARDS, Stage
from bench.scenes_groups import GROUP_SCENES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]


ALL = SCENES | GROUP_SCENES


@pytest.mark.parametrize("event", ALL)
def test_nothing_is_lost(rehearsed: Stage, event: str) -> None:
    recovered = ALL[event](rehearsed)
    print(recovered)
    assert recovered.lost == []
    # What was under way is done again, and never most of the corpus: a run reads each tar four times and more.
    assert recovered.repeated <= 2 * SHARDS
