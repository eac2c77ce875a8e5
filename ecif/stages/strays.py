"""Files of an output that nothing lists: shards, sidecars, ledgers, quarantines and records.

A file is asked about by its path, so that what is held is a name and the kinds of its files for each shard, and no
list of all files. Files that are no shard, such as a README, may lie beside the shards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ecif.layout import META, Layout
from ecif.packmap import PackMap
from ecif.stages.proof_sidecars import Returned
from ecif.stages.violations import Violation
from ecif.storage import Storage

_SHARD_ENDS = {"_stats.json": "stats", ".parquet": "parquet", ".tar": "tar"}
_OURS = {"ledger": ".parquet", "quarantine": ".tar"}
_RECORDS = ("pack", "restore")


class Listed:
    """What the manifests and records of an output list.

    Args:
        packed: the map of packed shards. returned: the restored ones. claims: URLs of the claims of restores.
    """

    def __init__(
        self, layout: Layout, storage: Storage, packed: PackMap, returned: Collection[Returned], claims: Collection[str]
    ) -> None:
        self._root, self._storage = storage.check(layout.root) + "/", storage
        self._packed = packed
        self._restored = {one.record.name(layout): frozenset(one.record.files) for one in returned}
        records = [layout.restore(one.record.restore_key, one.record.shard) for one in returned]
        self._records = {storage.check(url).removeprefix(self._root) for url in (*records, *claims)}
        self._kinds: dict[str, frozenset[str]] = {}
        self._same: dict[frozenset[str], frozenset[str]] = {}

    def add(self, shard: str, kinds: Collection[str]) -> None:
        """Take in what the manifest of a shard lists."""
        found = frozenset(kinds)
        self._kinds[shard] = self._same.setdefault(found, found)  # a handful of sets serve a million shards

    def strays(self) -> Iterator[Violation]:
        """What stands in the output and is not listed.

        Raises:
            StorageError: the output cannot be listed.
        """
        for file in self._storage.scan(self._root):
            inside = file.url.removeprefix(self._root)
            name, kind = _of_shard(inside)
            if kind is not None:
                known = kind in self._of(name)
            elif inside.startswith(tuple(f"{META}/{folder}/" for folder in _RECORDS)):
                name = inside.split("/", 2)[2].rpartition(".")[0]
                known = inside in self._records or self._is_of_pack(inside)
            else:
                continue
            if not known:
                yield Violation(name, "stray", f"{file.url} is in no manifest")

    def _of(self, name: str) -> frozenset[str]:
        if name in self._kinds or name in self._restored:
            return self._kinds.get(name, frozenset()) | self._restored.get(name, frozenset())
        number = int(name) if len(name) == 8 and name.isdecimal() else self._packed.packed
        return frozenset(_SHARD_ENDS.values() if number < self._packed.packed else ())

    def _is_of_pack(self, inside: str) -> bool:
        parts = inside.removeprefix(f"{META}/pack/").split("/")
        by_number = {f"{one.number:06d}": one for one in self._packed.generations}
        if len(parts) == 1:
            return parts[0].removesuffix(".json") in by_number
        one, (name, _, end) = by_number.get(parts[0]), parts[1].partition(".")
        if one is None or len(parts) > 2 or end not in ("json", "parquet") or not (len(name) == 8 and name.isdecimal()):
            return False
        return one.first <= int(name) < one.first + one.packed


def _of_shard(inside: str) -> tuple[str, str | None]:
    """The shard that a path belongs to, and the kind of the file; None when it is no file of a shard."""
    if not inside.startswith(f"{META}/"):
        return next(((inside.removesuffix(end), kind) for end, kind in _SHARD_ENDS.items() if inside.endswith(end)),
                    (inside, None))  # fmt: skip
    for folder, end in _OURS.items():
        if inside.startswith(f"{META}/{folder}/"):
            return inside.removeprefix(f"{META}/{folder}/").removesuffix(end), folder
    return inside, None
