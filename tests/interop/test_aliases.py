from __future__ import annotations

import pytest

from ecif.interop import aliases


def test_the_first_alias_that_is_there_counts() -> None:
    assert aliases.column("url", ["TEXT", "URL", "image_url"]) == "URL"
    assert aliases.column("text", {"caption": 0, "text": 0}) == "text"
    assert aliases.column("clip_l14_similarity_score", ["oai-clip-vit-l14-score"]) == "oai-clip-vit-l14-score"
    assert aliases.column("original_width", ["width", "original_width"]) == "original_width"
    assert aliases.column("uid", ["similarity", "key"]) is None


def test_a_null_leaves_the_word_to_the_next_alias() -> None:
    assert aliases.value("url", {"url": None, "URL": "u"}) == "u"
    assert aliases.value("url", {"url": ""}) == ""
    assert aliases.value("sha256", {"md5": "x"}) is None


def test_no_name_stands_for_two_things() -> None:
    names = [name for found in aliases.ALIASES.values() for name in found]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("record", "uid"),
    [
        ({"uid": "0a", "SAMPLE_ID": 1}, "0a"),
        ({"uid": "", "SAMPLE_ID": 1581282014547}, "1581282014547"),
        ({"SAMPLE_ID": 1581282014547.0}, "1581282014547"),
        ({"hash": -6_917_529_027_641_081_856}, "-6917529027641081856"),
        ({"uid": True, "id": 0}, "0"),
        ({"uid": "\ud800", "sample_id": "a"}, "a"),
        ({"SAMPLE_ID": 2.0**60}, None),
        ({"SAMPLE_ID": 1.5, "id": float("nan"), "hash": []}, None),
        ({"key": "000000000"}, None),
        ({}, None),
    ],
)
def test_uid_of_a_record(record: dict[str, object], uid: str | None) -> None:
    assert aliases.uid(record) == uid
