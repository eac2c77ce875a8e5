"""Keys of results stay what they were for settings that came later."""

from __future__ import annotations

from ecif import keys
from ecif.settings import ScoreSettings


def test_outputs_of_earlier_versions_are_found_again() -> None:
    """A change here makes every earlier output score again: it needs a new ALGO_VERSION, or a place in `keys`."""
    assert keys.fit_key(ScoreSettings(validation_segmentations=1), {}) == "65c6332f1786"


def test_cuts_of_the_validation_pairs_are_another_fit_where_batches_count() -> None:
    """Losses over prompts do not depend on batches, so their earlier outputs are found with any number of cuts."""

    def key(count: int, objective: str) -> str:
        return keys.fit_key(ScoreSettings(validation_segmentations=count, objective=objective), {})

    assert ScoreSettings().validation_segmentations == 8
    assert len({key(count, "contrastive") for count in (1, 2, 8)}) == 3
    assert len({key(count, "prompts:x") for count in (1, 2, 8)}) == 1


def test_a_draft_is_another_fit_and_other_scores() -> None:
    full, draft = ScoreSettings(decode="full"), ScoreSettings(decode="draft")
    assert keys.fit_key(full, {}) != keys.fit_key(draft, {})
    assert keys.score_key("one", full) == keys.score_key("one", draft)  # by the fit


def test_threads_and_devices_are_in_no_key() -> None:
    assert keys.fit_key(ScoreSettings(workers=1, device="cpu", micro_batch=1), {}) == keys.fit_key(ScoreSettings(), {})


def test_differences_are_other_scores_of_the_same_fit() -> None:
    exact, difference = ScoreSettings(derivative="exact"), ScoreSettings(derivative="difference")
    assert keys.fit_key(exact, {}) == keys.fit_key(difference, {})
    assert keys.score_key("one", exact) != keys.score_key("one", difference)
    assert keys.score_key("one", exact) == "c6fb85c32037"
