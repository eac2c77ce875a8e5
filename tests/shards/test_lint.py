"""Every kind of damage is found, with its place; a good shard has no finding."""

from __future__ import annotations

import io
import json
from pathlib import Path

import PIL.Image
import polars as pl
import pytest

from ecif.shards.lint import MOST_OF_A_KIND, Finding, lint, lint_shard
from ecif.shards.tar import Limits
from ecif.sources import Expansion, Found
from ecif.storage import Storage
from tests.shards.tars import Entry, pack


def picture() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    return buffer.getvalue()


IMAGE = picture()


def good(key: str) -> list[Entry]:
    return [Entry(f"{key}.jpg", IMAGE), Entry(f"{key}.txt", b"a red square"), Entry(f"{key}.json", b"{}")]


def look(folder: Path, data: bytes, caption: str = "txt", **sidecars: bytes) -> list[Finding]:
    """Findings of one shard with the sidecars `parquet` and `stats`."""
    tar = folder / "00000.tar"
    tar.write_bytes(data)
    there = {}
    for kind, content in sidecars.items():
        there[kind] = str(folder / ("00000.parquet" if kind == "parquet" else "00000_stats.json"))
        Path(there[kind]).write_bytes(content)
    return lint_shard(str(tar), there.get("parquet"), there.get("stats"), Storage(), Limits(), caption)


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def table(*keys: str) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"key": list(keys), "status": ["success"] * len(keys)}).write_parquet(buffer)
    return buffer.getvalue()


def stats(count: int, successes: int) -> bytes:
    return json.dumps({"count": count, "successes": successes}).encode()


