"""What a long run says about itself: bars in a terminal, plain lines in a log, nothing in a library.

A stage calls `stage` once, `advance` as work gets done, `end` when it is over, and `note` for anything a reader
has to know. Everything goes to stderr, because stdout belongs to results. All implementations may be called from
several threads. Lines come at most every few seconds, so that a log of a million shards stays readable.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import rich.progress

SECONDS_BETWEEN_LINES = 5.0


class Progress(Protocol):
    """Where a stage reports to. `total` and `n` count in `unit`; a total of 0 means that it is not known."""

    def stage(self, name: str, total: int, unit: str) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def note(self, text: str) -> None: ...

    def end(self) -> None: ...


class Silent:
    """Says nothing."""

    def stage(self, name: str, total: int, unit: str) -> None:
        """Starts a stage."""

    def advance(self, n: int = 1) -> None:
        """Counts finished work."""

    def note(self, text: str) -> None:
        """Takes a remark."""

    def end(self) -> None:
        """Ends the stage."""


class Lines:
    """One plain line when a stage starts, one when it ends, and one every few seconds between."""

    def __init__(self, stream: IO[str] | None = None, every: float = SECONDS_BETWEEN_LINES) -> None:
        self._stream = stream
        self._every = every
        self._lock = threading.Lock()
        self._name = self._unit = ""
        self._total = self._count = 0
        self._started = self._last = 0.0

    def stage(self, name: str, total: int, unit: str) -> None:
        self.end()
        with self._lock:
            self._name, self._total, self._unit, self._count = name, total, unit, 0
            self._started = self._last = time.monotonic()
            self._print(f"{name}: {total:,} {unit}" if total else name)

    def advance(self, n: int = 1) -> None:
        with self._lock:
            self._count += n
            now = time.monotonic()
            if self._name and now - self._last >= self._every:
                self._last = now
                self._print(self._state(now))

    def note(self, text: str) -> None:
        with self._lock:
            self._print(text)

    def end(self) -> None:
        with self._lock:
            if self._name:
                ended = "done" if self._count >= self._total else "ended"
                self._print(f"{self._state(time.monotonic())}, {ended}")
                self._name = ""

    def _state(self, now: float) -> str:
        seconds = max(now - self._started, 1e-9)
        rate = self._count / seconds
        line = f"{self._name}: {self._count:,}"
        if self._total:
            line += f" of {self._total:,}"
        line += f" {self._unit}, {rate:,.1f}/s, {clock(seconds)}"
        if rate and self._total > self._count:
            line += f", {clock((self._total - self._count) / rate)} left"
        return line

    def _print(self, text: str) -> None:
        # sys.stderr is looked up at every line: a test or a log may have replaced it since.
        print(text, file=self._stream or sys.stderr, flush=True)


class Bars:
    """One bar per stage with rate and time left, for people who watch. A finished stage leaves one line."""

    def __init__(self) -> None:
        from rich.console import Console

        self._lock = threading.Lock()
        self._console = Console(stderr=True)
        self._bar: rich.progress.Progress | None = None
        self._started = 0.0

    def stage(self, name: str, total: int, unit: str) -> None:
        from rich import progress

        self.end()
        counts = "{task.completed:,.0f}/{task.total:,.0f}" if total else "{task.completed:,.0f}"
        with self._lock:
            self._bar = progress.Progress(
                progress.SpinnerColumn(),
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=30),
                progress.TextColumn(counts + " {task.fields[unit]} {task.fields[rate]}"),
                progress.TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(name, total=total or None, unit=unit, rate="")
            self._bar.start()
            self._started = time.monotonic()

    def advance(self, n: int = 1) -> None:
        with self._lock:
            if self._bar is not None:
                task = self._bar.tasks[0]
                rate = f"{task.speed:,.1f}/s" if task.speed else ""
                self._bar.update(task.id, advance=n, rate=rate)

    def note(self, text: str) -> None:
        # Not as markup: names of shards and members may hold square brackets.
        self._console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        with self._lock:
            if self._bar is None:
                return
            self._bar.stop()
            task = self._bar.tasks[0]
            seconds = time.monotonic() - self._started
            self._console.print(
                f"{task.description}: {task.completed:,.0f} {task.fields['unit']}, "
                f"{task.completed / max(seconds, 1e-9):,.1f}/s, {clock(seconds)}",
                markup=False, highlight=False,
            )  # fmt: skip
            self._bar = None


@contextmanager
def shown(progress: Progress, name: str, total: int, unit: str) -> Iterator[Progress]:
    """A stage that ends with the block, however it ends."""
    progress.stage(name, total, unit)
    try:
        yield progress
    finally:
        progress.end()


def choose(json: bool) -> Progress:
    """Bars when a person watches stderr, lines otherwise; machines (`json`) always get lines (see `ecif.logs`)."""
    from ecif import logs  # which has lines of ours

    if logs.as_json():
        return logs.progress()
    return Bars() if sys.stderr.isatty() and not json else Lines()


def clock(seconds: float) -> str:
    """Seconds as people read them: `42 s`, `3:07 min`, `2:05:00 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h"
