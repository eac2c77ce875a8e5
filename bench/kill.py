"""SIGKILL `ecif clean` at random moments, run it again, and compare every byte with an uninterrupted run.

    python -m bench.kill --work DIR [--kills 3] [--seed 0] [--pairs 4000]

For each kill: when it came, how many score tables and manifests were finished then, whether any of these was touched
by the second run (none may be), and how many of the output's files differ from those of a run that was left alone.
Inventory, scores, fit, decision, ledger, manifests, shards and sidecars count; report and index are derived views.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.prepared import Prepared, prepare
from ecif.layout import META

DERIVED = (f"{META}/report", f"{META}/index")


def command(demo: Prepared, out: Path) -> list[str]:
    """The run: small groups, so that there is much to be in the middle of."""
    options = {"--model": demo.settings["model"], "--pretrained": demo.settings["pretrained"]}
    options |= {"--validation": demo.settings["validation"][0], "--drop": "0.1", "--group-size": "2"}
    flat = [part for pair in options.items() for part in pair]
    return [str(Path(sys.executable).with_name("ecif")), "clean", *demo.sources, *flat, "--out", str(out)]


def contents(out: Path) -> dict[str, tuple[str, int]]:
    """sha256 and modification time of every file of an output that is no derived view or temporary file."""
    names = (path for path in sorted(out.rglob("*")) if path.is_file() and not path.name.endswith(".tmp"))
    relative = {str(path.relative_to(out)): path for path in names}
    return {
        name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for name, path in relative.items()
        if not name.startswith(DERIVED)
    }


def start(demo: Prepared, out: Path, home: Path) -> subprocess.Popen[bytes]:
    """Start a run and wait until its fit begins: before that there is nothing to lose."""
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command(demo, out), env=environment, stdout=quiet, stderr=quiet)
    while process.poll() is None and not (out / META / "fit").exists():
        time.sleep(0.01)
    return process


def finish(process: subprocess.Popen[bytes]) -> float:
    """Wait for its end; seconds."""
    started = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"a run that was left alone ended with exit code {process.returncode}")
    return time.monotonic() - started


def main() -> None:
    """Print one line per kill; exit with 1 if anything differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=4000)
    arguments = parser.parse_args()
    demo = prepare(arguments.work, arguments.pairs, shards=16)
    # The same --out for all runs: its path stands in the saved settings.
    out, home = arguments.work / "kill-out", arguments.work / "kill-home"
    shutil.rmtree(out, ignore_errors=True)
    whole = finish(start(demo, out, home))
    expected = contents(out)
    print(f"uninterrupted: {whole:.0f} s from the beginning of the fit, {len(expected)} files")
    moments, wrong = random.Random(arguments.seed), 0
    for number in range(arguments.kills):
        shutil.rmtree(out)
        process = start(demo, out, home)
        delay = moments.uniform(0.0, whole)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = contents(out)
        again = finish(start(demo, out, home))
        after = contents(out)
        touched = [name for name, found in before.items() if after.get(name) != found]
        names = expected.keys() | after.keys()
        differing = [name for name in names if expected.get(name, ("",))[0] != after.get(name, ("",))[0]]
        wrong += len(touched) + len(differing)
        tables = sum("/scores/" in name and name.endswith(".parquet") for name in before)
        manifests = sum("/manifest/" in name for name in before)
        print(
            f"kill {number + 1}: {delay:.1f} s after the fit began, {tables} score files and {manifests} manifests "
            f"were finished; run again in {again:.0f} s: {len(touched)} finished files touched, "
            f"{len(differing)} of {len(expected)} files differ"
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
