"""SIGKILL every stage at random moments, run it again, and compare every byte with a stage that was left alone.

    python -m bench.kill --work DIR [--kills 50] [--seed 0] [--stages apply,score]
                         [--s3 ENDPOINT --key KEY --secret SECRET --bucket NAME]

For each stage a table says how many kills came before its first file, between its first and last, and after its end;
how many of its files were visible then; how many visible files were not complete; how many finished files the second
run touched; how many files of the final output differ; and the unfinished files and uploads that the killed writers
left. The four counts of errors must be 0, and the exit code tells.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.matrix import Log, World, on_disk, on_server, said, stable, table
from bench.places import Server, changed, differing
from bench.trial import Nursery
from bench.world import Stage, write_model

BALLAST = 4 << 20  # 48 MiB in the heavy shard: several parts of an upload
HEAD = ("stage", "seconds", "kills", "before", "within", "after", "files then", "unfinished left",
        "not whole", "touched", "differing", "failed again")  # fmt: skip
WRONG = ("partial", "touched", "differing", "failed")


def kill_once(world: World, stage: Stage, share: float) -> dict[str, Any]:
    """One kill, `share` of the stage's usual time after its start, and the run after it.

    Returns:
        when: "before" its first file, "within", or "after" its end. files: its files that were visible then.
        unfinished: temporary files and pending uploads left. partial: visible files whose bytes are not the final
        ones. touched: finished files that the second run changed. differing: files of the final output.
        failed: the exit code of the second run, unless 0, with what it said.
    """
    start, expected = world.before(stage), world.undisturbed(stage)
    world.out.reset(start)
    running = world.nursery.start(stage.arguments, world.environment)
    time.sleep(max(0.0, share * world.seconds[stage.name] - (time.monotonic() - running.started)))
    ended = running.kill()
    stamps, there = world.out.stamps(), stable(world.out.read())
    mine = [name for name in there if name not in start]
    unfinished = world.out.leftovers()
    again = world.nursery.run(stage.arguments, world.environment)
    final = stable(world.out.read())
    return {
        "when": "after" if ended.code >= 0 else "within" if mine else "before",
        "files": len(mine),
        "unfinished": unfinished,
        "partial": changed(there, expected),
        "touched": changed(stamps, world.out.stamps()),
        "differing": differing(final, expected),
        "failed": [] if again.code == 0 else [f"exit code {again.code}: {again.err[-500:]}{again.out[-500:]}"],
    }


def kill_often(world: World, name: str, kills: int, seed: int, log: Log) -> list[dict[str, Any]]:
    """`kills` kills of one stage at uniformly random moments; those in the log are not done again."""
    moments, results = random.Random(f"{seed} {name}"), []
    for number in range(kills):
        share = moments.uniform(0.0, 1.0)
        label = f"{world.out.url} {name} {seed} {number}"
        if label not in log.done:
            log.add(label, {"stage": name, "share": share, **kill_once(world, world.stages[name], share)})
            found = log.done[label]
            if any(found[kind] for kind in WRONG):
                said(f"{name}, kill {number} at {share:.3f}: { {kind: found[kind] for kind in WRONG} }")
        results.append(log.done[label])
    return results


def rows(world: World, results: dict[str, list[dict[str, Any]]]) -> Iterator[Sequence[object]]:
    """The table, a line for each stage."""
    for name, kills in results.items():
        when = [sum(kill["when"] == kind for kill in kills) for kind in ("before", "within", "after")]
        files = [kill["files"] for kill in kills]
        wrong = [sum(len(kill[kind]) for kill in kills) for kind in WRONG]
        most = max(kill["unfinished"] for kill in kills)
        seconds = f"{world.seconds[name]:.1f}" if name in world.seconds else ""
        yield (name, seconds, len(kills), *when, f"{min(files)} to {max(files)}", f"at most {most}", *wrong)


def main() -> None:
    """Print the table; exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ballast", type=int, default=BALLAST)
    parser.add_argument("--stages", default="inventory,fit,score,plan,apply,repack,restore,export")
    parser.add_argument("--s3", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--secret", default="")
    parser.add_argument("--bucket", default="ecif-kill")
    given = parser.parse_args()
    nursery = Nursery(given.work / "trials", {"PREFECT_HOME": str(given.work / "prefect")})
    server, model = Server(given.s3, given.key, given.secret), write_model(given.work / "model")
    world = (
        on_server(model, nursery, server, given.bucket, given.ballast)
        if given.s3
        else on_disk(given.work, model, nursery, given.ballast)
    )
    log, results = Log(given.work / "kill.jsonl"), {}
    for name in given.stages.split(","):
        results[name] = kill_often(world, name, given.kills, given.seed, log)
        said(f"{name}: {given.kills} kills")
        print(table(HEAD, rows(world, results)), flush=True)
    sys.exit(any(kill[kind] for kills in results.values() for kill in kills for kind in WRONG))


if __name__ == "__main__":
    main()
