"""The demo from end to end: build a corpus, train a model on it, clean it as anybody's corpus is cleaned, judge.

The cleaning is the installed orchestration, called as `ecif clean` calls it; it sees the shards, the model and the
validation pairs, and never the truth. As the fraction of mistakes is known here, exactly that fraction is dropped.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ecif import detectors
from ecif.demo import corpus
from ecif.demo.evaluation import Evaluation, evaluate
from ecif.errors import UsageError
from ecif.layout import Layout
from ecif.orchestration import orchestrator
from ecif.progress import Progress, Silent, clock
from ecif.settings import Settings
from ecif.stages.plan import load_decision
from ecif.storage import Storage

if TYPE_CHECKING:
    from rich.console import Console

WRONG = Decimal("0.16")  # of the captions, 0.04 of each kind
SHARDS = 6
VALIDATION_PAIRS = 512
# What the model needs to learn composition; measured in docs/log.md.
EPOCHS = 16
BATCH = 256
LEARNING_RATE = 1.5e-3

_MARKER = "demo.json"


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What the demo came to.

    Attributes:
        pairs, kept, dropped: of the corpus. failed: shards that were set aside, with reasons.
        corpus, cleaned: directories. report: URL of the report, None if there is none.
        rates: pairs per second of training (every pair of every epoch counts), fit and scoring.
        seconds: by stage, with "total".
    """

    pairs: int
    kept: int
    dropped: int
    failed: list[dict[str, Any]]
    corpus: str
    cleaned: str
    report: str | None
    losses: tuple[float, ...]
    evaluation: Evaluation
    rates: dict[str, float]
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"evaluation": self.evaluation.to_json()}


def run_demo(out: Path, *, pairs: int = 6_000, seed: int = 0, progress: Progress = Silent()) -> DemoOutcome:
    """Run the whole demo; the results of an earlier demo in `out` are replaced.

    Args:
        out: a directory that is empty, absent, or holds an earlier demo.
        pairs: samples of the corpus.

    Raises:
        UsageError: `out` holds something else, `pairs` is too small or too large, or no orchestration is installed.
    """
    started = time.perf_counter()
    smallest = BATCH * SHARDS // 2
    if not smallest <= pairs <= corpus.MOST_PAIRS:
        raise UsageError(f"--pairs: the demo takes {smallest:,} to {corpus.MOST_PAIRS:,} pairs, not {pairs:,}")
    run_clean = orchestrator("prefect")
    _take_over(out, {"made_by": "ecif demo", "pairs": pairs, "seed": seed})
    made = corpus.build(
        out / "corpus",
        pairs=pairs, validation_pairs=VALIDATION_PAIRS, shards=SHARDS, wrong=float(WRONG), seed=seed,
        progress=progress,
    )  # fmt: skip
    rendered = time.perf_counter() - started

    from ecif.demo.training import train

    weights = out / "weights.safetensors"
    trained = train(
        made.shards, made.config, weights,
        epochs=EPOCHS, batch_size=BATCH, lr=LEARNING_RATE, seed=seed, augment=True, progress=progress,
    )  # fmt: skip
    settings = Settings(
        model=str(made.config), pretrained=str(weights), validation=(str(made.validation),),
        out=str(out / "cleaned"), batch_size=BATCH, seed=seed, drop=WRONG,
    )  # fmt: skip
    outcome = run_clean([str(made.raw)], settings, progress)
    evaluation = _judge(made, settings.out, outcome.score_key, outcome.decision_key)
    seconds = {
        "render": rendered,
        "train": trained.seconds,
        **outcome.seconds,
        "total": time.perf_counter() - started,
    }
    rates = {"train": EPOCHS * (trained.pairs // BATCH) * BATCH / trained.seconds}
    rates |= {stage: outcome.pairs / outcome.seconds[stage] for stage in ("fit", "score") if stage in outcome.seconds}
    return DemoOutcome(
        pairs=outcome.pairs, kept=outcome.kept, dropped=outcome.dropped, failed=outcome.failed,
        corpus=str(made.raw), cleaned=outcome.out, report=outcome.report, losses=trained.losses,
        evaluation=evaluation, rates=rates, seconds=seconds,
    )  # fmt: skip


def print_outcome(outcome: DemoOutcome, console: Console) -> None:
    """The outcome for people: what was found, how fast, and where everything lies."""
    console.print(outcome.evaluation.table())
    right = outcome.evaluation.clean_dropped
    console.print(
        f"kept {outcome.kept:,} of {outcome.pairs:,} pairs, dropped {outcome.dropped:,} "
        f"({outcome.dropped - right:,} mistakes, {right:,} right pairs)"
    )
    rates = (f"{stage} {rate:,.0f} samples/s" for stage, rate in outcome.rates.items())
    stages = (f"{stage} {clock(seconds)}" for stage, seconds in outcome.seconds.items() if round(seconds))
    console.print("speed: " + ", ".join(rates))
    console.print("time: " + ", ".join(stages))
    for item in outcome.failed:
        console.print(f"failed: {item['shard']}: {item['reason']}", markup=False, highlight=False, style="red")
    places = (("corpus", outcome.corpus), ("cleaned shards", outcome.cleaned), ("report", outcome.report or "none"))
    for name, place in places:
        console.print(f"{name}: {place}", markup=False, highlight=False, soft_wrap=True)


def _take_over(out: Path, marker: dict[str, Any]) -> None:
    """Make `out` an empty directory with the demo's marker; refuses a directory that no demo has made."""
    if out.exists():
        if not out.is_dir():
            raise UsageError(f"--out: {out} is not a directory")
        if any(out.iterdir()) and not (out / _MARKER).is_file():
            raise UsageError(f"--out: {out} holds something else than an earlier demo; name a new directory")
        for name in ("cleaned", "corpus"):
            if (out / name).exists():
                shutil.rmtree(out / name)
        (out / "weights.safetensors").unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).write_text(json.dumps(marker) + "\n", "utf-8")


def _judge(made: corpus.Corpus, out: str, score_key: str, decision_key: str | None) -> Evaluation:
    """Read back scores and ledgers, and the truth."""
    layout, storage = Layout(out), Storage()
    tables = [pl.read_parquet(storage.read_bytes(f.url)) for f in storage.list(layout.scores_of(score_key), ".parquet")]
    ledgers = [pl.read_parquet(storage.read_bytes(f.url)) for f in storage.list(layout.ledgers(), ".parquet")]
    dropped = {uid for ledger in ledgers for uid in ledger["uid"]}
    scores = pl.concat(tables)
    model = load_decision(layout, storage, decision_key).rule.model if decision_key else None
    if model is not None:
        scores = scores.with_columns(pl.Series(detectors.LEARNED, model.misalignment(scores)))
    return evaluate(scores, pl.read_parquet(made.truth), dropped)
