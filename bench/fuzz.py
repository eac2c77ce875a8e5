"""Damage tars, gzip files, images and records at random for a given time, and hold every reader to its invariants.

    python -m bench.fuzz --work DIR [--minutes 30] [--seed 0]

The seeds are what the strategies of the property tests draw, of every dialect, and images of every format and mode;
each case changes one of them and runs the checks of tests/shards/invariants.py. What breaks one (an exception other
than the documented ones, another answer than tarfile, webdataset, gzip or Pillow gives, more than twenty seconds) is
written to DIR with its traceback. Damaged inputs that are still read become seeds, so that damage adds up. The
table at the end says how many cases each target had and what became of them; the exit code is 1 after a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, given, settings

from tests.shards import damage, invariants

SECONDS_A_CASE = 20
MOST_SEEDS = 3000
STEPS = (1, 7, 512, 513, 1500, 1 << 16)
RECORDS = [
    b'{"caption": "a dog", "uid": "0123456789abcdef0123456789abcdef"}',
    b'{"caption": "\\u00fc\\ud83d\\ude42", "SAMPLE_ID": 123456789012, "exif": "{\\"a\\": [1, 2]}"}',
    b'{"a": [[[[[[{"b": null}]]]]]], "caption": null, "url": "http://x/y?z=1", "id": 1.5e300}',
    b"[" * 12 + b"]" * 12,
]


def corpus(seed: int, size: int) -> list[bytes]:
    """Whole tars, as the property tests draw them."""
    found: list[bytes] = []

    @hypothesis.seed(seed)
    @settings(max_examples=size, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damage.any_tars())
    def collect(data: bytes) -> None:
        found.append(bytes(data))

    collect()
    return found


class Fuzz:
    """The targets, their seeds and what became of their cases."""

    def __init__(self, work: Path, seed: int, size: int = 500) -> None:
        self.work = work
        self.choose = random.Random(seed)
        self.tars = corpus(seed, size)
        self.images = invariants.seed_images()
        self.records = list(RECORDS)
        self.cases: Counter[str] = Counter()
        self.seconds = dict.fromkeys(TARGETS, 0.0)
        self.failed: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[str]] = {name: Counter() for name in TARGETS}

    def tar(self) -> tuple[bytes, str]:
        """Reading, copying, grouping, and what tarfile says."""
        data = damage.damage(self.choose.choice(self.tars), self.choose)
        step = self.choose.choice(STEPS)
        return data, self._run("tar", data, lambda: invariants.check_tar(data, step))

    def cut(self) -> tuple[bytes, str]:
        """Whole and damaged tars, cut anywhere."""
        data = self.choose.choice(self.tars)
        at = self.choose.randint(0, len(data))
        return data[:at], self._run("cut", data[:at], lambda: invariants.check_cut(data, at))

    def gzip(self) -> tuple[bytes, str]:
        """Damage inside and outside of gzip."""
        data = damage.compress(self.choose.choice(self.tars), self.choose)
        if self.choose.random() < 0.8:
            data = damage.spoil(data, self.choose)
        step = self.choose.choice(STEPS)
        if not data.startswith(b"\x1f\x8b"):
            return data, "no gzip any more"
        return data, self._run("gzip", data, lambda: invariants.check_gzip(data, step))

    def image(self) -> tuple[bytes, str]:
        """Decoding."""
        data = damage.spoil(self.choose.choice(self.images), self.choose)
        return data, self._run("image", data, lambda: invariants.check_image(data))

    def record(self) -> tuple[bytes, str]:
        """JSON members."""
        data = damage.spoil(self.choose.choice(self.records), self.choose)
        return data, self._run("record", data, lambda: invariants.check_record(data))

    def once(self, name: str) -> None:
        """One case; an input that is still read becomes a seed."""
        start = time.monotonic()
        data, outcome = getattr(self, name)()
        self.cases[name] += 1
        self.seconds[name] += time.monotonic() - start
        self.outcomes[name][outcome] += 1
        seeds = {"tar": self.tars, "image": self.images, "record": self.records}.get(name)
        if seeds is not None and outcome in ("read", "ok", "pair") and len(data) < 100_000:
            if len(seeds) < MOST_SEEDS:
                seeds.append(data)
            else:
                seeds[self.choose.randrange(len(seeds))] = data

    def _run(self, name: str, data: bytes, check: Callable[[], str]) -> str:
        signal.alarm(SECONDS_A_CASE)
        try:
            return check()
        except Exception as error:
            self.failed[name] += 1
            stem = self.work / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
            stem.with_suffix(".bin").write_bytes(data)
            stem.with_suffix(".txt").write_text(traceback.format_exc())
            return f"FAILED: {type(error).__name__}"
        finally:
            signal.alarm(0)


TARGETS = {"tar": 6, "cut": 1, "gzip": 3, "image": 3, "record": 1}
"""The targets and how often each comes up."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="failing inputs and their tracebacks go here")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGALRM, _too_long)
    fuzz = Fuzz(chosen.work, chosen.seed)
    start = shown = time.monotonic()
    while (now := time.monotonic()) < start + 60 * chosen.minutes:
        for name in fuzz.choose.choices(list(TARGETS), list(TARGETS.values()), k=50):
            fuzz.once(name)
        if now > shown + 60:
            shown = now
            print(f"{(now - start) / 60:.0f} min: {fuzz.cases.total()} cases, {fuzz.failed.total()} failed", flush=True)
    print(f"\n{'target':8} {'cases':>9} {'seconds':>8} {'failed':>7}  outcomes")
    for name in TARGETS:
        outcomes = ", ".join(f"{outcome} {n}" for outcome, n in fuzz.outcomes[name].most_common(12))
        print(f"{name:8} {fuzz.cases[name]:9} {fuzz.seconds[name]:8.0f} {fuzz.failed[name]:7}  {outcomes}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"seed {chosen.seed}, {time.monotonic() - start:.0f} s, peak memory {peak // 1024} MB")
    return 1 if fuzz.failed else 0


def _too_long(signum: int, frame: object) -> None:
    raise TimeoutError(f"more than {SECONDS_A_CASE} seconds")


if __name__ == "__main__":
    sys.exit(main())
