"""The doctor tells what works and what does not, says what to do, and leaves nothing behind."""

from __future__ import annotations

import errno
import http.server
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from ecif import doctor
from ecif.cli import run
from ecif.doctor import disk, races, s3
from ecif.doctor.calls import RIGHTS, Refused
from ecif.doctor.credentials import credentials, shortened
from ecif.doctor.lines import Diagnosis, Line
from ecif.errors import UsageError
from ecif.storage import Storage
from tests.conftest import Bucket


@pytest.fixture(autouse=True)
def _one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(races, "_ROUNDS", 1)


def levels(found: Diagnosis) -> dict[str, str]:
    return {line.check: line.level for line in found.lines}


def line(found: Diagnosis, check: str) -> Line:
    (one,) = [line for line in found.lines if line.check == check]
    return one


def keys(bucket: Bucket) -> list[str]:
    return [item["Key"] for item in bucket.client().list_objects_v2(Bucket=bucket.name).get("Contents", [])]


def test_a_bucket_that_works(s3_bucket: Bucket) -> None:
    found = doctor.examine(f"{s3_bucket.url}/clean", s3_bucket.options)
    assert found.ok
    right = {"credentials", "endpoint", "clock", "list", "write", "read", "ranges", "etag", "list after write"}
    right |= {"multipart", "abort", "conditional create", "delete", "pending uploads"}
    assert {check for check, level in levels(found).items() if level == "ok"} >= right
    assert levels(found)["lifecycle"] == "warning"
    assert keys(s3_bucket) == []
    assert s3_bucket.client().list_multipart_uploads(Bucket=s3_bucket.name).get("Uploads", []) == []
    assert found.to_json()["ok"] is True


def test_versions_and_a_lifecycle_rule_are_seen_and_no_old_versions_stay(s3_bucket: Bucket) -> None:
    client = s3_bucket.client()
    client.put_bucket_versioning(Bucket=s3_bucket.name, VersioningConfiguration={"Status": "Enabled"})
    rule = {"ID": "a", "Status": "Enabled", "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3}}  # fmt: skip
    client.put_bucket_lifecycle_configuration(Bucket=s3_bucket.name, LifecycleConfiguration={"Rules": [rule]})
    found = doctor.examine(s3_bucket.url, s3_bucket.options)
    assert line(found, "versioning").detail.startswith("on")
    assert "3 days" in line(found, "lifecycle").detail
    listed = client.list_object_versions(Bucket=s3_bucket.name)
    assert listed.get("Versions", []) + listed.get("DeleteMarkers", []) == []


def test_read_only_writes_nothing(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_bucket.client().put_object(Bucket=s3_bucket.name, Key="raw/00000.tar", Body=b"x" * 100)
    before = keys(s3_bucket)
    monkeypatch.setattr(s3, "_remove", lambda *_: pytest.fail("nothing was written"))
    found = doctor.examine(f"{s3_bucket.url}/raw", s3_bucket.options, read_only=True)
    assert found.ok
    assert "'raw/00000.tar'" in line(found, "read").detail
    assert not {"write", "multipart"} & set(levels(found))
    assert keys(s3_bucket) == before
    empty = doctor.examine(f"{s3_bucket.url}/nothing", s3_bucket.options, read_only=True)
    assert line(empty, "read").level == "warning"


def test_pending_uploads_are_found_and_aborted(s3_bucket: Bucket) -> None:
    client = s3_bucket.client()
    for key in ("out/00000.tar", "out/00001.tar", "other/x"):
        client.create_multipart_upload(Bucket=s3_bucket.name, Key=key)
    found = line(doctor.examine(f"{s3_bucket.url}/out", s3_bucket.options, read_only=True), "pending uploads")
    assert (found.level, found.detail.startswith("2 ")) == ("warning", True)
    assert "--abort-uploads" in found.advice
    url = f"{s3_bucket.url}/out"
    assert doctor.examine(url, s3_bucket.options, read_only=True, abort_older=timedelta(days=9999)).ok
    assert len(client.list_multipart_uploads(Bucket=s3_bucket.name)["Uploads"]) == 3
    doctor.examine(url, s3_bucket.options, read_only=True, abort_older=timedelta(0))
    assert [one["Key"] for one in client.list_multipart_uploads(Bucket=s3_bucket.name)["Uploads"]] == ["other/x"]


def test_a_bucket_that_is_not_there(s3_bucket: Bucket) -> None:
    found = doctor.examine("s3://no-such-bucket-here/x", s3_bucket.options)
    assert not found.ok
    assert "no such bucket" in line(found, "bucket").detail
    assert "write" not in levels(found)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "127.0.0.1:9000"])
