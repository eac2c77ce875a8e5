"""The pairs that take part in a study of effects, and how bad each score says that they are.

Every variant draws from the same pairs: those that have all of the compared scores. A pair that lacks one is in none of
them, so that variants differ by what their score drops and by nothing else. Of a large corpus whole shards are drawn
until they hold enough, and of these the pairs, both by hashes of their names: the same pairs wherever it is run. The
trade-off: what holds of the drawn pairs may not hold of other shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif import detectors
from ecif.calibration.learned import Model
from ecif.errors import UsageError
from ecif.policy.rule import Rule
from ecif.scores import IDENTITY, read_table
from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class Population:
    """N pairs in the order of their shards' names and of their places in them.

    Attributes:
        pairs: `IDENTITY` of each.
        worse: by detector, (N,) float32, the smaller the worse, as in `policy.rule.View`.
        left_out: scored pairs of the same shards that lack one of the scores.
    """

    pairs: pl.DataFrame
    worse: Mapping[str, npt.NDArray[np.float32]]
    left_out: int

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def shards(self) -> list[str]:
        """Names of the shards, in order."""
        return self.pairs["shard"].unique(maintain_order=True).to_list()

    @property
    def digest(self) -> str:
        """Stands for which pairs they are."""
        names = self.pairs.select("shard", "index").iter_rows()
        return hashlib.sha256("\n".join(f"{index} {shard}" for shard, index in names).encode()).hexdigest()


def draw(
    storage: Storage, tables: Mapping[str, str], names: Sequence[str], model: Model | None, most: int
) -> Population:
    """The pairs that have all of the scores `names`, at most `most` of them.

    Args:
        tables: shard name -> URL of its score table. model: of the learned detector, where that is among the names.

    Raises:
        UsageError: there is no such score, or no pair has all of them.
        InputError: a table cannot be read, or a row marked ok has no finite score.
    """
    rules = {name: _rule(name, model) for name in names}
    columns = tuple(dict.fromkeys((*IDENTITY, *(column for rule in rules.values() for column in rule.columns))))
    chosen: dict[str, pl.DataFrame] = {}
    count = left_out = 0
    for shard in sorted(tables, key=_hash):
        if count >= most:
            break
        table = read_table(storage, tables[shard], columns)
        found, lacking = _scored(table, rules, tables[shard])
        chosen[shard] = found
        count, left_out = count + len(found), left_out + lacking
    if not count:
        raise UsageError(f"no pair has all of the scores {', '.join(names)}; run score first")
    pairs = pl.concat([chosen[shard] for shard in sorted(chosen)])
    if count > most:
        rank = pl.Series([_hash(f"{shard}/{index}") for shard, index in pairs.select("shard", "index").iter_rows()])
        pairs = pairs[np.sort(rank.arg_sort().to_numpy()[:most])]
    worse = {name: pairs[_column(name)].to_numpy() for name in names}
    return Population(pairs.select(IDENTITY), worse, left_out)


def _rule(name: str, model: Model | None) -> Rule:
    facts = detectors.facts(name)
    return Rule(name, facts.higher_is_worse, model=model if name == detectors.LEARNED else None)


def _scored(table: pl.DataFrame, rules: Mapping[str, Rule], url: str) -> tuple[pl.DataFrame, int]:
    """Pairs with all scores, in the order of the shard, with the scores; and how many scored pairs lack one."""
    worse = {}
    everywhere = ok = (table["status"] == "ok").fill_null(False).to_numpy()
    for name, rule in rules.items():
        view = rule.view(table, url)
        values = np.full(len(table), np.nan, np.float32)
        values[view.rows] = view.worse
        worse[name] = values
        everywhere = everywhere & np.isfinite(values)
    found = table.select(IDENTITY).with_columns(pl.Series(_column(name), values) for name, values in worse.items())
    return found.filter(pl.Series(everywhere)).sort("index"), int(ok.sum() - everywhere.sum())


def _column(name: str) -> str:
    return f"worse:{name}"


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"effects {text}".encode("utf-8", "surrogatepass")).digest()
