"""What S3 says about new objects, in the forms in which it reaches a queue.

A message is a list of records of S3 itself (also of Ceph and other servers that speak its language), such a message
in the envelope of SNS, or an event of EventBridge. Anybody who may send to the queue writes these messages, so nothing
in them is believed but the place of an object, and that is only compared with what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from ecif.errors import InputError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def created(body: str, where: str = "message") -> tuple[str, ...]:
    """The URLs of the objects that a message says were created.

    Empty for a message of S3 that tells of something else: the test message of a new configuration, a removal.

    Args:
        where: the message, for errors.

    Raises:
        InputError: it is no message about objects.
    """
    try:
        return tuple(_created(json.loads(body)))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"is no notification about objects ({type(error).__name__}: {error})", url=where) from None


def _created(value: Mapping[str, Any]) -> Iterator[str]:
    if value.get("Type") == "Notification" and isinstance(value.get("Message"), str):
        value = json.loads(value["Message"])
    if value.get("Event") == "s3:TestEvent":
        return
    if value.get("source") == "aws.s3":
        if value["detail-type"] == "Object Created":
            # EventBridge gives the key as it is, S3 encodes it.
            yield _url(value["detail"]["bucket"]["name"], value["detail"]["object"]["key"])
        return
    for record in value["Records"]:
        if record["eventName"].removeprefix("s3:").startswith("ObjectCreated:"):
            yield _url(record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"], errors="strict"))


def _url(bucket: str, key: str) -> str:
    if not _BUCKET.fullmatch(bucket) or not key:
        raise ValueError("no name of a bucket, or of an object")
    return f"s3://{bucket}/{key}"
