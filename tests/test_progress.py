"""Progress: what lines say and when, and that stdout stays clean."""

from __future__ import annotations

import io
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.progress import Bars, Lines, Progress, Silent, choose, clock, shown


def test_lines_at_the_start_the_end_and_for_notes() -> None:
    stream = io.StringIO()
    lines = Lines(stream, every=1e9)
    lines.stage("score", 2000, "pairs")
    lines.advance(1500)
    lines.note("a remark")
    lines.advance(500)
    lines.end()
    first, remark, last = stream.getvalue().splitlines()
    assert (first, remark) == ("score: 2,000 pairs", "a remark")
    assert re.fullmatch(r"score: 2,000 of 2,000 pairs, [\d,.]+/s, \d+ s, done", last)


def test_every_advance_gives_a_line_when_no_time_has_to_pass() -> None:
    stream = io.StringIO()
    lines = Lines(stream, every=0.0)
    lines.stage("write", 3, "shards")
    for _ in range(3):
        lines.advance()
    counts = [re.match(r"write: (\d) of 3 shards", line) for line in stream.getvalue().splitlines()[1:]]
    assert [found and found.group(1) for found in counts] == ["1", "2", "3"]


def test_a_total_that_is_not_known_is_not_shown() -> None:
    stream = io.StringIO()
    lines = Lines(stream, every=0.0)
    lines.stage("plan", 0, "shards")
    lines.advance(7)
    assert stream.getvalue().splitlines()[0] == "plan"
    assert stream.getvalue().splitlines()[1].startswith("plan: 7 shards, ")


def test_a_new_stage_ends_the_one_before_and_an_end_too_much_says_nothing() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines.end()
    lines.stage("fit", 1, "shards")
    lines.stage("score", 1, "pairs")
    lines.end()
    lines.end()
    starts = [line.split(":")[0] for line in stream.getvalue().splitlines()]
    assert starts == ["fit", "fit", "score", "score"]


def test_counts_of_many_threads_add_up() -> None:
    stream = io.StringIO()
    lines = Lines(stream, every=1e9)
    lines.stage("write", 8000, "pairs")

    def work() -> None:
        for _ in range(1000):
            lines.advance()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.end()
    assert "write: 8,000 of 8,000 pairs" in stream.getvalue()


@pytest.mark.parametrize("kind", [Silent, Lines, Bars])
def test_nothing_reaches_stdout(kind: type[Progress], capsys: pytest.CaptureFixture[str]) -> None:
    progress = kind()
    with shown(progress, "score", 10, "pairs"):
        progress.advance(10)
        progress.note("of shard [00000]")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("of shard [00000]" in printed.err) == (kind is not Silent)


def test_bars_leave_a_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    for name in ("score", "write"):
        bars.stage(name, 0, "pairs")
        bars.advance(4)
    bars.end()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert [line.split(",")[0] for line in lines] == ["score: 4 pairs", "write: 4 pairs"]


def test_a_stage_ends_with_its_block_also_on_an_error() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="boom"), shown(Lines(stream), "score", 1, "pairs"):
        raise ValueError("boom")
    assert stream.getvalue().splitlines()[-1].endswith("s, ended")


def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose(json=False), Lines)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(choose(json=False), Bars)
    assert isinstance(choose(json=True), Lines)


@given(st.integers(0, 10**6))
def test_the_clock_tells_the_seconds(seconds: int) -> None:
    number, unit = clock(seconds).split(" ")
    parts = [int(part) for part in number.split(":")]
    weights = {"s": (1,), "min": (60, 1), "h": (3600, 60, 1)}[unit]
    assert sum(part * weight for part, weight in zip(parts, weights, strict=True)) == seconds
    assert all(part < 60 for part in parts[1:])
