"""One accelerator, one user: a lease of any free device of several, and one loaded model for each device.

A lease is a lock of the operating system's (flock), so it ends with its process, however that ends: there is nothing
to clean up after a SIGKILL. It serves the processes of one user on one machine that share a directory for temporary
files; beyond that the infrastructure has to make devices exclusive (one GPU per pod or per worker). Waiting is asking
again every fraction of a second: flock cannot wait for the first of several locks, and a turn takes minutes.
CPUs are not locked: the operating system shares them well, and memory is the batch's, not the device's.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ecif.errors import EcifError, UsageError
from ecif.run import Run
from ecif.settings import saved
from tasks import ambient

if TYPE_CHECKING:
    from ecif.stages.engine import Engine

SECONDS_PER_LOOK = 0.2

_LOADING = threading.Lock()
# device -> (identity, engine): the one model that this process keeps on it.
_LOADED: dict[str, tuple[str, Engine]] = {}
# identity -> the micro-batch that was found to fit, also of models that are gone.
_FITS: dict[str, int] = {}


class Stopped(EcifError):
    """The run is to end, and its turn on a device had not come yet."""


def devices(setting: str) -> tuple[str, ...]:
    """The devices that a setting (auto, cpu, cuda, cuda:N) stands for in this process: one task each at a time.

    `auto` and `cuda` are all GPUs that the process sees (CUDA_VISIBLE_DEVICES bounds them); `auto` without one is the
    CPU.

    Raises:
        UsageError: no such GPU is visible.
    """
    if setting != "auto" and not re.fullmatch(r"cuda(:\d+)?", setting):
        return (setting,)
    import torch

    count = torch.cuda.device_count()
    if setting == "auto" and not count:
        return ("cpu",)
    wanted = range(count) if ":" not in setting else (int(setting.partition(":")[2]),)
    if not wanted or max(wanted) >= count:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        where = "" if seen is None else f" with CUDA_VISIBLE_DEVICES={seen!r}"
        raise UsageError(f"--device {setting}: this process sees {count} CUDA devices{where}; use auto or cpu")
    return tuple(f"cuda:{index}" for index in wanted)


def engine_for(run: Run, device: str | None = None) -> Engine:
    """The run's model on a device: loaded once per process and device, until another one is asked for there.

    Args:
        device: the leased one; None: the first that the settings stand for.

    Raises:
        ModelError, MissingFileError: it cannot be loaded. UsageError: there is no such device.
    """
    from ecif.stages.engine import load_engine

    device = device or devices(run.settings.device)[0]
    settings = run.settings.model_copy(update={"device": device})
    identity = json.dumps(saved(settings), sort_keys=True)
    with _LOADING:  # one at a time: weights pass through the machine's own memory
        if device not in _LOADED or _LOADED[device][0] != identity:
            if device in _LOADED:  # before loading: two models may not fit
                gone, engine = _LOADED.pop(device)
                _FITS[gone] = engine.micro_batch
                del engine
            engine = load_engine(settings, say=_say)
            engine.micro.size = _FITS.get(identity, engine.micro_batch)
            _LOADED[device] = identity, engine
        return _LOADED[device][1]


def _say(text: str) -> None:
    # To whoever works with the model at that time: it outlives the run that loaded it.
    ambient.current().progress.note(text)


@contextmanager
def exclusive(device: str) -> Iterator[None]:
    """Hold the device that a setting (auto, cpu, cuda, cuda:N) means inside the block; wait for it before.

    Raises:
        UsageError, Stopped: see `lease`.
    """
    with lease(devices(device)[:1]):
        yield


@contextmanager
def lease(choice: Sequence[str]) -> Iterator[str]:
    """Hold one of the devices inside the block, whichever is free first; gives its name.

    Where this process has a model already comes first. At the end memory that is held for reuse is given back, so that
    another process finds it; the model stays.

    Raises:
        UsageError: the directory of the locks is somebody else's. Stopped: the run ended while waiting.
    """
    names = {device: _identity(device) for device in sorted(choice, key=lambda device: device not in _LOADED)}
    if "cpu" in names.values():
        yield "cpu"
        return
    device, lock = _first_free(names)
    try:
        yield device
    finally:
        try:
            _give_back(device)
        finally:
            lock.release()


def _first_free(names: dict[str, str]) -> tuple[str, FileLock]:
    locks = {device: FileLock(lock_file(name)) for device, name in names.items()}
    here, said = ambient.current(), False
    while True:
        for device, lock in locks.items():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return device, lock
        if not said:
            several = f"one of {', '.join(names)}: others compute" if len(names) > 1 else None
            one = f"{next(iter(names.values()))}: another process computes"
            here.progress.note(f"waiting for {several or one} on {'all of them' if several else 'it'}")
            said = True
        if here.stop.wait(SECONDS_PER_LOOK):
            raise Stopped(f"ended while waiting for {', '.join(names)}")


def lock_file(name: str) -> Path:
    """Where the lock of a device lies: in a directory of the user's own, which nobody else can block.

    Raises:
        UsageError: it is not the user's own.
    """
    directory = Path(tempfile.gettempdir()) / f"ecif-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise UsageError(f"{directory}: belongs to another user; remove it, or let TMPDIR name another directory")
    return directory / (re.sub(r"[^A-Za-z0-9-]", "-", name) + ".lock")


def _identity(device: str) -> str:
    """A name that is the same in all processes: CUDA's numbers depend on CUDA_VISIBLE_DEVICES, its UUIDs do not."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"cuda-{torch.cuda.get_device_properties(device).uuid}"


def _give_back(device: str) -> None:
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
