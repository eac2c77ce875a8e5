"""Keys of results stay what they were for settings that came later."""

from __future__ import annotations

from ecif import keys
from ecif.settings import ScoreSettings


def test_outputs_of_earlier_versions_are_found_again() -> None:
    """A change here makes every earlier output score again: it needs a new ALGO_VERSION, or a place in `keys`."""
    assert keys.fit_key(ScoreSettings(), {}) == "65c6332f1786"


def test_a_draft_is_another_fit_and_other_scores() -> None:
    full, draft = ScoreSettings(decode="full"), ScoreSettings(decode="draft")
    assert keys.fit_key(full, {}) != keys.fit_key(draft, {})
    assert keys.score_key("one", full) == keys.score_key("one", draft)  # by the fit


def test_threads_and_devices_are_in_no_key() -> None:
    assert keys.fit_key(ScoreSettings(workers=1, device="cpu", micro_batch=1), {}) == keys.fit_key(ScoreSettings(), {})
