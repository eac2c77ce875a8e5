"""Canaries of a shard: planted when its pairs are embedded, scored batch by batch beside them, a table of their own.

Nothing of it touches the scores of the pairs: it reads what these are made from, and adds up its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ecif import canaries, detectors
from ecif.canaries.captions import Canary, Shard, plant
from ecif.canaries.terms import Captions, Planted, always
from ecif.canaries.views import with_canary
from ecif.detectors.views import BatchView
from ecif.influence import Embedded, finite_rows
from ecif.shards.decode import OK
from ecif.stages.column_rows import Rows
from ecif.stages.embedding import EmbeddedShard, embed_captions
from ecif.stages.engine import Engine
from ecif.stages.transfer import numbers_on
from ecif.stages.wanted import Wanted


def schema(wanted: Wanted) -> dict[str, type[pl.DataType]]:
    """Columns of a canary table: the host, the kind of mistake, then every score, as in the score files."""
    scores = (*detectors.NAMES, "influence_se")
    names = (*scores, *(name for name in wanted.names if name not in scores))
    return {"shard": pl.String, "index": pl.UInt32, "kind": pl.String, **dict.fromkeys(names, pl.Float32)}


@dataclass(slots=True)
class Canaries:
    """The canaries of one shard; their scores are added up on the way.

    Attributes:
        rows: of the shard. planted: C of them. of_row: number of the canary that a row hosts, -1 for none, (N,).
        directions: those of `rows` that columns ask for by name, numbered. batch: all pairs of the shard along these.
        captions: of the canaries; their hosts are rows of the shard. others: (C, D) by each further embedder.
        influences_KC: of each segmentation, NaN where there is none. sums: by column, (C,). Both on the device.
    """

    rows: Rows
    planted: list[Canary]
    of_row: np.ndarray
    directions: dict[str, int]
    batch: Embedded
    captions: Captions
    others: list[Tensor]
    influences_KC: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def plant(cls, name: str, engine: Engine, found: EmbeddedShard, rows: Rows, share: float) -> Canaries:
        """Choose hosts and captions, and embed those captions that no pair of the shard has.

        Args:
            name: of the shard, of which `found` and `rows` are.
        """
        numbers: dict[bytes, int] = {}
        images = [numbers.setdefault(digest, len(numbers)) for digest in found.digests]
        usable = finite_rows(rows.embedded).cpu().numpy()
        keys = [pair.key for pair in found.pairs]
        shard = Shard(name, keys, np.array(found.captions), found.texts, np.array(images), usable)
        planted = plant(shard, rows.embedded.u_BD, rows.settings.seed, share)
        of_row = np.full(len(keys), -1)
        of_row[[canary.host for canary in planted]] = range(len(planted))
        named = {name: n for n, name in enumerate(rows.sources.directions) if "/" not in name}  # the others are probes
        batch = replace(
            rows.embedded,
            du_RBD=rows.embedded.du_RBD[list(named.values())],
            dv_RBD=rows.embedded.dv_RBD[list(named.values())],
            dscale_R=tuple(rows.embedded.dscale_R[number] for number in named.values()),
        )
        directions = {name: place for place, name in enumerate(named)}
        captions, others = _embed(engine, found, rows, batch, planted, list(named))
        shape = rows.settings.segmentations, len(planted)
        influences_KC = torch.full(shape, np.nan, dtype=torch.float64, device=batch.u_BD.device)
        return cls(rows, planted, of_row, directions, batch, captions, others, influences_KC)

    def add(self, k: int, picked: np.ndarray, picked_B: Tensor, view: BatchView) -> None:
        """Score the canaries whose hosts are in a batch of segmentation k.

        Args:
            picked: rows of the batch. picked_B: the same on the device. view: of them.
        """
        places = np.flatnonzero(self.of_row[picked] >= 0)
        if not len(places):
            return
        numbers, device = self.of_row[picked[places]], self.batch.u_BD.device
        batch, numbers_C = self.batch.take(picked_B), numbers_on(device, numbers)
        captions = self._captions(numbers_C, numbers_on(device, places))
        terms = view.terms("influence")
        values = always(terms, Planted.of(batch, terms, captions))
        values |= self._by_detectors(numbers, picked_B, places, view, batch)
        for name, part in values.items():
            part_C = part.double()
            total = self.sums.setdefault(name, torch.full_like(self.influences_KC[0], np.nan))
            total[numbers_C] = part_C if k == 0 else total[numbers_C] + part_C
        roles = [values[name].double() for name in ("positive_influence", "negative_influence")]
        self.influences_KC[k, numbers_C] = roles[0] + roles[1]

    def frame(self, name: str, places: Sequence[int], statuses: Sequence[str]) -> pl.DataFrame:
        """The table, after all batches: canaries whose host was scored, in the order of the tar.

        Args:
            name: of the shard. places: of its pairs in the tar. statuses: of these.
        """
        settings, wanted = self.rows.settings, self.rows.sources.wanted
        scores = {column: total.cpu().numpy() / settings.segmentations for column, total in self.sums.items()}
        scored = np.array([row for row, status in enumerate(statuses) if status == OK], np.int64)
        kept = np.array([n for n, canary in enumerate(self.planted) if statuses[canary.host] == OK], np.int64)
        if len(kept):
            scores["influence"] = scores["positive_influence"] + scores["negative_influence"]
            if settings.segmentations > 1:
                scores["influence_se"] = self.influences_KC.cpu().numpy().std(0, ddof=1) / settings.segmentations**0.5
            finite = np.isfinite(np.float32(np.stack([scores[column] for column in detectors.NAMES]))).all(0)
            kept = kept[finite[kept]]
        if len(kept):
            scores |= self._by_shard(scored, kept)
        data: dict[str, object] = {
            "shard": [name] * len(kept),
            "index": [places[self.planted[number].host] for number in kept],
            "kind": [self.planted[number].kind for number in kept],
        }
        columns = schema(wanted)
        for column in list(columns)[len(data) :]:
            found = scores[column][kept] if column in scores else np.full(len(kept), np.nan)
            data[column] = pl.Series(np.where(np.isfinite(found), found, np.nan), dtype=pl.Float32, nan_to_null=True)
        return pl.DataFrame(data, schema=columns)

    def _captions(self, which: Tensor, hosts_C: Tensor) -> Captions:
        all_ = self.captions
        return Captions(hosts_C, all_.v_CD[which], all_.dv_RCD[:, which], all_.captions_C[which])

    def _by_detectors(
        self, numbers: np.ndarray, rows: Tensor, places: np.ndarray, view: BatchView, batch: Embedded
    ) -> dict[str, Tensor]:
        """The columns without a closed form, each canary in a batch of its own."""
        names = [name for name in self.rows.sources.wanted.batch if name not in detectors.NAMES and canaries.has(name)]
        computes = {name: detectors.load(name) for name in names}
        if not computes:
            return {}
        device = batch.u_BD.device
        others = [
            replace(batch, u_BD=u_ND[rows], v_BD=v_ND[rows], scale=scale)
            for (u_ND, v_ND), scale in zip(self.rows.others, self.rows.sources.scales, strict=True)
        ]
        found: dict[str, list[Tensor]] = {name: [] for name in computes}
        for number, place in zip(numbers, places, strict=True):
            captions = self._captions(numbers_on(device, number[None]), numbers_on(device, place[None]))
            elsewhere = [(other, v_CD[number][None]) for other, v_CD in zip(others, self.others, strict=True)]
            changed = with_canary(view, batch, captions, self.directions, elsewhere)
            for name, compute in computes.items():
                found[name].append(compute(changed)[place])
        return {name: torch.stack(values) for name, values in found.items()}

    def _by_shard(self, scored: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        """The columns that look at the whole shard, with all of its canaries in place at once."""
        wanted = [name for name in self.rows.sources.wanted.shard if canaries.has(name)]
        if not wanted:
            return {}
        view = self.rows.shard(scored)
        hosts = [self.planted[number].host for number in kept]
        v_ND, place = view.v_ND.clone(), np.searchsorted(scored, hosts)
        v_ND[place] = self.captions.v_CD[torch.from_numpy(kept)]
        found = {}
        for name in wanted:
            column = np.full(len(self.planted), np.nan)
            column[kept] = detectors.load(name)(replace(view, v_ND=v_ND)).double().cpu().numpy()[place]
            found[name] = column
        return found


def _embed(
    engine: Engine, found: EmbeddedShard, rows: Rows, batch: Embedded, planted: list[Canary], directions: list[str]
) -> tuple[Captions, list[Tensor]]:
    """Embeddings of the canaries' captions: of the pairs that have them, or by a pass through the text tower."""
    device = batch.u_BD.device
    numbers = {text: number for number, text in enumerate(found.texts)}
    equal = torch.tensor([numbers.setdefault(canary.caption, len(numbers)) for canary in planted], device=device)
    sources = torch.tensor([max(canary.source, 0) for canary in planted], dtype=torch.int64, device=device)
    hosts = torch.tensor([canary.host for canary in planted], dtype=torch.int64, device=device)
    v_CD, dv_RCD, others = batch.v_BD[sources], batch.dv_RBD[:, sources], [v_ND[sources] for _, v_ND in rows.others]
    if made := [number for number, canary in enumerate(planted) if canary.source < 0]:
        along = [rows.sources.directions[name] for name in directions]
        new = embed_captions(engine, [planted[number].caption for number in made], along, rows.sources.embedders)
        v_CD[made], dv_RCD[:, made] = new.v_CD, new.dv_RCD
        for other, part in zip(others, new.others, strict=True):
            other[made] = part
    return Captions(hosts, v_CD, dv_RCD, equal), others
