"""Tables of two precisions are compared pair by pair, whatever the order of their rows."""

from __future__ import annotations

import polars as pl
import pytest

from bench.precision import FIT_OF_FP64, SCORES, compare


def test_pairs_are_matched_by_uid_and_low_scores_are_bad() -> None:
    uids, values = ["a", "b", "c", "d"], [0.1, 0.2, 0.3, 0.4]
    exact = pl.DataFrame({"uid": uids, **dict.fromkeys((*SCORES, FIT_OF_FP64), values)})
    swapped = exact.with_columns(clip_score=pl.Series([0.1, 0.3, 0.2, 0.4])).reverse()
    truth = pl.DataFrame({"uid": uids, "misaligned": [True, True, False, False]})
    rows = {(row["column"], row["precision"]): row for row in compare({"fp64": exact, "bf16": swapped}, truth)}
    assert rows["clip_score", "fp64"]["rho"] == pytest.approx(1.0)
    assert rows["clip_score", "fp64"]["auroc"] == 1.0
    assert rows["clip_score", "bf16"]["rho"] == pytest.approx(0.8)  # 1 - 6 (1 + 1) / (4 (16 - 1))
    assert rows["clip_score", "bf16"]["auroc"] == 0.75  # one of four pairs of a wrong and a right one is turned round
    assert rows["neg_clip_loss", "bf16"]["rho"] == pytest.approx(1.0)
