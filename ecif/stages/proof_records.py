"""The small files that bind an output together: they are as they were written, and say the same as each other.

Every record is JSON in one canonical form, so that a single changed byte shows, and each field is held against
another place that says it. Derived files (`_ecif/index`) are compared with what follows from the manifests; the
report, and all that scores were made from (`_ecif/fit` and the like), are not proved here.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ecif import ALGO_VERSION, lists, restores
from ecif.agreement import canonical
from ecif.errors import MissingFileError, UsageError
from ecif.interop.loaders import Tar, tars
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.packmap import PackMap
from ecif.packs import PackManifest
from ecif.selection import Decision
from ecif.stages.plan import Applied, load_decision
from ecif.stages.proof_sidecars import Returned
from ecif.stages.violations import Violation, noting
from ecif.storage import Storage

_CLAIM = "_meta"


class Records:
    """Checks the records of one output; what does not hold goes to `violations`.

    Attributes:
        claims: the restores of the output.
    """

    def __init__(self, layout: Layout, storage: Storage, violations: list[Violation]) -> None:
        self._layout, self._storage, self._violations = layout, storage, violations
        self.claims: list[restores.Claim] = []

    def returned(self) -> dict[str, list[Returned]]:
        """The samples that came back, by shard; every claim has a record for each of its shards, and the reverse."""
        found: dict[str, list[Returned]] = {}
        with noting("", "restored", self._violations):
            self.claims = restores.claims(self._layout, self._storage)
            records = {(one.restore_key, one.shard): one for one in restores.shards(self._layout, self._storage)}
            for claim in self.claims:
                for shard, samples in claim.samples.items():
                    record = records.pop((claim.key, shard), None)
                    if record is None:
                        url = self._layout.restore(claim.key, shard)
                        self._note(shard, "not_restored", f"{url}: not written yet; run restore again")
                    else:
                        found.setdefault(shard, []).append(Returned(record, frozenset(samples)))
            for key, shard in records:
                self._note(shard, "restored", f"{self._layout.restore(key, shard)}: no restore claims these samples")
        return found

    def claim_urls(self) -> Iterator[str]:
        """Where the claims lie."""
        return (self._layout.restore(claim.key, _CLAIM) for claim in self.claims)

    def check_returned(self, returned: Sequence[Returned], recorded: Manifest) -> None:
        """The records of restored shards agree with the manifest of the shard that they come from."""
        for one in returned:
            record, url = one.record, self._layout.restore(one.record.restore_key, one.record.shard)
            said = (record.decision_key, record.input, record.samples, record.algo_version)
            if said != (recorded.decision_key, recorded.input, len(one.samples), ALGO_VERSION):
                problem = "names another decision, input, version or number of samples than the shard it comes from"
                self._note(record.shard, "restored", f"{url}: {problem}")
            if record.source not in ("input", "quarantine"):
                self._note(record.shard, "restored", f"{url}: samples come from input or quarantine")

    def problems_of_pack(self, found: PackManifest, decision: Decision | None) -> Iterator[Violation]:
        """The manifest of a packed shard names the keys and the version of its decision."""
        url = self._layout.pack_manifest(found.generation, found.shard)
        keys = (found.fit_key, found.score_key, found.decision_key)
        if decision is not None and keys != (decision.fit_key, decision.score_key, decision.key):
            yield Violation(found.shard, "decision", f"{url}: names another fit, other scores or another decision")
        if found.algo_version != ALGO_VERSION:
            yield Violation(found.shard, "version", f"{url}: version {found.algo_version}, this is {ALGO_VERSION}")

    def check(self, form: Applied | None, decided: set[str], packed: PackMap) -> None:
        """All that binds the shards together; `decided` are the keys of the decisions that their manifests name."""
        if form is None and decided:
            self._note("", "decision", f"{self._layout.applied()} is missing: it names the decision of this output")
        if form is not None:
            self._form(form, decided, packed)
        self._inventory()
        for url in self._urls(decided):
            self._canonical(url)
        with noting("", "index", self._violations):
            self._index()

    def _note(self, shard: str, what: str, detail: str) -> None:
        self._violations.append(Violation(shard, what, detail))

    def _form(self, form: Applied, decided: set[str], packed: PackMap) -> None:
        url = self._layout.applied()
        if form.write not in ("shards", "columns"):
            self._note("", "decision", f"{url}: {form.write!r} is no form of an output")
        if others := sorted(decided - {form.decision}):
            self._note("", "decision", f"{url} names {form.decision}, but shards were written by {', '.join(others)}")
        with noting("", "decision", self._violations):
            data = self._storage.read_bytes(self._layout.decision(form.decision))
            if hashlib.sha256(data).hexdigest() != form.decision_sha256:
                self._note("", "decision", f"{self._layout.decision(form.decision)} is not the one that was applied")
        with noting("", "decision", self._violations), suppress(UsageError):  # it is gone: noted above
            self._lists(form.decision)
        for one in packed.generations:
            said = (one.samples_per_shard, one.decision_key, one.algo_version)
            if said != (form.repack, form.decision, ALGO_VERSION):
                problem = "names another size, decision or version than this output has"
                self._note("", "map", f"{self._layout.pack_map(one.number)}: {problem}")

    def _lists(self, key: str) -> None:
        """The frozen lists are those of the decision, read anew: a process that wrote the output may remember them."""
        decision = load_decision(self._layout, self._storage, key)
        for kind, digest in (("deny", decision.denylist), ("allow", decision.allowlist)):
            url = self._layout.list_of(key, kind)
            if digest and lists.digest(self._storage.read_bytes(url)) != digest:
                self._note("", "decision", f"{url} is not the list that the decision was made with")

    def _inventory(self) -> None:
        """Each file of the inventory holds what the digest in its name says."""
        for file in self._storage.list(self._layout.inventories(), ".json"):
            digest = posixpath.basename(file.url).removesuffix(".json").partition("-")[2]
            with noting("", "inventory", self._violations):
                text = json.dumps(self._storage.read_json(file.url), sort_keys=True).encode()
                if digest != hashlib.sha256(text).hexdigest()[:8]:
                    self._note("", "inventory", f"{file.url} is not as it was written: its name has another digest")

    def _urls(self, decided: set[str]) -> Iterator[str]:
        """Every record of the output."""
        layout, storage = self._layout, self._storage
        for folder in (layout.inventories(), layout.manifests(), layout.restores(), layout.packs()):
            yield from (file.url for file in storage.scan(folder, ".json"))
        yield from (layout.decision(key) for key in sorted(decided))
        yield layout.applied()

    def _canonical(self, url: str) -> None:
        try:
            data = self._storage.read_bytes(url)
        except MissingFileError:
            return  # noted by what needs it
        try:
            same = canonical(json.loads(data)) == data
        except (ValueError, RecursionError):
            same = False
        if not same:
            self._note("", "record", f"{url} is not as it was written")

    def _index(self) -> None:
        """The index for training loaders, where there is one, counts what the manifests count."""
        sizes_url, wids_url = self._layout.sizes(), self._layout.wids()
        sizes, wids = (
            self._storage.read_json(url) if self._storage.exists(url) else None for url in (sizes_url, wids_url)
        )
        if sizes is None and wids is None:
            return
        listed = wids.get("shardlist") if isinstance(wids, dict) else None
        wrong = {url for url, value in ((sizes_url, sizes), (wids_url, wids)) if not isinstance(value, dict | None)}
        count = 0
        for count, tar in enumerate(tars(self._layout, self._storage), 1):
            if isinstance(sizes, dict) and _counted(sizes, tar) != tar.samples:
                wrong.add(sizes_url)
            if isinstance(wids, dict):
                there = listed[count - 1] if isinstance(listed, list) and count <= len(listed) else None
                due = {"url": f"../../{tar.path}", "nsamples": tar.samples, "filesize": tar.size}
                if there != due:
                    wrong.add(wids_url)
        if isinstance(sizes, dict) and sizes:
            wrong.add(sizes_url)
        if isinstance(listed, list) and len(listed) != count:
            wrong.add(wids_url)
        for url in sorted(wrong):
            self._note("", "index", f"{url} does not count what the manifests count; ecif export OUT makes it again")


def _counted(sizes: dict[str, object], tar: Tar) -> object:
    """The entry of a tar, taken out: under its name, or under its path where several have the name."""
    return sizes.pop(tar.path) if tar.path in sizes else sizes.pop(posixpath.basename(tar.path), None)
