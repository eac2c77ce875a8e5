"""Decoding in processes of their own, because one interpreter decodes for a device no faster than some cores can.

Between calls of libjpeg and Pillow's resizing lie Python's own steps, tokenising above all, and one process runs one of
them at a time, whatever its threads (docs/speed.md has the numbers). So lists of samples go to other processes
(`stages.serving`), which leave pictures and tokens in shared memory; the threads that decode otherwise (`stages.feed`)
wait for one answer each. Order, bounds and errors are the feed's, and what comes back is the same to the last bit.

A program of its own, and not multiprocessing's pools: those run the caller's script again in every process, which one
without a `__main__` guard does not survive; they are refused to workers of Dask, which are daemons; and their
processes stay when the parent is killed. Each one costs a core, a socket, and its part of the memory.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from queue import SimpleQueue

import PIL.Image
import torch

from ecif.cores import cores
from ecif.errors import UsageError
from ecif.settings import DeviceSettings
from ecif.shards.decode import Pair, Refused
from ecif.stages import serving
from ecif.stages.blocks import Blocks, Form
from ecif.stages.preparing import Preparation, Ready

# Below this many cores threads do as much; two are left to reading and to the thread that launches the device's work.
LEAST_CORES, SPARED = 6, 2


class Processes:
    """`Preparation.prepare` in other processes, started when they are first needed; they end with this object.

    Args:
        count: of processes. most: samples in a list.
    """

    def __init__(self, preparation: Preparation, count: int, most: int) -> None:
        self._preparation, self._most = preparation, most
        self._idle: SimpleQueue[Connection | None] = SimpleQueue()  # None: one that is not started yet
        for _ in range(count):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._blocks: Blocks | None = None
        self._starter: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._owned = ExitStack()
        weakref.finalize(self, self._owned.close)

    def prepare(self, samples: Sequence[Pair | Refused]) -> list[Ready | Refused]:
        """As `Preparation.prepare`; may be called in several threads, each of which waits for one process.

        Raises:
            ChildProcessError: it ended. UsageError: the model's transform or tokenizer cannot be sent to it.
        """
        pairs = [sample for sample in samples if isinstance(sample, Pair)]
        if not pairs:
            return [sample for sample in samples if isinstance(sample, Refused)]
        one = self._idle.get()
        try:
            blocks = self._form()
            one = one or self._start(blocks)
            number, images, tokens = blocks.lend()
            one.send((number, pairs))
            answer: serving.Answer = one.recv()
        except BaseException as error:
            if one is not None:  # what it would say next may be the answer to this
                one.close()
            one = None
            if not isinstance(error, EOFError | ConnectionError):
                raise
            raise ChildProcessError(
                f"a process that decodes has ended at the samples {pairs[0].key!r} to {pairs[-1].key!r}: killed, for "
                "want of memory perhaps (fewer --processes take less), or by a picture that crashes its decoder"
            ) from error
        finally:
            self._idle.put(one)
        if isinstance(answer, Exception):
            raise answer
        rows = zip(images, tokens, strict=True)
        found = iter(
            Ready(pair, *next(rows), digest) if isinstance(digest, bytes) else digest
            for pair, digest in zip(pairs, answer, strict=True)
        )
        return [sample if isinstance(sample, Refused) else next(found) for sample in samples]

    def _form(self) -> Blocks:
        with self._lock:
            if self._blocks is None:
                image = self._preparation.take(PIL.Image.new("RGB", (64, 64)))
                length = self._preparation.tokenize(["a"]).shape[1]
                self._blocks = Blocks(Form(self._most, tuple(image.shape), image.dtype, length))
                self._owned.callback(self._blocks.close)
            return self._blocks

    def _start(self, blocks: Blocks) -> Connection:
        """One process more."""
        with self._lock:
            if self._starter is None or self._starter[0].poll() is not None:
                self._starter = self._program(blocks)
            here, there = socket.socketpair()
            with there:
                socket.send_fds(self._starter[1], [b"1"], [there.fileno()])
            return Connection(here.detach())

    def _program(self, blocks: Blocks) -> tuple[subprocess.Popen[bytes], socket.socket]:
        try:
            what = pickle.dumps((self._preparation, blocks.form))
        except Exception as error:
            raise UsageError(
                f"--processes: the model's transform or tokenizer cannot be sent to another process ({error}); "
                "--processes 0 decodes in threads"
            ) from error
        here, there = socket.socketpair()
        with there:
            process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", serving.__name__, str(there.fileno()), str(blocks.file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(there.fileno(), blocks.file),
                env=_environment(),
                process_group=0,  # Ctrl-C is for this process, which ends the others
            )
        self._owned.callback(_end, process, here)
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                pipe.write(what)
        except ConnectionError:
            pass  # it ended; whoever asks it for something is told so
        return process, here


def _environment() -> dict[str, str]:
    """That of a process with one thread, which finds the same modules and no GPU."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    return {**os.environ, **single, "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    """End the program and all its copies; they hold nothing that could be lost."""
    control.close()
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def processes_for(settings: DeviceSettings, device: torch.device) -> int:
    """How many processes decode for a device: as the settings say, or as the cores do; 0: threads decode.

    Beside a CPU the cores are the device's, and threads cost less of them.
    """
    if settings.processes is not None:
        return settings.processes
    if device.type == "cpu" or settings.workers is not None:
        return 0
    own = cores() // max(1, torch.cuda.device_count())
    return own - SPARED if own >= LEAST_CORES else 0
