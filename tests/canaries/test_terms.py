"""Closed forms against the definition: v' put in the place of v_n, and the whole batch computed again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ecif import contrastive
from ecif.canaries.terms import Captions, Planted, always
from ecif.canaries.views import with_canary
from ecif.detectors import load
from ecif.detectors.views import BatchView, Change, Checkpoint
from ecif.influence import BatchTerms, Embedded, NegativeRole, negative_influence, positive_influence

ROLES: tuple[NegativeRole, ...] = ("exact", "first-order")


def batch(b: int, seed: int, scale: float = 20.0, captions: Tensor | None = None, directions: int = 1) -> Embedded:
    """A random batch, its logit scale trained, too."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.nn.functional.normalize(torch.randn(b, 6, generator=generator).double(), dim=1) for _ in range(2))
    du, dv = (torch.randn(directions, b, 6, generator=generator).double() for _ in range(2))
    return Embedded(u, v, du, dv, scale, tuple(0.7 - n for n in range(directions)), captions)


def wrong(hosts: list[int], seed: int, numbers: list[int] | None = None, directions: int = 1) -> Captions:
    """Random captions for these hosts, with these numbers."""
    generator = torch.Generator().manual_seed(1000 + seed)
    v = torch.nn.functional.normalize(torch.randn(len(hosts), 6, generator=generator).double(), dim=1)
    dv = torch.randn(directions, len(hosts), 6, generator=generator).double()
    return Captions(torch.tensor(hosts), v, dv, torch.tensor(numbers or [-1 - host for host in hosts]))


def changed(whole: Embedded, captions: Captions, number: int) -> tuple[Embedded, int]:
    """The batch with one canary in it, and its position."""
    n = int(captions.hosts_C[number])
    v, dv = whole.v_BD.clone(), whole.dv_RBD.clone()
    v[n], dv[:, n] = captions.v_CD[number], captions.dv_RCD[:, number]
    numbers = None
    if whole.captions_B is not None:
        numbers = whole.captions_B.clone()
        numbers[n] = captions.captions_C[number]
    return replace(whole, v_BD=v, dv_RBD=dv, captions_B=numbers), n


def by_definition(whole: Embedded, captions: Captions, role: NegativeRole) -> dict[str, Tensor]:
    """Each canary in a batch of its own, by the functions that score pairs."""
    found: dict[str, list[Tensor]] = {}
    for number in range(len(captions.hosts_C)):
        one, n = changed(whole, captions, number)
        terms = BatchTerms.of(one, role)
        values = {
            "clip_score": one.u_BD[n] @ one.v_BD[n],
            "neg_clip_loss": -contrastive.positive(terms.s_BB)[n] / (2 * one.scale),
            "positive_influence": positive_influence(terms)[n],
            "negative_influence": negative_influence(terms)[n],
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in found.items()}


def closed(whole: Embedded, captions: Captions, role: NegativeRole) -> dict[str, Tensor]:
    terms = BatchTerms.of(whole, role)
    return always(terms, Planted.of(whole, terms, captions))


@given(data=st.data(), seed=st.integers(0, 10**6), b=st.integers(1, 8), role=st.sampled_from(ROLES))
@settings(max_examples=80, deadline=None)
def test_every_column_is_that_of_the_batch_with_the_canary_in_it(
    data: st.DataObject, seed: int, b: int, role: NegativeRole
) -> None:
    """To 1e-10, with any captions equal to each other and to the canary's, masked or not."""
    hosts = data.draw(st.permutations(range(b)))[: data.draw(st.integers(1, b))]
    few = st.integers(0, 3)
    equal = data.draw(st.none() | st.lists(few, min_size=b, max_size=b))
    numbers = data.draw(st.lists(few, min_size=len(hosts), max_size=len(hosts)))
    scale = data.draw(st.sampled_from([1.0, 20.0, 100.0]))
    whole = batch(b, seed, scale, None if equal is None else torch.tensor(equal))
    captions = wrong(hosts, seed, numbers)
    expected = by_definition(whole, captions, role)
    for name, values in closed(whole, captions, role).items():
        torch.testing.assert_close(values, expected[name], rtol=1e-10, atol=1e-10 * scale, msg=lambda text: name + text)  # noqa: B023


def test_masks_decide_which_entries_change() -> None:
    """The old caption's equals come into the softmaxes, the new one's leave them: other numbers than without masks."""
    equal = torch.tensor([0, 0, 1, 1, 2, 3])
    whole, captions = batch(6, 3, 1.0, equal), wrong([0, 4], 3, [1, 3])
    masked = closed(whole, captions, "exact")
    free = closed(replace(whole, captions_B=None), captions, "exact")
    assert ((masked["neg_clip_loss"] - free["neg_clip_loss"]).abs() > 1e-6).all()
    assert torch.equal(masked["clip_score"], free["clip_score"])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", ["near", "owned", "owns", "same", "masked"])
