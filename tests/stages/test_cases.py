"""Test pairs: their losses and gradients against autograd, their competitors, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ecif import contrastive
from ecif.errors import InputError, UsageError
from ecif.shards.decode import Pair
from ecif.stages import cases
from ecif.stages.cases import Case
from ecif.stages.engine import Engine
from ecif.stages.reading import read_pairs
from ecif.storage import Storage
from tests.stages.test_fit import COLOURS, prepare, write_tar
from tests.stages.test_fit import corpus as corpus  # the fixture

CANDIDATES = [f"a {colour} thing" for colour in COLOURS]


def square(colour: str) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(target, "PNG")
    return target.getvalue()


def logits(engine: Engine, images: list[bytes], texts: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Trainable values and the logits as a differentiable function of them."""
    towers = engine.towers
    pairs = (Pair("", "", n, image, "") for n, image in enumerate(images))
    pixels = torch.cat([chunk.images for chunk in engine.chunks(pairs, [])])
    values = {name: p.clone().requires_grad_() for name, p in towers.parameters.items()}
    u, v = towers.embed(values, towers.image_stem(pixels), towers.text_stem(texts))
    scale = values["logit_scale"].exp() if "logit_scale" in values else towers.scale
    return values, contrastive.logits(u, v, scale)


def compare(asked: cases.Asked, loss: Tensor, values: dict[str, Tensor]) -> None:
    expected = torch.autograd.grad(loss, list(values.values()), allow_unused=True)
    assert asked.loss == pytest.approx(loss.item(), rel=1e-12)
    assert list(asked.gradient) == list(values)
    for (name, got), want in zip(asked.gradient.items(), expected, strict=True):
        torch.testing.assert_close(
            got, torch.zeros_like(got) if want is None else want, rtol=1e-9, atol=1e-12, msg=name
        )
    norm = torch.cat([part.flatten() for part in asked.gradient.values()]).norm()
    assert asked.gradient_norm == pytest.approx(norm.item())


@pytest.mark.parametrize("trainable", ["heads", "all"])
def test_the_loss_among_candidates_is_a_cross_entropy(corpus: Path, trainable: str) -> None:
    """Also with more candidates than a micro-batch, and with captions that only one of the cases brings along."""
    _, engine = prepare(corpus, trainable=trainable, micro_batch=3)
    given = [Case("a", square("red"), "a red thing"), Case("b", square("navy"), "dark blue", "a pink thing")]
    asked = cases.among_candidates(engine, given, CANDIDATES)
    for one, texts in zip(asked, (CANDIDATES, [*CANDIDATES, "dark blue"]), strict=True):
        values, s = logits(engine, [one.case.image], texts)
        target = torch.tensor([texts.index(one.case.caption)])
        compare(one, torch.nn.functional.cross_entropy(s, target), values)
        order = s[0].argsort(descending=True).tolist()
        assert (one.rank, one.among) == (1 + order.index(int(target)), len(texts))
        assert one.answer == texts[order[0]]


def test_a_mistake_alone_is_one_other_candidate(corpus: Path) -> None:
    _, engine = prepare(corpus)
    (asked,) = cases.among_candidates(engine, [Case("a", square("red"), "a red thing", "a blue thing")], [])
    values, s = logits(engine, [square("red")], ["a red thing", "a blue thing"])
    compare(asked, torch.nn.functional.cross_entropy(s, torch.tensor([0])), values)
    assert asked.among == 2
    with pytest.raises(UsageError, match="one candidate is no choice"):
        cases.among_candidates(engine, [Case("a", square("red"), "a red thing")], ["a red thing"])


@pytest.mark.parametrize("trainable", ["heads", "all"])
def test_the_loss_among_validation_pairs_is_half_of_pos(corpus: Path, trainable: str) -> None:
    """Pairs with the case's caption or image do not compete with it; all cases see the same others."""
    run, engine = prepare(corpus, trainable=trainable, batch_size=64, micro_batch=5)
    others = [
        pair
        for pair in read_pairs(str(corpus / "validation.tar"), "", run.storage, "txt", engine.limits)
        if isinstance(pair, Pair)
    ]
    given = [Case("a", square("red"), "a red thing"), Case("b", others[3].image, "something new")]
    for one in cases.among_validation(run, engine, given):
        kept = [p for p in others if p.caption != one.case.caption and p.image != one.case.image]
        assert len(kept) == (14 if one.case.name == "a" else 15)
        texts = [*(pair.caption for pair in kept), one.case.caption]
        values, s = logits(engine, [*(pair.image for pair in kept), one.case.image], texts)
        compare(one, contrastive.positive(s)[-1] / 2, values)
        row = s[-1].tolist()
        better = {text for text, value in zip(texts, row, strict=True) if value > row[-1]}
        assert (one.rank, one.among) == (1 + len(better), len(set(texts)))
    # One place of a batch of 8 is the case's.
    small, engine = prepare(corpus, batch_size=8, out=str(corpus / "small"))
    (asked,) = cases.among_validation(small, engine, [Case("a", square("red"), "something new")])
    assert asked.among <= 8


def test_without_a_competitor_there_is_no_loss(corpus: Path) -> None:
    write_tar(corpus / "one.tar", 1)
    run, engine = prepare(corpus, validation=(str(corpus / "one.tar"),))
    with pytest.raises(UsageError, match="--candidates"):
        cases.among_validation(run, engine, [Case("a", square("blue"), "a red thing")])


def test_files_become_cases(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(square("red"))
    path, storage = str(tmp_path / "a.png"), Storage()
    assert cases.from_files([path], ["red"], [], storage) == [Case("a.png", square("red"), "red")]
    assert cases.from_files([path], ["blue"], ["red"], storage) == [Case("a.png", square("red"), "red", "blue")]
    for images, texts, expected, message in (
        ([path], [], [], "1 --image, 0 --text"),
        ([path, path], ["a", "b"], ["c"], "1 --expected"),
        ([path], ["  "], [], "--text: the caption is empty"),
        ([path], ["red"], [" "], "--expected: the caption is empty"),
        ([path], ["red"], ["red"], "same caption"),
    ):
        with pytest.raises(UsageError, match=message):
            cases.from_files(images, texts, expected, storage)
    with pytest.raises(InputError, match=r"gone\.png"):
        cases.from_files([str(tmp_path / "gone.png")], ["red"], [], storage)


def test_a_tar_becomes_cases(corpus: Path) -> None:
    run, engine = prepare(corpus)
    write_tar(corpus / "test.tar", 3)
    found, refused = cases.from_tar(str(corpus / "test.tar"), run, engine)
    assert [case.caption for case in found] == ["a red thing", "a green thing", "a blue thing"]
    assert refused == []


def test_candidates_are_lines(tmp_path: Path) -> None:
    file, storage = tmp_path / "candidates.txt", Storage()
    file.write_bytes("\ufeffa cat\r\n\n  a dog \na cat\n".encode())
    assert cases.read_candidates(str(file), storage) == ["a cat", "a dog"]
    for data, message in ((b"\n \n", "holds no caption"), (b"\xff\xfe", "not UTF-8")):
        file.write_bytes(data)
        with pytest.raises(InputError, match=message):
            cases.read_candidates(str(file), storage)


def test_an_image_that_is_none_is_named(corpus: Path) -> None:
    _, engine = prepare(corpus)
    with pytest.raises(InputError, match=r"note\.png: cannot be used as a test image"):
        cases.among_candidates(engine, [Case("note.png", b"a note", "a red thing")], CANDIDATES)
