"""The S3 requests that ECIF's commands send, as the client library sees them just before they are built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore import xform_name

from ecif.doctor.calls import RIGHTS
from ecif.storage.remote import filesystem
from tests.infra.policies import Request

# Rights on a bucket and not on objects in it.
ON_BUCKETS = {
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:ListBucketVersions",
    "s3:GetBucketVersioning",
    "s3:GetLifecycleConfiguration",
}


@contextmanager
def recording(options: Mapping[str, Any]) -> Iterator[list[Request]]:
    """The requests to S3 inside the block, in order, of everything that uses these storage options."""
    seen: list[Request] = []

    def note(params: Mapping[str, Any], model: Any, **_: object) -> None:
        seen.append(request(model.name, params))

    events = filesystem("s3://any", options).s3.meta.events
    events.register_first("before-parameter-build.s3", note)
    try:
        yield seen
    finally:
        events.unregister("before-parameter-build.s3", note)


def request(operation: str, params: Mapping[str, Any]) -> Request:
    """What IAM is asked about for an operation of the API with these parameters.

    Raises:
        KeyError: the operation is not among those that ECIF says it needs.
    """
    action = RIGHTS[xform_name(operation)]
    if action == "s3:DeleteObject" and "VersionId" in params:
        action = "s3:DeleteObjectVersion"
    key = "" if action in ON_BUCKETS else f"/{params['Key']}"
    return Request(action, f"arn:aws:s3:::{params['Bucket']}{key}")
