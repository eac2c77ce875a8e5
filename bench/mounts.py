"""Disks that are full or read-only, for one process: mounts in a namespace of its own, which end with it.

Permissions would not do: root writes where nobody may. Linux only, and user namespaces must be allowed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
FILLER = ".filler.tmp"
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Small:
    """A tmpfs of so many bytes in the place of a folder, holding what that held; left as it was found at the end.

    Attributes:
        keep: where the files are copied at the end, because the tmpfs goes with its process.
    """

    folder: str
    size: int
    keep: str

    def __enter__(self) -> None:
        private_mounts()
        aside = Path(self.keep) / "before"
        shutil.copytree(self.folder, aside)
        # Size 0 would mean no limit; so one page more, and that is taken.
        _mount("none", self.folder, "tmpfs", 0, f"size={self.size + PAGE},mode=0777")
        Path(self.folder, FILLER).write_bytes(bytes(PAGE))
        shutil.copytree(aside, self.folder, dirs_exist_ok=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        Path(self.folder, FILLER).unlink()
        shutil.copytree(self.folder, Path(self.keep) / "after")


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """A folder that nobody can write to."""

    folder: str

    def __enter__(self) -> None:
        private_mounts()
        _mount(self.folder, self.folder, "", _BIND)
        _mount("none", self.folder, "", _REMOUNT | _BIND | _RDONLY)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass


def private_mounts() -> None:
    """Give this process, which must have one thread, mounts that no other process sees.

    Raises:
        OSError: the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    _checked(_libc().unshare(_NEWUSER | _NEWNS), "unshare: user namespaces are needed")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", "/", "", _REC | _PRIVATE)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None)
    _checked(_libc().mount(*arguments), f"mount {target}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
