"""The verdict against numbers computed by hand, and areas against scikit-learn."""

from __future__ import annotations

import io
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score

from ecif.demo.evaluation import Evaluation, auroc, average_precision, evaluate

TRUTH = pl.DataFrame(
    {
        "uid": list("abcdefgh"),
        "kind": ["clean", "clean", "swap_random", "swap_random", "edit_word", "clean", "drop_words", "clean"],
    }
)
# Low is worse for all three. The order of rows is not that of the truth, and h has no score.
SCORES = pl.DataFrame(
    {
        "uid": list("hgfedcba"),
        "status": ["undecodable_image"] + ["ok"] * 7,
        "influence": [None, 0.2, 0.3, 0.1, 0.5, -0.5, 0.4, 0.1],
        "clip_score": [None, 0.1, 0.9, 0.2, 0.3, 0.4, 0.8, 0.7],
        "neg_clip_loss": [None, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    }
)


def _verdict() -> Evaluation:
    return evaluate(SCORES, TRUTH, {"c", "e", "a"})


def test_found_and_missed() -> None:
    verdict = _verdict()
    counts = {kind.name: (kind.n, kind.found, kind.missed) for kind in verdict.kinds}
    assert counts["swap_random"] == (2, 1, 1)
    assert counts["swap_similar"] == (0, 0, 0)
    assert counts["drop_words"] == (1, 0, 1)
    assert counts["edit_word"] == (1, 1, 0)
    assert (verdict.clean, verdict.clean_dropped, verdict.unscored) == (4, 1, 1)


def test_areas_by_hand() -> None:
    verdict = _verdict()
    areas = {kind.name: kind.auroc for kind in verdict.kinds}
    # Influence of the clean ones: a 0.1, b 0.4, f 0.3.
    assert areas["swap_random"]["influence"] == pytest.approx(3 / 6)  # c -0.5 is below all, d 0.5 below none
    assert areas["edit_word"]["influence"] == pytest.approx((0.5 + 1 + 1) / 3)  # e 0.1 ties with a
    assert areas["drop_words"]["influence"] == pytest.approx(2 / 3)  # g 0.2
    assert areas["swap_similar"] == {"influence": None, "clip_score": None, "neg_clip_loss": None}
    assert verdict.auroc["clip_score"] == 1.0
    assert verdict.auprc["clip_score"] == 1.0
    assert verdict.auroc["neg_clip_loss"] == 0.5
    assert verdict.auprc["neg_clip_loss"] == pytest.approx(4 / 7)


def test_the_learned_detector_stands_first_where_it_decided() -> None:
    learned = SCORES.with_columns(p_misaligned=-pl.col("clip_score"))
    verdict = evaluate(learned, TRUTH, {"c"})
    assert [*verdict.auroc] == ["p_misaligned", "clip_score", "influence"]
    assert verdict.auroc["p_misaligned"] == verdict.auroc["clip_score"] == 1.0


@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=1, max_size=60))
def test_areas_agree_with_scikit_learn(pairs: list[tuple[bool, int]]) -> None:
    wrong, badness = np.array([w for w, _ in pairs]), np.array([float(b) for _, b in pairs])
    if wrong.all() or not wrong.any():
        assert auroc(wrong, badness) is None
    else:
        assert auroc(wrong, badness) == pytest.approx(roc_auc_score(wrong, badness))
    if wrong.any():
        assert average_precision(wrong, badness) == pytest.approx(average_precision_score(wrong, badness))
    else:
        assert average_precision(wrong, badness) is None


def test_other_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="same uids"):
        evaluate(SCORES.head(5), TRUTH, set())
    with pytest.raises(ValueError, match="same uids"):
        evaluate(pl.concat([SCORES, SCORES]), TRUTH, set())


def test_table_and_json() -> None:
    verdict = _verdict()
    text = io.StringIO()
    Console(file=text, width=80).print(verdict.table())
    assert "…" not in text.getvalue()
    lines = {line.split()[0]: line.split() for line in text.getvalue().splitlines() if line.strip()}
    assert lines["swap_random"][:4] == ["swap_random", "2", "1", "1"]
    assert "0.500" in lines["swap_random"]
    assert lines["clean"] == ["clean", "4", "1", "lost"]
    value = json.loads(json.dumps(verdict.to_json()))
    assert value["kinds"][0]["missed"] == 1
    assert value["auroc"]["clip_score"] == 1.0
