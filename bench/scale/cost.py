"""What a corpus costs: device hours, requests, storage and money, as sums of a few terms whose factors are variables.

    python -m bench.scale cost [--pairs N ...] [--rate PAIRS_PER_SECOND] [--device-hour MONEY] ...

No throughput of a GPU and no price is known here: they are arguments, and the defaults are round numbers to be replaced
by your own (`make bench` measures the first one). What is not an argument was measured or follows from the code: blocks
of 8 MiB, pages of 1,000 objects, small files read sixteen at a time, requests per shard (docs/scale.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ecif.ahead import DEPTH
from ecif.ranking import BITS_HELD, VALUES_HELD

BLOCK = 8 * 2**20  # bytes of a ranged read and of a part
PAGE = 1_000  # objects of a listing's page
# Objects that lie beside each other and are listed together: tar, table and statistics of a shard.
BESIDE = 3
# Small files that the parent reads for every shard, once: statistics for the inventory, the score table for the report,
# the manifest. What the cut and the guard read is in `_readings`.
READS = {"inventory": 1, "report": 1, "manifest": 1}
# Small requests of a worker for every shard: two looks and a put for each object (table; tar, statistics, ledger and
# manifest), and the manifest and the table that writing begins with.
WORKER_GETS = {"score": 2, "write": 10}
WORKER_PUTS = {"score": 1, "write": 4}
# Listings in one run: of the sources before the run and in it, of scores and of manifests before and after a stage.
LISTINGS = {"sources": 2, "outputs": 6}
HOUR = 3_600.0


@dataclass(frozen=True, slots=True)
class Assumed:
    """The variables. Money is in any currency; rates are per second.

    Attributes:
        shard_pairs, pair_bytes: pairs of a shard, bytes of a pair in its tar.
        rate: pairs scored by one device, decoding included. devices: how many work at the same time.
        fit: pairs of the fit by those of the corpus, and what one of them costs by a scored one.
        copy: bytes that one worker rewrites. copiers: workers that copy.
        latency: seconds of a small request. work: what it takes of the processor.
        overhead: seconds of orchestration for a shard, as measured.
        group: seconds that a group takes. group_bytes: that it leaves in Prefect's database.
        score_bytes: of a score table for a pair. kept: share of the bytes that survive.
        device_hour, worker_hour, thousand_gets, thousand_puts, gb_month: prices.
    """

    shard_pairs: float = 10_000
    pair_bytes: float = 35_000
    rate: float = 1_000
    devices: float = 64
    fit: float = 0.01
    fit_factor: float = 4
    copy: float = 100e6
    copiers: float = 64
    latency: float = 0.03
    work: float = 0.002
    overhead: float = 0.05
    group: float = 600
    group_bytes: float = 20_000
    score_bytes: float = 60
    kept: float = 0.9
    device_hour: float = 2.0
    worker_hour: float = 0.05
    thousand_gets: float = 0.0004
    thousand_puts: float = 0.005
    gb_month: float = 0.023


def cost(pairs: float, a: Assumed) -> dict[str, float]:
    """What `pairs` pairs cost, by what it is called in the table."""
    shards = math.ceil(pairs / a.shard_pairs)
    tar = a.shard_pairs * a.pair_bytes
    scoring = pairs / a.rate / HOUR
    fitting = a.fit * a.fit_factor * scoring
    copying = pairs * a.pair_bytes / a.copy / HOUR
    pages = shards / PAGE * (LISTINGS["sources"] * BESIDE + LISTINGS["outputs"])
    first = sum(READS.values()) + _readings(pairs, shards)
    small = shards * (first + sum(WORKER_GETS.values()))
    gets = small + shards * (2 + a.fit) * math.ceil(tar / BLOCK)
    puts = pages + shards * (sum(WORKER_PUTS.values()) + a.kept * math.ceil(tar / BLOCK))
    groups = math.ceil(scoring * HOUR / a.group) + math.ceil(copying * HOUR / a.group)
    listing = pages * a.latency / HOUR
    parent = listing + shards * first * max(a.latency / DEPTH, a.work) / HOUR
    stored = pairs * (a.kept * a.pair_bytes + a.score_bytes) / 1e9
    money = {
        "devices": (scoring + fitting) * a.device_hour,
        "copying": copying * a.worker_hour,
        "requests": gets / 1e3 * a.thousand_gets + puts / 1e3 * a.thousand_puts,
        "storage, a month": stored * a.gb_month,
    }
    return {
        "shards": shards,
        "device hours, scoring": scoring,
        "device hours, fit": fitting,
        "days on all devices": (scoring + fitting) / a.devices / 24,
        "worker hours, copying": copying,
        "days on all copiers": copying / a.copiers / 24,
        "groups": groups,
        "Prefect's database, GB": groups * a.group_bytes / 1e9,
        "parent alone reads and lists, hours": parent,
        "the same in a run that finds little new": listing,
        "orchestration, share of scoring %": 100 * a.overhead * a.rate / a.shard_pairs,
        "requests that read, millions": gets / 1e6,
        "requests that write or list, millions": puts / 1e6,
        "stored, TB": stored / 1e3,
        "inventory, GB": shards * 240 / 1e9,
        **{f"money, {name}": value for name, value in money.items()},
        "money, in all": sum(money.values()),
    }


def _readings(pairs: float, shards: int) -> int:
    """How often cut and guard read a score table (`ecif.ranking`); its second bound holds some 300 numbers a shard."""
    if pairs <= VALUES_HELD:
        return 1
    return 2 if 300 * shards <= BITS_HELD else 4


def assumed(given: Mapping[str, object]) -> Assumed:
    """The variables, from options of the command line that carry their names."""
    return Assumed(**{f.name: float(str(given[f.name])) for f in fields(Assumed) if given.get(f.name) is not None})


def show(sizes: list[float], a: Assumed) -> None:
    """Print assumptions and table."""
    print(", ".join(f"{f.name} {getattr(a, f.name):g}" for f in fields(Assumed)))
    found = [cost(pairs, a) for pairs in sizes]
    print(f"\n| | {' | '.join(f'{pairs:,.0f} pairs' for pairs in sizes)} |")
    print("|---|" + "---:|" * len(sizes))
    for name in found[0]:
        print(f"| {name} | {' | '.join(_number(one[name]) for one in found)} |")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
