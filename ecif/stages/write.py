"""Write an output in the form that it is bound to: shards one to one, shards packed anew, or columns beside the input.

One to one and columns are done when every shard has its manifest. Packing has a second half: once all shards that can
be recorded are, the map is frozen, and the packed shards are written from it.
"""

from __future__ import annotations

from ecif import packs
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.packmap import Target
from ecif.selection import Decision
from ecif.settings import WriteSettings
from ecif.shards.tar import Limits
from ecif.stages import pack
from ecif.stages.apply import apply_shard
from ecif.storage import Storage


def write_shard(
    shard: Shard, decision: Decision, layout: Layout, storage: Storage, form: WriteSettings, limits: Limits
) -> Manifest:
    """Write what there is to write of one input shard, unless its manifest exists.

    Raises:
        InputError, ConflictError, StorageError: see `apply_shard`.
    """
    if form.write == "columns":
        from ecif.interop import columns

        return columns.publish_shard(shard, decision, layout, storage, limits)
    if form.repack is not None:
        return pack.record_shard(shard, decision, layout, storage, limits)
    return apply_shard(shard, decision, layout, storage, limits)


def to_pack(layout: Layout, storage: Storage, n: int) -> list[Target]:
    """Freeze the map for what has been recorded since, and say which packed shards are not written yet.

    Args:
        n: samples of a packed shard.

    Raises:
        UsageError, ConflictError, InputError: see `pack.extend_map`.
    """
    packed = pack.extend_map(layout, storage, n)
    done = packs.done(packed, layout, storage)
    return [target for target in packed.targets() if target.name not in done]
