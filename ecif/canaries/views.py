"""One canary as a detector sees its batch: the view of the batch with column n of everything replaced.

The columns that have no closed form here are computed by the detectors themselves, on the whole changed batch, of which
one number is taken: O(B^2) for each canary and column, where `terms` needs O(B D) for five of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ecif import contrastive
from ecif.canaries.terms import Captions, logits
from ecif.detectors.views import BatchView, Change, Checkpoint
from ecif.influence import Embedded


def with_canary(
    view: BatchView,
    batch: Embedded,
    captions: Captions,
    directions: Mapping[str, int],
    others: Sequence[tuple[Embedded, Tensor]] = (),
) -> BatchView:
    """The view with one canary in the place of its host.

    Args:
        batch: the embeddings that `view` is made of. captions: of the one canary, C = 1.
        directions: number of each direction of `view.changes` in `batch`.
        others: for the logits after a step, if the view has them, then for those of its checkpoints: the batch under
            these weights (of no derivative there) and v', (1, D).
    """
    host = captions.hosts_C  # of length one, not a number: a device need not be asked for it
    numbers_B = view.captions_B.index_copy(0, host, captions.captions_C)
    changes = {name: _change(view.changes[name], batch, captions, number, host) for name, number in directions.items()}
    stepped = [] if view.stepped_BB is None else [view.stepped_BB]
    seen = [
        _logits(s_BB, other, replace(captions, v_CD=v_CD))
        for s_BB, (other, v_CD) in zip((*stepped, *(point.s_BB for point in view.checkpoints)), others, strict=True)
    ]
    return replace(
        view,
        s_BB=_logits(view.s_BB, batch, captions),
        captions_B=numbers_B,
        changes=changes,
        stepped_BB=seen.pop(0) if stepped else None,
        checkpoints=tuple(Checkpoint(s_BB, point.scale) for s_BB, point in zip(seen, view.checkpoints, strict=True)),
    )


def _logits(s_BB: Tensor, batch: Embedded, captions: Captions) -> Tensor:
    columns_CB, rows_CB = logits(batch, s_BB, captions)
    host = captions.hosts_C
    return s_BB.index_copy(0, host, rows_CB).index_copy_(1, host, columns_CB.T)


def _change(change: Change, batch: Embedded, captions: Captions, number: int, host: Tensor) -> Change:
    def put(x_BB: Tensor, columns_CB: Tensor) -> Tensor:
        return x_BB.index_copy(1, host, columns_CB.T)

    image_BB = put(change.image_BB, contrastive.logits(captions.v_CD, batch.du_RBD[number], batch.scale))
    text_BB = put(change.text_BB, contrastive.logits(captions.dv_RCD[number], batch.u_BD, batch.scale))
    scale_BB = change.scale_BB
    if isinstance(scale_BB, Tensor):
        scale_BB = put(scale_BB, contrastive.logits(captions.v_CD, batch.u_BD, batch.dscale_R[number]))
    return Change(image_BB, text_BB, scale_BB, image_BB + text_BB + scale_BB)
