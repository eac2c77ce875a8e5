"""The device lock, and the one model that a process keeps."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.run import Run
from ecif.settings import Settings
from ecif.storage import Storage
from tasks import ambient, device
from tests.squares import Notes
from tests.tiny import write_model

HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_the_lock_of_a_device_ends_with_a_killed_process(tmp_path: Path) -> None:
    file = tmp_path / "cuda-0.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Timeout):
            FileLock(file).acquire(timeout=0)
    finally:
        holder.kill()
        holder.wait()
    with FileLock(file).acquire(timeout=10):
        assert file.exists()


def test_one_at_a_time_computes_on_an_accelerator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    notes = Notes()
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with device.exclusive("mps"):
            inside.set()
            leave.wait()
            order.append("first")

    def second() -> None:
        with ambient.during(ambient.Ambient(notes)), device.exclusive("mps"):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    deadline = time.monotonic() + 60
    while not notes.notes and time.monotonic() < deadline:
        threads[1].join(0.01)
    leave.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
    assert notes.notes == ["waiting for mps: another process computes on it"]


def test_a_cpu_is_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with device.exclusive("cpu"), device.exclusive("cpu"):
        assert list(tmp_path.iterdir()) == []


def test_a_model_is_loaded_once_and_only_the_last_is_kept(tmp_path: Path) -> None:
    config, weights = write_model(tmp_path)
    settings = Settings(model=str(config), pretrained=str(weights), device="cpu")
    run = Run(settings, Layout(str(tmp_path)), Storage(), Inventory((), ()), (), "fit", "score")
    engine = device.engine_for(run)
    assert device.engine_for(run) is engine
    other = device.engine_for(replace(run, settings=settings.model_copy(update={"micro_batch": 3})))
    assert other is not engine
    assert other.micro_batch == 3
    assert device.engine_for(run) is not engine
