"""A process that decodes for another one: the program that `stages.processes` starts.

It imports PyTorch and open_clip once, and then copies itself (fork) whenever a process more is asked for, before any
thread exists: seconds and hundreds of megabytes are spent once, whatever the number of processes. Each answers at a
socket of its own, one list of pairs after the other, with the pictures and tokens in a block of shared memory. A socket
that the other side has closed is the end, so none outlives whom it works for, however that ends.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import sys
import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

import torch
from torch import Tensor

from ecif.shards.decode import Refused
from ecif.stages.blocks import Form, at
from ecif.stages.preparing import Preparation, Ready

Answer = list[bytes | Refused] | Exception
"""For each pair the digest of its image, or why it is none; or the error that came of the list."""


def main() -> None:
    """Serve at every socket that arrives over the first descriptor named; what to do comes over the standard input.

    It may come late, because the other side loads its model meanwhile, and if that fails, never.
    """
    # A copy that ends leaves nothing behind; the side that waits for it learns of it by its socket.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control, file = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    import_module("open_clip")  # which what comes is made of
    try:
        preparation, form = pickle.load(sys.stdin.buffer)
    except EOFError:
        return
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # or the first collection of each copy would write to all of its memory
    while ends := socket.recv_fds(control, 1, 1)[1]:
        if os.fork() == 0:
            control.close()
            _copy(Connection(ends[0]), preparation, form, file)
        os.close(ends[0])


def _copy(connection: Connection, preparation: Preparation, form: Form, file: int) -> None:
    code = 1
    try:
        serve(connection, preparation, form, file)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve(connection: Connection, preparation: Preparation, form: Form, file: int) -> None:
    """Answer each (number of a block, pairs) until the other side is gone."""
    known: dict[int, tuple[Tensor, Tensor]] = {}
    while True:
        try:
            number, pairs = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            if number not in known:
                known[number] = form.views(at(file, number, form.size))
            answer: Answer = _filled(preparation.prepare(pairs), *known[number])
        except Exception as error:  # whatever it is, it belongs to the other side
            answer = _portable(error)
        del pairs
        try:
            connection.send(answer)
        except ConnectionError:
            return


def _filled(prepared: list[Ready | Refused], images: Tensor, tokens: Tensor) -> list[bytes | Refused]:
    ready = [row for row in prepared if isinstance(row, Ready)]
    if ready:
        torch.stack([row.image for row in ready], out=images[: len(ready)])
        torch.stack([row.tokens for row in ready], out=tokens[: len(ready)])
    return [row.digest if isinstance(row, Ready) else row for row in prepared]


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note; its text alone where it cannot be sent."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    main()
