"""Denylist and allowlist: samples that go, or stay, whatever their score.

A list is a text file with one entry per line, or a table of uids. What a person wrote is frozen beside the decision in
one normal form (sorted unique lines), so that the same list is always the same bytes and later edits of the file
change nothing. In memory an entry is 16 bytes in a sorted array: ten million entries are 160 MB. Two different entries
with the same 16 bytes are not to be expected; a uid of 32 hexadecimal digits is its own 16 bytes, everything else the
beginning of a SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ecif.errors import InputError
from ecif.interop import aliases
from ecif.layout import Layout
from ecif.policy import duplicates
from ecif.policy.decision import Decision
from ecif.storage import Storage

KINDS = ("key", "sample", "uid", "url", "sha256")
"""What an entry may name: a key, SHARD/KEY, a uid, the URL of an image, the SHA-256 of its bytes."""

BY_CONTENT = ("url", "sha256")
"""Kinds that only the sample's members tell."""

FILES = {"denylist": "deny", "allowlist": "allow", "override_drop": "drop", "override_keep": "keep"}
"""Fields of a decision with the digests of its lists, and what `layout.list_of` calls their files."""

_MARK = np.dtype("S16")
_UIDS = np.dtype("u8,u8")
_UID, _SHA256 = re.compile(r"[0-9a-fA-F]{32}"), re.compile(r"[0-9a-fA-F]{64}")
_HEX_LINE = {"uid": len("uid:") + 32 + 1, "sha256": len("sha256:") + 64 + 1}


def entries(data: bytes, url: str) -> Iterator[tuple[str, str]]:
    """Kind and text of every entry of a text list, in its order.

    A line is `KIND:TEXT`; without a kind 32 hexadecimal digits are a uid, 64 a SHA-256, a text with `://` is a URL,
    anything else a key. Blank lines and those that begin with `#` are passed over.

    Args:
        url: where it was read, for messages.

    Raises:
        InputError: a line is not UTF-8, or not an entry of its kind; its number is named.
    """
    for number, raw in enumerate(io.BytesIO(data), 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} is not UTF-8 text; one entry per line", url=url) from error
        if line and not line.startswith("#"):
            try:
                yield entry(line)
            except ValueError as error:
                raise InputError(f"line {number}: {error}", url=url) from None


def entry(line: str) -> tuple[str, str]:
    """Kind and text of one line.

    Raises:
        ValueError: it is no entry of its kind.
    """
    kind, colon, text = line.partition(":")
    if not colon or kind not in KINDS:
        kind, text = _guess(line), line
    text = text.strip()
    if not text:
        raise ValueError(f"nothing stands behind '{kind}:'")
    if kind == "sha256" and not _SHA256.fullmatch(text):
        raise ValueError(f"a sha256 is 64 hexadecimal digits, not {text!r}")
    if kind == "sample" and "/" not in text:
        raise ValueError(f"a sample is SHARD/KEY, not {text!r}")
    return kind, text.lower() if kind == "sha256" or (kind == "uid" and _UID.fullmatch(text)) else text


def freeze(data: bytes, url: str) -> bytes:
    """A list in its normal form: `KIND:TEXT` lines, sorted (uids of 32 digits before others), each once.

    Args:
        data: text, a .npy file of DataComp uids (1-D, dtype `u8,u8`), or a parquet file with a column of uids.
        url: where it was read, for messages.

    Raises:
        InputError: it is none of them.
    """
    lines: dict[str, set[str]] = {kind: set() for kind in KINDS}
    uids = bytearray()  # those of 16 bytes: a list of ten million is mostly this
    if data.startswith(b"\x93NUMPY"):
        uids += _npy(data, url)
    else:
        found = (("uid", uid) for uid in _parquet(data, url)) if data.startswith(b"PAR1") else entries(data, url)
        for kind, text in found:
            if kind == "uid" and _UID.fullmatch(text):
                uids += bytes.fromhex(text)
            else:
                lines[kind].add(text)
    blocks = {kind: b"".join(f"{kind}:{text}\n".encode() for text in sorted(texts)) for kind, texts in lines.items()}
    blocks["uid"] = _uid_lines(uids) + blocks["uid"]
    return b"".join(blocks[kind] for kind in sorted(KINDS))


def digest(frozen: bytes) -> str:
    """What a decision calls a frozen list: its SHA-256 in hex."""
    return hashlib.sha256(frozen).hexdigest()


