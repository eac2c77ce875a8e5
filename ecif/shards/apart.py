"""Parquet files of strangers, parsed in a process of their own.

A damaged table can ask the parser for more memory than there is, and a parser that is refused memory ends its process
without an exception: one bad file would end the look at a whole corpus, and again at the next try. Here it ends a
helper process, and becomes an error about that file. It costs a start of half a second and a copy of each table.
"""

from __future__ import annotations

import atexit
import io
import os
import subprocess
import sys
import threading
from typing import IO, Self

import polars as pl

from ecif.errors import InputError

_LENGTH = 8
_TABLE, _PROBLEM = b"+", b"-"


class Parser:
    """Parses tables one after another; started at the first one, and again after one that ended it.

    Safe to share between threads; a context manager. A process that was forked starts a helper of its own.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the helper."""
        with self._lock:
            self._stop()

    def read_parquet(self, data: bytes, url: str) -> pl.DataFrame:
        """The table in a file.

        Raises:
            InputError: it is not a parquet file, or a damaged one.
        """
        with self._lock:
            try:
                answer = self._ask(data)
            except (OSError, EOFError) as error:
                self._stop()
                problem = "not a parquet file that can be read: the parser died of it, so it is damaged"
                raise InputError(problem, url=url) from error
        if answer[:1] == _PROBLEM:
            raise InputError(f"not a parquet file that can be read: {answer[1:].decode()}", url=url)
        return pl.read_ipc_stream(io.BytesIO(answer[1:]))

    def _ask(self, data: bytes) -> bytes:
        if self._process is not None and self._owner != os.getpid():
            self._process = None
        if self._process is None:
            self._owner = os.getpid()
            command = [sys.executable, "-m", __name__]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        _send(to, data)
        answer = _receive(back)
        if answer is None:
            raise EOFError
        return answer

    def _stop(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None


# What a process needs of it; the helper ends with the process, however that ends.
SHARED = Parser()
atexit.register(SHARED.close)


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(len(data).to_bytes(_LENGTH, "big"))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes | None:
    head = stream.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    size = int.from_bytes(head, "big")
    data = stream.read(size)
    return data if len(data) == size else None


def _serve() -> None:
    """The helper: tables come in at stdin and go out at stdout, or what is wrong with them."""
    while (data := _receive(sys.stdin.buffer)) is not None:
        buffer = io.BytesIO()
        try:
            pl.read_parquet(io.BytesIO(data)).write_ipc_stream(buffer)
            answer = _TABLE + buffer.getvalue()
        except BaseException as error:  # polars raises its own errors, OSError, and panics derived from neither
            answer = _PROBLEM + " ".join(str(error).split()).encode("utf-8", "replace")
        _send(sys.stdout.buffer, answer)


if __name__ == "__main__":
    _serve()
