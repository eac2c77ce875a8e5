"""Whether new scores are told apart from old ones, and from chance."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif import drift
from ecif.calibration.learned import Model
from ecif.drift import check
from ecif.errors import InputError
from ecif.inventory import Inventory, Shard
from ecif.layout import Layout
from ecif.run import Run
from ecif.settings import Settings
from ecif.stability import Drift, compare, describe
from ecif.storage import Storage

Scores = npt.NDArray[np.float32]


def _normal(seed: int, count: int, shift: float = 0.0) -> Scores:
    return (np.random.default_rng(seed).standard_normal(count) + shift).astype(np.float32)


def _against(reference: Scores, new: Scores, *, unscored: int = 0, threshold: float = 0.25) -> Drift:
    described = describe(reference, 0)
    counts = np.bincount(np.searchsorted(described.edges, new), minlength=len(described.counts))
    return compare(described, counts, unscored, column="clip_score", shards=1, threshold=threshold)


def test_the_same_distribution_has_not_drifted_and_another_has() -> None:
    reference = _normal(0, 20_000)
    same = _against(reference, _normal(1, 10_000))
    assert same.psi == pytest.approx(0, abs=0.01)
    assert same.ks == pytest.approx(0, abs=0.03)
    assert not same.drifted
    shifted = _against(reference, _normal(2, 10_000, shift=0.6))
    assert shifted.drifted
    # N(0, 1) against N(s, 1): s^2 for unbinned PSI, 2 Phi(s / 2) - 1 for KS.
    assert shifted.psi == pytest.approx(0.36, rel=0.1)
    assert shifted.ks == pytest.approx(0.2358, abs=0.02)


@pytest.mark.parametrize("count", [1, 5, 20, 50, 200])
def test_few_pairs_do_not_count_as_drift_by_chance(count: int) -> None:
    reference = _normal(0, 5_000)
    found = [_against(reference, _normal(seed, count)) for seed in range(1, 301)]
    assert sum(item.drifted for item in found) <= 3


def test_few_pairs_that_are_quite_different_do() -> None:
    assert _against(_normal(0, 5_000), _normal(1, 50, shift=5)).drifted


def test_pairs_without_scores_count_too() -> None:
    reference = _normal(0, 5_000)
    found = _against(reference, _normal(1, 2_500), unscored=2_500)
    assert (found.drifted, found.pairs, found.unscored) == (True, 5_000, 2_500)
    assert found.ks < 0.05
    nothing = _against(reference, _normal(1, 0), unscored=100)
    assert (nothing.drifted, nothing.ks) == (True, 0.0)


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0]), min_size=1, max_size=300),
    st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0]), min_size=1, max_size=300),
)
def test_ties_and_constant_scores_give_finite_numbers(old: list[float], new: list[float]) -> None:
    reference = describe(np.array(old, np.float32), 0)
    assert sum(reference.counts) == len(old)
    assert list(reference.edges) == sorted(set(reference.edges))
    found = _against(np.array(old, np.float32), np.array(new, np.float32))
    assert np.isfinite(found.psi)
    assert found.psi >= 0
    assert 0 <= found.ks <= 1


@given(st.integers(1, 400), st.integers(0, 5))
def test_a_distribution_has_not_drifted_from_itself(count: int, seed: int) -> None:
    values = _normal(seed, count)
    found = _against(values, values)
    assert (found.psi, found.ks) == (0, 0)


class Output:
    """An output with tables of scores, as `ecif score` leaves them."""

    def __init__(self, folder: Path) -> None:
        self.layout, self.storage = Layout(str(folder / "out")), Storage()
        self.shards: list[Shard] = []

    def score(self, name: str, values: Scores, unscored: int = 0) -> None:
        """One more shard with scores."""
        count = len(values)
        frame = pl.DataFrame(
            {
                "key": [str(row) for row in range(count + unscored)],
                "status": ["ok"] * count + ["no_caption"] * unscored,
                "clip_score": pl.Series([*values.tolist(), *[None] * unscored], dtype=pl.Float32),
                "influence": pl.Series([*(-values).tolist(), *[None] * unscored], dtype=pl.Float32),
                "influence_se": pl.Series([1.0] * (count + unscored), dtype=pl.Float32),
            }
        )
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        self.storage.publish(self.layout.scores("scores", name), buffer.getvalue())
        self.list(name, count + unscored)

    def list(self, name: str, samples: int) -> None:
        """A shard of the inventory."""
        self.shards.append(Shard(name, f"/raw/{name}.tar", 1, "etag", samples, None, None))

    def fit(self, *names: str) -> None:
        """The frozen sample of the fit."""
        self.storage.publish_json(self.layout.fit_sample("fit"), {"shards": sorted(names)})

    def run(self, detector: str = "clip_score", fit_pairs: int = 20_000) -> Run:
        """The run as it stands."""
        settings = Settings(out=self.layout.root, detector=detector, fit_pairs=fit_pairs)
        return Run(settings, self.layout, self.storage, Inventory(tuple(self.shards), ()), (), "fit", "scores")

    def frozen(self) -> bytes:
        """The file of the reference."""
        return self.storage.read_bytes(self.layout.drift("scores"))


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Four shards, two of which the fit has used."""
    found = Output(tmp_path)
    for number in range(4):
        found.score(f"{number}", _normal(number, 2_000), unscored=20)
    found.fit("1", "3")
    return found


