"""The profile measures what scoring does, leaves nothing behind, and says what limits it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecif.cli import run
from ecif.errors import InputError
from ecif.stages.profile import STAGES, limit, profile
from tests.shards.tars import Entry, pack
from tests.stages.test_fit import corpus as corpus  # the fixture
from tests.stages.test_fit import settings


def options(root: Path, *more: str) -> list[str]:
    model = root / "model"
    given = ("--model", str(model / "model.json"), "--pretrained", str(model / "weights.safetensors"))
    return [str(root / "raw"), *given, "--batch-size", "8", "--device", "cpu", *more]


def test_every_stage_is_measured_and_nothing_is_left(corpus: Path) -> None:
    out = corpus / "out"
    chosen = settings(corpus, workers=2, trainable="last:1")
    found = profile([str(corpus / "raw")], chosen, chosen.storage(), 30)
    assert [stage.name for stage in found.stages] == list(STAGES)
    assert sum(stage.share for stage in found.stages) == pytest.approx(1)
    assert all(stage.seconds > 0 and stage.rate > 0 for stage in found.stages if stage.name != "tangent")
    assert found.pairs + found.refused == 30
    assert found.together > 0
    assert found.side == found.model_side == 16
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_the_command_prints_a_table_or_a_document(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "profile", *options(corpus, "--pairs", "20", "--json")]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in value["stages"]] == list(STAGES)
    assert run(["bench", "profile", *options(corpus, "--pairs", "20")]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*STAGES, value["limit"].partition(":")[0]))
    assert run(["bench", "profile", *options(corpus, "--dry-run")]) == 0
    assert run(["bench", "profile", *options(corpus, "--pairs", "0")]) == 2


def test_samples_of_which_none_can_be_scored_are_an_error(corpus: Path, tmp_path: Path) -> None:
    tar = tmp_path / "none" / "00000.tar"
    tar.parent.mkdir()
    tar.write_bytes(pack([Entry("k.jpg", b"no picture"), Entry("k.txt", b"c")]))
    chosen = settings(corpus)
    with pytest.raises(InputError, match="none of the first 5"):
        profile([str(tar)], chosen, chosen.storage(), 5)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ({"decode": 9.0}, "decoding"),
        ({"read": 9.0}, "reading"),
        ({"tokenise": 9.0}, "tokenising"),
        ({"forward": 9.0}, "the device, most of it in forward"),
        ({"tangent": 9.0}, "the device, most of it in tangent"),
    ],
)
def test_the_slowest_part_is_named(seconds: dict[str, float], said: str) -> None:
    spent = dict.fromkeys(STAGES, 0.1) | seconds
    pool = spent["decode"] + spent["tokenise"]
    assert limit(spent, pool, processes=0, cpu=False).startswith(said)
    in_processes = limit(spent, pool, processes=2, cpu=False)
    assert in_processes.startswith("decoding" if said == "tokenising" else said)
    on_cpu = limit(spent, pool, processes=0, cpu=True)
    assert on_cpu.endswith(max(seconds))
