"""Single validation pairs in the projected space: what the column `harm` holds every pair of the corpus against.

The rows are H^-1 g_j with g_j the projected gradient of Pos_j / 2 of validation pair j in its batch, averaged over the
segmentations of the validation loss; their mean is the projected direction itself. They are made once and written
beside the scores, for all workers alike.
"""

from __future__ import annotations

import torch
from safetensors.torch import load, save
from torch import Tensor

from ecif.errors import UsageError
from ecif.gradients import Role, States, projected_gradients
from ecif.logra import Projection
from ecif.run import Run
from ecif.stages import averaged
from ecif.stages.batches import with_states
from ecif.stages.engine import Engine
from ecif.stages.fitted import Fit
from ecif.stages.spool import Spool
from ecif.stages.validation import spooled


def validation_rows(run: Run, engine: Engine, fit: Fit, projection: Projection) -> Tensor:
    """H^-1 g_j of every validation pair, (V, K) float32, on the device of the towers.

    Raises:
        UsageError: the validation loss is not the contrastive one, so single pairs have no such gradient.
    """
    if run.settings.objective != "contrastive":
        raise UsageError("--columns harm: needs --objective contrastive")
    url = run.layout.harm(run.score_key)
    if not run.storage.exists(url):
        with spooled(run.validation, run.settings.caption, run.storage, engine) as samples:
            gradients_VK = _gradients(run, engine, samples, projection)
        # As many solutions at once as a batch has pairs.
        solved = [
            fit.curvature.solve(part.double().to(engine.towers.device)).float().cpu()
            for part in gradients_VK.split(run.settings.batch_size)
        ]
        # Another worker may have been first, with other last digits: its file stands.
        run.storage.publish_first(url, save({"rows": torch.cat(solved)}))
    return load(run.storage.read_bytes(url))["rows"].to(engine.towers.device)


def _gradients(run: Run, engine: Engine, samples: Spool, projection: Projection) -> Tensor:
    """g_j of the pairs that have one, (V, K) on the CPU, in the order of the tars."""
    sums_VK = torch.zeros(len(samples), projection.size, dtype=engine.towers.dtype)
    counts_V = torch.zeros(len(samples), dtype=torch.int64)
    for batch in averaged.batches(engine, samples, run.settings):
        captions_B = batch.competing(run.settings)

        def compute(states: States, captions_B: Tensor | None = captions_B) -> dict[Role, Tensor]:
            return projected_gradients(engine.towers, states, projection, ("positive",), captions_B=captions_B)

        found = with_states(engine, batch.states, compute)
        sums_VK[batch.rows] += found["positive"].cpu() / 2
        counts_V[batch.rows] += 1
    has_loss_V = counts_V > 0
    return sums_VK[has_loss_V] / counts_V[has_loss_V].unsqueeze(1)
