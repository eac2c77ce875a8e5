"""The per-row quantity of hook-based libraries: what it is, and that it is not what it is taken for."""

from __future__ import annotations

import torch

from bench.method.hook import hook_gradients
from ecif import contrastive
from ecif.gradients import projected_gradients
from tests.gradients.cases import case


def test_is_input_times_output_gradient_row_by_row() -> None:
    """For the heads: what a backward hook on the projection would multiply."""
    problem = case("vit", "heads", rank=100)
    image, text = problem.towers.heads
    h = [torch.cat([state[side][0] for state in problem.states]) for side in (0, 1)]
    z = [
        (x @ problem.towers.parameters[tower.head]).requires_grad_() for x, tower in zip(h, (image, text), strict=True)
    ]
    u, v = (torch.nn.functional.normalize(x, dim=1) for x in z)
    loss = contrastive.batch_loss(contrastive.logits(u, v, problem.towers.scale))
    c = torch.autograd.grad(loss, z)
    expected = {tower.head: x.unsqueeze(2) * dy.unsqueeze(1) for x, dy, tower in zip(h, c, (image, text), strict=True)}
    rows = [problem.projection.project({name: g[n] for name, g in expected.items()}) for n in range(5)]
    got = hook_gradients(problem.towers, problem.states, problem.projection)
    torch.testing.assert_close(got, torch.stack(rows), rtol=1e-9, atol=1e-9)


def test_sums_to_the_gradient_of_the_batch_but_has_other_rows() -> None:
    problem = case("vit", "last:1")
    got = hook_gradients(problem.towers, problem.states, problem.projection)
    found = projected_gradients(problem.towers, problem.states, problem.projection, ("positive", "removal"))
    torch.testing.assert_close(got.sum(0), found["positive"].sum(0), rtol=1e-9, atol=1e-9)
    for exact in found.values():
        assert (got - exact).norm() > 0.3 * exact.norm()
