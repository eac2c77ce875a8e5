"""Writers of different bytes agree on one, also where a conditional PUT is not atomic."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import partial

import pytest

from ecif import agreement
from ecif.agreement import claims, settle
from ecif.errors import ConflictError
from ecif.storage import FileInfo, Published, Storage, join


class Careless(Storage):
    """A store on which the last PUT wins, as on servers without atomic creation."""

    def publish(self, url: str, data: object, *, replace: bool = False) -> Published:
        return super().publish(url, data, replace=True)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "LONGEST_WAIT", 0.02)


def test_the_first_stays(memory_root: str) -> None:
    url = join(memory_root, "a.json")
    assert settle(url, b"one", Storage()) == b"one"
    assert settle(url, b"two", Storage()) == b"one"
    assert settle(url, b"one", Storage()) == b"one"
    assert [file.url for file in Storage().list(memory_root)] == [url]


def test_on_a_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("out")
    assert settle(str(folder / "a"), b"one", Storage()) == b"one"
    assert settle(str(folder / "a"), b"two", Storage()) == b"one"
    assert [path.name for path in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("round_", range(10))
def test_writers_at_once_agree(memory_root: str, round_: int) -> None:
    url = join(memory_root, "a.json")
    results = _at_once([partial(settle, url, data, Careless()) for data in (b"0", b"1", b"2", b"1")])
    assert set(results) == {Storage().read_bytes(url)}
    assert [file.url for file in Storage().list(memory_root)] == [url]


def test_orders_of_two_writers(memory_root: str) -> None:
    """Both wait for their turn before each request; interleavings of their first six requests are tried."""
    for number, order in enumerate(_orders(6)):
        url = join(memory_root, f"{number}/a.json")
        turns = _Turns(order)
        results = _at_once([partial(_step, url, n, turns) for n in (0, 1)])
        assert set(results) == {Storage().read_bytes(url)}, order


def test_a_claim_that_stays_is_named(memory_root: str) -> None:
    url = join(memory_root, "a.json")
    left = f"{claims(url)}/0123456789abcdef-0"
    Storage().publish(left, b"")
    with pytest.raises(ConflictError, match=rf"if that run is dead, remove {left}"):
        settle(url, b"mine", Storage())
    assert not Storage().exists(url)
    assert [file.url for file in Storage().list(memory_root)] == [left]
    Storage().delete(left)
    assert settle(url, b"mine", Storage()) == b"mine"


def _step(url: str, who: int, turns: _Turns) -> bytes:
    try:
        return settle(url, b"%d" % who, _Stepping(turns, who))
    finally:
        turns.end(who)


def _orders(steps: int) -> list[tuple[int, ...]]:
    """Every 7th of the ways in which two writers of `steps` steps each can alternate."""
    places = range(2 * steps)
    ways = itertools.combinations(places, steps)
    return [tuple(int(place in chosen) for place in places) for chosen in itertools.islice(ways, 0, None, 7)]


class _Turns:
    """Lets two threads take their steps in a given order; afterwards they run freely."""

    def __init__(self, order: tuple[int, ...]) -> None:
        self._left, self._moved, self._over = list(order), threading.Condition(), set[int]()

    def take(self, who: int) -> None:
        with self._moved:
            self._moved.wait_for(lambda: not self._left or self._left[0] == who or self._left[0] in self._over, 5)
            if self._left and self._left[0] == who:
                self._left.pop(0)
            self._moved.notify_all()

    def end(self, who: int) -> None:
        with self._moved:
            self._over.add(who)
            self._left = [turn for turn in self._left if turn != who]
            self._moved.notify_all()


class _Stepping(Careless):
    """A careless store that waits for its writer's turn before every request."""

    def __init__(self, turns: _Turns, who: int) -> None:
        super().__init__()
        self._turns, self._who = turns, who

    def publish(self, url: str, data: object, *, replace: bool = False) -> Published:
        self._turns.take(self._who)
        return super().publish(url, data, replace=replace)

    def read_bytes(self, url: str) -> bytes:
        self._turns.take(self._who)
        return super().read_bytes(url)

    def list(self, prefix: str, suffix: str = "", *, recursive: bool = True) -> list[FileInfo]:
        self._turns.take(self._who)
        return super().list(prefix, suffix, recursive=recursive)

    def delete(self, url: str) -> None:
        self._turns.take(self._who)
        super().delete(url)


def _at_once(writers: list[Callable[[], bytes]]) -> list[bytes]:
    barrier = threading.Barrier(len(writers))
    results: dict[int, bytes] = {}

    def run(index: int) -> None:
        barrier.wait()
        results[index] = writers[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[index] for index in range(len(writers))]
