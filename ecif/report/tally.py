"""What the report takes from the score tables: added up one table at a time, kept in a file, and taken up again.

Everything in it is a count, an extreme, the outermost few or a sample by hash, so it depends on the tables alone,
neither on their order nor on the runs among which they came. It is kept under a digest of all else that it depends on,
with size and tag of every table in it; a run reads the tables that are new. Whatever does not fit, because a table was
replaced or removed or the file is damaged, is no error: the file is derived, and everything is read again.

The file has a sample of some thousand pairs and grows with the shards, by some 20 bytes each; it is written whole
whenever there is a new one.
"""

from __future__ import annotations

import io
import json
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif import keys
from ecif.report.deciding import Deciding, Seen
from ecif.report.distribution import COARSE, Sketch
from ecif.report.sampling import Drawn, Outermost, Places, draws, owned

SHOWN = 24  # pairs in each set of the gallery
SAMPLE = 20_000  # scored pairs by which scores are compared with each other
_FORMAT = 2  # of the file
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
_IDENTITY = {"uid": pl.String, "key": pl.String, "shard": pl.String, "index": pl.UInt32}
# What numpy, zipfile and polars raise for a file that is damaged or was never one of ours.
_DAMAGED = (
    *(ValueError, KeyError, TypeError, IndexError, OSError, EOFError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error, pl.exceptions.PolarsError),
    *(SyntaxError, tokenize.TokenError),  # numpy parses the head of an array as Python
)


