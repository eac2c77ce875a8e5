"""What the review exports is what `ecif plan --overrides` reads, for every pair that the page offers to decide on."""

from __future__ import annotations

import csv
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.policy import overrides
from ecif.report.numbers import ScoredPair
from ecif.report.review import FILE, command, entry
from ecif.report.templates import clean
from tests.conftest import MakeTar
from tests.report.pages import Corpus

NAMES = st.text(st.sampled_from("ab/:, \"'#\n\r\t\u2028\x00\u202eé=") | st.characters(), min_size=0, max_size=8)


def pair(key: str, uid: str = "0123456789abcdef0123456789abcdef", shard: str = "00000") -> ScoredPair:
    return ScoredPair(uid, key, shard, 0, {}, False)


def read(text: str) -> bytes:
    """A file of one row, as the script writes it."""
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows([["uid", "action"], [text, "drop"]])
    return overrides.read(target.getvalue().encode(), "f.csv")["drop"]


def test_a_pair_is_named_by_shard_and_key_where_that_is_one_line() -> None:
    assert entry(pair("000017")) == "sample:00000/000017"
    assert entry(pair('a,"b"', shard="sub/00")) == 'sample:sub/00/a,"b"'
    for key in ("a\nb", "a\r", "a\x00", "a ", "", "a\u2028b", "\ud800"):
        assert entry(pair(key)) == "uid:0123456789abcdef0123456789abcdef", key
    assert entry(pair("a\n", uid=" ")) == ""


@given(NAMES, NAMES, NAMES)
def test_what_is_exported_names_that_pair_and_no_other(shard: str, key: str, uid: str) -> None:
    name = entry(pair(key, uid, shard or "s"))
    if not name:
        return
    assert clean(name) == name
    kind, _, text = name.partition(":")
    expected = {"sample": f"{shard or 's'}/{key}", "uid": uid}[kind]
    assert text == expected
    (line,) = read(name).decode().removesuffix("\n").split("\n")
    assert line in (f"{kind}:{expected}", f"{kind}:{expected.lower()}")
    as_json = json.dumps({"made": "ECIF report", "overrides": [{kind: text, "action": "drop"}]}).encode()
    assert overrides.read(as_json, "f.json")["drop"] == read(name)


def test_the_command_repeats_the_policy(tmp_path: Path, make_tar: MakeTar) -> None:
    corpus = Corpus(tmp_path, make_tar)
    corpus.add("00", [1.0, 2.0, None])
    assert shlex.split(command("/a b/out", None)) == ["ecif", "plan", "/a b/out", "--overrides", FILE]
    decision = corpus.decide(drop="0.5", unscored="quarantine", where="influence < 9 and not influence > 8")
    words = shlex.split(command("out", decision))
    assert words[:5] == ["ecif", "plan", "out", "--detector", "influence"]
    assert words[words.index("--where") + 1] == "influence < 9 and not influence > 8"
    assert words[words.index("--drop") + 1] == "0.5"
    assert words[-4:] == ["--unscored", "quarantine", "--overrides", FILE]
    ranked = shlex.split(command("out", corpus.decide(drop_count=1, rank_by="influence * 2")))
    assert "--detector" not in ranked
    assert ranked[ranked.index("--rank-by") + 1] == "influence * 2"


def test_the_page_says_what_the_new_decision_would_lose(tmp_path: Path, make_tar: MakeTar) -> None:
    corpus = Corpus(tmp_path, make_tar)
    corpus.add("00", [1.0, 2.0])
    decision, numbers = corpus.decide(drop_count=1), corpus.numbers()
    plain = corpus.composed(decision, numbers).text("p")
    for changes, words in (
        ({"denylist": "0" * 64}, "Name the lists of this decision again"),
        ({"override_keep": "0" * 64}, "It follows an earlier review: read that file here first"),
    ):
        assert words not in plain
        assert words in corpus.composed(replace(decision, **changes), numbers).text("p")  # type: ignore[arg-type]
    numbers.written.shards = 1
    assert "written already" in corpus.composed(decision, numbers).text("p")


@pytest.mark.parametrize("decided", [False, True])
def test_the_page_shows_the_command(tmp_path: Path, make_tar: MakeTar, decided: bool) -> None:
    corpus = Corpus(tmp_path, make_tar)
    corpus.add("00", [1.0, 2.0, None])
    decision = corpus.decide(drop_count=1) if decided else None
    page = corpus.page(decision)
    assert command(corpus.layout.root, decision) in page.text("pre")
    assert next(card["data-entry"] for card in page.cards()) == "sample:00/000000"
