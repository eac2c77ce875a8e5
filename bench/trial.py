"""One stage in a process of its own, fast to start and free to be killed.

A stage imports torch and polars, which takes seconds; a matrix of a thousand runs cannot wait for that. So one
process imports everything once (a fork server, which uses none of it) and each trial is a fork of it that runs the
command line in process, with its own standard output and error.

    python -m bench.trial ARGUMENTS...       the same without the fork server: for a stage in other mounts
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

# All that the stages import when they begin, so that a fork has it.
PRELOAD = (
    "bench.trial",
    "ecif.cli",
    "ecif.stages.score",
    "ecif.stages.fit",
    "ecif.stages.engine",
    "ecif.stages.write",
    "ecif.stages.plan",
    "ecif.stages.verify",
    "ecif.stages.restore",
    "ecif.stages.pack",
    "ecif.interop.commonpool",
    "ecif.interop.loaders",
    "ecif.interop.outcome",
    "ecif.interop.uids",
    "ecif.doctor",
    "ecif.shards.lint",
    "ecif.run",
    "aiobotocore.session",
    "botocore.client",
    "s3fs",
    "rich.console",
)

LONGEST = 300.0  # seconds after which a trial hangs; on two busy cores a stage takes ten

Around = AbstractContextManager[None]

# One thread of arithmetic: several trials share a machine.
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a trial ended: exit code (negative: the signal), what it printed, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float


class Nursery:
    """Starts trials. One per process: the fork server belongs to multiprocessing.

    Args:
        folder: where the output of the trials goes.
        environment: variables of every trial, laid over those of this process.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder, self._environment = folder, dict(environment or {})
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(QUIET)  # the fork server takes them from here
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        self._number = 0

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str] | None = None, around: Around | None = None
    ) -> Running:
        """Begin a trial; `around` is entered before it, in its process."""
        self._number += 1
        files = tuple(str(self._folder / f"{self._number % 8}.{stream}") for stream in ("out", "err"))
        for file in files:
            Path(file).write_bytes(b"")  # a trial may be killed before it has opened them
        variables = {**self._environment, **(environment or {})}
        values = (tuple(arguments), variables, files, around or nullcontext())
        process = self._context.Process(target=_child, args=values, daemon=True)
        process.start()
        return Running(process, files, time.monotonic())

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str] | None = None, around: Around | None = None
    ) -> Ended:
        """A trial from beginning to end.

        Raises:
            TimeoutError: it hangs.
        """
        return self.start(arguments, environment, around).wait(LONGEST)


@dataclass(frozen=True, slots=True)
class Running:
    """A trial under way."""

    process: ForkServerProcess
    files: tuple[str, ...]
    started: float

    def wait(self, timeout: float | None = None) -> Ended:
        """Its end.

        Raises:
            TimeoutError: it did not come in time; the trial is killed.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"a stage did not end within {timeout} s:\n{_text(self.files[1])[-2000:]}")
        seconds = time.monotonic() - self.started
        return Ended(self.process.exitcode, _text(self.files[0]), _text(self.files[1]), seconds)

    def kill(self) -> Ended:
        """SIGKILL, unless it has ended."""
        if self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return self.wait()


def _text(path: str) -> str:
    return Path(path).read_text("utf-8", "replace")


def _child(arguments: tuple[str, ...], environment: dict[str, str], files: tuple[str, ...], around: Around) -> None:
    os.environ.update(environment)
    for number, file in enumerate(files, 1):
        sys.stdout.flush()
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    with around:
        code = execute(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def execute(arguments: Sequence[str]) -> int:
    """Run a command of `ecif`, or `inventory SOURCES SETTINGS` (both JSON), with which fit and score begin."""
    from ecif import cli
    from ecif.errors import EcifError

    if arguments[0] != "inventory":
        return cli.run(arguments)
    from ecif.run import open_run
    from ecif.settings import ScoreSettings

    try:
        open_run(json.loads(arguments[1]), ScoreSettings(**json.loads(arguments[2])))
    except EcifError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(execute(sys.argv[1:]))
