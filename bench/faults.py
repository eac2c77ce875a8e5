"""Every fault in every stage: the same bytes, or a clear error after which the same command ends in the same bytes.

    python -m bench.faults --work DIR [--cuts 200] [--seed 0] [--stages apply,score] [--faults 503]
                           --s3 ENDPOINT --key KEY --secret SECRET [--bucket NAME]

A proxy in front of the server does to requests what networks and loaded servers do; full and read-only disks are
tried on local outputs. After each disturbed run: every visible file is whole (its bytes are those of an undisturbed
run), an error names its cause without a traceback and leaves nothing pending, and the same command without the fault
ends in the same bytes. The table counts the outcomes of each fault in each stage.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.disks import DISKS, on_a_disk
from bench.matrix import Log, World, on_disk, on_server, said, stable, table
from bench.outcomes import ERROR, SAME, cell, judge
from bench.places import Prefix, Server, add_server
from bench.trial import Nursery
from bench.world import HEAVY, SHARDS, Stage, shard, write_model
from tests.integration.faultproxy import (
    Cut,
    CutRequest,
    DropAnswer,
    Meanwhile,
    Proxy,
    Rule,
    Shorten,
    Stall,
    Status,
    Throttle,
    proxied,
)

BALLAST = 4 << 20  # the heavy shard leaves in several parts
STAGES = ("inventory", "lint", "fit", "score", "plan", "apply", "repack", "restore", "verify", "export")
READ_TARS = ("lint", "fit", "score", "apply", "repack", "restore", "verify")
WITHOUT_PACKS = tuple(stage for stage in READ_TARS if stage != "repack")
# Seconds that the storage goes on asking: enough for what passes, little for what does not.
PATIENT, IMPATIENT = "30", "1"
PUT_ONE, PUT_PART, COMPLETE = r"(?!.*uploadId=)", r".*partNumber=", r".*uploadId="


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        rules: of the proxy, for a random generator and the world.
        lasting: the storage is given little patience. allowed: the outcomes that are right.
        stages: in which it is tried; stages without such a request are left out of the table.
        heal: what has to be undone before the second run.
    """

    name: str
    rules: Callable[[random.Random, World], Sequence[Rule]]
    lasting: bool = False
    allowed: tuple[str, ...] = (SAME,)
    stages: tuple[str, ...] = STAGES
    heal: Callable[[World], None] | None = None


def tar_at(random: random.Random, world: World) -> tuple[str, int]:
    """Path and a random byte of a random input tar; half of them of the heavy shard."""
    number = HEAVY if random.random() < 0.5 else random.randrange(SHARDS)
    name = f"raw/{number:05d}.tar"
    assert isinstance(world.source, Prefix)
    return f"/{world.source.bucket}/in/{name}$", random.randrange(1, len(world.files[name]))


def in_tars(make: Callable[[int], Any], times: int | None) -> Callable[[random.Random, World], Sequence[Rule]]:
    """A fault at a random byte of a random tar."""

    def rules(random: random.Random, world: World) -> Sequence[Rule]:
        target, at = tar_at(random, world)
        return [Rule(make(at), method="GET", target=target, times=times)]

    return rules


def anywhere(
    action: Any, method: str = ".*", target: str = "", times: int | None = None, skip: int = 0
) -> Callable[[random.Random, World], Sequence[Rule]]:
    """A fault in a run of requests that begins at one of the first, at random."""

    def rules(random: random.Random, world: World) -> Sequence[Rule]:
        return [Rule(action, method=method, target=target, times=times, skip=random.randrange(skip + 1))]

    return rules


def replaced(length: int | None) -> Callable[[random.Random, World], Sequence[Rule]]:
    """The heavy tar becomes another one, of the same size or cut to `length`, when a block of it is asked for."""

    def rules(random: random.Random, world: World) -> Sequence[Rule]:
        source, name = world.source, f"raw/{HEAVY:05d}.tar"
        assert isinstance(source, Prefix)
        other = shard(HEAVY + 100, BALLAST)[0][:length]
        act = Meanwhile(lambda: source.put(name, other))
        return [Rule(act, method="GET", target=f"/{source.bucket}/in/{name}$", skip=random.randrange(2), times=1)]

    return rules


def put_back(world: World) -> None:
    """The input as it was: on S3 the same bytes have the same ETag."""
    world.source.reset(world.files)


