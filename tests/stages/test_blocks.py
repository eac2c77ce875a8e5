"""Blocks hold what was put into them, return when nobody looks at them, and are never lent twice."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from ecif.stages.blocks import Blocks, Form, at


@pytest.mark.parametrize(("shape", "dtype"), [((5, 7, 3), torch.uint8), ((3, 5, 5), torch.float32)])
def test_a_block_is_what_another_mapping_of_the_file_sees(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    form = Form(4, shape, dtype, 11)
    blocks = Blocks(form)
    lent = [blocks.lend() for _ in range(3)]
    for number, images, tokens in lent:
        images.copy_(torch.arange(images.numel()).view(images.shape) + number)
        tokens.copy_(torch.arange(tokens.numel()).view(tokens.shape) - number)
    for number, images, _ in lent:
        seen, said = form.views(at(blocks.file, number, form.size))
        assert seen.shape == (4, *shape)
        assert said.shape == (4, 11)
        assert torch.equal(seen, (torch.arange(images.numel()) + number).to(dtype).view(images.shape))
        assert torch.equal(said, torch.arange(44).view(4, 11) - number)
    blocks.close()


def test_a_block_is_free_when_its_last_row_is_gone() -> None:
    blocks = Blocks(Form(2, (4, 4, 3), torch.uint8, 3))
    number, images, tokens = blocks.lend()
    row = images[1]
    del images, tokens
    other, *kept = blocks.lend()
    assert other != number
    del row
    gc.collect()
    again, *rest = blocks.lend()
    assert again == number
    assert len(blocks) == 2
    blocks.close()
    del kept, rest


def test_what_is_lent_outlives_the_file() -> None:
    blocks = Blocks(Form(1, (2, 2, 3), torch.uint8, 2))
    _, images, _ = blocks.lend()
    images.fill_(7)
    file = blocks.file
    blocks.close()
    del blocks
    gc.collect()
    assert images.sum() == 7 * images.numel()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
