"""The samples of one tar as pairs, in the order of the tar, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from ecif.shards.decode import Pair, Refused, to_pair
from ecif.shards.samples import Sample, group
from ecif.shards.tar import Limits, read_members
from ecif.storage import FileInfo, Storage


def read_pairs(
    url: str, shard: str, storage: Storage, caption: str, limits: Limits, expect: FileInfo | None = None
) -> Iterator[Pair | Refused]:
    """Every sample once, as a pair or as the reason why it is none.

    Args:
        shard: name of the shard. caption: `txt` or `json:FIELD`. expect: what the tar was when it was inventoried.

    Raises:
        BadTarError: not a tar, or cut short. InputError: it is another file than `expect` says.
        StorageError: it could not be read to its end.
    """
    with storage.open(url, expect=expect) as stream:
        for item in group(read_members(stream, url, limits), limits):
            if isinstance(item, Sample):
                yield to_pair(item, shard, caption, limits)