class Tally:
    """Counts of the tables that were taken in.

    Args:
        score_key: whose scores. deciding: what is looked at. shown: pairs in each set, 1 to 200.

    Attributes:
        key: names the file; a digest of all of these.
        statuses: pairs by status.
        sketches: distribution of the scored pairs by column.
        kept, dropped: finer ones of the deciding score, negated where the lower is the worse.
        before: how many of both are less than the cut, on the same scale.
        worst, best: the outermost pairs, from the extreme inwards.
        going, staying: dropped and kept pairs nearest to the cut, from there outwards.
    """

    def __init__(self, score_key: str, deciding: Deciding, shown: int = SHOWN) -> None:
        self.deciding, self.shown = deciding, shown
        decision, calibration = deciding.decision, deciding.calibration
        self.key = keys.digest(
            {
                "format": _FORMAT,
                "scores": score_key,
                "columns": list(deciding.columns),
                "deciding": [deciding.facts.column, deciding.facts.higher_is_worse],
                "decision": decision.to_json() if decision else None,
                "calibration": calibration.key if calibration else None,
                "shown": shown,
                "sample": SAMPLE,
            }
        )
        self.statuses: Counter[str] = Counter()
        self.sketches = {column: Sketch(COARSE) for column in deciding.columns}
        self.kept, self.dropped, self.before = Sketch(), Sketch(), (0, 0)
        self.worst, self.best = Outermost("worse", shown), Outermost("worse", shown, descending=True)
        self.going = Outermost("margin", (shown + 1) // 2, descending=True)
        self.staying = Outermost("margin", shown // 2)
        self._drawn = Drawn(SAMPLE, shown)
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
    def sample(self) -> pl.DataFrame:
        """Scored pairs by chance, in the order of the draw."""
        return self._of_draw(pl.col("status") == "ok")

    @property
    def unscored(self) -> pl.DataFrame:
        """Pairs without a score by chance, up to `shown` of each status, in the order of the draw."""
        return self._of_draw(pl.col("status") != "ok")

    def add(self, shard: str, size: int, etag: str, table: pl.DataFrame, url: str) -> None:
        """Take in the table of one shard, with what `deciding` needs; size, tag and URL are those of its file.

        Raises:
            InputError: a pair is marked ok and has no score.
        """
        deciding = self.deciding
        seen, table = deciding.see(table, url), deciding.with_all(table)
        self._distribute(table, seen)
        statuses = dict(sorted(table["status"].value_counts().iter_rows(), key=str))
        self.statuses.update(statuses)
        draw = draws(shard, table["index"].to_numpy())

        def rows(places: Places) -> pl.DataFrame:
            # What is held must not hold the table.
            return table[places].select(
                *(owned(pl.col(name).cast(pl.String)) for name in ("uid", "key", "shard")),
                pl.col("index").cast(pl.UInt32),
                owned(pl.col("status").cast(pl.String)).fill_null(""),
                *deciding.columns,
                worse=pl.Series(seen.worse[places]),
                margin=pl.Series(seen.margin[places]),
                dropped=pl.Series(seen.dropped[places]),
                group=owned(pl.lit(seen.group[places])),
                draw=pl.Series(draw[places]),
            )

        self.worst.add(seen.worse, rows)
        self.best.add(seen.worse, rows)
        self.going.add(np.where(seen.ok & seen.dropped, seen.margin, np.nan), rows)
        self.staying.add(np.where(seen.ok & ~seen.dropped, seen.margin, np.nan), rows)
        self._drawn.add(table["status"].cast(pl.String).fill_null(""), draw, rows)
        counts = len(table), int(seen.ok.sum()), int(seen.dropped.sum())
        self._recent.append((shard, size, etag, *counts, json.dumps(statuses)))
        if len(self._recent) >= _TOGETHER:
            _ = self.shards

    def save(self) -> bytes:
        """The file; `load` gives it back."""
        statuses = pl.DataFrame(sorted(self.statuses.items(), key=str), schema=_STATUSES, orient="row")
        tables = {"shards": self.shards.sort("shard"), "statuses": statuses, "drawn": self._drawn.rows}
        tables |= {name: outermost.rows for name, outermost in self._outermost().items()}
        arrays = {name: _parquet(table) for name, table in tables.items() if table is not None}
        about: list[Any] = []
        for number, sketch in enumerate(self._sketches()):
            arrays[f"ids{number}"], arrays[f"counts{number}"] = sketch.bins()
            about.append([sketch.shift, sketch.smallest, sketch.largest])
        head = json.dumps({"key": self.key, "before": self.before, "sketches": about})
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
            tables = {name: _table(arrays[name]) for name in ("shards", "statuses", "drawn", *self._outermost())}
            about = [(int(shift), float(low), float(high)) for shift, low, high in head["sketches"]]
            bins = [(arrays[f"ids{number}"], arrays[f"counts{number}"]) for number in range(len(about))]
            fits = head["key"] == self.key and dict(tables["shards"].schema) == _SHARDS
            before = (int(head["before"][0]), int(head["before"][1]))
        except _DAMAGED:
            return False
        if not fits or len(about) != len(self._sketches()):
            return False
        for sketch, counted, ends in zip(self._sketches(), bins, about, strict=True):
            sketch.merge(counted, *ends)
        self.statuses.update(dict(tables["statuses"].iter_rows()))
        self._shards, self.before = tables["shards"], before
        for name, outermost in self._outermost().items():
            outermost.rows = tables[name]
        self._drawn.put(tables["drawn"])
        return True

    def _distribute(self, table: pl.DataFrame, seen: Seen) -> None:
        """Count the scores."""
        fact, cut = self.deciding.facts, self.deciding.line
        sign = np.float32(1 if fact.higher_is_worse else -1)
        ranked = ~np.isnan(seen.worse)
        bad = sign * table[fact.column].to_numpy()
        kept, dropped = bad[ranked & ~seen.dropped] + np.float32(0), bad[ranked & seen.dropped] + np.float32(0)
        self.kept.add(kept)
        self.dropped.add(dropped)
        if cut is not None:
            less = [int((part.astype(np.float64) < float(sign) * cut).sum()) for part in (kept, dropped)]
            self.before = self.before[0] + less[0], self.before[1] + less[1]
        for column, sketch in self.sketches.items():
            values = table[column].to_numpy()[seen.ok]
            sketch.add(values[np.isfinite(values)])

    def _of_draw(self, which: pl.Expr) -> pl.DataFrame:
        return pl.DataFrame(schema=_IDENTITY) if self._drawn.rows is None else self._drawn.rows.filter(which)

    def _outermost(self) -> dict[str, Outermost]:
        return {"worst": self.worst, "best": self.best, "going": self.going, "staying": self.staying}

    def _sketches(self) -> list[Sketch]:
        return [self.kept, self.dropped, *self.sketches.values()]


def _parquet(table: pl.DataFrame) -> npt.NDArray[Any]:
    target = io.BytesIO()
    table.write_parquet(target)
    return np.frombuffer(target.getvalue(), np.uint8)


def _table(data: npt.NDArray[np.uint8]) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(data.tobytes()))
