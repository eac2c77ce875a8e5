"""Single S3 requests, not repeated, and what a refusal means in words.

The requests go through the same file system object as all others, hence with the same endpoint, credentials and
signatures. What a server answers to a failure differs; the code in its answer says most, the status the rest, and a
failure without an answer is the network's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fsspec.asyn import sync

from ecif.doctor.lines import Level, Line

# The right that each request needs, as policies name it.
RIGHTS = {
    "head_bucket": "s3:ListBucket",
    "list_objects_v2": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_parts": "s3:ListMultipartUploadParts",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_object_versions": "s3:ListBucketVersions",
    "get_bucket_versioning": "s3:GetBucketVersioning",
    "get_bucket_lifecycle_configuration": "s3:GetLifecycleConfiguration",
}

_MEANINGS = {
    "InvalidAccessKeyId": ("the server does not know this access key", "check the key, and that the endpoint is its"),
    "SignatureDoesNotMatch": ("the secret does not fit the access key", "check the secret; the clock counts, too"),
    "RequestTimeTooSkewed": ("this machine's clock is too far off", "set it (NTP)"),
    "ExpiredToken": ("the temporary credentials have expired", "get new ones"),
    "InvalidToken": ("the session token is not valid here", "get new credentials; check the endpoint"),
    "NoSuchBucket": ("there is no such bucket", "check its name and the endpoint, or make it"),
    "PermanentRedirect": ("the bucket is in another region", "name its region or endpoint in --storage-options"),
    "AuthorizationHeaderMalformed": ("the region is not the bucket's", "set AWS_DEFAULT_REGION to the bucket's region"),
    "NotImplemented": ("the server does not know this request", ""),
    "MethodNotAllowed": ("the server does not allow this request", ""),
    "SlowDown": ("the server asks for fewer requests", "try again later"),
    "ServiceUnavailable": ("the server is overloaded or down", "try again later"),
    "InternalError": ("the server failed", "try again later"),
    "QuotaExceeded": ("the quota is used up", "make room, or ask for more"),
}
_BY_STATUS = {301: "PermanentRedirect", 404: "NoSuchBucket", 405: "MethodNotAllowed", 500: "InternalError",
              501: "NotImplemented", 503: "ServiceUnavailable"}  # fmt: skip


class Refused(Exception):
    """A request that failed.

    Attributes:
        request: its name. code: the server's, or the type of the failure when no server answered.
        status: of HTTP; None when no server answered. headers: of the answer. text: the message.
    """

    def __init__(self, request: str, error: BaseException) -> None:
        super().__init__(str(error))
        answered = next((found for found in _causes(error) if isinstance(_response(found), Mapping)), None)
        response = _response(answered) or {}
        metadata, said = response.get("ResponseMetadata", {}), response.get("Error", {})
        self.request = request
        self.status: int | None = metadata.get("HTTPStatusCode")
        self.headers: dict[str, str] = metadata.get("HTTPHeaders", {})
        self.code = str(said.get("Code") or type(error).__name__)
        if self.code.isdecimal():  # answers to HEAD have no body
            self.status = self.status or int(self.code)
            self.code = _BY_STATUS.get(self.status, self.code)
        self.text = " ".join(str(said.get("Message") or error).split())

    @property
    def is_answer(self) -> bool:
        """Whether a server answered at all."""
        return self.status is not None

    @property
    def is_denied(self) -> bool:
        """Whether a right is missing, and not the whole identity."""
        return self.status == 403 and self.code not in _MEANINGS

    def line(self, check: str, level: Level = "problem") -> Line:
        """The failure as a line: what it means and what to do."""
        if self.code == "ReadTimeoutError":
            advice = "it may be overloaded or its disks full: ask those who run it, or try again later"
            return Line(level, check, "the server took the request and did not answer in time", advice)
        if not self.is_answer:
            return Line(
                level,
                check,
                f"no answer ({self.code}: {self.text})",
                "check endpoint_url (it begins with http:// or https://), network and proxy",
            )
        if self.code in _MEANINGS:
            detail, advice = _MEANINGS[self.code]
            return Line(level, check, f"{detail} ({self.code})", advice)
        if self.status in (401, 403):
            right = RIGHTS[self.request]
            return Line(level, check, f"access denied ({self.code})", f"it needs the right {right} on this prefix")
        return Line(level, check, f"{self.request} failed: {self.status} {self.code}: {self.text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _response(error: BaseException | None) -> Any:
    return getattr(error, "response", None)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests to one bucket; may be used from several threads.

    Args:
        fs: the s3fs file system. name: of the bucket.
    """

    fs: Any
    name: str

    def call(self, request: str, **arguments: Any) -> dict[str, Any]:
        """One request.

        Raises:
            Refused: it failed.
        """
        try:
            answer: dict[str, Any] = self.fs.call_s3(request, Bucket=self.name, **arguments)
        except Exception as error:  # of s3fs, botocore and aiohttp, which share no base
            raise Refused(request, error) from error
        return answer

    def get(self, key: str, **arguments: Any) -> tuple[dict[str, Any], bytes]:
        """Answer and body of a GET.

        Raises:
            Refused: it failed.
        """

        async def ask() -> tuple[dict[str, Any], bytes]:
            answer = await self.fs._call_s3("get_object", Bucket=self.name, Key=key, **arguments)
            async with answer["Body"] as body:
                return answer, await body.read()

        try:
            found: tuple[dict[str, Any], bytes] = sync(self.fs.loop, ask)
        except Exception as error:
            raise Refused("get_object", error) from error
        return found

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin with `prefix`.

        Raises:
            Refused: it failed.
        """
        found: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = self.call("list_objects_v2", Prefix=prefix, **token)
            found += [item["Key"] for item in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                return found
            token = {"ContinuationToken": page["NextContinuationToken"]}
