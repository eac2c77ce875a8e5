"""What answers in another process, run in a thread: rows in a block, errors as answers, and an end with the socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from ecif.shards.decode import Refused
from ecif.shards.limits import Limits
from ecif.stages.blocks import Blocks, Form
from ecif.stages.preparing import Preparation
from ecif.stages.serving import serve
from tests.stages.test_engine import samples


def take(image: Any) -> torch.Tensor:
    return torch.full((2, 2, 3), image.width, dtype=torch.uint8)


def tokenize(captions: list[str]) -> torch.Tensor:
    return torch.tensor([[len(caption), 1] for caption in captions])


class Odd(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@contextmanager
def served(preparation: Preparation, blocks: Blocks) -> Iterator[Connection]:
    here, there = Pipe()
    thread = threading.Thread(target=serve, args=(there, preparation, blocks.form, blocks.file))
    thread.start()
    yield here
    here.close()
    thread.join(10)
    assert not thread.is_alive()
    blocks.close()


def test_rows_lie_in_the_block_and_what_is_refused_is_said() -> None:
    preparation = Preparation(take, tokenize, Limits())
    blocks = Blocks(Form(16, (2, 2, 3), torch.uint8, 2))
    given = [sample for sample in samples(12) if not isinstance(sample, Refused)]
    with served(preparation, blocks) as connection:
        for _ in range(2):  # the second time the block is known already
            number, images, tokens = blocks.lend()
            connection.send((number, given))
            answer = connection.recv()
            wanted = preparation.prepare(given)
            good = [row for row in wanted if not isinstance(row, Refused)]
            assert answer == [row if isinstance(row, Refused) else row.digest for row in wanted]
            assert 0 < len(good) < len(given)
            assert torch.equal(images[: len(good)], torch.stack([row.image for row in good]))
            assert torch.equal(tokens[: len(good)], torch.stack([row.tokens for row in good]))


@pytest.mark.parametrize(("error", "kind"), [(KeyError("a"), KeyError), (Odd(1, 2), RuntimeError)])
def test_an_error_is_an_answer_and_not_an_end(error: Exception, kind: type[Exception]) -> None:
    def broken(captions: list[str]) -> torch.Tensor:
        raise error

    blocks = Blocks(Form(16, (2, 2, 3), torch.uint8, 2))
    with served(Preparation(take, broken, Limits()), blocks) as connection:
        for _ in range(2):
            connection.send((blocks.lend()[0], samples(1)))
            answer = connection.recv()
            assert type(answer) is kind
            assert str(error) in str(answer)
