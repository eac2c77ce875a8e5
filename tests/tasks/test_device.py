"""Leases of devices, also of processes that are killed, and the one model that a process keeps on each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from ecif.errors import UsageError
from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.run import Run
from ecif.settings import Settings
from ecif.storage import Storage
from tasks import ambient, device
from tests.squares import Notes
from tests.tiny import write_model

# Takes a lease of one of the devices, says of which, and keeps it until it is told to end or killed.
HOLDER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from tasks.device import lease
with lease(sys.argv[2:]) as device:
    print(device, flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""
TWO = ("mps:0", "mps:1")


class Holder:
    """A process that holds a device."""

    def __init__(self, folder: Path, *choice: str) -> None:
        command = [sys.executable, "-c", HOLDER, str(folder), *choice]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("\n", timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Holder]]:
    """Starts holders, and ends what is left of them."""
    started: list[Holder] = []

    def start(*choice: str) -> Holder:
        started.append(Holder(tmp_path, *choice))
        return started[-1]

    yield start
    for holder in started:
        holder.kill()


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory of temporary files of this test and its holders."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_lease_ends_with_a_killed_process(locks: Path, hold: Callable[..., Holder]) -> None:
    notes = Notes()
    killed = hold("mps")
    assert killed.said() == "mps"
    with pytest.raises(Timeout):
        FileLock(device.lock_file("mps")).acquire(timeout=0)
    killer = threading.Timer(0.5, killed.kill)
    killer.start()
    with ambient.during(ambient.Ambient(notes)), device.lease(["mps"]) as name:
        assert name == "mps"
        assert killed.process.poll() == -signal.SIGKILL
    assert notes.notes == ["waiting for mps: another process computes on it"]


def test_a_killed_process_leaves_no_lock_to_its_children(locks: Path) -> None:
    """A worker's children may live on: a lock that they inherited would keep the device for as long."""
    parent = HOLDER.replace("print(device", "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, device")
    command = [sys.executable, "-c", parent, str(locks), "mps"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child, name = process.stdout.readline().split()
    try:
        assert name == "mps"
        process.kill()
        process.wait()
        os.kill(int(child), 0)
        with FileLock(device.lock_file("mps")).acquire(timeout=60):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_each_process_gets_a_device_of_its_own_and_the_next_one_whichever_is_free(
    locks: Path, hold: Callable[..., Holder]
) -> None:
    first = hold(*TWO)
    assert first.said() == "mps:0"
    second = hold(*TWO)
    assert second.said() == "mps:1"
    third = hold(*TWO)
    second.kill()
    assert third.said() == "mps:1"
    first.end()
    with device.lease(TWO) as name:
        assert name == "mps:0"


def test_threads_of_one_process_never_share_a_device(locks: Path) -> None:
    busy = dict.fromkeys(TWO, False)
    taken: list[str] = []
    together = threading.Barrier(2, timeout=60)

    def work(number: int) -> None:
        with device.lease(TWO) as name:
            assert not busy[name]
            busy[name] = True
            taken.append(name)
            if number < 2:
                together.wait()  # both devices are in use at the same time
            busy[name] = False

    for numbers in ((0, 1), (2, 3, 4, 5)):
        with ThreadPoolExecutor(len(numbers)) as pool:
            list(pool.map(work, numbers))
    assert sorted(taken[:2]) == list(TWO)
    assert len(taken) == 6


def test_waiting_ends_with_the_run(locks: Path) -> None:
    notes = Notes()
    here = ambient.Ambient(notes)
    here.stop.set()
    with (
        device.lease(TWO),
        device.lease(TWO),
        ambient.during(here),
        pytest.raises(device.Stopped, match="mps:0, mps:1"),
        device.lease(TWO),
    ):
        pass
    assert notes.notes == ["waiting for one of mps:0, mps:1: others compute on all of them"]


def test_the_directory_of_the_locks_is_the_users_own(locks: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (locks / f"ecif-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(UsageError, match=r"another user.*TMPDIR"):
        device.lock_file("mps")


@pytest.mark.parametrize(
    ("setting", "count", "found"),
    [
        ("auto", 0, ("cpu",)),
        ("auto", 3, ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda", 2, ("cuda:0", "cuda:1")),
        ("cuda:1", 2, ("cuda:1",)),
        ("cpu", 2, ("cpu",)),
        ("mps", 0, ("mps",)),
    ],
)
def test_a_setting_stands_for_all_devices_that_are_seen(
    monkeypatch: pytest.MonkeyPatch, setting: str, count: int, found: tuple[str, ...]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert device.devices(setting) == found


@pytest.mark.parametrize(("setting", "count"), [("cuda", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, setting: str, count: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(UsageError, match=f"--device {setting}: this process sees {count} CUDA devices with .*'4,5'"):
        device.devices(setting)


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


def test_a_model_is_loaded_once_for_each_device_and_only_the_last_is_kept(tmp_path: Path) -> None:
    config, weights = write_model(tmp_path)
    settings = Settings(model=str(config), pretrained=str(weights), device="cpu")
    run = Run(settings, Layout(str(tmp_path)), Storage(), Inventory((), ()), (), "fit", "score")
    engine = device.engine_for(run)
    assert device.engine_for(run) is engine
    assert device.engine_for(run, "cpu") is engine
    beside = device.engine_for(run, "cpu:0")
    assert beside is not engine
    assert device.engine_for(run, "cpu:0") is beside
    assert device.engine_for(run, "cpu") is engine
    other = device.engine_for(replace(run, settings=settings.model_copy(update={"micro_batch": 3})))
    assert other is not engine
    assert other.micro_batch == 3
    assert device.engine_for(run) is not engine
    assert device.engine_for(run, "cpu:0") is beside


def test_a_size_that_fits_is_remembered_and_said_to_whoever_works(tmp_path: Path) -> None:
    config, weights = write_model(tmp_path)
    settings = Settings(model=str(config), pretrained=str(weights), device="cpu", micro_batch=8)
    run = Run(settings, Layout(str(tmp_path)), Storage(), Inventory((), ()), (), "fit", "score")
    engine = device.engine_for(run)
    notes = Notes()

    def work(rows: slice) -> int:
        if rows.stop - rows.start > 4:
            raise MemoryError
        return rows.stop

    with ambient.during(ambient.Ambient(notes)):
        assert [stop for _, stop in engine.micro.parts(8, work)] == [4, 8]
    assert len(notes.notes) == 1
    device.engine_for(replace(run, settings=settings.model_copy(update={"micro_batch": 3})))
    assert device.engine_for(run) is not engine
    assert device.engine_for(run).micro_batch == 4
