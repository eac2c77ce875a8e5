"""How long the command line takes to answer, as a ratio to starting Python at all.

Rounds go through all commands in turn; the table holds medians of wall and CPU seconds, and of the ratios within a
round, with the smallest and the largest.

    python -m bench.startup [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from resource import RUSAGE_CHILDREN, getrusage

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import ecif": ["-c", "import ecif"],
    "ecif --version": ["-c", "from ecif.cli import main; main(['--version'])"],
    "ecif --help": ["-c", "from ecif.cli import main; main(['--help'])"],
    "ecif score --help": ["-c", "from ecif.cli import main; main(['score', '--help'])"],
}


def spent(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, started = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "COLUMNS": "120"}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - started, getrusage(RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.rounds + 1):  # the first round fills the caches
        for name, command in COMMANDS.items():
            found[name].append(spent(command))
    floor = found["python -c pass"]
    rows = []
    for name, times in found.items():
        ratios = [own[0] / least[0] for own, least in zip(times[1:], floor[1:], strict=True)]
        rows.append(
            {
                "command": name,
                "seconds": statistics.median(wall for wall, _ in times[1:]),
                "cpu_seconds": statistics.median(cpu for _, cpu in times[1:]),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'command':20} {'seconds':>8} {'CPU s':>7} {'ratio':>7} {'min..max':>14}")
    for row in rows:
        spread = f"{row['ratio_min']:.1f}..{row['ratio_max']:.1f}"
        print(f"{row['command']:20} {row['seconds']:8.3f} {row['cpu_seconds']:7.3f} {row['ratio']:7.1f} {spread:>14}")


if __name__ == "__main__":
    main()
