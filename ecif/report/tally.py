"""What the report takes from the score tables: added up one table at a time, kept in a file, and taken up again.

Everything in it is a count, an extreme or the outermost few, so it depends on the tables alone, neither on their order
nor on the runs among which they came. It is kept under a digest of all else that it depends on, with size and tag of
every table in it; a run reads the tables that are new. Whatever does not fit, because a table was replaced or removed
or the file is damaged, is no error: the file is derived, and everything is read again.

The file grows with the shards, by some 20 bytes each, and is written whole whenever there is a new one.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif import keys
from ecif.detectors import Facts
from ecif.report.distribution import COARSE, Sketch
from ecif.scores import IDENTITY, worseness
from ecif.selection import Decision, dropped_mask

SHOWN = 24  # pairs in each half of the gallery
_FORMAT = 1  # of the file
_TOGETHER = 10_000  # shards in a table of their own before they join the others
_SHARDS = {
    "shard": pl.String,
    "size": pl.Int64,
    "etag": pl.String,
    "rows": pl.Int64,
    "ok": pl.Int64,
    "cut": pl.Int64,
    "statuses": pl.String,
}
_STATUSES = {"status": pl.String, "count": pl.Int64}
# What numpy, zipfile and polars raise for a file that is damaged or was never one of ours.
_DAMAGED = (
    *(ValueError, KeyError, TypeError, IndexError, OSError, EOFError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error, pl.exceptions.PolarsError),
)


class Tally:
    """Counts of the tables that were taken in.

    Args:
        score_key: whose scores. columns: of the tables, to sketch. fact: which of them decides.
        decision: None while nothing has been decided.

    Attributes:
        key: names the file; a digest of all of these.
        statuses: pairs by status.
        sketches: distribution of the scored pairs by column.
        kept, dropped: finer ones of the deciding score, negated where the lower is the worse.
        level: pairs that score exactly the cut and are kept.
        worst, best: the SHOWN outermost pairs, from the extreme inwards; None before the first table.
    """

    def __init__(self, score_key: str, columns: Sequence[str], fact: Facts, decision: Decision | None) -> None:
        self._decision, self._fact = decision, fact
        self.key = keys.digest(
            {
                "format": _FORMAT,
                "scores": score_key,
                "columns": list(columns),
                "deciding": [fact.column, fact.higher_is_worse],
                "decision": decision.to_json() if decision else None,
                "shown": SHOWN,
            }
        )
        self.statuses: Counter[str] = Counter()
        self.sketches = {column: Sketch(COARSE) for column in columns}
        self.kept, self.dropped, self.level = Sketch(), Sketch(), 0
        self.worst: pl.DataFrame | None = None
        self.best: pl.DataFrame | None = None
        self._shards = pl.DataFrame(schema=_SHARDS)
        self._recent: list[tuple[str, int, str, int, int, int, str]] = []

    @property
    def shards(self) -> pl.DataFrame:
        """A row for each table.

        Its shard, size and etag; rows, scored pairs (`ok`), those of them that the decision drops (`cut`), and
        `statuses`, a JSON object of counts.
        """
        if self._recent:
            more = pl.DataFrame(self._recent, schema=_SHARDS, orient="row")
            self._shards, self._recent = pl.concat([self._shards, more]), []
        return self._shards

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns of a table to add; those that the decision's rule looks at come on top."""
        return (*IDENTITY, "status", *self.sketches)

    def add(self, shard: str, size: int, etag: str, table: pl.DataFrame, url: str) -> None:
        """Take in the table of one shard, with the columns `needs`; size, tag and URL are those of its file.

        Raises:
            InputError: a pair is marked ok and has no score.
        """
        fact = self._fact
        ok, worse = worseness(table, fact.column, fact.higher_is_worse, url)
        mask = dropped_mask(table, self._decision) if self._decision else pl.repeat(False, len(table), eager=True)
        dropped = mask.to_numpy()[ok]
        self.kept.add(-worse[~dropped])
        self.dropped.add(-worse[dropped])
        if self._decision is not None and self._decision.line is not None:
            cut = -self._decision.line if fact.higher_is_worse else self._decision.line
            self.level += int((worse[~dropped].astype(np.float64) == cut).sum())
        for column, sketch in self.sketches.items():
            other = table[column].cast(pl.Float32).fill_null(float("nan")).to_numpy()[ok]
            sketch.add(other[np.isfinite(other)])
        statuses = dict(sorted(table["status"].value_counts().iter_rows(), key=str))
        self.statuses.update(statuses)
        rows = np.flatnonzero(ok)
        self.worst = _extreme(self.worst, table, rows, worse, dropped, descending=False)
        self.best = _extreme(self.best, table, rows, worse, dropped, descending=True)
        counts = len(table), worse.size, int(dropped.sum())
        self._recent.append((shard, size, etag, *counts, json.dumps(statuses)))
        if len(self._recent) >= _TOGETHER:
            _ = self.shards

    def save(self) -> bytes:
        """The file; `load` gives it back."""
        assert self.worst is not None
        assert self.best is not None
        statuses = pl.DataFrame(sorted(self.statuses.items(), key=str), schema=_STATUSES, orient="row")
        tables = {
            "shards": self.shards.sort("shard"),
            "statuses": statuses,
            "worst": self.worst,
            "best": self.best,
        }
        arrays: dict[str, npt.NDArray[Any]] = {name: _parquet(table) for name, table in tables.items()}
        about: list[Any] = []
        for number, sketch in enumerate(self._sketches()):
            arrays[f"ids{number}"], arrays[f"counts{number}"] = sketch.bins()
            about.append([sketch.shift, sketch.smallest, sketch.largest])
        head = json.dumps({"key": self.key, "level": self.level, "sketches": about})
        arrays["head"] = np.frombuffer(head.encode(), np.uint8)
        target = io.BytesIO()
        np.savez_compressed(target, **arrays)  # type: ignore[arg-type]
        return target.getvalue()

    def load(self, data: bytes) -> bool:
        """Take in a file, before any table; False: it is damaged, or belongs to something else, and nothing changed."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            head = json.loads(arrays["head"].tobytes())
            tables = {name: _table(arrays[name]) for name in ("shards", "statuses", "worst", "best")}
            about = [(int(shift), float(low), float(high)) for shift, low, high in head["sketches"]]
            bins = [(arrays[f"ids{number}"], arrays[f"counts{number}"]) for number in range(len(about))]
            fits = head["key"] == self.key and dict(tables["shards"].schema) == _SHARDS
            level = int(head["level"])
        except _DAMAGED:
            return False
        if not fits or len(about) != len(self._sketches()):
            return False
        for sketch, counted, ends in zip(self._sketches(), bins, about, strict=True):
            sketch.merge(counted, *ends)
        self.statuses.update(dict(tables["statuses"].iter_rows()))
        self._shards, self.worst, self.best = tables["shards"], tables["worst"], tables["best"]
        self.level = level
        return True

    def _sketches(self) -> list[Sketch]:
        return [self.kept, self.dropped, *self.sketches.values()]


def _extreme(
    so_far: pl.DataFrame | None,
    table: pl.DataFrame,
    rows: npt.NDArray[np.intp],
    worse: npt.NDArray[np.float32],
    dropped: npt.NDArray[np.bool_],
    descending: bool,
) -> pl.DataFrame:
    """The pairs at one end, the outermost first. `worse` and `dropped` are those of `rows`."""
    if so_far is not None and len(so_far) == SHOWN:
        last = so_far["worse"][-1]
        near = np.flatnonzero(worse >= last if descending else worse <= last)
        if not near.size:
            return so_far
        rows, worse, dropped = rows[near], worse[near], dropped[near]
    more = table[rows].drop("status").with_columns(pl.Series("dropped", dropped), pl.Series("worse", worse))
    both = more if so_far is None else pl.concat([so_far, more])
    return both.sort("worse", *IDENTITY, descending=descending).head(SHOWN)


def _parquet(table: pl.DataFrame) -> npt.NDArray[np.uint8]:
    target = io.BytesIO()
    table.write_parquet(target)
    return np.frombuffer(target.getvalue(), np.uint8)


def _table(data: npt.NDArray[np.uint8]) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(data.tobytes()))