@dataclass(frozen=True, slots=True)
class Listed:
    """The entries of one list: by kind, sorted marks of 16 bytes."""

    marks: Mapping[str, npt.NDArray[np.bytes_]] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        return sum(map(len, self.marks.values()))

    def has(self, kind: str, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of `texts` the list names as `kind`: (n,) bool."""
        known = self.marks.get(kind)
        if known is None or not texts:
            return np.zeros(len(texts), dtype=np.bool_)
        asked = np.frombuffer(b"".join(_mark(kind, text) for text in texts), dtype=_MARK)
        places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return np.asarray(known[places] == asked)


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists of a decision, in the order in which they win.

    Attributes:
        deny, allow: denylist and allowlist. drop, keep: the overrides of a review.
        duplicates: pairs that have a better equal.
    """

    deny: Listed = Listed()
    allow: Listed = Listed()
    drop: Listed = Listed()
    keep: Listed = Listed()
    duplicates: duplicates.Places = field(default_factory=lambda: MappingProxyType({}))

    @property
    def by_content(self) -> bool:
        """Whether an entry can be matched only by a sample's members."""
        return any(kind in listed.marks for listed in (self.deny, self.allow) for kind in BY_CONTENT)


NO_LISTS = Lists()


def load(frozen: bytes) -> Listed:
    """A frozen list, ready to be asked.

    Args:
        frozen: what `freeze` gave.
    """
    marks = {}
    for kind in KINDS:
        block = _block(frozen, kind)
        if block:
            marks[kind] = np.unique(_marks(block, kind))
    return Listed(MappingProxyType(marks))


def read(decision: Decision, layout: Layout, storage: Storage) -> Lists:
    """The frozen lists of a decision; a process reads each once.

    Raises:
        InputError: a list is not the one that the decision was made with. MissingFileError: it is gone.
    """
    deny, allow, drop, keep = (
        _read(_Source(digest, layout.list_of(decision.key, kind), storage)) if digest else Listed()
        for kind, digest in ((kind, getattr(decision, name)) for name, kind in FILES.items())
    )
    same = decision.duplicates
    places = _duplicates(_Source(same, layout.duplicates(decision.key, same), storage)) if same else {}
    return Lists(deny, allow, drop, keep, places)


@dataclass(frozen=True, slots=True)
class _Source:
    """A frozen list; equal to every other with the same content, wherever it lies."""

    digest: str
    url: str = field(compare=False)
    storage: Storage = field(compare=False)


@lru_cache(maxsize=4)
def _read(source: _Source) -> Listed:
    return load(_checked(source))


@lru_cache(maxsize=1)
def _duplicates(source: _Source) -> duplicates.Places:
    return duplicates.load(_checked(source), source.url)


def _checked(source: _Source) -> bytes:
    frozen = source.storage.read_bytes(source.url)
    if digest(frozen) != source.digest:
        problem = "is not the list that the decision was made with; put the old file back, or plan into a new --out"
        raise InputError(problem, url=source.url)
    return frozen


def _guess(line: str) -> str:
    if _UID.fullmatch(line):
        return "uid"
    if _SHA256.fullmatch(line):
        return "sha256"
    return "url" if "://" in line else "key"


def _mark(kind: str, text: str) -> bytes:
    """The 16 bytes that stand for an entry."""
    if (kind == "sha256" and _SHA256.fullmatch(text)) or (kind == "uid" and _UID.fullmatch(text)):
        return bytes.fromhex(text)[:16]
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _block(frozen: bytes, kind: str) -> bytes:
    """The lines of one kind; they stand together."""
    prefix = f"{kind}:".encode()
    start = 0 if frozen.startswith(prefix) else frozen.find(b"\n" + prefix) + 1
    if not frozen.startswith(prefix, start):
        return b""
    last = max(start, frozen.rfind(b"\n" + prefix) + 1)
    return frozen[start : frozen.index(b"\n", last) + 1]


def _marks(block: bytes, kind: str) -> npt.NDArray[np.bytes_]:
    width = _HEX_LINE.get(kind)
    prefix = f"{kind}:".encode()
    if width is not None and len(block) % width == 0:
        table = np.frombuffer(block, dtype=np.uint8).reshape(-1, width)
        if (table[:, -1] == ord("\n")).all():
            try:  # lines of one width, all hexadecimal: no loop over ten million of them
                raw = bytes.fromhex(table[:, len(prefix) :].tobytes().decode("ascii"))
            except ValueError:
                pass
            else:
                whole = np.frombuffer(raw, dtype=np.uint8).reshape(len(table), -1)
                return np.ascontiguousarray(whole[:, :16]).view(_MARK).ravel()
    texts = (line[len(prefix) :].decode() for line in block.split(b"\n")[:-1])
    return np.frombuffer(b"".join(_mark(kind, text) for text in texts), dtype=_MARK)


def _npy(data: bytes, url: str) -> bytes:
    """The uids of a DataComp list, 16 bytes each."""
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"is not a .npy file that can be read: {error}", url=url) from error
    if found.dtype != _UIDS or found.ndim != 1:
        problem = f"holds {found.ndim}-D {found.dtype}; DataComp's uid lists are 1-D with dtype 'u8,u8'"
        raise InputError(problem, url=url)
    return np.stack([found["f0"], found["f1"]], axis=1).astype(">u8").tobytes()


def _uid_lines(uids: bytes | bytearray) -> bytes:
    """Sorted lines of uids of 16 bytes each."""
    marks = np.unique(np.frombuffer(uids, dtype=_MARK))
    table = np.empty((len(marks), _HEX_LINE["uid"]), dtype=np.uint8)
    table[:, :4] = np.frombuffer(b"uid:", dtype=np.uint8)
    table[:, 4:-1] = np.frombuffer(marks.tobytes().hex().encode(), dtype=np.uint8).reshape(-1, 32)
    table[:, -1] = ord("\n")
    return table.tobytes()


def _parquet(data: bytes, url: str) -> Iterator[str]:
    import polars as pl

    try:
        schema = pl.read_parquet_schema(io.BytesIO(data))
        column = aliases.column("uid", schema)
        table = None if column is None else pl.read_parquet(io.BytesIO(data), columns=[column])
    except Exception as error:  # polars raises its own errors, OSError, and panics derived from neither
        raise InputError(f"not a parquet file that can be read: {error}", url=url) from error
    if table is None:
        raise InputError(f"has no column of uids, only {', '.join(schema)}", url=url)
    for row, value in enumerate(table.to_series()):
        if (uid := aliases.as_uid(value)) is None or uid != uid.strip() or "\n" in uid:
            raise InputError(f"row {row}: {value!r} is no uid", url=url)
        yield entry(f"uid:{uid}")[1]
