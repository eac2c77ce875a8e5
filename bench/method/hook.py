"""What libraries of per-sample gradients give for a contrastive loss: the batch's loss along one sample's path.

They multiply, for each row of the batch, a layer's input by the gradient of the loss at its output. For a loss that
acts on each sample alone that is the gradient of the sample's loss. L_batch couples the samples, and then it is

    g_i = J_i^T dL_batch / d(u_i, v_i),    J_i = d(u_i, v_i) / d theta

which holds terms of all other samples' losses and misses what sample i does to the embeddings of the others. It is
neither grad Pos_i nor what the removal of i changes; only the sum over i is the same as that of grad Pos_i. Here to be
compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecif import contrastive
from ecif.gradients import States
from ecif.logra import Projection
from ecif.towers import Towers


def hook_gradients(towers: Towers, states: States, projection: Projection) -> Tensor:
    """Projected per-row gradients of L_batch, (B, K); the logit scale, which no row owns, has zeros."""
    with torch.no_grad():
        pairs = [towers.embed(towers.parameters, image, text) for image, text in states]
    u_BD, v_BD = (torch.cat([pair[side] for pair in pairs]).requires_grad_() for side in (0, 1))
    loss = contrastive.batch_loss(contrastive.logits(u_BD, v_BD, towers.scale))
    c_u_BD, c_v_BD = torch.autograd.grad(loss, (u_BD, v_BD))
    rows: list[Tensor] = []
    for image, text in states:
        for i in range(len(image[0])):
            one, n = slice(i, i + 1), slice(len(rows), len(rows) + 1)
            states_of_one = tuple(part[one] for part in image), tuple(part[one] for part in text)
            (gradient,) = towers.pull_back(*states_of_one, [(c_u_BD[n], c_v_BD[n])])
            rows.append(projection.project(gradient))
    return torch.stack(rows)
