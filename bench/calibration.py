"""What canaries promise and what the truth says: every score on corpora whose mistakes are known.

    python -m bench.calibration --data DIR --work DIR [--sets demo cifar10n] [--canaries 0.05]

Each set is scored with canaries and calibrated as anybody's corpus is; the truth only judges. Tables per set: AUROC by
kind of mistake, AUPRC and precision of every score, with the learned detector with and without influence and paired
bootstrap intervals against clip_score and the best single score by the truth; then what the calibration said of it.

    cifar10n            4,000 pairs, human labels as captions; the model beside the data
    demo                6,000 rendered scenes, four kinds of mistake; corpus and model are made by `ecif demo`
    demo-1, demo-2      the same with other seeds: nobody looked at them while the method was chosen
    flickr8k_swap       2,000 pairs, three kinds; a small model trained here on these very pairs: weak
    flickr8k_human_dev  500 pairs that people judged; the same weak model

Outputs stay in --work and are used again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from bench.method.detection_measures import Judge
from bench.method.measures import table
from bench.real import cifar10n, ecif, flickr8k_swap, select
from ecif import detectors
from ecif.calibration.state import ALL, WITHOUT, Calibration, Choice, calibrate
from ecif.layout import Layout
from ecif.storage import Storage

NAMES = ("demo", "demo-1", "demo-2", "cifar10n", "flickr8k_swap", "flickr8k_human_dev")
COLUMNS = ("clip_logit", "deep_knn", "lemon")
EPOCHS = 12  # of the model of both Flickr8k sets
FRACTION = 0.05

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Judged:
    """A scored set: its calibration, badness of every pair by score, and what the truth says."""

    name: str
    calibration: Calibration
    badness: dict[str, Array]
    wrong: Array
    kinds: Array

    @property
    def judge(self) -> Judge:
        """Measures against the truth."""
        return Judge(self.wrong, self.kinds, np.ones(len(self.wrong), bool))


def scored(name: str, data: Path, work: Path, canaries: str) -> Judged:
    """Score a set with canaries, unless that has been done, and calibrate it."""
    root = work / name
    root.mkdir(parents=True, exist_ok=True)
    tars, validation, options, truth = material(name, data, root, work)
    out = root / f"scored-{canaries}"
    score_once(tars, validation, options, canaries, out)
    layout, storage = Layout(str(out)), Storage()
    score_key, canary_key = (next(iter((out / "_ecif" / part).iterdir())).name for part in ("scores", "canary"))
    calibration = calibrate(layout, storage, score_key, canary_key, Choice())
    scores = pl.concat([pl.read_parquet(path) for path in sorted(Path(layout.scores_of(score_key)).glob("*.parquet"))])
    pairs = scores.filter(pl.col("status") == "ok").join(truth, on="uid").filter(pl.col("misaligned").is_not_null())
    badness = {}
    for column in detectors.COLUMNS:
        if column in pairs.columns:
            sign = 1.0 if detectors.facts(column).higher_is_worse else -1.0
            badness[column] = sign * pairs[column].to_numpy().astype(np.float64)
    badness[detectors.LEARNED] = calibration.model.misalignment(pairs)
    badness[WITHOUT] = calibration.without.misalignment(pairs)
    wrong = pairs["misaligned"].to_numpy()
    return Judged(name, calibration, badness, wrong, np.where(wrong, pairs["kind"].to_numpy(), ""))


def score_once(tars: Sequence[Path], validation: Path, options: Mapping[str, str], canaries: str, out: Path) -> None:
    """Fit and score, with canaries and the further columns, unless that has been done."""
    if not (out / "done").exists():
        flat = [part for pair in options.items() for part in pair]
        flat += [part for column in COLUMNS for part in ("--columns", column)]
        common = [*map(str, tars), "--validation", str(validation), *flat, "--canaries", canaries, "--out", str(out)]
        ecif("fit", *common)
        ecif("score", *common)
        (out / "done").touch()


def material(
    name: str, data: Path, root: Path, work: Path
) -> tuple[Sequence[Path], Path, dict[str, str], pl.DataFrame]:
    """Tars, validation, options that name the model, and the truth."""
    if name.startswith("demo"):
        made = root / "made"
        if not (made / "weights.safetensors").exists():
            ecif("demo", "--out", str(made), "--seed", name.partition("-")[2] or "0")
        corpus = made / "corpus"
        options = {"--model": str(corpus / "model.json"), "--pretrained": str(made / "weights.safetensors")}
        validation = next((corpus / "validation").glob("*.tar"))
        truth = pl.read_parquet(corpus / "truth.parquet")
        return sorted((corpus / "raw").glob("*.tar")), validation, options, truth.select("uid", "misaligned", "kind")
    truth = pl.read_parquet(data / "truth" / f"{name}_truth.parquet")
    judged = truth.select("uid", "misaligned", "kind")
    if name == "cifar10n":
        return (*cifar10n(data, root, truth), judged)
    shared = work / "flickr8k_swap"
    shared.mkdir(parents=True, exist_ok=True)
    swapped = pl.read_parquet(data / "truth" / "flickr8k_swap_truth.parquet")
    tars, validation, options = flickr8k_swap(data, shared, swapped, EPOCHS)
    if name == "flickr8k_human_dev":
        right = swapped.filter(~pl.col("misaligned"))
        validation = root / "validation.tar"
        select(list(tars), set(right.select("shard", "key").iter_rows()), validation)
        tars = [data / "flickr8k_human_dev" / "000000.tar"]
    return tars, validation, options, judged


def against_truth(found: Judged) -> None:
    """Every score, by the truth."""
    judge, clip = found.judge, found.badness["clip_score"]
    single = max(
        (name for name in found.badness if name in detectors.COLUMNS), key=lambda n: judge.auroc(found.badness[n])
    )
    kinds = sorted({str(kind) for kind in found.kinds[found.wrong]})
    rows = []
    for name, badness in found.badness.items():
        cells = [
            f"{judge.auroc(badness):.3f}",
            f"{judge.auprc(badness):.3f}",
            f"{judge.precision(badness, FRACTION):.2f}",
        ]
        cells += [str(judge.difference(badness, other)) for other in (clip, found.badness[single])]
        cells += [str(judge.difference_auprc(badness, clip)), str(judge.difference_precision(badness, clip, FRACTION))]
        cells += [f"{judge.auroc(badness, kind):.3f}" for kind in kinds if len(kinds) > 1]
        rows.append([f"`{name}`", *cells])
    head = ["score", "AUROC", "AUPRC", "precision at 5%", "less clip_score", f"less the best single, {single}"]
    head += ["AUPRC less clip_score", "precision less clip_score"]
    title = f"{found.name}: {len(found.wrong)} pairs, {found.wrong.mean():.1%} wrong. * sure at 95 %."
    table(title, head + [kind for kind in kinds if len(kinds) > 1], rows)


def by_kind(found: Judged) -> None:
    """The learned detector less clip_score, for one kind of mistake at a time."""
    rows = []
    for kind in sorted({str(kind) for kind in found.kinds[found.wrong]}):
        judge = Judge(found.wrong, found.kinds, ~found.wrong | (found.kinds == kind))
        clip = found.badness["clip_score"]
        cells = [str(judge.difference(found.badness[name], clip)) for name in (detectors.LEARNED, WITHOUT)]
        rows.append([kind, f"{int((found.kinds == kind).sum())}", *cells])
    table(f"{found.name}: AUROC less that of clip_score.", ["kind", "pairs", detectors.LEARNED, WITHOUT], rows)


def promises(studies: Sequence[Judged]) -> None:
    """What the canaries said, next to the truth."""
    rows = []
    for found in studies:
        made, judge, badness = found.calibration, found.judge, found.badness[detectors.LEARNED]
        auroc = made.measures[detectors.LEARNED][ALL].auroc
        curve = made.curves[detectors.LEARNED]
        cut = float(np.quantile(badness, 1.0 - FRACTION))
        promised, actual = curve.precision(cut, made.share), float(found.wrong[badness >= cut].mean())
        recall = float((badness[found.wrong] >= cut).mean())
        cells = [f"{sum(made.canaries.values())}", str(auroc), f"{judge.auroc(badness):.3f}"]
        cells += [str(made.share), f"{found.wrong.mean():.3f}", str(promised), f"{actual:.3f}"]
        rows.append([found.name, *cells, str(curve.recall(cut)), f"{recall:.3f}"])
    head = ["set", "canaries", "AUROC, canaries", "truth", "share of mistakes, canaries", "truth"]
    head += ["precision at 5%, canaries", "truth", "recall, canaries", "truth"]
    table("The learned detector: what canaries promise, and the truth.", head, rows)
    rows = []
    for found in studies:
        shares = ", ".join(f"{kind} {share}" for kind, share in found.calibration.shares.items())
        weights = ", ".join(
            f"{n} {w:.2f}"
            for n, w in zip(found.calibration.model.columns, found.calibration.model.weights, strict=True)
        )
        rows.append([found.name, f"{found.wrong.mean():.3f}", shares, f"{found.calibration.model.penalty}", weights])
    head = ["set", "wrong", "share of mistakes if they are like", "penalty", "weights"]
    table("Shares by kind, and what was learned.", head, rows)


def main() -> None:
    """Score, calibrate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--canaries", default="0.05", help="share of canaries")
    arguments = parser.parse_args()
    studies = [scored(name, arguments.data, arguments.work, arguments.canaries) for name in arguments.sets]
    for found in studies:
        against_truth(found)
        by_kind(found)
    promises(studies)


if __name__ == "__main__":
    main()
