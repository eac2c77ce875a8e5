"""What is lost, and what is done twice, when a part of the orchestration dies in the middle of a run.

    python -m bench.recovery --work DIR --s3 ENDPOINT --key KEY --secret SECRET [--bucket NAME] [--only NAME]

A Prefect server on PostgreSQL, process workers and the deployments of prefect.yaml are started here; the storage is
yours. The table says for each event (bench/scenes.py, bench/scenes_groups.py) which files of the output were lost or
other than those of a run that was left alone, how often a tar was read more than in that run, how the work went on,
and how many seconds after the event the output was complete. Results are kept in the work directory; the same command
goes on.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.matrix import Log, said, table
from bench.places import Server, add_server
from bench.scenes import SCENES, Recovered, staged
from bench.scenes_groups import GROUP_SCENES

HEAD = ("event", "lost", "repeated", "how it went on", "seconds to recover")


def rows(log: Log) -> Iterator[Sequence[object]]:
    """The table, a line for each event."""
    for event, found in log.done.items():
        lost = ", ".join(found["lost"]) or "nothing"
        yield event, lost, f"{found['repeated']} readings of a tar", found["how"], found["seconds"]


def main() -> None:
    """Print the table; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    add_server(parser, "ecif-recovery")
    parser.add_argument("--only", default="", help="only events whose name contains this")
    given = parser.parse_args()
    # Whoever ends this ends the servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    given.work.mkdir(parents=True, exist_ok=True)
    log = Log(given.work / "recovery.jsonl")
    with staged(given.work, Server(given.s3, given.key, given.secret), given.bucket) as stage:
        stage.rehearse()
        said(f"left alone: {stage.seconds:.1f} s, {stage.passes} passes, {len(stage.expected)} files")
        for event, scene in (SCENES | GROUP_SCENES).items():
            if event not in log.done and given.only in event:
                try:
                    found = scene(stage)
                except (RuntimeError, TimeoutError) as error:  # the others are played all the same
                    found = Recovered([str(error)], 0, "not at all", 0.0)
                log.add(event, asdict(found))
                said(f"{event}: {log.done[event]}")
    print(table(HEAD, rows(log)))
    sys.exit(any(found["lost"] for found in log.done.values()))


if __name__ == "__main__":
    main()
