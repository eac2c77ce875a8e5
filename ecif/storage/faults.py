"""What storage libraries raise, turned into our errors; and the one layer of retries.

Retries happen here and nowhere else: those of botocore and s3fs are switched off (see `remote.filesystem`),
because nested they make 25 requests in 44 seconds out of one 503. Five attempts over 7.5 seconds bridge a
restart of a server or a burst of throttling; what lasts longer is for the orchestrator to retry.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ecif.errors import EcifError, MissingFileError, StorageError

T = TypeVar("T")

# Seconds before the second, third, ... attempt.
WAITS = (0.5, 1.0, 2.0, 4.0)

_ABSENT = (FileNotFoundError, NotADirectoryError)
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_PASSING = frozenset({errno.EIO, errno.EBUSY, errno.EAGAIN, getattr(errno, "EREMOTEIO", errno.EIO)})

# Of aiohttp and botocore, by name: they share no base, some are no OSError, and importing them takes a second.
_PASSING_NAMES = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "FlexibleChecksumError",
        "HTTPClientError",
        "IncompleteReadError",
        "ResponseParserError",
    }
)


class ShortBody(Exception):
    """A body that ended before its length; asking again may bring the rest."""


def retrying(action: Callable[[], T]) -> T:
    """Call `action`, again after a wait when it failed for a reason that may pass."""
    for wait in WAITS:
        try:
            return action()
        except Exception as error:
            if not is_passing(error):
                raise
        time.sleep(wait)
    return action()


def is_passing(error: Exception) -> bool:
    """Whether the same request may succeed later: network, throttling, server errors, short bodies."""
    if isinstance(error, _FINAL) or type(error).__name__ == "FileExpired":
        return False
    status = getattr(error, "status", None)  # of aiohttp's ClientResponseError
    if isinstance(status, int):
        return status >= 500 or status == 429
    if isinstance(error, ShortBody | TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    return not _PASSING_NAMES.isdisjoint(kind.__name__ for kind in type(error).__mro__)


@contextmanager
def translated(url: str, doing: str) -> Iterator[None]:
    """Turn whatever is raised inside into `MissingFileError` or `StorageError` naming `url`.

    Args:
        doing: the verb of the message: `read`, `list`, `write`, `delete`.
    """
    try:
        yield
    except EcifError:
        raise
    except Exception as error:
        if isinstance(error, _ABSENT) and doing != "write":
            raise MissingFileError("does not exist", url=url) from error
        raise StorageError(f"cannot {doing}: {_explain(error, doing)}", url=url) from error


def _explain(error: Exception, doing: str) -> str:
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or "no details given"
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return f"access denied ({text}); check the credentials and the permissions of this path"
    if isinstance(error, _ABSENT):  # only when writing
        return f"the bucket or directory does not exist and cannot be made ({text}); check --out"
    if isinstance(error, FileExistsError | IsADirectoryError):
        return f"something else stands in the way ({text}); check --out"
    if type(error).__name__ == "FileExpired":
        return "the file was replaced while it was read; inputs must not change during a run"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}; make room and run again, what is finished is kept"
    if isinstance(error, ImportError):
        return f"{text}; install the package that serves this kind of storage"
    hint = "; check --out" if doing == "write" and isinstance(error, OSError) and error.errno == errno.EROFS else ""
    return f"{type(error).__name__}: {text}{hint}"
