"""Agree on one content for a file that several writers may want to make at once, on any storage.

Two runs that plan from different inventories, or with different policies, would write different bytes under one name.
A local link and an atomic `If-None-Match` refuse the second writer, but object stores exist whose conditional PUT is
not atomic: the later PUT would silently replace a decision by which shards have been written already. So nothing
rests on it. A writer first puts a claim under a name of its own, then lists the claims: of two writers at least one
sees the other (Dekker's algorithm), and who sees another claim withdraws its own and waits. What has been published
is looked for again after the claim is put, and a claim goes only after the file is there. It takes storage that lists
what was written, which S3 does since 2020.

The price: a writer that is killed or fails between claim and file leaves a claim behind, and others with other bytes
refuse until it is removed; they name it. These are a few small files per output; everything else has contents that
follow from its name.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import time

from ecif.errors import ConflictError, MissingFileError
from ecif.storage import Storage, is_remote

# Claims stand for a few requests. Attempts, and the longest wait between two of them (seconds).
ATTEMPTS = 8
LONGEST_WAIT = 2.0


def settle(url: str, data: bytes, storage: Storage) -> bytes:
    """Publish `data` at `url`, unless something is there already.

    Returns:
        What stands at `url` for good: `data`, or what another writer has published first.

    Raises:
        ConflictError: another writer's claim stays and stays; it was killed.
        StorageError: the storage failed.
    """
    if (there := _read(url, storage)) is not None:
        return there
    if not is_remote(url):
        return _publish(url, data, storage)
    other = ""
    for attempt in range(ATTEMPTS):
        own = f"{claims(url)}/{hashlib.sha256(data).hexdigest()[:16]}-{secrets.token_hex(8)}"
        storage.publish(own, b"")
        other = _other(url, own, storage)
        there = _read(url, storage)
        if there is None and not other:
            # If this fails, the bytes may still be on their way: the claim stays, and keeps others from writing.
            there = _publish(url, data, storage)
        storage.delete(own)
        if there is not None:
            return there
        time.sleep(random.uniform(0, LONGEST_WAIT * (attempt + 1) / ATTEMPTS))
    problem = "another run claims to write this file and does not; if that run is dead, remove"
    raise ConflictError(f"{problem} {other}", url=url)


def canonical(value: object) -> bytes:
    """JSON in the one form that `Storage.publish_json` writes."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def claims(url: str) -> str:
    """Where the claims to a file lie."""
    return f"{url}.claims"


def _other(url: str, own: str, storage: Storage) -> str:
    """A claim to write other bytes; empty when there is none."""
    prefix = own.rpartition("-")[0]
    return next((file.url for file in storage.list(claims(url)) if not file.url.startswith(f"{prefix}-")), "")


def _publish(url: str, data: bytes, storage: Storage) -> bytes:
    try:
        storage.publish(url, data)
    except ConflictError:
        return storage.read_bytes(url)
    return data


def _read(url: str, storage: Storage) -> bytes | None:
    try:
        return storage.read_bytes(url)
    except MissingFileError:
        return None