@pytest.mark.parametrize("dialect", ["ustar", "gnu"])
def test_a_good_shard_has_no_finding(tmp_path: Path, dialect: str) -> None:
    data = pack([*good("000"), *good("001")], dialect)
    assert look(tmp_path, data, parquet=table("000", "001"), stats=stats(2, 2)) == []


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([Entry("a.txt", b"x")], "no_image"),
        ([Entry("a.jpg"), Entry("a.txt", b"x")], "empty_image"),
        ([Entry("a.jpg", b"<html>"), Entry("a.txt", b"x")], "undecodable_image"),
        ([Entry("a.jpg", b"II*\0abc"), Entry("a.txt", b"x")], "unsupported_image"),
        ([Entry("a.jpg", IMAGE)], "no_caption"),
        ([Entry("a.jpg", IMAGE), Entry("a.txt", b" ")], "no_caption"),
        ([Entry("a.jpg", IMAGE), Entry("a.txt", b"\xe9t\xe9")], "non_utf8_caption"),
        ([Entry("a.jpg", IMAGE), Entry("a.txt", b"x"), Entry("a.JPG", IMAGE)], "duplicate_member"),
    ],
)
def test_samples_that_cannot_be_used(tmp_path: Path, members: list[Entry], expected: str) -> None:
    findings = look(tmp_path, pack([*good("000"), *members]))
    assert codes(findings) == [expected]
    assert findings[0].severity == "error"
    before = sum(512 + -(-len(entry.data) // 512) * 512 for entry in good("000"))
    assert (findings[0].member, findings[0].offset) == (members[0].name, before)


def test_a_json_caption_that_is_missing(tmp_path: Path) -> None:
    assert codes(look(tmp_path, pack(good("000")), "json:caption")) == ["no_caption"]


def test_interleaved_members_and_repeated_keys_are_told_apart(tmp_path: Path) -> None:
    interleaved = [Entry("a.jpg", IMAGE), Entry("b.txt", b"x"), Entry("a.txt", b"x"), Entry("b.jpg", IMAGE)]
    assert codes(look(tmp_path, pack(interleaved))) == ["no_caption", "no_image", "interleaved", "interleaved"]
    assert codes(look(tmp_path, pack([*good("a"), *good("b"), *good("a")]))) == ["duplicate_key"]


def test_damage_has_a_place(tmp_path: Path) -> None:
    data = bytearray(pack([*good("000"), *good("001")]))
    cut = look(tmp_path, bytes(data[:3000]))
    assert codes(cut) == ["bad_tar"]
    assert cut[0].offset is not None
    data[2000:2600] = b"\xff" * 600
    assert codes(look(tmp_path, bytes(data))) == ["bad_tar"]
    assert codes(look(tmp_path, b"no tar at all" * 100)) == ["bad_tar"]
    assert codes(look(tmp_path, b"")) == ["bad_tar"]


def test_a_shard_without_samples(tmp_path: Path) -> None:
    assert codes(look(tmp_path, pack([Entry("README", b"x")]))) == ["no_samples"]


def test_pax_headers_are_one_warning(tmp_path: Path) -> None:
    findings = look(tmp_path, pack([*good("ü" * 90), *good("ö" * 90)], "pax"))
    assert codes(findings) == ["pax_headers"]
    assert findings[0].severity == "warning"
    assert findings[0].detail.startswith("6 ")
    assert findings[0].offset == 0


def test_the_end_of_the_tar(tmp_path: Path) -> None:
    data = pack(good("000"))
    body = data[: len(data.rstrip(b"\0")) // 512 * 512 + 512]
    assert codes(look(tmp_path, body)) == ["no_end_blocks"]
    assert codes(look(tmp_path, body + bytes(512))) == ["no_end_blocks"]
    assert codes(look(tmp_path, body + bytes(1024))) == []
    garbage = look(tmp_path, data + b"\0\0garbage")
    assert codes(garbage) == ["trailing_garbage"]
    assert garbage[0].offset == len(data) + 2
    joined = look(tmp_path, data + pack(good("001")))
    assert codes(joined) == ["members_after_end"]
    assert (joined[0].severity, joined[0].offset) == ("error", len(data))
    assert codes(look(tmp_path, data + bytes(2 << 20))) == ["long_padding"]
    far = look(tmp_path, data + bytes(3 << 20) + pack(good("001")))
    assert (codes(far), far[0].offset) == (["members_after_end"], len(data) + (3 << 20))


def test_sidecars_that_disagree(tmp_path: Path) -> None:
    data = pack([*good("000"), *good("001")])
    assert codes(look(tmp_path, data, parquet=table("000"))) == ["parquet_keys"]
    assert codes(look(tmp_path, data, parquet=table("000", "001", "002"))) == ["parquet_keys"]
    assert codes(look(tmp_path, data, stats=stats(2, 1))) == ["stats_successes"]
    wrong = look(tmp_path, data, parquet=table("000", "001"), stats=stats(3, 2))
    assert codes(wrong) == ["stats_count"]
    assert wrong[0].url.endswith("00000_stats.json")
    broken = look(tmp_path, data, parquet=b"PAR1", stats=b"{")
    assert codes(broken) == ["bad_parquet", "bad_stats"]


def test_a_finding_in_one_line() -> None:
    finding = Finding("error", "no_image", "s3://b/0.tar", "a.txt", 512, "'a': nothing")
    assert str(finding) == "error: s3://b/0.tar, member 'a.txt', offset 512: no_image: 'a': nothing"
    assert str(Finding("warning", "x", "u", None, None, "d")) == "warning: u: x: d"


def test_many_findings_of_a_kind_are_counted(tmp_path: Path) -> None:
    findings = look(tmp_path, pack([Entry(f"{i:04d}.txt", b"x") for i in range(250)]))
    assert codes(findings) == ["no_image"] * (MOST_OF_A_KIND + 1)
    assert findings[-1].detail == "and 150 more of this kind"


def test_a_missing_file_is_a_finding(tmp_path: Path) -> None:
    findings = lint_shard(str(tmp_path / "x.tar"), None, None, Storage(), Limits(), "txt")
    assert codes(findings) == ["missing_file"]


def expansion(folder: Path, *names: str, missing: tuple[str, ...] = ()) -> Expansion:
    for name in names:
        (folder / f"{name}.tar").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tar").write_bytes(pack(good("000")))
    shards = tuple(Found(name, str(folder / f"{name}.tar")) for name in names)
    return Expansion(shards, tuple(str(folder / f"{name}.tar") for name in missing))


def test_gaps_in_the_numbering_are_warnings(tmp_path: Path) -> None:
    found = lint(expansion(tmp_path, "00000", "00001", "00005", "b/07", "b/08", "x-1"), Storage(), "txt")
    assert [(f.severity, f.code, f.detail) for f in found.findings] == [
        ("warning", "numbering_gap", "3 shards are missing between 00001 and 00005")
    ]
    assert (found.shards, found.samples, found.errors) == (6, 6, 0)


def test_gaps_of_a_range_are_named_once(tmp_path: Path) -> None:
    found = lint(expansion(tmp_path, "00000", "00003", missing=("00001", "00002")), Storage(), "txt")
    assert codes(list(found.findings)) == ["missing_shard", "missing_shard"]


def test_the_result_for_machines(tmp_path: Path) -> None:
    shards = expansion(tmp_path, "00000", "00001")
    (tmp_path / "00001.tar").write_bytes(b"broken")
    (tmp_path / "00000_stats.json").write_bytes(stats(9, 1))
    (tmp_path / "00000.parquet").write_bytes(table("000"))
    found = json.loads(json.dumps(lint(shards, Storage(), "txt").to_json()))
    assert found["errors"] == 2
    assert found["counts"] == {"bad_tar": 1, "stats_count": 1}
    assert found["findings"][1] == {
        "severity": "error",
        "code": "bad_tar",
        "url": str(tmp_path / "00001.tar"),
        "member": None,
        "offset": 0,
        "detail": "not a tar file: shorter than one header",
    }