def test_a_wrong_endpoint_is_one_problem(endpoint: str) -> None:
    found = doctor.examine("s3://bucket/x", {"endpoint_url": endpoint, "key": "a-key", "secret": "a-secret"})
    assert levels(found) == {"credentials": "ok", "endpoint": "problem"}
    assert "endpoint_url" in line(found, "endpoint").advice
    assert "a-secret" not in str(found)


class Answering(http.server.BaseHTTPRequestHandler):
    """A server that refuses in some way, or serves one file."""

    status, body, skew = 403, b"", 0.0
    ranges = sizes = True

    def do_GET(self) -> None:
        if self.status == 200:
            wanted = self.headers.get("Range") if self.ranges else None
            self.send_response(206 if wanted else 200)
            body = self.body[1:9] if wanted else self.body
            if self.sizes:
                self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"x"')
        else:
            self.send_response(self.status)
            body = self.body
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=self.skew), usegmt=True)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """One for all, since a client of its own for each takes a second."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def answer(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`answer(status=..., body=...)` sets how the server answers; returns the options that reach it."""

    def set_to(**values: Any) -> dict[str, Any]:
        for name, value in values.items():
            monkeypatch.setattr(Answering, name, value)
        return {"endpoint_url": endpoint, "key": "some-key", "secret": "some-secret"}

    return set_to


def error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>said the server</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "check", "words"),
    [
        (403, "InvalidAccessKeyId", "bucket", "does not know this access key"),
        (403, "SignatureDoesNotMatch", "bucket", "secret does not fit"),
        (403, "RequestTimeTooSkewed", "bucket", "clock is too far off"),
        (400, "ExpiredToken", "bucket", "have expired"),
        (400, "AuthorizationHeaderMalformed", "bucket", "region is not the bucket's"),
        (503, "SlowDown", "bucket", "fewer requests"),
        (418, "Teapot", "bucket", "418 Teapot: said the server"),
    ],
)
def test_refusals_are_explained(
    answer: Callable[..., dict[str, Any]], status: int, code: str, check: str, words: str
) -> None:
    found = doctor.examine("s3://bucket/x", answer(status=status, body=error(code)))
    assert words in line(found, check).detail
    assert [one.level for one in found.lines].count("problem") == 1
    assert not any("\n" in str(one) for one in found.lines)


def test_missing_rights_are_named_call_by_call(answer: Callable[..., dict[str, Any]]) -> None:
    found = doctor.examine("s3://bucket/x", answer(status=403, body=error("AccessDenied")))
    assert line(found, "list").advice == "it needs the right s3:ListBucket on this prefix"
    assert line(found, "write").advice == "it needs the right s3:PutObject on this prefix"
    assert levels(found)["versioning"] == "ok"
    assert not found.ok


@pytest.mark.parametrize(
    ("skew", "level", "words"),
    [
        (0, "ok", "agrees"),
        (-100, "warning", "ahead of"),
        (100, "warning", "behind"),
        (400, "warning", "before it is 15"),
        (1000, "problem", "refused"),
    ],
)
def test_the_clock(answer: Callable[..., dict[str, Any]], skew: float, level: str, words: str) -> None:
    options = answer(skew=skew, body=error("NoSuchBucket"))
    found = line(doctor.examine("s3://b/x", options), "clock")
    assert found.level == level
    assert words in str(found)


def test_a_server_that_does_not_answer_is_told_from_one_that_is_not_there(
    answer: Callable[..., dict[str, Any]],
) -> None:
    release = threading.Event()
    options = answer(do_GET=lambda _: release.wait(10)) | {"config_kwargs": {"read_timeout": 0.2}}
    found = line(doctor.examine("s3://b/x", options), "endpoint")
    release.set()
    assert (found.level, "did not answer in time" in found.detail) == ("problem", True)


def test_every_request_has_a_right() -> None:
    assert all(right.startswith("s3:") for right in RIGHTS.values())
    refused = Refused("put_object", OSError(errno.EIO, "x"))
    assert (refused.status, refused.is_answer) == (None, False)


class Options:
    """What `credentials` looks at of an s3fs file system."""

    def __init__(self, **given: Any) -> None:
        self.anon = given.get("anon", False)
        self.key, self.token = given.get("key"), given.get("token")
        self.client_kwargs, self.kwargs = given.get("client_kwargs", {}), given.get("kwargs", {})


