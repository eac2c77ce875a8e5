"""Lists are read in every form that people have them in, frozen to one form, and asked without a loop."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif import lists
from ecif.errors import InputError

UID, SHA = "0123456789abcdef" * 2, "f0" * 32
TEXT = f"""# what may not be used

 000000001
{UID.upper()}
{SHA.upper()}
https://example.org/a.jpg#part
key:uid:odd
sample: part-1/00000/000000002
uid:12345
uid: {UID}
url:ftp://x
000000001
""".encode()
LINES = [
    "key:000000001",
    "key:uid:odd",
    "sample:part-1/00000/000000002",
    f"sha256:{SHA}",
    f"uid:{UID}",
    "uid:12345",
    "url:ftp://x",
    "url:https://example.org/a.jpg#part",
]


def npy(*uids: str, dtype: str = "u8,u8") -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], dtype=dtype))
    return buffer.getvalue()


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


def test_every_form_of_a_line() -> None:
    assert lists.freeze(TEXT, "list.txt").decode().splitlines() == LINES


def test_a_frozen_list_is_its_own_frozen_form_and_order_does_not_matter() -> None:
    frozen = lists.freeze(TEXT, "x")
    turned = b"\n".join(reversed(frozen.splitlines()))
    assert lists.freeze(frozen, "x") == lists.freeze(turned, "x") == frozen
    assert lists.digest(frozen) == hashlib.sha256(frozen).hexdigest()


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_files_of_other_systems(start: bytes, end: bytes) -> None:
    assert lists.freeze(start + end.join([b"a", b"b", b""]), "x") == b"key:a\nkey:b\n"


def test_what_is_listed_is_found_under_its_kind_only() -> None:
    listed = lists.load(lists.freeze(TEXT, "x"))
    assert len(listed) == len(LINES)
    assert listed.has("key", ["000000001", "000000002", "uid:odd"]).tolist() == [True, False, True]
    assert listed.has("sample", ["part-1/00000/000000002", "000000001"]).tolist() == [True, False]
    assert listed.has("uid", [UID, UID.upper(), "12345", "1234", UID[:31]]).tolist() == [True, True, True, False, False]
    assert listed.has("url", ["https://example.org/a.jpg#part", "https://example.org/a.jpg"]).tolist() == [True, False]
    assert listed.has("sha256", [SHA, SHA.upper(), "0" * 64, "short", ""]).tolist() == [True, True, False, False, False]
    assert listed.has("url", []).tolist() == []


def test_an_empty_list_names_nothing() -> None:
    listed = lists.load(lists.freeze(b"# nothing yet\n", "x"))
    assert (len(listed), listed.has("key", ["a"]).tolist()) == (0, [False])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("abAB019fé/:# \0\r\t", min_size=1, max_size=6).map(str.strip).filter(bool)))
def test_any_keys(keys: list[str]) -> None:
    listed = lists.load(lists.freeze("".join(f"key:{key}\n" for key in keys).encode(), "x"))
    assert all(listed.has("key", keys))
    assert len(listed) == len(set(keys))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2**128 - 1).map("{:032x}".format), unique=True), st.lists(st.sampled_from(["7", "x y"])))
def test_any_uids_as_text_and_as_datacomp_has_them(uids: list[str], odd: list[str]) -> None:
    frozen = lists.freeze("".join(f"uid:{uid}\n" for uid in [*uids, *odd]).encode(), "x")
    listed = lists.load(frozen)
    assert all(listed.has("uid", [*uids, *odd]))
    assert len(listed) == len(uids) + len(set(odd))
    assert not any(listed.has("uid", [f"{(int(uid, 16) + 1) % 2**128:032x}" for uid in uids if len(uids) == 1]))
    if not odd:
        assert lists.freeze(npy(*uids), "x.npy") == frozen


def test_tables_of_uids() -> None:
    frozen = f"uid:{UID}\nuid:12\n".encode()
    assert lists.freeze(parquet(uid=[UID, "12", UID], url=["a", "b", "c"]), "x") == frozen
    assert lists.freeze(parquet(SAMPLE_ID=[12]), "x") == b"uid:12\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nuid:\n", "line 2: nothing stands behind 'uid:'"),
        (b"\n\nsha256:12\n", "line 3: a sha256 is 64 hexadecimal digits"),
        (b"sample:0001\n", "line 1: a sample is SHARD/KEY"),
        (b"a\n\xff\xfe\n", "line 2 is not UTF-8"),
        (npy("7".zfill(32), dtype="u4,u4"), "dtype 'u8,u8'"),
        (npy(UID)[:100], "not a .npy file"),
        (parquet(x=[1]), "no column of uids, only x"),
        (parquet(uid=["a", None]), "row 1: None is no uid"),
        (b"PAR1 nonsense", "not a parquet file"),
    ],
)
def test_what_is_no_list_is_refused_with_the_place(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        lists.freeze(data, "deny.txt")
    assert caught.value.url == "deny.txt"


def test_an_entry_takes_sixteen_bytes() -> None:
    n = 20_000
    frozen = lists.freeze("".join(f"https://x/{i}\n" for i in range(n)).encode(), "x")
    assert sum(marks.nbytes for marks in lists.load(frozen).marks.values()) == 16 * n