def test_the_reference_is_that_of_the_fit_and_stays(output: Output) -> None:
    first = check(output.run(), ["0", "1", "2", "3"])
    assert first is not None
    assert (first.shards, first.pairs, first.unscored, first.reference_pairs) == (2, 4_040, 40, 4_040)
    assert not first.drifted
    assert set(json.loads(output.frozen())["columns"]) == {"clip_score", "influence"}
    before = output.frozen()
    output.score("new", _normal(9, 2_000, shift=1.0))
    found = check(output.run(), ["new"])
    assert found is not None
    assert found.drifted
    assert found.headline().startswith("the clip_score of 2,000 new pairs have drifted: stability index ")
    assert found.to_json()["drifted"] is True
    assert output.frozen() == before


def test_any_column_of_scores_can_decide(output: Output) -> None:
    output.score("new", _normal(9, 2_000, shift=1.0))
    by_clip, by_influence = check(output.run(), ["new"]), check(output.run("influence"), ["new"])
    assert by_clip is not None
    assert by_influence is not None
    assert by_influence.ks == pytest.approx(by_clip.ks, abs=0.02)


MODEL = Model(("clip_score", "influence"), (-1.0, -1.0), (0.0, 0.0), (1.0, 1.0), (1.0, 0.5), 0.1, "clip_score", 1.0)


def test_the_learned_detector_is_held_against_its_own_reference(output: Output) -> None:
    """Of the same shards; frozen beside that of the columns, and for one model."""
    assert check(output.run("auto"), ["0", "2"], MODEL) is not None
    output.score("new", _normal(9, 2_000, shift=1.0), unscored=7)
    found = check(output.run("auto"), ["new"], MODEL)
    assert found is not None
    assert (found.column, found.pairs, found.unscored, found.reference_pairs) == ("p_misaligned", 2_007, 7, 4_040)
    assert found.drifted
    # misalignment falls with clip_score, as the influence of these tables is its negative: a monotone map keeps KS.
    by_clip = check(output.run(), ["new"])
    assert by_clip is not None
    assert found.ks == pytest.approx(by_clip.ks, abs=0.02)
    names = output.storage.list(output.layout.drift("x").rpartition("/")[0] + "/")
    assert len([*names]) == 2
    other = replace(MODEL, weights=(1.0, 0.25))
    assert check(output.run("auto"), ["new"], other) is not None
    assert len([*output.storage.list(output.layout.drift("x").rpartition("/")[0] + "/")]) == 3


def test_before_a_decision_clip_score_stands_for_what_is_not_learned_yet(output: Output) -> None:
    for detector in ("auto", "p_misaligned"):
        found = check(output.run(detector), ["0", "2"])
        assert found is not None
        assert found.column == "clip_score"


def test_a_learned_detector_has_no_reference_before_the_sample_is_scored(output: Output) -> None:
    check(output.run(), ["0"])
    output.storage.delete(output.layout.scores("scores", "3"))
    assert check(output.run("auto"), ["0"], MODEL) is None


def test_there_is_no_reference_before_the_sample_is_scored(output: Output) -> None:
    output.list("late", 100)
    output.storage.delete(output.layout.fit_sample("fit"))
    output.fit("1", "late")
    assert check(output.run(), ["0"]) is None
    assert not output.storage.exists(output.layout.drift("scores"))
    output.score("late", _normal(7, 100))
    assert check(output.run(), ["0"]) is not None


def test_a_fit_without_a_sample_is_stood_for_by_shards_chosen_alike(output: Output) -> None:
    output.storage.delete(output.layout.fit_sample("fit"))
    found = check(output.run(fit_pairs=3_000), ["0", "1", "2", "3"])
    assert found is not None
    assert (found.reference_pairs, found.pairs) == (4_040, 4_040)


def test_the_reference_is_bounded(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "REFERENCE_PAIRS", 1_000)
    found = check(output.run(), ["0"])
    assert found is not None
    assert found.reference_pairs == 2_020


def test_without_new_shards_there_is_nothing_to_say(output: Output) -> None:
    assert check(output.run(), []) is None
    assert check(output.run(), ["1", "3"]) is None
    output.score("empty", _normal(0, 0))
    assert check(output.run(), ["empty", "not scored"]) is None


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"shards": [], "columns": {"clip_score": {"edges": [1], "counts": [1], "unscored": 0}}}',
        '{"shards": [], "columns": {"clip_score": {"edges": [2, 1], "counts": [1, 1, 1], "unscored": 0}}}',
        '{"shards": [], "columns": {"clip_score": {"edges": ["x"], "counts": [1, 1], "unscored": 0}}}',
        "[]",
    ],
)
def test_a_damaged_reference_is_named(output: Output, text: str) -> None:
    output.storage.publish(output.layout.drift("scores"), text.encode())
    with pytest.raises(InputError, match=r"drift/scores\.json: is no reference"):
        check(output.run(), ["0"])


def test_a_damaged_table_is_named(output: Output) -> None:
    check(output.run(), ["0"])
    output.storage.publish(output.layout.scores("scores", "bad"), b"no table")
    with pytest.raises(InputError, match=r"scores/bad\.parquet"):
        check(output.run(), ["bad"])
