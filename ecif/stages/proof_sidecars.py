"""The sidecars of a shard are those of its input without the samples that went, and fit what is in the tar."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.restores import Restored
from ecif.shards import sidecars
from ecif.shards.sidecars import Row
from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class Returned:
    """Samples of a shard that came back: the record of their shard, and their positions in the input."""

    record: Restored
    samples: frozenset[int]


def problems(
    shard: Shard, samples: Sequence[Row], contents: Mapping[str, bytes], urls: Mapping[str, str], storage: Storage
) -> Iterator[str]:
    """What is wrong with the sidecars of a cleaned shard.

    Args:
        samples: of the input; those that went are marked.
        contents: of the sidecars that exist, by kind. urls: where they are.

    Raises:
        InputError: a sidecar of input or output cannot be read, or is not that of its tar.
    """
    table = stats = None
    if "parquet" in contents and shard.parquet is not None:
        table = sidecars.read_parquet(contents["parquet"], urls["parquet"])
        expected = sidecars.rewrite_parquet(storage.read_bytes(shard.parquet), samples, shard.parquet)
        if not table.equals(sidecars.read_parquet(expected, urls["parquet"])):
            yield f"{urls['parquet']} is not the input's table without the dropped rows"
    if "stats" in contents and shard.stats is not None:
        stats = sidecars.read_stats(contents["stats"], urls["stats"])
        before, height = storage.read_bytes(shard.stats), None if table is None else table.height
        if stats != json.loads(sidecars.rewrite_stats(before, samples, height, shard.stats)):
            yield f"{urls['stats']} is not the input's statistics with the counts of the tar"
    for found in sidecars.disagreements(samples, table, stats):
        yield f"{shard.name}: {found.detail}"


def problems_of_returned(
    one: Returned, shard: Shard, samples: Sequence[Row], layout: Layout, storage: Storage
) -> Iterator[str]:
    """What is wrong with the sidecars of a restored shard: they hold the rows and counts of its samples, no others.

    Args:
        samples: of the input.

    Raises:
        InputError: a sidecar cannot be read, or is not the file of its record.
    """
    name, marks = one.record.name(layout), one.record.files
    sources = {"parquet": shard.parquet, "stats": shard.stats}
    due = {kind: source for kind, source in sources.items() if source is not None}
    if marks.keys() != {"tar", *due}:
        yield f"{name} has the files {', '.join(sorted(marks))}, not those due"
    chosen = [Row(row.key, row.uid, index not in one.samples) for index, row in enumerate(samples)]
    for kind, source in due.items():
        if kind not in marks:
            continue
        url = layout.parquet(name) if kind == "parquet" else layout.stats(name)
        data, before = storage.read_marked(url, marks[kind].size, marks[kind].sha256), storage.read_bytes(source)
        if kind == "parquet":
            expected = sidecars.read_parquet(sidecars.chosen_parquet(before, chosen, source), url)
            same = sidecars.read_parquet(data, url).equals(expected)
        else:
            expected_stats = json.loads(sidecars.chosen_stats(before, len(one.samples), source))
            same = sidecars.read_stats(data, url) == expected_stats
        if not same:
            yield f"{url} does not hold the rows or counts of its samples"
