"""The command that tries a place out before anything rests on it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter

from ecif import progress
from ecif.cli.answer import Answer
from ecif.cli.options import Usual, settings_of, wants_json
from ecif.errors import EXIT_CHECK_FAILED, EXIT_OK, UsageError
from ecif.settings import StorageSettings


def doctor(
    url: Annotated[str, Parameter(help="a directory, a prefix of an object store, or a file of a web server")],
    /,
    *,
    read_only: Annotated[bool, Parameter(help="write nothing: for a place that is only a source")] = False,
    abort_uploads: Annotated[
        float | None,
        Parameter(help="S3: give up the pending uploads below the prefix that began longer ago than this many hours"),
    ] = None,
    settings: Annotated[StorageSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Try out whether a place can be read, written and trusted: credentials, clock, uploads, simultaneous writers."""
    if abort_uploads is not None and not 0 <= abort_uploads <= 1e6:
        raise UsageError(f"--abort-uploads: {abort_uploads} is no number of hours")
    chosen = settings_of(StorageSettings, settings, usual)

    from ecif.doctor import examine

    diagnosis = examine(
        url,
        chosen.storage_options,
        chosen.allow,
        read_only=read_only,
        abort_older=None if abort_uploads is None else timedelta(hours=abort_uploads),
        progress=progress.choose(wants_json(usual)),
    )
    return Answer(str(diagnosis), diagnosis.to_json(), EXIT_OK if diagnosis.ok else EXIT_CHECK_FAILED)
