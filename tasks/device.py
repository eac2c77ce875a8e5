"""One accelerator, one user: a lock per device, and the model that was loaded last.

The lock is the operating system's (flock), so it ends with its process, however that ends. It serves the processes
of one user on one machine; beyond that the infrastructure has to make devices exclusive (one GPU per pod or per
worker). CPUs are not locked: the operating system shares them well, and memory is the batch's, not the device's.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ecif.run import Run
from ecif.settings import saved
from tasks import ambient

if TYPE_CHECKING:
    from ecif.stages.engine import Engine

_LOADING = threading.Lock()
# (identity, engine) of the one model that this process keeps.
_LOADED: list[tuple[str, Engine]] = []


def engine_for(run: Run) -> Engine:
    """The run's model on its device: loaded once per process, until another one is asked for.

    Raises:
        ModelError, MissingFileError: it cannot be loaded.
    """
    from ecif.stages.engine import load_engine

    identity = json.dumps(saved(run.settings), sort_keys=True)
    with _LOADING:
        if not (_LOADED and _LOADED[0][0] == identity):
            _LOADED.clear()  # before loading: two models may not fit.
            _LOADED.append((identity, load_engine(run.settings)))
        return _LOADED[0][1]


@contextmanager
def exclusive(device: str) -> Iterator[None]:
    """Hold the accelerator that `device` (auto, cpu, cuda, cuda:N) means inside the block; wait for it before."""
    name = _identity(device)
    if name == "cpu":
        yield
        return
    lock = FileLock(lock_file(name))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        ambient.current().progress.note(f"waiting for {name}: another process computes on it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_file(name: str) -> Path:
    """Where the lock of a device lies: in a directory of the user's own, which nobody else can block."""
    directory = Path(tempfile.gettempdir()) / f"ecif-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory / (re.sub(r"[^A-Za-z0-9-]", "-", name) + ".lock")


def _identity(device: str) -> str:
    """A name that is the same in all processes: CUDA's numbers depend on CUDA_VISIBLE_DEVICES, its UUIDs do not."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if device == "auto" or device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        return f"cuda-{torch.cuda.get_device_properties(index).uuid}"
    return device
