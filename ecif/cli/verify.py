"""The command `verify`: the proof of an output, from its own records or, without any, against its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ecif import progress
from ecif.cli.answer import Answer
from ecif.cli.options import Usual, place, settings_of, wants_json
from ecif.cli.output import Out
from ecif.errors import EXIT_CHECK_FAILED, EXIT_OK
from ecif.settings import StorageSettings

if TYPE_CHECKING:
    from ecif.stages.violations import ShardCheck


def verify(
    out: Out,
    /,
    *,
    sources: Annotated[
        tuple[str, ...],
        Parameter(help="prove it against these inputs alone, without the records in _ecif; may be repeated"),
    ] = (),
    settings: Annotated[StorageSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Prove from the bytes of input and output that nothing but the dropped pairs is gone."""
    layout, storage = place(out, settings_of(StorageSettings, settings, usual))
    show = progress.choose(wants_json(usual))
    checks: list[ShardCheck] = []
    if sources:
        from ecif.sources import expand
        from ecif.stages.subset import verify_subset

        found = verify_subset(layout, storage, expand(sources, storage), checks.append, show)
    else:
        from ecif import inventory
        from ecif.stages.verify import verify as stage

        found = stage(layout, storage, inventory.load(layout, storage), show)
    counts = [f"kept {found.kept:,}", f"dropped {found.dropped:,}"]
    counts += [] if sources else [f"quarantined {found.quarantined:,}"]
    counts += [f"restored {found.restored:,}"] if found.restored else []
    counts += [f"packed into {found.packed:,} shards"] if found.packed else []
    head = f"{found.shards:,} shards, {found.samples:,} samples: {', '.join(counts)}; "
    head += "all proved" if found.ok else f"{len(found.violations):,} violations"
    each = [f"  {check.shard}: kept {check.kept:,} of {check.samples:,}" for check in checks]
    problems = [": ".join(filter(None, (one.shard, one.what, one.detail))) for one in found.violations]
    value = found.to_json()
    if sources:
        value["each"] = [{"shard": one.shard, "samples": one.samples, "kept": one.kept} for one in checks]
    lines = [head, *each, *(f"  {problem}" for problem in problems)]
    return Answer("\n".join(lines), value, EXIT_OK if found.ok else EXIT_CHECK_FAILED)
