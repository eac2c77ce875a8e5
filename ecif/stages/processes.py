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

import pickle
import threading
import weakref
from collections.abc import Sequence
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
from ecif.stages.program import Program

# Below this many cores threads do as much; two are left to reading and to the thread that launches the device's work.
LEAST_CORES, SPARED = 6, 2


class Processes:
    """`Preparation.prepare` in other processes, started when they are first needed; they end with this object.

    Args:
        count: of processes. most: samples in a list.
        program: they are its copies, unless others have taken it before; otherwise those of a new one.
    """

    def __init__(self, preparation: Preparation, count: int, most: int, program: Program | None = None) -> None:
        self._preparation, self._most, self._program = preparation, most, program
        self._idle: SimpleQueue[Connection | None] = SimpleQueue()  # None: one that is not started yet
        for _ in range(count):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._blocks: Blocks | None = None

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
                form = Form(self._most, tuple(image.shape), image.dtype, length)
                if self._program is not None and not self._program.take():
                    self._program = None
                self._blocks = Blocks(form, self._program.file if self._program else None)
                weakref.finalize(self, self._blocks.close)
            return self._blocks

    def _start(self, blocks: Blocks) -> Connection:
        """One process more."""
        with self._lock:
            if self._program is None or self._program.has_ended or self._program.is_fresh:
                self._program = self._instructed(blocks)
            return self._program.copy()

    def _instructed(self, blocks: Blocks) -> Program:
        """The program that there is, if it can still be told what to do, or a new one."""
        try:
            what = pickle.dumps((self._preparation, blocks.form))
        except Exception as error:
            raise UsageError(
                f"--processes: the model's transform or tokenizer cannot be sent to another process ({error}); "
                "--processes 0 decodes in threads"
            ) from error
        program = self._program
        if program is None or not program.is_fresh:
            program = Program(blocks.file)
        program.tell(what)
        return program


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
