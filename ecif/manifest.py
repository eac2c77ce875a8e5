"""The marker of a finished shard: written last, and the only thing that makes the shard exist.

A manifest says what went in, what came out, and the SHA-256 of every file written, so that `verify` can prove an
output from its bytes and a run that was killed knows what is left to do. One small file per shard, so that
writers on many machines never touch the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_type_hints

from ecif.errors import InputError, MissingFileError
from ecif.layout import Layout
from ecif.storage import FileInfo, Storage

# The files that a shard may have; only those that exist are in a manifest. `scores` is the table that was followed.
FILES = ("tar", "parquet", "stats", "ledger", "quarantine", "scores")


@dataclass(frozen=True, slots=True)
class FileMark:
    """What a written file holds: bytes, and SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A finished shard.

    Args:
        shard: its name.
        input: URL, bytes and tag of the tar it was made from.
        samples: samples in the input tar.
        kept: those in the output tar.
        dropped: those that are gone, each with a row in the ledger.
        quarantined: those moved to the quarantine tar, each with a row in the ledger.
        unscored: those whose status is not `ok`, whatever became of them.
        statuses: samples by status.
        files: marks of the files written, by kind (`FILES`).
        fit_key, score_key, decision_key: what decided.
        algo_version: `ecif.ALGO_VERSION` of the writer.
        denied: those of the dropped that the denylist names.
        spared: those of the kept that would have gone but for the allowlist.

    Raises:
        ValueError: the counts contradict each other, or a file is of an unknown kind.
    """

    shard: str
    input: FileInfo
    samples: int
    kept: int
    dropped: int
    quarantined: int
    unscored: int
    statuses: dict[str, int]
    files: dict[str, FileMark]
    fit_key: str
    score_key: str
    decision_key: str
    algo_version: int
    denied: int = 0
    spared: int = 0

    def __post_init__(self) -> None:
        counts = (self.samples, self.kept, self.dropped, self.quarantined, self.unscored, self.denied, self.spared)
        if min(*counts, *self.statuses.values()) < 0:
            raise ValueError("a count is negative")
        if self.denied > self.dropped or self.spared > self.kept:
            raise ValueError(
                f"{self.denied} denied of {self.dropped} dropped, {self.spared} spared of {self.kept} kept"
            )
        if self.kept + self.dropped + self.quarantined != self.samples:
            raise ValueError(
                f"{self.kept} kept + {self.dropped} dropped + {self.quarantined} quarantined"
                f" is not {self.samples} samples"
            )
        if self.unscored > self.samples:
            raise ValueError(f"{self.unscored} unscored of {self.samples} samples")
        if unknown := sorted(set(self.files) - set(FILES)):
            raise ValueError(f"unknown kind of file: {', '.join(unknown)}")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are written."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, url: str = "manifest") -> Manifest:
        """The manifest that `to_json` gave.

        Args:
            url: where it was read, for messages.

        Raises:
            InputError: a field is missing, unknown, of the wrong type, or contradicts another.
        """
        try:
            given = exact_fields(cls, value)
            given["input"] = FileInfo(**exact_fields(FileInfo, given["input"]))
            given["files"] = {
                typed(kind, str, "files"): FileMark(**exact_fields(FileMark, mark))
                for kind, mark in given["files"].items()
            }
            for status, count in given["statuses"].items():
                typed(status, str, "statuses")
                typed(count, int, status)
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise InputError(f"is not a valid manifest: {error}", url=url) from error


def exact_fields(kind: type, value: object) -> dict[str, Any]:
    """`value` as the arguments of dataclass `kind`, exactly its fields, plain values of the right type."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{kind.__name__} is {type(value).__name__}, not an object")
    names = [field.name for field in fields(kind)]
    if set(value) != set(names):
        raise TypeError(f"{kind.__name__} has the fields {sorted(value)}, not {sorted(names)}")
    hints = get_type_hints(kind)
    for name in names:
        if hints[name] in (int, str):
            typed(value[name], hints[name], name)
        elif get_args(hints[name]):
            typed(value[name], dict, name)
    return dict(value)


def typed(value: Any, kind: type, name: str) -> Any:
    """`value`, which has to be of exactly this type.

    Raises:
        TypeError: it is not.
    """
    if type(value) is not kind:  # a bool is no count
        raise TypeError(f"{name} is {value!r}, not of type {kind.__name__}")
    return value


def write(manifest: Manifest, layout: Layout, storage: Storage) -> None:
    """Publish `manifest`: from now on the shard exists. Nothing happens when it stands there already.

    Raises:
        ConflictError: the shard has a manifest that says something else.
        StorageError: it cannot be written.
    """
    storage.publish_json(layout.manifest(manifest.shard), manifest.to_json())


def read(layout: Layout, storage: Storage, shard: str) -> Manifest | None:
    """The manifest of a shard, None when it is not finished.

    Raises:
        InputError: the file is damaged, or is the manifest of another shard.
    """
    url = layout.manifest(shard)
    try:
        manifest = Manifest.from_json(storage.read_json(url), url)
    except MissingFileError:
        return None
    if manifest.shard != shard:
        raise InputError(f"is the manifest of shard {manifest.shard!r}", url=url)
    return manifest


def done(layout: Layout, storage: Storage) -> set[str]:
    """The names of the finished shards, by one listing."""
    folder = storage.check(layout.manifests()) + "/"
    return {file.url.removeprefix(folder).removesuffix(".json") for file in storage.list(folder, ".json")}
