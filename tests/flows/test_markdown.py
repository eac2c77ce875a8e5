"""Names from the data stay text, whatever they are, and links lead where a browser can go."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.markdown import Markdown

from ecif.storage import Storage
from flows.markdown import LONGEST, VARIABLE, WIDTH, escaped, link, table, wrapped

HOSTILE = "[x](javascript:alert(1)) ![y](http://z/p.png) <script> `|# www.x.org a@b.c https://x.org ~~s~~"


def _parts(text: str) -> list[tuple[str, str]]:
    """What the text becomes: kind and content of everything inside."""
    found = []
    for token in Markdown(text).parsed:
        found += [(child.type, child.content) for child in token.children or []]
        if token.type not in ("paragraph_open", "paragraph_close", "inline"):
            found.append((token.type, token.content))
    return found


def _said(text: str) -> str:
    return " ".join("".join(sign for sign in " ".join(text.split()) if sign.isprintable()).split())


@given(st.text(max_size=60))
@example(HOSTILE)
@example("1. one")
@example("- list")
@example("a_b_c *d* &amp; \\* \\")
@example("---")
@example("    code")
def test_escaped_text_is_one_piece_of_plain_text(text: str) -> None:
    parts = _parts(escaped(text))
    assert {kind for kind, _ in parts} <= {"text", "text_special"}
    assert "".join(content for _, content in parts) == _said(text)


def test_a_long_text_is_cut_and_secrets_are_hidden() -> None:
    Storage({"secret": "hunter2-hunter2"})
    assert len(escaped("a" * 2 * LONGEST)) == LONGEST
    assert "hunter2" not in escaped("refused: hunter2-hunter2")


@given(st.text(max_size=200))
@example("/a_b/c_d" * 20)
@example("a" * 27 + " ===")
@example("\ud7fc\r-")
@example("the storage - does not answer, 1. " * 8)
def test_wrapped_text_is_the_same_text_in_short_lines(text: str) -> None:
    parts = _parts(wrapped(text))
    assert {kind for kind, _ in parts} <= {"text", "text_special", "hardbreak"}
    assert "".join("".join(said.split()) for _, said in parts) == "".join(_said(text).split())
    lines = "".join("\n" if kind == "hardbreak" else said for kind, said in parts).split("\n")
    assert max(map(len, lines)) <= WIDTH


def test_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert link("00", "s3://bucket/clean/00.tar") == "00"
    assert link("00", "https://host/a b(1).tar") == "[00](https://host/a%20b%281%29.tar)"
    assert link("a_b", "https://host/a.html", "top") == "a\\_b [↗](https://host/a.html#top)"
    assert "](" not in link("00", "https://user:pass-word@host/a.tar")
    console = '{"s3://bucket/": "https://console/b/", "s3://bucket/clean/": "https://other/?p="}'
    monkeypatch.setenv(VARIABLE, console)
    assert link("00", "s3://bucket/raw/ü&.tar") == "[00](https://console/b/raw/%C3%BC%26.tar)"
    assert link("00", "s3://bucket/clean/00.tar") == "[00](https://other/?p=00.tar)"


@pytest.mark.parametrize("said", ["{", "[]", '{"s3://b/": 1}', '{"s3://b/": "javascript:alert(1)//"}'])
def test_a_variable_that_makes_no_sense_gives_no_links(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, said)
    assert link("00", "s3://b/00.tar") == "00"


def test_a_table_has_its_columns() -> None:
    lines = table(("a", "b"), [("x", "1")])
    assert "table_open" in {kind for kind, _ in _parts("\n".join(lines))}
    assert lines[1:] == ["|---|---:|", "| x | 1 |"]
