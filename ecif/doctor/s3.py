"""An S3 bucket, from the outside in: who asks, who answers, what it lets us do, and what it really does.

Everything is written below one folder of its own and removed at the end, however it ends. When the endpoint or the
credentials are wrong nothing else is tried, since every further line would say the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from ecif.doctor import multipart, objects, races
from ecif.doctor.calls import Bucket, Refused
from ecif.doctor.credentials import credentials
from ecif.doctor.lines import Line

# S3 refuses requests that are 15 minutes off.
REFUSED_SKEW, LARGE_SKEW, SMALL_SKEW = 900, 300, 30


def examine(fs: Any, bucket_name: str, prefix: str, folder: str, read_only: bool) -> Generator[Line, None, bool]:
    """All lines about a bucket.

    Args:
        prefix: the key prefix that is asked about, "" or ending in `/`.
        folder: key prefix of the objects that are written, ending in `/`.
        read_only: write nothing.

    Returns:
        Whether the bucket answered, so that more can be asked.
    """
    yield (who := credentials(fs))
    if who.level == "problem":
        return False
    bucket = Bucket(fs, bucket_name)
    page: dict[str, Any] | None
    try:
        page, answered = _first_answer(bucket, prefix)
    except Refused as refusal:
        if refusal.is_answer:
            yield _endpoint(fs)
        if (skew := _skew(refusal.headers)) is not None:
            yield skew
        if not (refusal.is_denied and not read_only):
            yield refusal.line("list" if refusal.is_denied else "bucket" if refusal.is_answer else "endpoint")
            return False
        yield refusal.line("list")
        page = None
    else:
        yield _endpoint(fs)
        if (skew := _skew(answered)) is not None:
            yield skew
        yield Line("ok", "list", f"bucket {bucket_name!r} answers, {_amount(page)} below the prefix")
    existing = None if page is None else [item for item in page.get("Contents", []) if item["Size"] > 0]
    if read_only:
        yield from objects.existing(bucket, existing or [])
        return True
    yield from _properties(bucket)
    wrote = False
    try:
        for line in objects.own(bucket, folder):
            wrote |= line == objects.WRITTEN
            yield line
        if wrote:
            yield from multipart.roundtrip(bucket, folder)
            yield from races.on_s3(bucket, folder)
        elif existing is not None:
            yield from objects.existing(bucket, existing)
    finally:
        left = _remove(bucket, folder)
    if wrote:
        yield left or Line("ok", "delete", "all that was written for this is removed again")
    return True


def _first_answer(bucket: Bucket, prefix: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A page of the listing: unlike HEAD, its failure says why."""
    page = bucket.call("list_objects_v2", Prefix=prefix, MaxKeys=100)
    return page, page.get("ResponseMetadata", {}).get("HTTPHeaders", {})


def _amount(page: dict[str, Any]) -> str:
    count = len(page.get("Contents", []))
    return f"more than {count} objects" if page.get("IsTruncated") else f"{count} object{'' if count == 1 else 's'}"


def _endpoint(fs: Any) -> Line:
    meta = fs._s3.meta
    return Line("ok", "endpoint", f"{meta.endpoint_url}, region {meta.region_name or 'not set'}")


def _skew(headers: dict[str, str]) -> Line | None:
    """How far this machine's clock is from the server's; None when the server does not tell its time."""
    try:
        server = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
    skew = (datetime.now(UTC) - server).total_seconds()
    off = abs(skew)
    detail = f"{off:.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    if off > REFUSED_SKEW:
        return Line("problem", "clock", detail, "requests are refused from 15 minutes on: set the clock (NTP)")
    if off > LARGE_SKEW:
        return Line("warning", "clock", detail, "set the clock (NTP) before it is 15 minutes off and requests fail")
    if off > SMALL_SKEW:
        return Line("warning", "clock", detail, "is it synchronised (NTP)?")
    return Line("ok", "clock", "agrees with the server's")


def _properties(bucket: Bucket) -> Iterator[Line]:
    """What is set for the whole bucket, where it may be read."""
    try:
        state = bucket.call("get_bucket_versioning").get("Status", "Off")
        detail = {"Enabled": "on: what is deleted or replaced stays as an old version, and is paid for"}.get(state)
        yield Line("ok", "versioning", detail or state.lower())
    except Refused as refusal:
        yield Line("ok", "versioning", f"cannot be read here ({refusal.code}); it is not needed")
    advice = "add a lifecycle rule with AbortIncompleteMultipartUpload, for what a killed machine leaves behind"
    try:
        rules = bucket.call("get_bucket_lifecycle_configuration").get("Rules", [])
    except Refused as refusal:
        if refusal.code == "NoSuchLifecycleConfiguration":
            yield Line("warning", "lifecycle", "no rule aborts pending uploads", advice)
        else:
            yield Line("ok", "lifecycle", f"cannot be read here ({refusal.code}); it is not needed")
        return
    active = [rule for rule in rules if rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule]
    days = min((rule["AbortIncompleteMultipartUpload"].get("DaysAfterInitiation", 0) for rule in active), default=None)
    if days is None:
        yield Line("warning", "lifecycle", "no rule aborts pending uploads", advice)
    else:
        yield Line("ok", "lifecycle", f"a rule aborts pending uploads after {days} days")


def _remove(bucket: Bucket, folder: str) -> Line | None:
    """Remove everything below `folder`, old versions and pending uploads too; a line when something stays."""
    try:
        for key, upload in multipart.pending(bucket, folder):
            bucket.call("abort_multipart_upload", Key=key, UploadId=upload)
    except Refused:
        pass  # where listing uploads is refused, `multipart` has aborted its own by their ids
    try:
        for key in bucket.keys(folder):
            bucket.call("delete_object", Key=key)
        with contextlib.suppress(Refused):  # a server without versions
            versions = bucket.call("list_object_versions", Prefix=folder)
            for version in (*versions.get("Versions", []), *versions.get("DeleteMarkers", [])):
                bucket.call("delete_object", Key=version["Key"], VersionId=version["VersionId"])
        left = bucket.keys(folder)
    except Refused as refusal:
        line = refusal.line("delete", "warning")
        return Line("warning", "delete", line.detail, f"remove {folder} by hand; {line.advice}")
    if left:
        return Line("warning", "delete", f"{len(left)} deleted objects are still listed", f"look at {folder} later")
    return None
