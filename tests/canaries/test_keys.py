"""What canaries are keyed by, and what is not."""

from __future__ import annotations

import pytest

from ecif import canaries, keys
from ecif.errors import UsageError
from ecif.fields import build
from ecif.settings import ScoreSettings, recorded


def test_scores_do_not_depend_on_canaries_and_canaries_depend_on_the_scores() -> None:
    none, some = (build(ScoreSettings, {"canaries": share}) for share in (0, 0.1))
    assert keys.fit_key(none, {}) == keys.fit_key(some, {})
    assert keys.score_key("fit", none) == keys.score_key("fit", some)
    assert recorded(some)["canaries"] == 0.1
    assert len({keys.canary_key(key, share) for key in ("one", "two") for share in (0.1, 0.2)}) == 4
    assert keys.canary_key("one", 0.1) == keys.canary_key("one", 0.10)


def test_other_ways_to_make_captions_are_other_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys.canary_key("one", 0.1)
    monkeypatch.setattr(canaries, "VERSION", canaries.VERSION + 1)
    assert keys.canary_key("one", 0.1) != before


@pytest.mark.parametrize("share", [-0.01, 0.51, float("nan"), "half"])
def test_a_share_is_at_most_a_half(share: object) -> None:
    with pytest.raises(UsageError, match="--canaries"):
        build(ScoreSettings, {"canaries": share})
    assert build(ScoreSettings, {}).canaries == 0.05
