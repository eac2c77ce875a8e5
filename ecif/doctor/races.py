"""What happens when many create one name at once: who wins, and how many.

On S3 the create is conditional (`If-None-Match: *`); some servers ignore it, and some look first and write then, so
that several win. Nothing in ECIF rests on it; a program that uses it as a lock does. On disks the create is a hard
link, and there one winner is needed.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ecif.doctor import multipart
from ecif.doctor.calls import Bucket, Refused
from ecif.doctor.lines import Line

WRITERS = 16
_ROUNDS = 4

_LOST = (409, 412)
_ADVICE = "ECIF does not rely on it; do not use it as a lock"


def together(action: Callable[[int], str]) -> Counter[str]:
    """Call `action(0)`, ..., `action(WRITERS - 1)` in threads that start at the same moment; how often each answer."""
    start = threading.Barrier(WRITERS)

    def wait_and_act(writer: int) -> str:
        start.wait()
        return action(writer)

    with ThreadPoolExecutor(WRITERS) as pool:
        return Counter(pool.map(wait_and_act, range(WRITERS)))


def on_s3(bucket: Bucket, folder: str) -> Iterator[Line]:
    """Conditional creates, with one request and at the end of an upload in parts."""
    yield _line("conditional create", [_puts(bucket, f"{folder}race-{n}") for n in range(_ROUNDS)])
    yield _line("conditional complete", [_completions(bucket, f"{folder}race-parts-{n}") for n in range(_ROUNDS)])


def _line(check: str, rounds: list[Counter[str]]) -> Line:
    failures = sum(
        (Counter({k: n for k, n in found.items() if k not in ("won", "lost")}) for found in rounds), Counter()
    )
    if failures:
        (failure, count) = failures.most_common(1)[0]
        if failure in ("NotImplemented", "InvalidArgument", "InvalidRequest"):
            return Line("ok", check, f"If-None-Match is not known to this server ({failure}); it is not needed")
        return Line("warning", check, f"{count} of {WRITERS * len(rounds)} creates failed: {failure}", "try again")
    most = max(found["won"] for found in rounds)
    if most == 1 and min(found["won"] for found in rounds) == 1:
        return Line("ok", check, f"If-None-Match holds: one of {WRITERS} simultaneous creates won, {len(rounds)} times")
    if most == WRITERS:
        return Line("warning", check, f"If-None-Match is ignored: all {WRITERS} simultaneous creates won", _ADVICE)
    return Line("warning", check, f"not atomic: up to {most} of {WRITERS} simultaneous creates won", _ADVICE)


def _puts(bucket: Bucket, key: str) -> Counter[str]:
    def put(writer: int) -> str:
        return _outcome(bucket, "put_object", Key=key, Body=b"%d" % writer, IfNoneMatch="*")

    return together(put)


def _completions(bucket: Bucket, key: str) -> Counter[str]:
    begun: list[tuple[str, list[dict[str, object]]]] = []
    try:
        for writer in range(WRITERS):
            upload = bucket.call("create_multipart_upload", Key=key)["UploadId"]
            begun.append((upload, []))
            begun[-1][1].append(multipart.send(bucket, key, upload, 1, b"%d" % writer))
    except Refused as refusal:
        for upload, _ in begun:
            multipart.abort(bucket, key, upload)
        return Counter({refusal.code: 1})

    def complete(writer: int) -> str:
        upload, parts = begun[writer]
        outcome = _outcome(
            bucket,
            "complete_multipart_upload",
            Key=key,
            UploadId=upload,
            MultipartUpload={"Parts": parts},
            IfNoneMatch="*",
        )
        if outcome != "won":
            multipart.abort(bucket, key, upload)
        return outcome

    return together(complete)


def _outcome(bucket: Bucket, request: str, **arguments: object) -> str:
    try:
        bucket.call(request, **arguments)
    except Refused as refusal:
        return "lost" if refusal.status in _LOST else refusal.code
    return "won"


def on_disk(folder: str) -> Line:
    """Hard links to one name, made at the same moment.

    Args:
        folder: an existing directory, in which files are left.
    """
    for n in range(_ROUNDS):

        def link(writer: int, n: int = n) -> str:
            source = os.path.join(folder, f"race-{n}-{writer}")
            with open(source, "wb") as file:
                file.write(b"%d" % writer)
            try:
                os.link(source, os.path.join(folder, f"race-{n}"))
            except FileExistsError:
                return "lost"
            return "won"

        won = together(link)["won"]
        if won != 1:
            detail = f"{won} of {WRITERS} simultaneous creates of one name won"
            return Line("problem", "concurrent create", detail, "two runs could overwrite each other; use another disk")
    return Line("ok", "concurrent create", f"one of {WRITERS} simultaneous creates won, {_ROUNDS} times")
