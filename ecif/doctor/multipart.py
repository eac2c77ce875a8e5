"""Uploads in parts: what large shards need, what killed writers leave behind, and how that is removed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from ecif.doctor.calls import Bucket, Refused
from ecif.doctor.lines import Line

_PART_BYTES = 5 * 2**20  # the smallest that S3 takes for any part but the last


def roundtrip(bucket: Bucket, folder: str) -> Iterator[Line]:
    """Upload an object in two parts and read it back; begin another one and abort it."""
    key = f"{folder}parts"
    parts = [os.urandom(_PART_BYTES), os.urandom(1000)]
    upload = ""
    try:
        upload = bucket.call("create_multipart_upload", Key=key)["UploadId"]
        sent = [send(bucket, key, upload, n, part) for n, part in enumerate(parts, 1)]
        try:
            listed = bucket.call("list_parts", Key=key, UploadId=upload).get("Parts", [])
            wrong = [part["Size"] for part in listed] != [len(part) for part in parts]
            lists = Line("warning", "parts", "are not listed as they were sent") if wrong else None
        except Refused as refusal:
            lists = refusal.line("parts", "warning")
        visible = key in bucket.keys(folder)
        bucket.call("complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": sent})
        _, body = bucket.get(key)
    except Refused as refusal:
        abort(bucket, key, upload)
        yield refusal.line("multipart")
        return
    if visible:
        yield Line("problem", "multipart", "the object is visible before the upload is complete")
    elif body != b"".join(parts):
        yield Line("problem", "multipart", f"{len(body)} other bytes came back than the {sum(map(len, parts))} sent")
    else:
        yield Line("ok", "multipart", "an upload of two parts came back as it was, and was not visible before its end")
    if lists is not None:
        yield lists
    yield from _aborted(bucket, folder)


def _aborted(bucket: Bucket, folder: str) -> Iterator[Line]:
    key = f"{folder}aborted"
    try:
        upload = bucket.call("create_multipart_upload", Key=key)["UploadId"]
        send(bucket, key, upload, 1, b"x")
        bucket.call("abort_multipart_upload", Key=key, UploadId=upload)
    except Refused as refusal:
        yield refusal.line("abort")
        return
    try:
        left = list(pending(bucket, folder))
    except Refused as refusal:
        advice = f"pending uploads cannot be found; {refusal.line('').advice}".removesuffix("; ")
        yield Line("warning", "abort", f"an upload was aborted; uploads cannot be listed ({refusal.code})", advice)
        return
    if left:
        yield Line("warning", "abort", "aborted uploads are still listed", "a lifecycle rule should remove them")
    else:
        yield Line("ok", "abort", "an aborted upload leaves nothing")


def send(bucket: Bucket, key: str, upload: str, number: int, data: bytes) -> dict[str, Any]:
    """Upload one part; what the completion has to name.

    Raises:
        Refused: it failed.
    """
    answer = bucket.call("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=data)
    return {"PartNumber": number, "ETag": answer["ETag"]}


def abort(bucket: Bucket, key: str, upload: str) -> None:
    """Give an upload up, if it was begun and is still there."""
    if upload:
        with contextlib.suppress(Refused):
            bucket.call("abort_multipart_upload", Key=key, UploadId=upload)


def pending(bucket: Bucket, prefix: str) -> Iterator[tuple[str, str]]:
    """Key and id of the uploads below a key prefix that are neither complete nor aborted.

    Raises:
        Refused: they cannot be listed.
    """
    page = bucket.call("list_multipart_uploads", Prefix=prefix)
    for upload in page.get("Uploads", []):
        yield upload["Key"], upload["UploadId"]
