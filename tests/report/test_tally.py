"""What earlier runs have read is not read again, and the report is the one that reading everything would give."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif import detectors
from ecif.errors import StorageError
from ecif.inventory import Inventory, Shard
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.progress import Silent
from ecif.report.deciding import Deciding
from ecif.report.gather import gather
from ecif.report.numbers import Numbers
from ecif.report.tally import Tally
from ecif.selection import Decision, choose
from ecif.storage import FileInfo, Storage

SCORES, FIT = "0123456789ab", "ba9876543210"
NAMES = tuple(f"part/{n:02d}" for n in range(7))


class Counting(Storage):
    """Notes which score tables are read."""

    __slots__ = ("read",)

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def read_bytes(self, url: str) -> bytes:
        if f"{SCORES}/" in url:
            self.read.append(url.partition(f"{SCORES}/")[2].removesuffix(".parquet"))
        return super().read_bytes(url)


def table(name: str, seed: int, rows: int) -> pl.DataFrame:
    """Scores with many ties, and rows without a score."""
    random = np.random.default_rng([seed, *name.encode()])
    values = pl.Series(random.integers(-20, 20, rows) / 8, dtype=pl.Float32)
    scored = pl.Series(random.random(rows) < 0.9)
    columns = {column: pl.Series(random.normal(size=rows), dtype=pl.Float32) for column in detectors.NAMES}
    return pl.DataFrame(
        {
            "uid": [f"{n % 5}" for n in range(rows)],
            "key": [f"{name}{n:03d}" for n in range(rows)],
            "shard": [name] * rows,
            "index": pl.Series(range(rows), dtype=pl.UInt32),
            "status": pl.select(pl.when(scored).then(pl.lit("ok")).otherwise(pl.lit("no_caption"))).to_series(),
            **columns,
            "influence": values,
        },
        schema_overrides={"uid": pl.String, "key": pl.String, "shard": pl.String, "status": pl.String},
    )


class Output:
    """An output that holds score tables and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.layout, self.storage = Layout(str(folder)), Counting()
        self.names: list[str] = []

    def put(self, name: str, seed: int = 0, rows: int = 40) -> None:
        target = io.BytesIO()
        table(name, seed, rows).write_parquet(target)
        self.storage.publish(self.layout.scores(SCORES, name), target.getvalue(), replace=True)
        if name not in self.names:
            self.names.append(name)

    def decide(self, **policy: object) -> Decision:
        given_policy = PolicySettings(**{"detector": "influence", **policy})  # type: ignore[arg-type]
        urls = {name: self.layout.scores(SCORES, name) for name in self.names}
        return choose(Storage(), urls, given_policy, key="d", score_key=SCORES, fit_key=FIT)

    def numbers(self, decision: Decision | None, *, scratch: bool = False) -> tuple[Numbers, list[str]]:
        """What the report says of the shards so far, and the tables that were read for it."""
        self.storage.read.clear()
        shards = tuple(Shard(name, f"/in/{name}.tar", 1, "e", 40, None, None) for name in sorted(self.names))
        inventory = Inventory(shards, ())
        if scratch:
            for file in self.kept():
                self.storage.delete(file.url)
        made = gather(self.layout, self.storage, inventory, decision, SCORES, {}, Silent())
        return made, sorted(self.storage.read)

    def kept(self) -> list[FileInfo]:
        return self.storage.list(f"{self.layout.root}/_ecif/rollup/report", ".npz")


def said(numbers: Numbers) -> dict[str, object]:
    """All that the page is made from, comparable."""
    sketches = {
        name: (sketch.shift, sketch.count, sketch.smallest, sketch.largest, *(part.tolist() for part in sketch.bins()))
        for name, sketch in numbers.sketches.items()
    }
    found = {name: getattr(numbers, name) for name in Numbers.__slots__}
    return found | {"sketches": sketches, "tables": numbers.tables.sort("shard").rows()}


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(NAMES),
    cuts=st.lists(st.integers(0, len(NAMES)), max_size=4),
    policy=st.sampled_from([None, {"drop": Decimal("0.3")}, {"threshold": 0.125}, {"threshold": 0.1}]),
    detector=st.sampled_from(["influence", "clip_score"]),
)
def test_many_runs_say_what_one_says(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[str],
    cuts: list[int],
    policy: dict[str, object] | None,
    detector: str,
) -> None:
    output = Output(tmp_path_factory.mktemp("out"))
    for n, name in enumerate(NAMES):
        output.put(name, rows=5 * n)
    decision = output.decide(detector=detector, **policy) if policy else None
    output.names = []
    for part in np.split(np.array(order), sorted(cuts)):
        output.names += part.tolist()
        several, read = output.numbers(decision)
        assert read == sorted(part)
    assert said(several) == said(output.numbers(decision, scratch=True)[0])
    bars = several.histogram
    assert bars is not None
    assert several.ok == sum(bars.kept) + sum(bars.dropped) + bars.below + bars.above


