"""Overrides of a review: the forms they come in, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.errors import InputError
from ecif.policy.overrides import read

UID = "0123456789abcdef0123456789abcdef"


def frozen(text: str) -> dict[str, bytes]:
    return read(text.encode(), "review.csv")


def test_csv_and_json_say_the_same() -> None:
    expected = {"drop": b"sample:00000/17\nuid:" + UID.encode() + b"\n", "keep": b"key:a,b\n"}
    listed = [{"uid": UID, "action": "drop"}, {"uid": "x", "sample": "00000/17", "action": "drop"},
              {"key": "a,b", "action": "keep", "why": {"it": "is"}}]  # fmt: skip
    for text in (
        f'uid,action\n{UID},drop\n\nsample:00000/17,DROP\n# a note\n"key:a,b", keep\n',
        f'\ufeffuid,action\r\n{UID.upper()},drop\r\nsample:00000/17,drop\r\n"key:a,b",keep\r\n{UID},drop',
        json.dumps({UID: "drop", "sample:00000/17": "drop", "key:a,b": "keep"}),
        json.dumps(listed),
        json.dumps({"overrides": listed, "made": "by hand"}),
    ):
        assert frozen(text) == expected
    assert frozen("") == frozen("[]") == frozen("{}") == {}
    assert frozen("a,keep") == {"keep": b"key:a\n"}


@given(st.dictionaries(st.from_regex(r"[0-9a-z]{1,9}", fullmatch=True), st.sampled_from(["keep", "drop"])))
def test_every_entry_comes_out_once_under_its_action(entries: dict[str, str]) -> None:
    found = frozen("".join(f"key:{key},{action}\n" for key, action in [*entries.items(), *entries.items()]))
    assert found == frozen(json.dumps([{"key": key, "action": action} for key, action in entries.items()]))
    for action in ("keep", "drop"):
        expected = sorted(key for key, said in entries.items() if said == action)
        assert found.get(action, b"").decode().split() == [f"key:{key}" for key in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,keep\nb,remove", "line 2: what happens to a pair is keep or drop, not 'remove'"),
        ("a,keep\na,drop", "line 2: a is to be kept and dropped"),
        ("a,keep,b", "line 1: .* it has 3 values"), ("a", "line 1: .* it has 1 values"),
        (",keep", "line 1: nothing stands behind"), ("https://x/a.jpg,drop", "line 1: overrides name a uid"),
        (f"{UID * 2},keep", "for sha256 entries there are --denylist"), ('{"a": 1}', "entry 'a': .* not '1'"),
        ('{"a": "keep", "key:a": "drop"}', "is to be kept and dropped"), ('{"a": "keep"', "is not valid JSON"),
        ("[1]", "item 1: an item is an object"), ('[{"uid": "a"}]', "item 1: an item is an object"),
        ('{"overrides": 1}', "item 1"), ('[{"key": "a\\nb", "action": "drop"}]', "an entry is one line"),
        ("[" * 100_000, "is not valid JSON"), ('{"overrides": [{"key": 1, "action": "drop"}]}', "item 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^review.csv: .*{message}"):
        frozen(text)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read(b"\xff\xfe", "review.csv")
