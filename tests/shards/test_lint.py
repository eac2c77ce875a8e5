"""Every kind of damage is found, with its place; a good shard has no finding."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import PIL.Image
import polars as pl
import pytest

from ecif.shards.lint import Finding, Lint, lint, repeats
from ecif.shards.lint.shard import MOST_OF_A_KIND, lint_shard
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
    return shard(tar, there.get("parquet"), there.get("stats"), caption)


def shard(tar: Path, parquet: str | None = None, stats: str | None = None, caption: str = "txt") -> list[Finding]:
    return lint_shard(Found("00000", str(tar)), parquet, stats, Storage(), Limits(), caption).findings()


def look_at_all(expansion: Expansion, equal_images: int = 0) -> tuple[Lint, list[Finding]]:
    """Counts and findings of a corpus; without equal images unless asked for, since all images here are the same."""
    findings: list[Finding] = []
    found = lint(expansion, Storage(), "txt", findings.append, equal_images=equal_images)
    return found, findings


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
    assert findings[0].detail.startswith("a PAX header (6 in this tar)")
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
    assert codes(shard(tmp_path / "x.tar")) == ["missing_file"]


def expansion(folder: Path, *names: str, missing: tuple[str, ...] = ()) -> Expansion:
    for name in names:
        (folder / f"{name}.tar").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tar").write_bytes(pack(good("000")))
    shards = tuple(Found(name, str(folder / f"{name}.tar")) for name in names)
    return Expansion(shards, tuple(str(folder / f"{name}.tar") for name in missing))


def test_gaps_in_the_numbering_are_warnings(tmp_path: Path) -> None:
    found, findings = look_at_all(expansion(tmp_path, "00000", "00001", "00005", "b/07", "b/08", "x-1"))
    assert [(f.severity, f.code, f.detail) for f in findings] == [
        ("warning", "numbering_gap", "3 shards are missing between 00001 and 00005")
    ]
    assert (found.shards, found.samples, found.errors) == (6, 6, 0)


def test_gaps_of_a_range_are_named_once(tmp_path: Path) -> None:
    _, findings = look_at_all(expansion(tmp_path, "00000", "00003", missing=("00001", "00002")))
    assert codes(findings) == ["missing_shard", "missing_shard"]


def test_the_result_for_machines(tmp_path: Path) -> None:
    shards = expansion(tmp_path, "00000", "00001")
    (tmp_path / "00001.tar").write_bytes(b"broken")
    (tmp_path / "00000_stats.json").write_bytes(stats(9, 1))
    (tmp_path / "00000.parquet").write_bytes(table("000"))
    found, findings = look_at_all(shards)
    assert json.loads(json.dumps(found.to_json())) == {
        "shards": 2,
        "samples": 1,
        "errors": 2,
        "warnings": 0,
        "counts": {"bad_tar": 1, "stats_count": 1},
    }
    assert json.loads(findings[1].to_line()) == {
        "severity": "error",
        "code": "bad_tar",
        "url": str(tmp_path / "00001.tar"),
        "member": None,
        "offset": 0,
        "detail": "not a tar file: shorter than one header",
    }


def test_findings_are_handed_out_while_it_reads(tmp_path: Path) -> None:
    """They need not be held: that of the first shard is there before the second is looked at."""
    shards = expansion(tmp_path, "00000", "00001")
    (tmp_path / "00000.tar").write_bytes(b"broken")

    def remove_the_next(finding: Finding) -> None:
        if finding.url.endswith("00000.tar"):
            (tmp_path / "00001.tar").unlink()

    assert lint(shards, Storage(), "txt", remove_the_next).counts == {"bad_tar": 1, "missing_file": 1}


def test_unusual_members_are_named_with_their_place(tmp_path: Path) -> None:
    kinds = [
        tarfile.DIRTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        b"V",
    ]
    entries = [Entry(f"odd-{n}", type=kind) for n, kind in enumerate(kinds)]
    findings = look(tmp_path, pack([*good("000"), *entries]))
    assert codes(findings) == ["unusual_member"] * 6
    before = sum(512 + -(-len(entry.data) // 512) * 512 for entry in good("000"))
    found = {
        finding.detail.split(" is ")[0]: (finding.severity, finding.member, finding.offset) for finding in findings
    }
    assert found["a directory (2 in this tar)"] == ("warning", "odd-0", before)
    assert found["a symbolic link (1 in this tar)"] == ("warning", "odd-2", before + 1024)
    assert found["a hard link (1 in this tar)"] == ("warning", "odd-3", before + 1536)
    assert found["a character device (1 in this tar)"] == ("warning", "odd-4", before + 2048)
    assert found["a pipe (1 in this tar)"] == ("warning", "odd-5", before + 2560)
    assert found["a member of type b'V' (1 in this tar)"] == ("warning", "odd-6", before + 3072)


def test_a_sparse_member_has_a_place(tmp_path: Path) -> None:
    (finding,) = look(tmp_path, pack([*good("000"), Entry("holes.jpg", type=tarfile.GNUTYPE_SPARSE)]))
    assert (finding.code, finding.member) == ("bad_tar", "holes.jpg")
    assert finding.offset is not None
    assert "sparse" in finding.detail


def test_a_compressed_tar_is_looked_into(tmp_path: Path) -> None:
    findings = look(tmp_path, gzip.compress(pack([*good("000"), Entry("a.jpg", IMAGE)])))
    before = sum(512 + -(-len(entry.data) // 512) * 512 for entry in good("000"))
    assert [(f.code, f.offset) for f in findings] == [("gzip", None), ("no_caption", before)]


def test_keys_that_differ_only_in_case(tmp_path: Path) -> None:
    findings = look(tmp_path, pack([*good("dog"), *good("cat"), *good("Dog"), *good("DOG")]))
    assert [(f.severity, f.code, f.member) for f in findings] == [
        ("warning", "case_only", "Dog.jpg"),
        ("warning", "case_only", "DOG.jpg"),
    ]


def colour(n: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), (n, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def with_uids(*pairs: tuple[str, int, str]) -> bytes:
    """A tar of (key, colour, uid); an empty uid is left out."""
    entries: list[Entry] = []
    for key, n, uid in pairs:
        record = json.dumps({"uid": uid} if uid else {}).encode()
        entries += [Entry(f"{key}.txt", b"x"), Entry(f"{key}.png", colour(n)), Entry(f"{key}.json", record)]
    return pack(entries)


def corpus(folder: Path, *tars: bytes) -> Expansion:
    found = expansion(folder, *(f"{n:05d}" for n in range(len(tars))))
    for n, data in enumerate(tars):
        (folder / f"{n:05d}.tar").write_bytes(data)
    return found


def test_equal_images_under_different_keys(tmp_path: Path) -> None:
    """Inside a shard and across shards, the largest group first, each with the places of some."""
    first = with_uids(("a", 1, ""), ("b", 2, ""), ("c", 1, ""), ("d", 3, ""))
    second = with_uids(("a", 4, ""), ("e", 1, ""), ("f", 3, ""), ("g", 1, ""))
    shards = corpus(tmp_path, first, second)
    result, findings = look_at_all(shards, equal_images=2)
    assert [(f.severity, f.code, f.member) for f in findings] == [
        ("warning", "equal_images", "a.png"),
        ("warning", "equal_images", "d.png"),
    ]
    assert (result.errors, result.warnings) == (0, 2)
    assert (findings[0].url, findings[0].offset) == (shards.shards[0].url, 1024)
    assert findings[0].detail.startswith("4 samples have this very image")
    for finding in findings:  # every place that is named is that of the member
        for url, member, offset in [(finding.url, finding.member, finding.offset), *named(finding.detail)]:
            with tarfile.open(url) as tar:
                assert tar.getmember(str(member)).offset == offset
    assert [f.member for f in look_at_all(shards, equal_images=3)[1]] == ["a.png"]
    assert look_at_all(shards, equal_images=5)[1] == []


def named(detail: str) -> list[tuple[str, str, int]]:
    found = re.findall(r"(\S+\.tar), member '([^']+)', offset (\d+)", detail)
    assert found
    return [(url, member, int(offset)) for url, member, offset in found]


def test_only_the_largest_groups_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_GROUPS", 2)
    pairs = [(f"{n}-{m}", n, "") for n in range(2, 7) for m in range(n)]
    _, findings = look_at_all(corpus(tmp_path, with_uids(*pairs)), equal_images=2)
    assert [f.detail.split(" ")[0] for f in findings] == ["6", "5", "and"]
    assert findings[-1].detail == "and 3 more groups of at most 5 samples each"


def test_a_uid_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    uid = "0123456789abcdef" * 2
    shards = corpus(tmp_path, with_uids(("a", 1, uid), ("b", 2, "u-2")), with_uids(("a", 3, "u-3"), ("c", 4, uid)))
    result, findings = look_at_all(shards)
    assert [(f.severity, f.code, f.url, f.member) for f in findings] == [
        ("error", "duplicate_uid", shards.shards[0].url, "a.png")
    ]
    assert uid in findings[0].detail
    assert named(findings[0].detail) == [(shards.shards[1].url, "c.png", 4096)]
    assert result.errors == 1


def test_a_uid_that_is_another_samples_derived_one_is_an_error(tmp_path: Path) -> None:
    made = hashlib.sha256(b"00000/a").hexdigest()[:32]
    shards = corpus(tmp_path, with_uids(("a", 1, "")), with_uids(("b", 2, made)))
    _, findings = look_at_all(shards)
    assert [(f.severity, f.code, f.url, f.member) for f in findings] == [
        ("error", "derived_uid", shards.shards[0].url, "a.png")
    ]


def test_equal_keys_in_different_shards_are_fine(tmp_path: Path) -> None:
    assert look_at_all(corpus(tmp_path, with_uids(("a", 1, "")), with_uids(("a", 2, ""))))[1] == []


def test_a_repeated_key_is_no_second_error_by_its_derived_uid(tmp_path: Path) -> None:
    shards = corpus(tmp_path, with_uids(("a", 1, ""), ("b", 2, ""), ("a", 3, "")))
    assert codes(look_at_all(shards)[1]) == ["duplicate_key"]


@pytest.mark.parametrize("name", ["uid", "SAMPLE_ID"])
def test_uids_of_the_table_that_are_others(tmp_path: Path, name: str) -> None:
    data = with_uids(("a", 1, "u-1"), ("b", 2, "u-2"), ("c", 3, ""))
    buffer = io.BytesIO()
    pl.DataFrame({"key": ["a", "b", "c"], name: ["u-1", "u-9", "u-3"]}).write_parquet(buffer)
    (finding,) = look(tmp_path, data, parquet=buffer.getvalue())
    assert (finding.severity, finding.code, finding.member) == ("error", "parquet_uids", "b.png")
    assert "'u-9'" in finding.detail