def test_a_run_reads_what_is_new_and_writes_only_then(output: Output) -> None:
    output.put("a")
    output.put("b")
    assert output.numbers(None)[1] == ["a", "b"]
    (before,) = output.kept()
    first, read = output.numbers(None)
    assert (read, output.kept()) == ([], [before])
    output.put("c")
    assert output.numbers(None)[1] == ["c"]
    (after,) = output.kept()
    assert after.url == before.url
    assert (first.scored, output.numbers(None)[0].scored) == (2, 3)


def test_nothing_is_left_of_an_output_without_scores(output: Output) -> None:
    numbers, _ = output.numbers(None)
    assert (numbers.histogram, numbers.sets["worst"], numbers.top, output.kept()) == (None, [], [], [])


def test_another_decision_begins_anew_and_leaves_the_other_alone(output: Output) -> None:
    for name in NAMES:
        output.put(name)
    one, other = output.decide(drop_count=3), output.decide(drop_count=4)
    assert [output.numbers(one)[0].cut, output.numbers(other)[0].cut] == [3, 4]
    assert len(output.kept()) == 2
    assert [output.numbers(decision)[1] for decision in (one, other, None)] == [[], [], list(NAMES)]


def test_a_table_that_was_replaced_or_removed_makes_it_read_all_again(output: Output) -> None:
    for name in NAMES:
        output.put(name)
    decision = output.decide(threshold=0.0)
    output.numbers(decision)
    output.put(NAMES[2], seed=1)
    replaced, read = output.numbers(decision)
    assert read == list(NAMES)
    assert said(replaced) == said(output.numbers(decision, scratch=True)[0])
    output.storage.delete(output.layout.scores(SCORES, NAMES[4]))
    removed, read = output.numbers(decision)
    assert read == [name for name in NAMES if name != NAMES[4]]
    assert said(removed) == said(output.numbers(decision, scratch=True)[0])
    assert [problem.shard for problem in removed.problems] == [NAMES[4]]


def test_a_shard_that_left_the_inventory_counts_no_more(output: Output) -> None:
    output.put("a")
    output.put("b")
    output.numbers(None)
    output.names.remove("a")
    left, read = output.numbers(None)
    assert (left.scored, read) == (1, ["b"])


def test_a_damaged_file_is_as_good_as_none(output: Output) -> None:
    for name in NAMES[:2]:
        output.put(name)
    decision = output.decide(drop_count=5)
    whole = said(output.numbers(decision)[0])
    (file,) = output.kept()
    data = Path(file.url).read_bytes()
    for damaged in (b"", b"PK", data[: len(data) // 2], data[:-1], b"[]", np.lib.format.magic(1, 0), data[::-1]):
        Path(file.url).write_bytes(damaged)
        numbers, read = output.numbers(decision)
        assert (read, said(numbers)) == (list(NAMES[:2]), whole)
        assert Path(file.url).read_bytes() == data
    Path(output.kept()[0].url).replace(Path(file.url).with_name("x.npz"))
    for foreign in (None, output.decide(drop_count=6)):
        output.numbers(foreign)
        (made,) = (one for one in output.kept() if Path(one.url).name not in (Path(file.url).name, "x.npz"))
        Path(made.url).replace(file.url)
        assert said(output.numbers(decision)[0]) == whole


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = Output(tmp_path_factory.mktemp("out"))
    output.put("a", rows=8)
    output.numbers(None)
    return Path(output.kept()[0].url).read_bytes()


@settings(max_examples=200)
@given(place=st.integers(0, 10**6), value=st.integers(1, 255))
def test_no_changed_byte_is_believed(file: bytes, place: int, value: int) -> None:
    damaged = bytearray(file)
    damaged[place % len(file)] ^= value
    wanted, found = (Tally(SCORES, Deciding.of(None, detectors.NAMES, None)) for _ in range(2))
    assert wanted.load(file)
    if found.load(bytes(damaged)):  # it was a date or another part of the archive that says nothing
        assert found.save() == wanted.save()
    else:
        assert (len(found.shards), found.worst.rows, found.kept.count, found.statuses) == (0, None, 0, {})


def test_a_file_that_cannot_be_written_is_an_error(output: Output) -> None:
    output.put("a")
    output.storage.publish(f"{output.layout.root}/_ecif/rollup", b"not a directory")
    with pytest.raises(StorageError, match="rollup"):
        output.numbers(None)