@pytest.fixture
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.usefixtures("_no_credentials")
def test_where_credentials_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert credentials(Options(anon=True)).detail.startswith("none")
    assert credentials(Options(key="AKIAIOSFODNN7")).detail == "access key AKIA... of --storage-options"
    assert "temporary" in credentials(Options(key="AKIAIOSFODNN7", token="t")).detail
    nothing = credentials(Options())
    assert (nothing.level, nothing.detail) == ("problem", "none found")
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=AKIAFILE\naws_secret_access_key=sss\n[p]\naws_access_key_id=OTHERKEY\n"
        "aws_secret_access_key=sss\n"
    )
    assert credentials(Options()).detail == "access key AKIA... from the shared file (~/.aws/credentials)"
    assert credentials(Options(kwargs={"profile": "p"})).detail.startswith("access key OTHE... from the shared file")
    wrong = credentials(Options(kwargs={"profile": "q"}))
    assert (wrong.level, "'q'" in wrong.detail) == ("problem", True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sss")
    assert credentials(Options()).detail == "access key ENVI... from the environment (AWS_ACCESS_KEY_ID)"


def test_a_short_key_is_not_given_away() -> None:
    assert [shortened(key) for key in ("", "ab", "abcdefgh", "a" * 20)] == ["...", "a...", "abcd...", "aaaa..."]


def test_a_directory_that_works(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    found = doctor.examine(str(tmp_path))
    assert found.ok
    assert {"list", "write", "fsync", "hard links", "concurrent create", "names"} <= set(levels(found))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_directory_that_is_not_there_is_not_left_behind(tmp_path: Path) -> None:
    found = doctor.examine(str(tmp_path / "a" / "b"))
    assert found.ok
    assert "can be made" in line(found, "directory").detail
    assert list(tmp_path.iterdir()) == []
    missing = doctor.examine(str(tmp_path / "a"), read_only=True)
    assert levels(missing) == {"directory": "problem"}


def test_a_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "makedirs", refuse)  # a superuser may write everywhere
    found = doctor.examine(str(tmp_path))
    assert line(found, "write").level == "problem"
    assert "read-only" in str(line(found, "write"))


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"x")
    assert levels(doctor.examine(str(tmp_path / "x.tar"))) == {"directory": "problem"}
    assert levels(doctor.examine(str(tmp_path / "x.tar"), read_only=True)) == {"read": "ok"}
    assert levels(doctor.examine(str(tmp_path / "x.tar" / "y"))) == {"write": "problem"}


@pytest.mark.parametrize(
    ("rounds", "level", "words"),
    [
        ([{"won": 1, "lost": 15}] * 2, "ok", "one of 16"),
        ([{"won": 1, "lost": 15}, {"won": 2, "lost": 14}], "warning", "not atomic: up to 2"),
        ([{"won": 16}], "warning", "ignored"),
        ([{"NotImplemented": 16}], "ok", "not known"),
        ([{"won": 1, "SlowDown": 15}], "warning", "15 of 16 creates failed"),
    ],
)
def test_races_in_words(rounds: list[dict[str, int]], level: str, words: str) -> None:
    found = races._line("x", [Counter(one) for one in rounds])
    assert found.level == level
    assert words in found.detail


def test_all_start_together() -> None:
    seen: list[float] = []

    def act(writer: int) -> str:
        seen.append(time.monotonic())
        return str(writer % 2)

    assert races.together(act) == {"0": races.WRITERS / 2, "1": races.WRITERS / 2}
    assert len(seen) == races.WRITERS


def test_a_web_server(endpoint: str, answer: Callable[..., dict[str, Any]]) -> None:
    url = f"{endpoint}/a.tar"
    answer(status=200, body=b"0123456789abcdef")
    assert levels(doctor.examine(url)) == {"read": "ok", "size": "ok", "ranges": "ok", "write": "ok"}
    answer(ranges=False)
    assert levels(doctor.examine(url))["ranges"] == "warning"
    answer(sizes=False)
    assert levels(doctor.examine(url))["size"] == "problem"
    answer(status=404)
    assert levels(doctor.examine(url)) == {"read": "problem"}
    assert levels(doctor.examine("http://127.0.0.1:1/a.tar")) == {"read": "problem"}


def test_another_store(memory_root: str) -> None:
    found = doctor.examine(f"{memory_root}/x")
    assert found.ok
    assert {"list", "write", "read", "list after write", "create", "delete"} <= set(levels(found))
    assert Storage().list(memory_root) == []


def test_uploads_are_a_matter_of_s3(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="abort-uploads"):
        doctor.examine(str(tmp_path), abort_older=timedelta(hours=1))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(disk, "_FEW_BYTES", free // 2)
    assert levels(doctor.examine(str(tmp_path)))["space"] == "ok"
    monkeypatch.setattr(disk, "_FEW_BYTES", free * 2)
    assert levels(doctor.examine(str(tmp_path)))["space"] == "warning"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_FEW_BYTES", 0)
    assert run(["doctor", str(tmp_path)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("usable")
    assert run(["doctor", str(tmp_path / "none"), "--read-only"]) == 4
    assert "not usable: 1 problem" in capsys.readouterr().out
    assert run(["doctor", str(tmp_path), "--abort-uploads", "-1"]) == 2
