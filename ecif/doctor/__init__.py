"""Can this place be used? Tried out, not looked up: servers that call themselves S3 differ in what they do.

    s3 (bucket, with objects, multipart, races, credentials) · disk · elsewhere (web servers, other stores)

Everything is written below `URL/_ecif/doctor-<random>/` and removed afterwards, also when something fails. Each
thing that was looked at becomes one `Line`, with what to do about it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ecif.doctor.lines import Diagnosis, Line
from ecif.errors import InputError, UsageError
from ecif.layout import META
from ecif.progress import Progress, Silent
from ecif.storage import Storage, is_remote, join
from ecif.storage.secrets import redact
from ecif.storage.urls import READ_ONLY, scheme_of

__all__ = ["Diagnosis", "Line", "examine"]


def examine(
    url: str,
    options: Mapping[str, Any] | None = None,
    allow: Sequence[str] = (),
    *,
    read_only: bool = False,
    abort_older: timedelta | None = None,
    progress: Progress = Silent(),
) -> Diagnosis:
    """Try a place out.

    Args:
        url: a directory, a prefix of an object store, or a file of a web server.
        options, allow: as `Storage` takes them.
        read_only: write nothing: for a place that is only a source.
        abort_older: give up the pending uploads below `url` that began longer ago than this.

    Raises:
        UsageError: the URL is not accepted, or the options are not those of its store.
    """
    options = dict(options or {})
    storage = Storage(options, allow)
    url = storage.check(url)
    if abort_older is not None and scheme_of(url) != "s3":
        raise UsageError(f"{url}: pending uploads are a matter of S3; leave --abort-uploads out")
    lines = []
    progress.stage("doctor", 0, "checks")
    try:
        for line in _lines(url, options, storage, read_only, abort_older):
            lines.append(Line(line.level, line.check, redact(line.detail, options), redact(line.advice, options)))
            progress.advance()
    finally:
        progress.end()
    return Diagnosis(url, tuple(lines))


def _lines(
    url: str, options: Mapping[str, Any], storage: Storage, read_only: bool, abort_older: timedelta | None
) -> Iterator[Line]:
    folder = join(url, META, f"doctor-{secrets.token_hex(6)}")
    if not is_remote(url):
        from ecif.doctor import disk

        yield from disk.examine(url, folder, read_only)
        return
    from ecif.doctor import elsewhere
    from ecif.storage.remote import filesystem

    scheme = scheme_of(url)
    if scheme in READ_ONLY:
        yield from elsewhere.web(filesystem(url, options), url)
    elif scheme != "s3":
        yield from elsewhere.store(storage, url, folder, read_only)
    else:
        from ecif.doctor import s3

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        inside = folder.removeprefix(f"s3://{bucket}/") + "/"
        found = yield from s3.examine(filesystem(url, options), bucket, prefix and prefix + "/", inside, read_only)
        if found:
            yield from _uploads(url, storage, abort_older)


def _uploads(url: str, storage: Storage, abort_older: timedelta | None) -> Iterator[Line]:
    """What killed writers left behind below the prefix, and its end when that is asked for."""
    try:
        pending = storage.uploads(url)
    except InputError as error:
        yield Line("warning", "pending uploads", error.problem, "the right s3:ListBucketMultipartUploads is needed")
        return
    now = datetime.now(UTC)
    if abort_older is not None:
        old = [upload for upload in pending if now - upload.started > abort_older]
        try:
            for upload in old:
                storage.abort_upload(upload)
        except InputError as error:
            yield Line("problem", "pending uploads", error.problem, "the right s3:AbortMultipartUpload is needed")
            return
        pending = [upload for upload in pending if upload not in old]
        yield Line("ok", "pending uploads", f"{len(old)} that began more than {_hours(abort_older)} ago are aborted")
    if not pending:
        yield Line("ok", "pending uploads", "none below the prefix")
        return
    oldest = min(upload.started for upload in pending)
    detail = f"{len(pending)} below the prefix, begun up to {_hours(now - oldest)} ago: unless a run is going on, "
    detail += "they are left from killed ones and cost storage"
    yield Line("warning", "pending uploads", detail, "--abort-uploads 24 aborts those older than a day")


def _hours(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours >= 2 else f"{span.total_seconds() / 60:.0f} minutes"
