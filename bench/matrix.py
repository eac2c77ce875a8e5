"""What the kill matrix and the fault matrix share: the corpus in its place, every stage's undisturbed result, a log.

Both ask the same of a stage: begin at the result of the one before, disturb it, look at what is visible, run it
again, and compare with the result of a stage that was left alone. Results are appended to a file of JSON lines; a
matrix that was broken off goes on after the last one, in the same order and with the same random numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.places import CLAIMS, Files, Folder, Place, Prefix, Server, differing, fresh_bucket
from bench.trial import Ended, Nursery
from bench.world import Stage, corpus, stages

# The report holds times, and rollups the times at which files of a disk were written.
PASSING = ("_ecif/report/", "_ecif/rollup/")


@dataclass
class World:
    """A corpus in a place, an output beside it, and the stages.

    Attributes:
        environment: how the stages reach the storage.
        results: the files of the output after each stage that was left alone. answers: what each printed.
        seconds: how long each took.
    """

    nursery: Nursery
    stages: Mapping[str, Stage]
    source: Place
    out: Place
    files: Files
    environment: Mapping[str, str] = field(default_factory=dict)
    results: dict[str, Files] = field(default_factory=lambda: {"": {}})
    answers: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def before(self, stage: Stage) -> Files:
        """The files that a stage begins with; the stages before it are run if need be."""
        if stage.after not in self.results:
            self.undisturbed(self.stages[stage.after])
        return self.results[stage.after]

    def undisturbed(self, stage: Stage) -> Files:
        """The files of the output after a stage that is left alone.

        Raises:
            SystemExit: it failed, or wrote other bytes when it was run again.
        """
        if stage.name not in self.results:
            for _ in range(2):
                self.out.reset(self.before(stage))
                ended = self.nursery.run(stage.arguments, self.environment)
                if ended.code:
                    raise SystemExit(f"{stage.name}, left alone, ended with {ended.code}:\n{ended.err}{ended.out}")
                found = stable(self.out.read())
                if wrong := differing(found, self.results.get(stage.name, found)):
                    raise SystemExit(f"{stage.name}, left alone, wrote other bytes the second time: {wrong}")
                self.results[stage.name] = found
                self.answers[stage.name] = answer(ended)
                self.seconds[stage.name] = ended.seconds
        return self.results[stage.name]


def stable(files: Files) -> Files:
    """The files whose bytes are a function of the input."""
    return {name: data for name, data in files.items() if not name.startswith(PASSING) and CLAIMS not in name}


def answer(ended: Ended) -> Any:
    """The JSON that a command printed, None when it printed none."""
    try:
        return json.loads(ended.out)
    except ValueError:
        return None


def on_disk(work: Path, model: tuple[Path, Path], nursery: Nursery, ballast: int) -> World:
    """A world in a directory; `model`: config and weights."""
    files = corpus(ballast)
    source, out = Folder(work / "in"), Folder(work / "out")
    source.reset(files)
    return World(nursery, stages(source.url, out.url, model), source, out, files)


def on_server(
    model: tuple[Path, Path], nursery: Nursery, server: Server, bucket: str, ballast: int, endpoint: str | None = None
) -> World:
    """A world in a bucket, which is emptied first; the stages reach it by `endpoint` if given."""
    files = corpus(ballast)
    fresh_bucket(server, bucket)
    source, out = Prefix(server, bucket, "in"), Prefix(server, bucket, "out")
    source.reset(files)
    # A stall is given up after five seconds, not thirty, so that the matrix ends today.
    options = {**server.options(endpoint), "config_kwargs": {"read_timeout": 5}}
    environment = {"ECIF_STORAGE_OPTIONS": json.dumps(options)}
    made = stages(source.url, out.url, model)
    return World(nursery, made, source, out, files, environment)


class Log:
    """Results by name, in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self.done: dict[str, dict[str, Any]] = {item["name"]: item for item in map(json.loads, lines)}

    def add(self, name: str, result: Mapping[str, Any]) -> None:
        """Keep a result."""
        self.done[name] = {"name": name, **result}
        with self.path.open("a", encoding="utf-8") as out:
            print(json.dumps(self.done[name]), file=out)


def table(head: Sequence[str], rows: Iterator[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def said(text: str) -> None:
    """A line with the time, at once: matrices run for an hour."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
