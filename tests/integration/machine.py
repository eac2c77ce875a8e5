"""A process and everything that it starts, to be ended together, as when a machine loses its power.

A Prefect worker gives each flow run a session of its own, and a run outlives the worker that started it. So neither a
process group nor the tree of parents finds them all. A variable in the environment does: it is inherited by all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_MARK = "ECIF_TEST_MACHINE"
_STOP_SECONDS = 30.0


class Machine:
    """One process, started at once, with what comes of it.

    Args:
        environment: all its variables. log: takes its output and that of its children.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, cwd: Path) -> None:
        self.log = log
        self._mark = uuid.uuid4().hex
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env={**environment, _MARK: self._mark},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill_process(self) -> None:
        """SIGKILL to the process alone; what it has started goes on."""
        self.process.kill()
        self.process.wait()

    def kill_children(self) -> None:
        """SIGKILL to all but the process itself, as when memory runs out."""
        for pid in self.pids():
            if pid != self.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL to all, until none is left: a child may be born while others are ended."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()  # takes its exit code, so that it does not stay as a zombie
            time.sleep(0.05)
        self.process.wait()

    def stop(self) -> None:
        """Ask the process to end, wait, and end whatever is left."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_SECONDS)
        self.kill()

    def pids(self) -> list[int]:
        """All that run. Zombies have no environment and do not count."""
        wanted = f"{_MARK}={self._mark}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                with suppress(OSError):
                    if wanted in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
        return found