def test_float32_keeps_its_digits_where_one_entry_owns_its_row(case: str, role: NegativeRole) -> None:
    """s = 100: captions that differ by 1e-3, a host's caption or a canary that owns rows of others, the same again."""
    whole = batch(12, 5, 100.0)
    u, v = whole.u_BD.clone(), whole.v_BD.clone()
    v = torch.nn.functional.normalize(u + 0.1 * v, dim=1)
    captions = wrong([2, 7, 9], 5)
    new = captions.v_CD.clone()
    if case == "near":
        v = torch.nn.functional.normalize(v[:1] + 1e-3 * v, dim=1)
        new = torch.nn.functional.normalize(v[[2, 7, 9]] + 1e-3 * new, dim=1)
    elif case == "owned":
        u[[0, 1, 3]] = torch.nn.functional.normalize(v[[2, 7, 9]] + 0.01 * u[[0, 1, 3]], dim=1)
        v[[0, 1, 3]] = -u[[0, 1, 3]]
    elif case == "owns":
        new = torch.nn.functional.normalize(u.sum(0, keepdim=True) + 0.1 * new, dim=1)
        v = -u
    elif case == "same":
        new = v[[2, 7, 9]].clone()
    numbers = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 6]) if case == "masked" else None
    whole = replace(whole, u_BD=u, v_BD=v, captions_B=numbers)
    captions = replace(captions, v_CD=new, captions_C=torch.tensor([3, 1, 6]))
    single = replace(whole, u_BD=u.float(), v_BD=v.float(), du_RBD=whole.du_RBD.float(), dv_RBD=whole.dv_RBD.float())
    # In double precision, but from the same rounded numbers.
    exact = replace(
        whole,
        u_BD=single.u_BD.double(),
        v_BD=single.v_BD.double(),
        du_RBD=single.du_RBD.double(),
        dv_RBD=single.dv_RBD.double(),
    )
    narrow = replace(captions, v_CD=new.float(), dv_RCD=captions.dv_RCD.float())
    wide = replace(captions, v_CD=narrow.v_CD.double(), dv_RCD=narrow.dv_RCD.double())
    expected = by_definition(exact, wide, role)
    largest = float(BatchTerms.of(exact, role).ds_BB.abs().max())
    for name, values in closed(single, narrow, role).items():
        assert values.dtype == torch.float32
        error = (values.double() - expected[name]).abs().max()
        assert error <= (2e-4 * largest if name.endswith("influence") else 2e-6), (name, float(error))


def view_of(whole: Embedded, role: NegativeRole, others: list[Embedded]) -> BatchView:
    numbers = torch.arange(len(whole.u_BD)) if whole.captions_B is None else whole.captions_B
    names = ("influence", "gradient", "trak")
    changes = {name: Change.of(whole, number) for number, name in enumerate(names)}
    seen = [Checkpoint(other.logits, other.scale) for other in others]
    return BatchView(
        whole.logits, whole.scale, role, numbers, changes, stepped_BB=seen[0].s_BB, checkpoints=tuple(seen[1:])
    )


COLUMNS = ("clip_logit", "aum", "average_similarity", "tracin", "trak", "vif", "forward_inf", "influence")


@pytest.mark.parametrize("masked", [False, True])
def test_detectors_see_the_batch_with_the_canary_in_it(masked: bool) -> None:
    """Every column of one batch, from all that they look at: directions, a step, two checkpoints."""
    numbers = torch.tensor([0, 0, 1, 1, 2, 3, 4]) if masked else None
    whole = batch(7, 1, captions=numbers, directions=3)
    others = [batch(7, 10 + n, 15.0 + n, numbers, 3) for n in range(3)]
    captions = wrong([0, 5], 1, [1, 0] if masked else None, 3)
    seen = [wrong([0, 5], 20 + n).v_CD for n in range(3)]
    view = view_of(whole, "exact", others)
    directions = {"influence": 0, "gradient": 1, "trak": 2}
    for number in range(2):
        only = slice(number, number + 1)
        one = Captions(captions.hosts_C[only], captions.v_CD[only], captions.dv_RCD[:, only], captions.captions_C[only])
        found = with_canary(
            view, whole, one, directions, [(other, v[number][None]) for other, v in zip(others, seen, strict=True)]
        )
        expected, n = changed(whole, captions, number)
        elsewhere = [
            changed(other, replace(captions, v_CD=v), number)[0] for other, v in zip(others, seen, strict=True)
        ]
        want = view_of(expected, "exact", elsewhere)
        if not masked:
            want = replace(want, captions_B=found.captions_B)
        for name in COLUMNS:
            torch.testing.assert_close(load(name)(found)[n], load(name)(want)[n], rtol=1e-11, atol=1e-11)
            assert not torch.isclose(load(name)(found)[n], load(name)(view)[n]), name
    assert torch.equal(view.s_BB, whole.logits)  # it is left as it was
