"""What can go wrong, as types: each knows its exit code, and its message names the place and the way out."""

from __future__ import annotations

import errno

# Exit codes of the command line (documented in docs/cli.md).
EXIT_OK = 0
EXIT_BUG = 1
EXIT_REFUSED = 2
EXIT_SHARDS_FAILED = 3
EXIT_CHECK_FAILED = 4


class EcifError(Exception):
    """An error with a message for the user; anything else that escapes is a bug."""

    exit_code = EXIT_REFUSED


class UsageError(EcifError):
    """The request itself is wrong: a setting, a URL, a combination of both."""


class InputError(EcifError):
    """Bad input data.

    Args:
        problem: what is wrong, and what to do about it.
        url: the file.
        member: the tar member, when one is meant.
        offset: the byte offset in the file, when one is meant.
    """

    def __init__(self, problem: str, *, url: str, member: str | None = None, offset: int | None = None) -> None:
        self.problem, self.url, self.member, self.offset = problem, url, member, offset
        place = url
        if member is not None:
            place += f", member {member!r}"
        if offset is not None:
            place += f", offset {offset}"
        super().__init__(f"{place}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        # The keyword-only arguments would be lost by the default pickling, which process pools use.
        return (_input_error, (type(self), self.problem, self.url, self.member, self.offset))


def _input_error(kind: type[InputError], problem: str, url: str, member: str | None, offset: int | None) -> InputError:
    return kind(problem, url=url, member=member, offset=offset)


class BadTarError(InputError):
    """The file is not a tar, is cut short, or holds a member that is refused."""


class MissingFileError(InputError):
    """A file that was named does not exist."""


class StorageError(InputError):
    """The storage refused or failed: permissions, network, a short body."""


class ConflictError(InputError):
    """An output exists already with other content; nothing is ever overwritten."""


class ModelError(EcifError):
    """The model cannot be built, its weights do not fit, or its loss is not the softmax contrastive loss."""


class DoesNotFitError(UsageError):
    """What was asked for needs more memory than the device has, however small the micro-batch."""


class TooManyFailedError(EcifError):
    """More shards failed than `--max-failed` allows; what was finished before is kept."""

    exit_code = EXIT_SHARDS_FAILED


def no_room(error: BaseException) -> StorageError | None:
    """A disk that is full under temporary files, as an error for the user; None when that is not what happened.

    What is written to an output is told by the storage; all other files are temporary.
    """
    if not (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return None
    import tempfile  # not needed where nothing goes wrong

    return StorageError(
        "no room for temporary files; make some, or let TMPDIR name another disk", url=tempfile.gettempdir()
    )
