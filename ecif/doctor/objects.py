"""Whether single objects can be written and read, and whether what the reader relies on is true here.

The reader asks for ranges and pins them to an ETag, so that a shard which is replaced meanwhile is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from ecif.doctor.calls import Bucket, Refused
from ecif.doctor.lines import Line

WRITTEN = Line("ok", "write", "an object was written")
_WRONG = '"00000000000000000000000000000000"'


def own(bucket: Bucket, folder: str) -> Iterator[Line]:
    """Write an object, read it back, look for it in the listing, delete it; nothing more when it cannot be written."""
    key, data = f"{folder}object", os.urandom(100_000)
    try:
        etag = bucket.call("put_object", Key=key, Body=data).get("ETag", "")
    except Refused as refusal:
        yield refusal.line("write")
        return
    yield WRITTEN
    try:
        answer, body = bucket.get(key)
    except Refused as refusal:
        yield refusal.line("read")
        return
    if body != data:
        yield Line("problem", "read", f"{len(body)} other bytes came back than the {len(data)} that were written")
        return
    yield Line("ok", "read", "the bytes came back at once, as they were")
    yield from _ranges(bucket, key, data[10:20], answer.get("ETag", etag))
    if etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest():
        yield Line("ok", "etag", "is the MD5 of the bytes")
    else:
        yield Line(
            "ok", "etag", "is not the MD5 of the bytes (encrypted?): what is there already is compared by reading"
        )
    yield from _listed(bucket, folder, key)


def _listed(bucket: Bucket, folder: str, key: str) -> Iterator[Line]:
    try:
        before = bucket.keys(folder)
        bucket.call("delete_object", Key=key)
        after = bucket.keys(folder)
    except Refused as refusal:
        # Cleaning deletes nothing but its own claims and temporary files, so it can do without.
        line = refusal.line("delete" if refusal.request == "delete_object" else "list after write")
        yield Line("warning" if refusal.request == "delete_object" else "problem", line.check, line.detail, line.advice)
        return
    if key in before and key not in after:
        yield Line("ok", "list after write", "what is written or deleted is seen by the next listing")
    else:
        detail = "a listing does not show what was written or deleted just before"
        yield Line("problem", "list after write", detail, "finished shards would be missed; is there a cache in front?")


def existing(bucket: Bucket, items: list[dict[str, Any]]) -> Iterator[Line]:
    """Read an object that is there already.

    Args:
        items: of a listing, none of them empty.
    """
    if not items:
        yield Line("warning", "read", "nothing to read below this prefix, so reading was not tried")
        return
    key, length = items[0]["Key"], min(10, items[0]["Size"])
    try:
        answer, body = bucket.get(key, Range=f"bytes=0-{length - 1}")
    except Refused as refusal:
        yield refusal.line("read")
        return
    yield Line("ok", "read", f"{key!r} can be read")
    if len(body) == length:
        yield from _ranges(bucket, key, body, answer.get("ETag", ""), first=0)
    else:
        yield _no_ranges()


def _ranges(bucket: Bucket, key: str, expected: bytes, etag: str, first: int = 10) -> Iterator[Line]:
    span = f"bytes={first}-{first + len(expected) - 1}"
    try:
        _, body = bucket.get(key, Range=span, IfMatch=etag)
    except Refused as refusal:
        yield refusal.line("ranges")
        return
    yield Line("ok", "ranges", "parts of an object can be read") if body == expected else _no_ranges()
    try:
        bucket.get(key, Range=span, IfMatch=_WRONG)
    except Refused as refusal:
        if refusal.status == 412:
            yield Line("ok", "if-match", "a read of a replaced object is refused")
        else:
            yield refusal.line("if-match")
        return
    detail = "is ignored: a replaced object is not refused by the server"
    yield Line("warning", "if-match", detail, "the ETag of every answer is compared here instead; nothing to do")


def _no_ranges() -> Line:
    return Line("problem", "ranges", "Range is ignored: the whole object comes back", "is there a proxy that drops it?")
