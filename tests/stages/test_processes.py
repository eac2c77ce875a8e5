"""Processes that decode give what threads give, to the last bit, and fail and end as threads would."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from ecif.cores import cores
from ecif.errors import UsageError
from ecif.settings import DeviceSettings
from ecif.shards.decode import Pair, Refused
from ecif.stages.engine import TASK, Engine
from ecif.stages.processes import LEAST_CORES, SPARED, processes_for
from ecif.towers.pixels import split
from tests.stages.test_engine import engine, samples
from tests.stages.test_engine import files as files  # the fixture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def two(files: tuple[str, str]) -> Engine:
    return engine(files, processes=2, micro_batch=10)


def copies(of: Engine) -> list[int]:
    """Process ids of those that decode: what the program that was started has started."""
    program = of._processes._program
    assert program is not None
    pid = program.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + 20
    while alive := [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists()]:
        # One that has ended and waits for its parent has no command line any more.
        if not any(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in alive):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_micro_batches_are_those_of_threads(files: tuple[str, str], two: Engine) -> None:
    given = samples(200)
    for _ in range(2):
        refused: list[list[Refused]] = [[], []]
        ours = list(two.chunks(iter(given), refused[0]))
        theirs = list(engine(files, workers=2, micro_batch=10).chunks(iter(given), refused[1]))
        assert refused[0] == refused[1] != []
        for one, other in zip(ours, theirs, strict=True):
            assert one.pairs == other.pairs
            assert one.digests == other.digests
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.tokens, other.tokens)
    assert len(copies(two)) == 2


def test_blocks_are_those_on_their_way(two: Engine) -> None:
    pair = next(sample for sample in samples(1) if isinstance(sample, Pair))
    for _ in two.chunks((replace(pair, index=number) for number in range(1500)), []):
        pass
    # As many lists as the feed lets through, those of one micro-batch, and one in the caller's hands.
    assert len(two._processes._form()) <= two.processes + 2 * -(-two.micro_batch // TASK) + 3


def test_samples_that_were_refused_before_ask_no_process(two: Engine) -> None:
    refused = [Refused(str(number), "k", number, "no_caption", "none") for number in range(3)]
    assert two.prepare(refused) == refused


def test_an_error_of_the_source_comes_at_its_place(two: Engine) -> None:
    def source() -> Iterator[Pair | Refused]:
        yield from samples(40)
        raise OSError("cut")

    with two.begin(source()) as begun:
        taken = [next(iter(begun)), next(iter(begun))]
        with pytest.raises(OSError, match="cut"):
            next(iter(begun))
    assert [len(task) for task in taken] == [TASK, TASK]


def test_one_that_is_killed_is_an_error_and_another_takes_its_place(two: Engine) -> None:
    given = samples(60)
    list(two.chunks(iter(given), []))
    before = copies(two)
    assert len(before) == 2
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert gone(before)
    with pytest.raises(ChildProcessError, match=r"has ended at the samples '000' to '015'.*--processes"):
        list(two.chunks(iter(given), []))
    found: list[Refused] = []
    while True:  # the other one that was killed may be found out only now
        try:
            pairs = [pair for chunk in two.chunks(iter(given), found) for pair in chunk.pairs]
            break
        except ChildProcessError:
            found.clear()
    assert len(pairs) + len(found) == len(given)
    assert set(copies(two)).isdisjoint(before)


def test_they_end_with_the_engine(files: tuple[str, str]) -> None:
    of = engine(files, processes=1)
    list(of.chunks(iter(samples(3)), []))
    program = of._processes._program
    assert program is not None
    process, control = program._process, program._control
    pids = copies(of)
    del of, program
    gc.collect()
    assert process.returncode == -signal.SIGKILL
    assert control.fileno() == -1
    assert gone(pids)


def test_a_tokenizer_that_cannot_be_sent_is_told(files: tuple[str, str]) -> None:
    of = engine(files, processes=1)
    towers = of.towers
    own = replace(towers.loaded, tokenize=lambda captions: torch.zeros(len(captions), 8, dtype=torch.int64))
    towers.loaded = own
    with pytest.raises(UsageError, match="--processes 0 decodes in threads"):
        replace(of, towers=towers).prepare(samples(1))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_transforms_of_open_clip_can_be_sent(mode: str) -> None:
    halves = split(image_transform_v2(PreprocessCfg(size=16, resize_mode=mode), is_train=False), CPU)
    assert halves is not None
    picture = PIL.Image.linear_gradient("L").convert("RGB")
    assert torch.equal(pickle.loads(pickle.dumps(halves.take))(picture), halves.take(picture))


def test_threads_beside_a_cpu_and_processes_beside_a_gpu() -> None:
    cuda = torch.device("cuda")
    share = cores() // max(1, torch.cuda.device_count())
    assert processes_for(DeviceSettings(), CPU) == 0
    assert processes_for(DeviceSettings(), cuda) == (share - SPARED if share >= LEAST_CORES else 0)
    assert processes_for(DeviceSettings(workers=3), cuda) == 0
    assert processes_for(DeviceSettings(workers=3, processes=2), cuda) == 2
    assert processes_for(DeviceSettings(processes=4), CPU) == 4
