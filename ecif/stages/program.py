"""The program whose copies decode (`stages.serving`), as whoever starts it sees it.

It takes seconds to import what it needs, so it can be started before anybody can say what there is to do: while the
weights of the model are read.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from multiprocessing.connection import Connection

from ecif.stages import serving
from ecif.stages.blocks import anonymous


class Program:
    """Started at once; it ends, with all its copies, with this object.

    Args:
        file: in which blocks lie (`stages.blocks`); left out: a new one.
    """

    def __init__(self, file: int | None = None) -> None:
        self.file = anonymous() if file is None else os.dup(file)
        here, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", serving.__name__, str(there.fileno()), str(self.file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(there.fileno(), self.file),
                env=_environment(),
                process_group=0,  # Ctrl-C is for this process, which ends the others
            )
        self._control = here
        self._taken = threading.Lock()  # for good
        weakref.finalize(self, _end, self._process, self._control, self.file)

    @property
    def pid(self) -> int:
        """Of the process, and of the group of all its copies."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is of no more use."""
        return self._process.poll() is not None

    def take(self) -> bool:
        """Take it for oneself, with its file; False: somebody else did."""
        return self._taken.acquire(blocking=False)

    @property
    def is_fresh(self) -> bool:
        """Whether it can still be told what to do."""
        return self._process.stdin is not None and not self._process.stdin.closed and not self.has_ended

    def tell(self, what: bytes) -> None:
        """Say what there is to do; once."""
        assert self._process.stdin is not None
        # It may have ended; whoever asks a copy for something is told so.
        with suppress(ConnectionError), self._process.stdin as pipe:
            pipe.write(what)

    def copy(self) -> Connection:
        """One process more, which answers here."""
        here, there = socket.socketpair()
        with there:
            socket.send_fds(self._control, [b"1"], [there.fileno()])
        return Connection(here.detach())


def _environment() -> dict[str, str]:
    """That of a process with one thread, which finds the same modules and no GPU."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    return {**os.environ, **single, "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def _end(process: subprocess.Popen[bytes], control: socket.socket, file: int) -> None:
    """End the program and all its copies; they hold nothing that could be lost."""
    control.close()
    os.close(file)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        with suppress(ConnectionError):
            process.stdin.close()
    process.wait()
