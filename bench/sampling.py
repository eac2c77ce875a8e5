"""Where the threads of this process are, looked at some hundred times a second: what a flame graph would show, as text.

A line is the innermost function of this project that a thread is in, whatever it calls, and its share of that kind of
thread's time; waiting counts, too, which is the point.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

_ROOT = str(Path(__file__).resolve().parent.parent)
_EVERY = 0.003


def sampled(work: Callable[[], object]) -> dict[str, Counter[str]]:
    """Samples by kind of thread (its name without the number) and by function, while `work` runs in this thread."""
    found: dict[str, Counter[str]] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(_EVERY):
            kinds = {one.ident: one.name.partition("_")[0] for one in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                if ident != threading.get_ident():
                    found.setdefault(kinds.get(ident, "other"), Counter())[_place(frame)] += 1

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return found


def _place(frame: FrameType) -> str:
    here: FrameType | None = frame
    while here is not None:
        if here.f_code.co_filename.startswith(_ROOT):
            path = here.f_code.co_filename.removeprefix(f"{_ROOT}/")
            return f"{path}: {here.f_code.co_name}"
        here = here.f_back
    return "waiting for work"


def show(work: Callable[[], object], most: int = 8) -> None:
    """Print the shares, the largest first."""
    started = time.perf_counter()
    found = sampled(work)
    print(f"{time.perf_counter() - started:.1f} s")
    for kind, counts in found.items():
        print(f"{kind}: {counts.total()} samples")
        for place, count in counts.most_common(most):
            print(f"  {count / counts.total():6.1%}  {place}")
