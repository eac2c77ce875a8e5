"""A folder or a bucket prefix that trials write to: put into a state, and looked at, without the code under test."""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import botocore.config
import botocore.session

from ecif.layout import META

# Views that are made again by every run; they may be replaced.
DERIVED = (f"{META}/report/", f"{META}/index/", f"{META}/rollup/")
# Empty files by which writers on an object store agree who goes first; a writer that is killed leaves its own.
CLAIMS = ".claims/"
_AT_ONCE = 4

Files = dict[str, bytes]


def add_server(parser: argparse.ArgumentParser, bucket: str) -> None:
    """The options that name an S3 server and a bucket on it, and by their defaults this one."""
    parser.add_argument("--s3", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--bucket", default=bucket)


@dataclass(frozen=True, slots=True)
class Server:
    """An S3 server and the keys of one tenant."""

    endpoint: str
    key: str
    secret: str

    def options(self, endpoint: str | None = None) -> dict[str, Any]:
        """Storage options; `endpoint`: by another way, such as a proxy."""
        return {"endpoint_url": endpoint or self.endpoint, "key": self.key, "secret": self.secret}

    def client(self) -> Any:
        """A plain client."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=botocore.config.Config(
                max_pool_connections=_AT_ONCE,
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
            ),
        )


class Place(Protocol):
    """Where trials write."""

    url: str

    def read(self) -> Files:
        """Every visible file by its relative name; unfinished files of killed writers are not visible."""

    def stamps(self) -> dict[str, str]:
        """For every visible file something that changes whenever it is written again."""

    def reset(self, files: Mapping[str, bytes]) -> None:
        """Make these the only files; those that are right already stay as they are."""

    def leftovers(self) -> int:
        """Unfinished files and uploads, and claims."""


class Folder:
    """A directory of this machine."""

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, str(path)

    def _files(self) -> dict[str, Path]:
        found = (path for path in sorted(self.path.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.path)): path for path in found if not path.name.endswith(".tmp")}

    def read(self) -> Files:
        return {name: path.read_bytes() for name, path in self._files().items()}

    def stamps(self) -> dict[str, str]:
        states = {name: path.stat() for name, path in self._files().items()}
        return {name: f"{state.st_ino} {state.st_mtime_ns} {state.st_size}" for name, state in states.items()}

    def reset(self, files: Mapping[str, bytes]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.path.rglob("*"), reverse=True):
            name = str(path.relative_to(self.path))
            if path.is_file() and (name not in files or path.read_bytes() != files[name]):
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        for name, data in files.items():
            target = self.path / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)

    def leftovers(self) -> int:
        return sum(path.name.endswith(".tmp") for path in self.path.rglob("*"))


class Prefix:
    """A prefix of a bucket."""

    def __init__(self, server: Server, bucket: str, prefix: str) -> None:
        self.client, self.bucket, self.prefix = server.client(), bucket, prefix
        self.url = f"s3://{bucket}/{prefix}"
        self._known: dict[str, bytes] = {}  # by ETag, so that what is right is not read again

    def _objects(self) -> dict[str, dict[str, Any]]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + "/")
        found = (item for page in pages for item in page.get("Contents", ()))
        return {item["Key"].removeprefix(self.prefix + "/"): item for item in found}

    def _get(self, name: str, etag: str) -> bytes:
        if etag not in self._known:
            answer = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")
            self._known[etag] = answer["Body"].read()
        return self._known[etag]

    def read(self) -> Files:
        found = self._objects()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(pool.map(lambda name: (name, self._get(name, found[name]["ETag"])), found))

    def stamps(self) -> dict[str, str]:
        return {name: f"{item['ETag']} {item['LastModified']}" for name, item in self._objects().items()}

    def reset(self, files: Mapping[str, bytes]) -> None:
        there = self.read()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            extra = [name for name in there if name not in files]
            list(pool.map(lambda n: self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{n}"), extra))
            wrong = [name for name in files if there.get(name) != files[name]]
            list(pool.map(lambda name: self.put(name, files[name]), wrong))
        for upload in self._uploads():
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def put(self, name: str, data: bytes) -> None:
        """One object; its ETag is the MD5 of the bytes."""
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=data)

    def remove(self, name: str) -> None:
        """One object."""
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")

    def _uploads(self) -> list[dict[str, Any]]:
        answer = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [upload for upload in answer.get("Uploads", ()) if upload["Key"].startswith(self.prefix + "/")]

    def leftovers(self) -> int:
        return len(self._uploads()) + sum(CLAIMS in name for name in self._objects())


def fresh_bucket(server: Server, name: str) -> str:
    """A bucket, made unless it exists, emptied."""
    client = server.client()
    if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=name)
    remove_objects(server, name)
    return name


def remove_objects(server: Server, bucket: str) -> None:
    """Empty a bucket, its pending uploads, too."""
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=item["Key"])
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def remove_bucket(server: Server, bucket: str) -> None:
    """The bucket and all that it holds."""
    remove_objects(server, bucket)
    server.client().delete_bucket(Bucket=bucket)


def remove_folder(path: Path) -> None:
    """A folder and all that it holds; that it is gone already is fine."""
    shutil.rmtree(path, ignore_errors=True)


def changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Names of `before` that are gone or other in `after`; derived views do not count."""
    return [name for name, value in before.items() if not name.startswith(DERIVED) and after.get(name) != value]


def differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Names that are not in both with the same value."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
