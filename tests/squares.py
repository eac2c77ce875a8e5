"""A corpus of noisy coloured squares that a tiny model scores in a second, and ways to look at what comes out."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ecif.settings import Settings

COLOURS = ("red", "green", "blue", "white")
SAMPLES = 12
SHARDS = 4
DERIVED = ("index", "report")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tars `00000` to `00003` in `raw`, a validation tar and a model beside it.

    Attributes:
        values: settings by name that clean it; nothing is dropped unless `drop` is given.
    """

    raw: Path
    values: dict[str, Any]

    @property
    def sources(self) -> list[str]:
        """What a user would type."""
        return [str(self.raw / "{00000..00003}.tar")]

    @property
    def out(self) -> Path:
        """The output."""
        return Path(self.values["out"])

    def settings(self, drop: str | None = "0.25", **changes: Any) -> Settings:
        """The settings, with a policy unless `drop` is None."""
        values = self.values | {"validation": (self.values["validation"],)}
        return Settings(**(values | {"drop": None if drop is None else Decimal(drop)} | changes))

    def options(self, *names: str) -> list[str]:
        """The settings as options of the command line: all, or those named."""
        chosen = names or tuple(self.values)
        return [part for name in chosen for part in (f"--{name.replace('_', '-')}", str(self.values[name]))]


def lay_out(folder: Path, model: tuple[Path, Path], make_tar: Callable[..., bytes]) -> Corpus:
    """Write a corpus into `folder`; its output will be `folder / "out"`."""
    raw = folder / "raw"
    raw.mkdir()
    for number in range(SHARDS):
        (raw / f"{number:05d}.tar").write_bytes(make_tar(pairs(number)))
    (folder / "validation.tar").write_bytes(make_tar(pairs(99)))
    values: dict[str, Any] = {
        "validation": str(folder / "validation.tar"),
        "model": str(model[0]),
        "pretrained": str(model[1]),
        "out": str(folder / "out"),
        "device": "cpu",
        "batch_size": 6,
        "min_batch": 3,
        "micro_batch": 6,
        "workers": 0,
        "segmentations": 1,
        "sketches": 2,
        "logra_rank": 4,
        "fit_pairs": 20,
    }
    return Corpus(raw, values)


def pairs(seed: int, count: int = SAMPLES) -> list[tuple[str, bytes]]:
    """Members of `count` pairs of image and caption."""
    random = np.random.default_rng(seed)
    members = []
    for index in range(count):
        colour = int(random.integers(len(COLOURS)))
        pixels = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        pixels[4:12, 4:12, : 3 if colour == 3 else 1] += np.uint8(120 + 10 * colour)
        image = io.BytesIO()
        Image.fromarray(pixels).save(image, "PNG")
        key = f"{seed:04d}{index:05d}"
        members += [(f"{key}.png", image.getvalue()), (f"{key}.txt", f"a {COLOURS[colour]} square".encode())]
    return members


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []
        self.advanced = 0

    def stage(self, name: str, total: int, unit: str) -> None:
        self.stages.append(name)

    def advance(self, n: int = 1) -> None:
        self.advanced += n

    def note(self, text: str) -> None:
        self.notes.append(text)

    def end(self) -> None:
        pass


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file below `root`; derived views may be replaced and count by content.

    Rollups are left out: they hold the times of other files.
    """
    return {
        str(path.relative_to(root)): (path.read_bytes(), 0 if path.parent.name in DERIVED else path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and "rollup" not in path.relative_to(root).parts
    }
