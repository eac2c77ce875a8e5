"""Outputs that are recorded and packed, for the tests of packing and of its proof."""

from __future__ import annotations

from pathlib import Path

from ecif import packs
from ecif.inventory import Inventory
from ecif.packs import PackManifest
from ecif.selection import Decision
from ecif.stages.pack import extend_map, pack_shard, record_shard
from tests.shards.tars import pack, sample
from tests.stages.outputs import Output


def numbered(prefix: str, n: int) -> bytes:
    """A tar of n samples."""
    return pack([entry for i in range(n) for entry in sample(f"{prefix}{i:03d}", image=f"{prefix}{i}".encode() * 50)])


def packed_tars(output: Output) -> list[bytes]:
    """The packed shards, in their order."""
    return [output.bytes_of(output.layout.tar(done.shard)) for done in packs.shards(output.layout, output.storage)]


def files(output: Output) -> dict[str, bytes]:
    """Everything in the output, by relative path."""
    root = Path(output.layout.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def record_all(output: Output, decision: Decision, shards: Inventory | None = None) -> None:
    """Write ledgers and manifests of all shards."""
    for shard in (shards or output.inventory).shards:
        record_shard(shard, decision, output.layout, output.storage)


def pack_all(output: Output, decision: Decision, n: int, shards: Inventory | None = None) -> list[PackManifest]:
    """Record, map and pack; the packed shards' manifests."""
    record_all(output, decision, shards)
    packed = extend_map(output.layout, output.storage, n)
    names = (shards or output.inventory).by_name()
    return [pack_shard(target, decision, names, output.layout, output.storage) for target in packed.targets()]
