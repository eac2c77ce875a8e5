"""Does cleaning help the model that is trained next? `ecif bench effects` on sets whose mistakes are known.

    python -m bench.effects --data DIR --work DIR [--sets demo cifar10n] [--seeds 6]

The command is run as anybody runs it, on outputs with scores. Two things only a bench can add, from the truth: the
share that is dropped is that of the mistakes, and one more variant is `without the wrong pairs`, what a perfect
detector would do with it. Each set is judged by pairs that no score has seen, in the corpus or as validation pairs:

    demo       6,000 rendered scenes, made and trained on by `ecif demo`; judged by 1,024 clean pairs of other scenes
    cifar10n   4,000 pairs, human labels as captions; 256 right pairs of another shard are the validation set, and the
               other images of that shard, with captions by their true classes, judge

Scores, calibrations and trained models stay in --work and are used again; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.calibration import material, score_once
from bench.real import select
from ecif.cli.bench import answer
from ecif.demo import corpus
from ecif.demo.run import SHARDS, VALIDATION_PAIRS, WRONG
from ecif.detectors import LEARNED
from ecif.effects.intervals import difference
from ecif.effects.study import Recipe, Request, Study, prepare
from ecif.layout import Layout
from ecif.progress import Lines
from ecif.storage import Storage

ORACLE = "without the wrong pairs"
COMPARED = ("clip_score", "neg_clip_loss", "influence", "lemon", LEARNED)
CANARIES = "0.05"
HELD_OUT = 1_024  # clean scenes that judge
VALIDATION = 256  # right pairs of CIFAR-10N that influence is measured on


@dataclass(frozen=True, slots=True)
class Scored:
    """A set with scores.

    Attributes:
        out: the output that holds them. judge: tar of clean pairs. wrong: uids of the mistakes.
        recipe, model: of the small model; the demo's own model where there is none.
    """

    out: Path
    judge: Path
    wrong: frozenset[str]
    recipe: Recipe
    model: Path | None = None


def demo(_: Path, work: Path) -> Scored:
    """The demo's corpus, and scenes that come behind those of its validation set in the same draw."""
    root = work / "demo"
    tars, validation, options, truth = material("demo", work, root, work)
    out, judge = root / f"scored-{CANARIES}", root / "judge.tar"
    score_once(tars, validation, options, CANARIES, out)
    if not judge.exists():
        more = root / "more"
        clean = VALIDATION_PAIRS + HELD_OUT
        made = corpus.build(more, pairs=len(truth), validation_pairs=clean, shards=SHARDS, wrong=float(WRONG), seed=0)
        known, drawn = (pl.read_parquet(tar.with_suffix(".parquet")) for tar in (validation, made.validation))
        fresh = drawn.join(known, on="uid", how="anti")
        part = judge.with_suffix(".part")
        count = select([made.validation], {(made.validation.stem, key) for key in fresh["key"]}, part)
        if count != HELD_OUT:
            raise SystemExit(f"{count} scenes are new, not {HELD_OUT}: is {validation} that of `ecif demo`?")
        part.rename(judge)
    return Scored(out, judge, wrong_of(truth), Recipe(5, 128, 1.5e-3))


def cifar10n(data: Path, work: Path) -> Scored:
    """Shards 0 to 3, and the images of shard 4 in two parts."""
    root = work / "cifar10n"
    root.mkdir(parents=True, exist_ok=True)
    tars, model = [data / "cifar10n" / f"{n:06d}.tar" for n in range(4)], data.parent / "models" / "cifar10-tiny"
    options = {"--model": str(model / "cifar10-tiny.json"), "--pretrained": str(model / "weights.safetensors")}
    truth = pl.read_parquet(data / "truth" / "cifar10n_truth.parquet")
    source, apart = data / "cifar10n" / "000004.tar", truth.filter(pl.col("shard") == "000004")
    right = sorted(apart.filter(~pl.col("misaligned"))["key"])
    measured = set(np.random.default_rng(0).permutation(right)[:VALIDATION].tolist())
    validation, judge = root / "validation.tar", root / "judge.tar"
    select([source], {("000004", key) for key in measured}, validation)
    classes = {key: name for key, name in apart.select("key", "true_class").iter_rows() if key not in measured}
    named = dict(truth.filter(~pl.col("misaligned")).select("true_class", "caption").unique().iter_rows())
    relabel(source, {key: named[name] for key, name in classes.items()}, judge)
    out = root / f"scored-{CANARIES}"
    score_once(tars, validation, options, CANARIES, out)
    return Scored(out, judge, wrong_of(truth), Recipe(16, 128, 2e-3), _small(root / "model.json"))


SETS = {"demo": demo, "cifar10n": cifar10n}


def wrong_of(truth: pl.DataFrame) -> frozenset[str]:
    return frozenset(truth.filter(pl.col("misaligned"))["uid"])


def relabel(source: Path, captions: Mapping[str, str], target: Path) -> None:
    """The samples of a tar that have a caption here, with that caption."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as new:
        for info in old:
            key, _, kind = info.name.partition(".")
            if key in captions:
                content = old.extractfile(info).read()  # type: ignore[union-attr]
                content = captions[key].encode() if kind == "txt" else content
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))


def _small(path: Path) -> Path:
    """A model for 32 pixels that trains in half a minute."""
    vision = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32, "mlp_ratio": 2.0}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "mlp_ratio": 2.0}
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}), "utf-8")
    return path


def studied(found: Scored, seeds: int) -> Study:
    """The study of a set, with the variant that only the truth can make."""
    tables = pl.scan_parquet(found.out / "_ecif" / "scores" / "*" / "*.parquet").filter(pl.col("status") == "ok")
    uids = tables.select("uid").collect()["uid"]
    # Half a pair more: a quotient that was rounded down would lose a whole one.
    share = (Decimal(int(uids.is_in(list(found.wrong)).sum())) + Decimal("0.5")) / len(uids)
    layout, storage = Layout(str(found.out)), Storage()
    request = Request((str(found.judge),), share, "", COMPARED, seeds, found.recipe, found.model)
    study = prepare(layout, storage, request, progress=Lines())
    wrong = np.flatnonzero(study.population.pairs["uid"].is_in(list(found.wrong)).to_numpy())
    for name, by_seed in study.rows.items():
        uids = study.population.pairs["uid"].gather(by_seed[1])
        print(f"{name}: drops {len(by_seed[1]):,} pairs, {int(uids.is_in(list(found.wrong)).sum()):,} of them wrong")
    return replace(study, rows={**study.rows, ORACLE: dict.fromkeys(range(1, seeds + 1), wrong)})


def against_learned(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The learned detector less every other variant, on the first measure."""
    first = rows[0]["measure"]
    values = {row["variant"]: row["values"] for row in rows if row["measure"] == first}
    yield f"{LEARNED} less another variant, {first}, %, paired by seed:"
    for name, others in values.items():
        if name != LEARNED:
            found = difference(values[LEARNED], others)
            yield f"  {name:24}{100 * found.value:+5.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def main() -> None:
    """Print the tables of the sets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=6)
    arguments = parser.parse_args()
    for name in arguments.sets:
        study = studied(SETS[name](arguments.data, arguments.work), arguments.seeds)
        print(f"\n{name}: {len(study.population):,} pairs", flush=True)
        shown = answer(study, "", Lines())
        assert shown.show is not None
        shown.show()
        print("\n".join(against_learned(shown.value["rows"])))


if __name__ == "__main__":
    main()
