"""What a study comes to: a row for each measure and variant, for a terminal, a CSV file or a JSON file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecif.calibration.measure import Estimate
from ecif.effects.intervals import difference, mean
from ecif.effects.study import Cell, Study
from ecif.effects.variants import AS_IS, RANDOM

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of one variant over the seeds, as shares.

    Attributes:
        values: of the seeds, in their order. less_as_is, less_random: paired differences to these variants; None for
            the variant itself.
    """

    measure: str
    variant: str
    pairs: int
    values: tuple[float, ...]
    mean: Estimate
    less_as_is: Estimate | None
    less_random: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; intervals as [value, low, high]."""
        parts = {name: getattr(self, name) for name in ("mean", "less_as_is", "less_random")}
        plain = {name: None if part is None else part.to_json() for name, part in parts.items()}
        facts = {"measure": self.measure, "variant": self.variant, "pairs": self.pairs, "values": list(self.values)}
        return facts | plain


def rows(cells: Sequence[Cell]) -> list[Row]:
    """Rows by measure, then by variant, both in the order in which they come first; all variants have all seeds."""
    by_variant: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.seed):
        by_variant.setdefault(cell.variant, []).append(cell)
    order = list(dict.fromkeys(cell.variant for cell in cells))
    found = []
    for measure in cells[0].measures:
        values = {name: [cell.measures[measure] for cell in by_variant[name]] for name in order}
        for name in order:
            less = [None if name == other else difference(values[name], values[other]) for other in (AS_IS, RANDOM)]
            pairs = by_variant[name][0].pairs
            found.append(Row(measure, name, pairs, tuple(values[name]), mean(values[name]), *less))
    return found


def csv(found: Sequence[Row]) -> bytes:
    """A line for each row; three columns for a number and the ends of its interval."""
    import polars as pl

    lines = []
    for row in found:
        line: dict[str, Any] = {"measure": row.measure, "variant": row.variant, "pairs": row.pairs}
        line["seeds"] = len(row.values)
        for name in ("mean", "less_as_is", "less_random"):
            part: Estimate | None = getattr(row, name)
            for end in ("value", "low", "high"):
                line[f"{name}_{end}"] = None if part is None else getattr(part, end)
        lines.append(line)
    buffer = io.BytesIO()
    pl.DataFrame(lines, infer_schema_length=None).write_csv(buffer)
    return buffer.getvalue()


def tables(found: Sequence[Row]) -> Iterator[Table]:
    """For a terminal: one table for each measure, in per cent."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    for measure in dict.fromkeys(row.measure for row in found):
        table = Table(title=f"{measure}, %", title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column("variant", no_wrap=True)
        for name in ("pairs", "mean", "less as is", "less random subset"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in found:
            if row.measure == measure:
                parts = (_half(row.mean), _shown(row.less_as_is), _shown(row.less_random))
                table.add_row(row.variant, f"{row.pairs:,}", *parts)
        yield table


def remarks(study: Study, cells: Sequence[Cell]) -> Iterator[str]:
    """What a reader has to know beside the numbers."""
    seeds, first = study.request.seeds, cells[0]
    yield (
        f"{seeds} seeds; in each, all variants start from the same weights and take the same {study.steps:,} steps of "
        f"{study.request.recipe.batch_size} pairs; judged by {first.judged_by:,} pairs"
    )
    yield "± is half of a 95 % interval (t) over seeds; differences are paired by seed, * where 0 lies outside"
    yield "the intervals are about seeds, not about another corpus, other scores or another evaluation set"
    if first.seen:
        yield (
            f"{first.seen:,} of the evaluation images are in the validation set of the scores, too: what rests on "
            "influence was measured on what judges it, and its rows are too kind"
        )
    if study.population.left_out:
        yield f"{study.population.left_out:,} scored pairs lack one of the scores and are in no variant"


def _shown(part: Estimate | None) -> str:
    if part is None:
        return ""
    sure = "*" if part.low > 0 or part.high < 0 else " "
    return f"{_half(part, sign='+')}{sure}"


def _half(part: Estimate, sign: str = "") -> str:
    """`12.3 ± 0.4`: an interval of Student's t lies evenly about its middle."""
    return f"{100 * part.value:{sign}z.1f} ± {100 * (part.high - part.value):.1f}"
