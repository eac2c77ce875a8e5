"""What has been brought back: claims, which name samples before one is copied, and records of finished shards.

A claim `_ecif/restore/KEY/_meta.json` lists samples, and KEY stands for the list, so that a restore that was killed is
continued with the same samples. Whoever selects samples later leaves out those that a claim has: no sample comes back
twice. A record `_ecif/restore/KEY/SHARD.json` is written last: without it the restored shard does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from ecif import ALGO_VERSION, keys
from ecif.ahead import ahead
from ecif.errors import ConflictError, InputError
from ecif.layout import Layout
from ecif.manifest import FileMark, exact_fields, typed
from ecif.storage import FileInfo, Storage

_META = "_meta"


@dataclass(frozen=True, slots=True)
class Claim:
    """What one restore brings back: positions in the input tars, by shard."""

    decision_key: str
    samples: dict[str, list[int]]

    @property
    def key(self) -> str:
        """Stands for these samples."""
        return keys.digest({"version": ALGO_VERSION, **asdict(self)})


@dataclass(frozen=True, slots=True)
class Restored:
    """A finished shard of restored samples.

    Attributes:
        shard: the one that its samples come from. restore_key, decision_key: what it belongs to.
        samples: how many it holds. source: `input` or `quarantine`.
        input: URL, bytes and tag of the input tar.
        files: marks of tar, parquet and stats.
    """

    shard: str
    restore_key: str
    decision_key: str
    samples: int
    source: str
    input: FileInfo
    files: dict[str, FileMark]
    algo_version: int

    def name(self, layout: Layout) -> str:
        """The name of the new shard: `layout.tar` and its like take it."""
        return layout.restored(self.restore_key, self.shard)

    @classmethod
    def from_json(cls, value: object, url: str) -> Restored:
        """Read what was written to `url`.

        Raises:
            InputError: it is no such record.
        """
        try:
            given = exact_fields(cls, value)
            given["input"] = FileInfo(**exact_fields(FileInfo, given["input"]))
            given["files"] = {
                typed(kind, str, "files"): FileMark(**exact_fields(FileMark, mark))
                for kind, mark in given["files"].items()
            }
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise InputError(f"is not the record of a restored shard: {error}", url=url) from error


def claim(
    layout: Layout, storage: Storage, decision_key: str, selected: Mapping[str, Mapping[int, str]]
) -> list[Claim]:
    """Say which samples come back, once for each; the claims that hold the selected ones, new or old.

    Args:
        selected: shard -> position in its input tar -> key.

    Raises:
        ConflictError: another restore claims some of them at the same time.
        InputError: a claim cannot be read.
    """
    before = claims(layout, storage)
    left = {
        shard: {index: rows[index] for index in sorted(set(rows) - _claimed(before, shard))}
        for shard, rows in sorted(selected.items())
    }
    for mine in _layers(decision_key, left):
        storage.publish_json(layout.restore(mine.key, _META), asdict(mine))
        others = [other for other in claims(layout, storage) if other.key != mine.key]
        if any(_claimed(others, shard) & set(rows) for shard, rows in mine.samples.items()):
            storage.delete(layout.restore(mine.key, _META))
            problem = "another restore has just begun to bring back some of the same samples; run this one again"
            raise ConflictError(problem, url=layout.restores())
        before.append(mine)
    return [one for one in before if any(set(rows) & set(selected.get(s, ())) for s, rows in one.samples.items())]


def _layers(decision_key: str, left: Mapping[str, Mapping[int, str]]) -> list[Claim]:
    """Claims for all that is left: mostly one. Two samples of one key that would follow each other need another one,
    because readers of the restored shard would take them for a single sample."""
    layers: list[dict[str, list[int]]] = []
    for shard, rows in left.items():
        last: list[str] = []  # key of the last sample of this shard in each layer
        for index, key in rows.items():
            level = next((level for level, before in enumerate(last) if before != key), len(last))
            last[level : level + 1] = [key]
            if level == len(layers):
                layers.append({})
            layers[level].setdefault(shard, []).append(index)
    return [Claim(decision_key, samples) for samples in layers]


def claims(layout: Layout, storage: Storage) -> list[Claim]:
    """All restores of an output, in the order of their keys.

    Raises:
        InputError: one cannot be read.
    """
    folder = storage.check(layout.restores()) + "/"
    found = []
    for file in storage.scan(folder, f"/{_META}.json"):
        if _is_claim(file.url.removeprefix(folder)):
            try:
                one = Claim(**exact_fields(Claim, storage.read_json(file.url)))
            except (TypeError, ValueError) as error:
                raise InputError(f"is not the claim of a restore: {error}", url=file.url) from error
            if layout.restore(one.key, _META) != file.url:
                raise InputError("was renamed or edited", url=file.url)
            found.append(one)
    return found


def shards(layout: Layout, storage: Storage) -> Iterator[Restored]:
    """The finished shards of restored samples, sorted by the names of their records.

    Raises:
        InputError: a record cannot be read.
    """
    folder = storage.check(layout.restores()) + "/"
    files = (file.url for file in storage.scan(folder, ".json"))
    records = (url for url in files if not _is_claim(url.removeprefix(folder)))
    yield from ahead(lambda url: Restored.from_json(storage.read_json(url), url), records)


def _is_claim(path: str) -> bool:
    return path.count("/") == 1 and path.endswith(f"/{_META}.json")


def _claimed(found: Iterable[Claim], shard: str) -> set[int]:
    return {index for one in found for index in one.samples.get(shard, ())}
