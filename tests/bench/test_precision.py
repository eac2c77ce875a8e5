"""Tables of two precisions are compared pair by pair, whatever the order of their rows; TensorFloat-32's rounding."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from bench.precision import FIT_OF_FP64, SCORES, Rounded, compare


def test_pairs_are_matched_by_uid_and_low_scores_are_bad() -> None:
    uids, values = ["a", "b", "c", "d"], [0.1, 0.2, 0.3, 0.4]
    exact = pl.DataFrame({"uid": uids, **dict.fromkeys((*SCORES, FIT_OF_FP64), values)})
    swapped = exact.with_columns(clip_score=pl.Series([0.1, 0.3, 0.2, 0.4])).reverse()
    truth = pl.DataFrame({"uid": uids, "misaligned": [True, True, False, False]})
    found = compare({"fp64": exact, "bf16": swapped}, truth, SCORES)
    rows = {(row["column"], row["precision"]): row for row in found}
    assert rows["clip_score", "fp64"]["rho"] == pytest.approx(1.0)
    assert rows["clip_score", "fp64"]["auroc"] == 1.0
    assert rows["clip_score", "bf16"]["rho"] == pytest.approx(0.8)  # 1 - 6 (1 + 1) / (4 (16 - 1))
    assert rows["clip_score", "bf16"]["auroc"] == 0.75  # one of four pairs of a wrong and a right one is turned round
    assert rows["neg_clip_loss", "bf16"]["rho"] == pytest.approx(1.0)


def test_operands_keep_ten_bits_and_sums_all() -> None:
    one, below, above = 1.0, 1 + 2.0**-12, 1 + 3 * 2.0**-12
    row = torch.tensor([[one, below, above]])
    with Rounded():
        found = row @ torch.eye(3)
        added = torch.addmm(torch.full((1, 3), 2.0**-20), row, torch.eye(3))
    assert found.tolist() == [[1.0, 1.0, 1 + 2.0**-10]]
    assert added.tolist() == [[1 + 2.0**-20, 1 + 2.0**-20, 1 + 2.0**-10 + 2.0**-20]]
    assert (row @ torch.eye(3)).tolist() == row.tolist()