RANDOM_SKIP = 12
FAULTS = (
    Fault("cut once, in a tar", in_tars(lambda at: Cut(at, reset=at % 2 == 0), 1), stages=READ_TARS),
    Fault("cut for ever, in a tar", in_tars(Cut, None), True, (ERROR,), READ_TARS),
    Fault("cut once, anywhere", anywhere(Cut(64), "GET", times=1, skip=3)),
    Fault("short body once, in a tar", in_tars(Shorten, 1), stages=READ_TARS),
    Fault("short range once, in a tar", in_tars(lambda at: Shorten(at, ranged=True), 1), stages=READ_TARS),
    Fault("short bodies for ever, in a tar", in_tars(Shorten, None), True, (ERROR,), READ_TARS),
    Fault("stall of 1 s, in a tar", in_tars(lambda at: Stall(at, 1.0), 1), stages=READ_TARS),
    Fault("no end of a stall, once", in_tars(lambda at: Stall(at, 600.0), 1), stages=READ_TARS),
    Fault("503 twice", anywhere(Status(503), times=2, skip=RANDOM_SKIP)),
    Fault("503 SlowDown twice", anywhere(Status(503, "SlowDown"), times=2, skip=RANDOM_SKIP)),
    Fault("500 twice", anywhere(Status(500, "InternalError"), times=2, skip=RANDOM_SKIP)),
    Fault("503 for ever", anywhere(Status(503), skip=RANDOM_SKIP), True, (ERROR,)),
    Fault("503 SlowDown for ever", anywhere(Status(503, "SlowDown"), skip=RANDOM_SKIP), True, (ERROR,)),
    Fault("500 for ever", anywhere(Status(500, "InternalError"), skip=RANDOM_SKIP), True, (ERROR,)),
    Fault("403 from some request on", anywhere(Status(403, "AccessDenied"), skip=RANDOM_SKIP), True, (ERROR,)),
    Fault("answer of a PUT lost", anywhere(DropAnswer(), "PUT", PUT_ONE, times=1, skip=3)),
    Fault("answer of a part lost", anywhere(DropAnswer(), "PUT", PUT_PART, times=1, skip=1)),
    Fault("answer of the completion lost", anywhere(DropAnswer(), "POST", COMPLETE, times=1)),
    Fault("body of a PUT cut", anywhere(CutRequest(50), "PUT", times=1, skip=3)),
    Fault("bodies of PUTs cut for ever", anywhere(CutRequest(50), "PUT", skip=3), True, (ERROR,)),
    Fault("slow, 10 MB/s", anywhere(Throttle(10_000_000))),
    # Not in repack, which goes on without a shard that changed, and packs it later beside the others.
    Fault("input replaced, same size", replaced(None), True, (ERROR, SAME), WITHOUT_PACKS, put_back),
    Fault("input replaced, shorter", replaced(10_000_000), True, (ERROR, SAME), READ_TARS, put_back),
)


def disturb(world: World, stage: Stage, fault: Fault, proxy: Proxy, random: random.Random) -> dict[str, Any]:
    """One disturbed run, and the run after it unless that ended well; see `judge`."""
    start, expected = world.before(stage), world.undisturbed(stage)
    world.out.reset(start)
    proxy.clear()
    proxy.rules.extend(fault.rules(random, world))
    environment = {**world.environment, "ECIF_PATIENCE": IMPATIENT if fault.lasting else PATIENT}
    ended = world.nursery.run(stage.arguments, environment)
    hits = sum(rule.hits for rule in proxy.rules)
    proxy.clear()
    visible, left = stable(world.out.read()), world.out.leftovers()
    if fault.heal is not None:
        fault.heal(world)
    again, final = ended, visible
    if ended.code or fault.heal is not None:
        again = world.nursery.run(stage.arguments, world.environment)
        final = stable(world.out.read())
    return judge(world, stage, fault.allowed, (ended, again), (visible, final, expected), hits, left)


def try_often(
    world: World, stage: str, fault: Fault, proxy: Proxy, times: int, seed: int, log: Log
) -> list[dict[str, Any]]:
    """A fault `times` times in one stage; what is in the log is not done again."""
    results = []
    for number in range(times):
        label = f"{fault.name} / {stage} / {seed} {number}"
        if label not in log.done:
            found = disturb(world, world.stages[stage], fault, proxy, random.Random(label))
            log.add(label, {"fault": fault.name, "stage": stage, **found})
            if found["wrong"]:
                said(f"{label}: {found['wrong']}: {found['said'][-300:]}")
        results.append(log.done[label])
    return results


def rows(log: Log, stages: Sequence[str]) -> Iterator[Sequence[str]]:
    """The table: a line for each fault that was tried, a column for each stage."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for item in log.done.values():
        found.setdefault(item["fault"], {}).setdefault(item["stage"], []).append(item)
    for name, by_stage in found.items():
        yield (name, *(cell(by_stage.get(stage, ())) for stage in stages))


def main() -> None:
    """Print the table; exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    add_server(parser, "ecif-faults")
    parser.add_argument("--cuts", type=int, default=200, help="cuts at random bytes of the tars, in apply and in score")
    parser.add_argument("--times", type=int, default=3, help="how often each other fault is tried in each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ballast", type=int, default=BALLAST)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--faults", default="", help="only those whose name contains this")
    given = parser.parse_args()
    nursery, log = Nursery(given.work / "trials"), Log(given.work / "faults.jsonl")
    server, names = Server(given.s3, given.key, given.secret), given.stages.split(",")
    model = write_model(given.work / "model")
    with proxied(given.s3) as proxy:
        world = on_server(model, nursery, server, given.bucket, given.ballast, proxy.url)
        for fault in FAULTS:
            if given.faults in fault.name:
                for stage in (name for name in names if name in fault.stages):
                    often = fault is FAULTS[0] and stage in ("apply", "score")
                    try_often(world, stage, fault, proxy, given.cuts if often else given.times, given.seed, log)
                said(fault.name)
    local = on_disk(given.work, model, nursery, given.ballast)
    for disk in DISKS:
        if given.faults in disk.name:
            for stage in (name for name in names if local.stages[name].writes):
                label = f"{disk.name} / {stage}"
                if label not in log.done:
                    log.add(label, {"fault": disk.name, "stage": stage, **on_a_disk(local, local.stages[stage], disk)})
            said(disk.name)
    print(table(("fault", *names), rows(log, names)))
    wrong = [item for item in log.done.values() if item["wrong"]]
    for item in wrong:
        print(f"WRONG: {item['name']}: {item['wrong']}\n{item['said']}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
