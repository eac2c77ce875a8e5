"""The proof for a packed shard: made once more from the inputs and their ledgers, and held against what is there.

The inputs' survivors and the packed tar are read side by side in one pass; the sidecars and the table of origins are
derived again from the inputs'. That the ledgers are right is proved shard by shard elsewhere (`proof`), so this is
all that is between an input and a packed shard. It costs one reading of the packed shard and of the inputs' parts.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping

import polars as pl

from ecif.errors import InputError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import FileMark
from ecif.packmap import PackMap, Target
from ecif.packs import PackInput, PackManifest, urls
from ecif.shards.compare import Comparison
from ecif.shards.tar import Limits
from ecif.stages.pack import Source, contents, sources
from ecif.stages.violations import Violation, noting
from ecif.storage import Storage


def verify_map(packed: PackMap, kept: Mapping[str, int], layout: Layout) -> list[Violation]:
    """Check that the map covers what was recorded, and no more.

    Args:
        kept: survivors of every recorded shard.
    """
    found = []
    counted = {shard: count for one in packed.generations for shard, count in one.shards.items()}
    for shard in sorted(kept.keys() - counted.keys()):
        found.append(Violation(shard, "not_packed", f"{layout.packs()}: no generation covers this shard"))
    for shard, count in counted.items():
        if kept.get(shard) != count:
            problem = f"the map counts on {count} survivors, recorded are {kept.get(shard, 'none')}"
            found.append(Violation(shard, "map", f"{layout.packs()}: {problem}"))
    return found


def verify_pack(
    target: Target,
    found: PackManifest | None,
    shards: Mapping[str, Shard],
    layout: Layout,
    storage: Storage,
    limits: Limits = Limits(),
) -> list[Violation]:
    """Check one packed shard; problems of its files are violations, not exceptions.

    Args:
        target: as the map has it. found: its manifest, None when it has none. shards: the inventory, by name.
    """
    violations: list[Violation] = []
    url = layout.pack_manifest(target.generation, target.name)
    if found is None:
        return [Violation(target.name, "not_packed", f"{url}: not written yet, it has no manifest")]
    with noting(target.name, "input", violations):
        inputs = sources(target, shards, layout, storage)
        proof = _Proof(target, found, inputs, layout, storage, violations)
        proof.manifest(url)
        with noting(target.name, "sidecars", violations):
            proof.small_files()
        with noting(target.name, "tar", violations):
            proof.tar(limits)
    return violations


class _Proof:
    """The checks of one packed shard."""

    def __init__(
        self,
        target: Target,
        found: PackManifest,
        inputs: list[Source],
        layout: Layout,
        storage: Storage,
        violations: list[Violation],
    ) -> None:
        self.target, self.found, self.inputs = target, found, inputs
        self.layout, self.storage, self.violations = layout, storage, violations
        self.urls = urls(target.name, target.generation, layout)

    def _note(self, what: str, detail: str) -> None:
        self.violations.append(Violation(self.target.name, what, detail))

    def manifest(self, url: str) -> None:
        """It says what the map and the inputs' manifests say."""
        expected = {}
        for one in self.inputs:
            tar, part = one.recorded.input, one.part
            expected[part.shard] = PackInput(tar.url, tar.size, tar.etag, part.first, part.last)
            if one.recorded.decision_key != self.found.decision_key:
                self._note("decision", f"{url}: {part.shard} was recorded by decision {one.recorded.decision_key}")
        if self.found.inputs != expected:
            self._note("map", f"{url}: lists other inputs than the map and their manifests")
        for one in self.inputs:
            with noting(self.target.name, "input", self.violations):
                now, then = self.storage.info(one.recorded.input.url), one.recorded.input
                if (now.size, now.etag) != (then.size, then.etag):
                    self._note("input", f"{then.url} has changed since its shard was recorded")

    def small_files(self) -> None:
        """Sidecars and table are those that the inputs give."""
        expected = contents(self.target, self.inputs, self.layout, self.storage)
        if self.found.files.keys() != {"tar", *expected}:
            self._note("sidecars", f"{self.target.name} has the files {sorted(self.found.files)}, not those due")
        for kind in sorted(expected.keys() & self.found.files.keys()):
            with noting(self.target.name, "sidecars", self.violations):
                data = self.storage.read_bytes(self.urls[kind])
                mark = FileMark(len(data), hashlib.sha256(data).hexdigest())
                self._compare(kind, mark)
                # Other bytes than the manifest's are not parsed: a damaged table can end the process.
                if mark == self.found.files[kind] and not _same(kind, data, expected[kind], self.urls[kind]):
                    self._note("sidecars", f"{self.urls[kind]} is not what the inputs give")

    def tar(self, limits: Limits) -> None:
        """The tar holds the survivors' members, byte for byte and in order, and nothing else."""
        url = self.urls["tar"]
        with self.storage.open(url) as stream:
            comparison = Comparison(stream, url)
            for one in self.inputs:
                with self.storage.open(one.recorded.input.url) as tar:
                    for entry in one.entries(tar, limits):
                        comparison.expect(entry)
            self._compare("tar", comparison.finish())
        if comparison.difference is not None:
            self._note("bytes", comparison.difference)

    def _compare(self, kind: str, mark: FileMark) -> None:
        if mark != self.found.files.get(kind):
            self._note("file", f"{self.urls[kind]} is not the file of the manifest: other size or SHA-256")


def _same(kind: str, data: bytes, expected: bytes, url: str) -> bool:
    """Whether two small files say the same; other versions of a library may write them otherwise.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        if kind == "stats":
            return bool(json.loads(data) == json.loads(expected))
        return pl.read_parquet(io.BytesIO(data)).equals(pl.read_parquet(io.BytesIO(expected)))
    except Exception as error:  # polars raises its own errors, OSError, and panics derived from neither
        raise InputError(f"cannot be read: {error}", url=url) from error
