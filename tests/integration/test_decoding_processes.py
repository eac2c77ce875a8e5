"""Processes that decode: the same rows and scores as threads for whatever a tar holds, and none left by any end."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from open_clip.transform import Compose, PreprocessCfg, image_transform_v2

from ecif.shards.decode import Pair, Refused
from ecif.stages.engine import Engine
from ecif.stages.reading import read_pairs
from ecif.storage import Storage
from ecif.towers import Towers
from tests.shards.tars import Entry, pack
from tests.stages.test_engine import engine
from tests.stages.test_engine import files as files  # the fixture
from tests.stages.test_fit import corpus as corpus  # the fixture
from tests.stages.test_upcoming import frames

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def picture(width: int, height: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    waves = np.add.outer(np.arange(height) * 3, np.arange(width) * 5) % 256
    buffer = io.BytesIO()
    PIL.Image.fromarray(waves.astype(np.uint8)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """Good pictures of all formats and sizes, between all that makes a sample refused."""
    images = [
        ("jpg", picture(200, 140)), ("jpg", picture(17, 90)), ("png", picture(40, 40, "PNG", "P")),
        ("webp", picture(33, 64, "WEBP")), ("gif", picture(20, 20, "GIF")), ("jpg", picture(60, 60)[:300]),
        ("jpg", b""), ("jpg", b"no picture"), ("png", picture(1, 64, "PNG")), ("jpg", picture(2000, 1500)),
        ("jpg", picture(120, 120, "JPEG", "CMYK")), ("jpg", picture(64, 64, "JPEG", "L")),
    ]  # fmt: skip
    captions = [b"a dog", b"", b"\xff\xfe", "zwei H\u00e4user".encode(), b"x" * 300, b"a cat"]
    entries = []
    for number in range(120):
        extension, data = images[number % len(images)]
        entries += [Entry(f"{number:03d}.{extension}", data), Entry(f"{number:03d}.txt", captions[number % 7 % 6])]
    path = tmp_path / "all.tar"
    path.write_bytes(pack(entries))
    return path


def rows(of: Engine, tar: Path) -> tuple[list[Pair], list[bytes], torch.Tensor, torch.Tensor, list[Refused]]:
    limits = replace(of.limits, pixels=1_000_000)
    refused: list[Refused] = []
    chunks = list(replace(of, limits=limits).chunks(read_pairs(str(tar), "all", Storage(), "txt", limits), refused))
    pairs = [pair for chunk in chunks for pair in chunk.pairs]
    digests = [digest for chunk in chunks for digest in chunk.digests]
    return pairs, digests, torch.cat([c.images for c in chunks]), torch.cat([c.tokens for c in chunks]), refused


@pytest.mark.parametrize("variant", ["bytes", "draft", "numbers"])
def test_rows_are_the_same_to_the_last_bit(files: tuple[str, str], tar: Path, variant: str) -> None:
    of = engine(files, decode="draft" if variant == "draft" else "full", micro_batch=13, workers=0)
    if variant == "numbers":  # a transform that cannot be cut
        cut = image_transform_v2(PreprocessCfg(size=16), is_train=False)
        assert isinstance(cut, Compose)
        whole = Compose([Compose(cut.transforms)])
        of = replace(of, towers=Towers(replace(of.towers.loaded, transform=whole), "heads", torch.device("cpu")))
    wanted = rows(of, tar)
    assert wanted[2].dtype == (torch.float32 if variant == "numbers" else torch.uint8)
    assert len({one.status for one in wanted[4]}) >= 4
    for count in (1, 2):
        found = rows(replace(of, processes=count), tar)
        assert found[0] == wanted[0]
        assert found[1] == wanted[1]
        assert torch.equal(found[2], wanted[2])
        assert torch.equal(found[3], wanted[3])
        assert found[4] == wanted[4]


def test_scores_are_the_same_to_the_last_bit(corpus: Path, tmp_path: Path) -> None:
    wanted = frames(corpus, tmp_path / "0", ahead=True, workers=2)
    for count in (1, 2):
        for one, other in zip(wanted, frames(corpus, tmp_path / str(count), ahead=True, processes=count), strict=True):
            assert one.equals(other)


PROGRAM = """
import itertools, sys
from tests.stages.test_engine import engine, samples
of = engine(tuple(sys.argv[1:]), processes=2, micro_batch=16)
for chunk in of.chunks(itertools.cycle(samples(20)), []):
    print(of._processes._program.pid, flush=True)
"""  # without a guard: it must not run again in the processes that decode


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_none_is_left_however_the_process_ends(files: tuple[str, str], tmp_path: Path, how: signal.Signals) -> None:
    program = tmp_path / "unguarded.py"
    program.write_text(PROGRAM, "utf-8")
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(program), *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )
    assert process.stdout is not None
    group = int(process.stdout.readline())
    assert len(members(group)) == 3
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -how
    assert ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
    end = time.monotonic() + 60
    while members(group) and time.monotonic() < end:
        time.sleep(0.05)
    assert members(group) == []


def members(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text("utf-8").rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found
