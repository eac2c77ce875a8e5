"""What people get wrong, and what tars of the web hold: a clear error naming the file, or a counted status.

Everything goes through the command line, stage by stage, as a user would run it.
"""

from __future__ import annotations

import copy
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ecif.cli import run
from ecif.errors import EXIT_CHECK_FAILED, EXIT_OK, EXIT_REFUSED, EXIT_SHARDS_FAILED
from tests.stages.test_fit import write_tar
from tests.tiny import CONFIG, write_model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tar(tmp_path / "raw" / "00000.tar", 24)
    write_tar(tmp_path / "raw" / "00001.tar", 24, 100)
    write_tar(tmp_path / "validation.tar", 16, 1000)
    write_model(tmp_path / "model")
    return tmp_path


def command(stage: str, root: Path, sources: list[str], **options: str) -> list[str]:
    values = {
        "model": str(root / "model" / "model.json"),
        "pretrained": str(root / "model" / "weights.safetensors"),
        "validation": str(root / "validation.tar"),
        "out": str(root / "out"),
        "batch-size": "8",
        "segmentations": "2",
        "device": "cpu",
    } | options
    return [stage, *sources, *(part for name, value in values.items() for part in (f"--{name}", value))]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The error line of a command that has to be refused."""
    assert run(arguments) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error:")]
    return line


def nothing_written(root: Path) -> bool:
    return not (root / "out").exists() or not list((root / "out").glob("*.tar"))


def test_sources_that_name_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = str(root / "raw")
    for source, named in (
        (f"{raw}/00009.tar", "00009.tar"),
        (f"{raw}/nothing-*.tar", "nothing-*.tar"),
        (f"{raw}/{{00007..00009}}.tar", "00007"),
        (f"{root}/empty", "empty"),
    ):
        (root / "empty").mkdir(exist_ok=True)
        assert named in refused(capsys, command("fit", root, [source]))
    assert nothing_written(root)


@pytest.mark.parametrize("source", ["pipe:cat /etc/passwd", "simplecache::s3://bucket/raw/0.tar", "zip://x.tar::y.zip"])
def test_urls_that_run_programs_or_chain_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    line = refused(capsys, command("fit", root, [source]))
    assert source.split(":")[0] in line


def test_a_gap_in_a_brace_range_is_counted_and_the_rest_is_used(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [str(root / "raw" / "{00000..00003}.tar")]
    assert run([*command("fit", root, sources)]) == EXIT_OK
    assert "00002.tar" in capsys.readouterr().err
    assert run([*command("score", root, sources), "--json"]) == EXIT_OK
    captured = capsys.readouterr()
    assert json.loads(captured.out)["samples"] == 48
    assert "missing" in captured.err


def test_output_that_cannot_be_written_or_lies_in_the_input(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "file").write_text("not a directory")
    sources = [str(root / "raw" / "00000.tar")]
    assert str(root / "file") in refused(capsys, command("fit", root, sources, out=str(root / "file" / "out")))
    assert "raw" in refused(capsys, command("fit", root, sources, out=str(root / "raw")))
    assert "raw" in refused(capsys, command("fit", root, sources, out=str(root / "raw" / "clean")))
    assert sorted(path.name for path in (root / "raw").iterdir()) == ["00000.tar", "00001.tar"]


def test_models_that_do_not_fit_or_have_another_loss(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [str(root / "raw" / "00000.tar")]
    other = copy.deepcopy(CONFIG) | {"embed_dim": 12}
    model, weights = write_model(root / "other", other)
    line = refused(capsys, command("fit", root, sources, pretrained=str(weights)))
    assert str(weights) in line
    assert "do not fit" in line
    sigmoid = copy.deepcopy(CONFIG) | {"init_logit_bias": -10.0}
    model, weights = write_model(root / "sigmoid", sigmoid)
    line = refused(capsys, command("fit", root, sources, model=str(model), pretrained=str(weights)))
    assert "SigLIP" in line
    assert nothing_written(root)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("drop", "1.5", "--drop"),
        ("trainable", "last:0", "--trainable"),
        ("batch-size", "1", "--batch-size"),
        ("damping", "-1", "--damping"),
        ("caption", "xml", "--caption"),
        ("device", "cuda:99", "--device"),
    ],
)
def test_wrong_settings_are_named(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, value: str, named: str
) -> None:
    stage = "clean" if name == "drop" else "fit"
    assert named in refused(capsys, command(stage, root, [str(root / "raw" / "00000.tar")], **{name: value}))


def test_files_that_are_no_tars_are_set_aside_by_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (root / "raw" / "00000.tar").read_bytes()
    (root / "raw" / "00002.tar").write_bytes(good[: len(good) // 2 + 100])  # truncated
    (root / "raw" / "00003.tar").write_bytes(b"<html>404</html>" * 100)  # not a tar
    (root / "raw" / "00004.tar").write_bytes(b"")  # zero bytes
    write_tar(root / "raw" / "00005.tar", 0)  # a tar without samples
    sources = [str(root / "raw")]
    assert run(command("fit", root, sources)) == EXIT_OK
    capsys.readouterr()
    assert run([*command("score", root, sources), "--json"]) == EXIT_SHARDS_FAILED
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert sorted(failure["shard"] for failure in answer["failed"]) == ["00002", "00003", "00004"]
    for failure in answer["failed"]:
        assert failure["shard"] + ".tar" in failure["reason"]
    assert answer["samples"] == 48
    scored = {path.stem for path in (root / "out" / "_ecif" / "scores").rglob("0*.parquet")}
    assert scored == {"00000", "00001", "00005"}
    assert run(["lint", *sources]) == EXIT_CHECK_FAILED


def sample(tar: tarfile.TarFile, key: str, **members: bytes) -> None:
    for extension, data in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def test_samples_that_cannot_be_scored_are_counted_and_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(root / "raw" / "00000.tar") as source:
        good = source.extractfile("000000001.png").read()  # type: ignore[union-attr]
    with tarfile.open(root / "raw" / "00002.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        sample(tar, "no-image", txt=b"a caption")
        sample(tar, "empty-image", png=b"", txt=b"a caption")
        sample(tar, "broken-image", png=good[:60], txt=b"a caption")
        sample(tar, "other-image", png=b"BM" + bytes(100), txt=b"a caption")
        sample(tar, "no-caption", png=good)
        sample(tar, "blank-caption", png=good, txt=b" \n")
        sample(tar, "latin-caption", png=good, txt="\u00e9t\u00e9".encode("latin-1"))
        sample(tar, "twice", png=good, txt=b"first")
        sample(tar, "between", png=good, txt=b"a caption")
        sample(tar, "twice", png=good, txt=b"second")
    sources = [str(root / "raw")]
    assert run(command("fit", root, sources)) == EXIT_OK
    assert run(command("score", root, sources)) == EXIT_OK
    (table,) = (root / "out" / "_ecif" / "scores").rglob("00002.parquet")
    frame = pl.read_parquet(table)
    assert dict(zip(frame["key"], frame["status"], strict=True)) | {"twice": ""} == {
        "no-image": "no_image",
        "empty-image": "empty_image",
        "broken-image": "undecodable_image",
        "other-image": "unsupported_image",
        "no-caption": "no_caption",
        "blank-caption": "no_caption",
        "latin-caption": "non_utf8_caption",
        "between": "ok",
        "twice": "",
    }
    assert frame.filter(pl.col("key") == "twice")["status"].to_list() == ["ok", "duplicate_key"]
    assert run(["plan", str(root / "out"), "--drop", "0.5"]) == EXIT_OK
    assert run(["apply", str(root / "out")]) == EXIT_OK
    assert run(["report", str(root / "out")]) == EXIT_OK
    capsys.readouterr()
    assert run(["verify", str(root / "out"), "--json"]) == EXIT_OK
    proof: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (proof["samples"], proof["dropped"]) == (58, 25)  # floor(0.5 x 50 scored); the 8 unscored stay
    names = tarfile.open(root / "out" / "00002.tar").getnames()  # noqa: SIM115
    assert {"no-image.txt", "empty-image.png", "broken-image.png", "latin-caption.txt"} <= set(names)


def test_a_validation_set_that_overlaps_the_corpus_is_said_and_counted(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [str(root / "raw")]
    options = {"validation": str(root / "raw" / "00001.tar")}
    assert run(command("fit", root, sources, **options)) == EXIT_OK
    capsys.readouterr()
    assert run([*command("score", root, sources, **options), "--json"]) == EXIT_OK
    captured = capsys.readouterr()
    assert json.loads(captured.out)["overlap"] == 24
    assert "validation" in captured.err


def test_a_second_decision_is_planned_but_not_applied(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources, out = [str(root / "raw")], str(root / "out")
    for arguments in (command("fit", root, sources), command("score", root, sources), ["plan", out, "--drop", "0.25"]):
        assert run(arguments) == EXIT_OK
    assert run(["apply", out]) == EXIT_OK
    capsys.readouterr()
    assert run(["plan", out, "--drop", "0.5", "--json"]) == EXIT_OK
    captured = capsys.readouterr()
    assert "holds the decision" in captured.err
    other = json.loads(captured.out)["key"]
    assert other in refused(capsys, ["apply", out, "--decision", other])
    assert run(["verify", out]) == EXIT_OK
