"""Images and captions of the pairs that the report shows, taken from the input tars.

Only tars that hold a chosen pair are opened, a few at a time; each is read once from its start to the last pair wanted,
one sample in memory at a time. What cannot be read any more is said in the place of the picture: a report about a
finished run must not fail because the raw corpus has moved since.

A page has a limit. Each picture gets an equal part of it and is made smaller and coarser until it fits: what becomes of
it depends on nothing but itself and the number of pictures, rounded up, for the price of room that is left over.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from ecif.ahead import ahead
from ecif.errors import EcifError
from ecif.inventory import Shard
from ecif.progress import Progress
from ecif.report.numbers import ScoredPair
from ecif.shards.decode import Refused, Undecodable, decode_image, to_pair
from ecif.shards.samples import Sample, group
from ecif.shards.tar import read_members
from ecif.storage import Storage

BUDGET = 14_000_000  # bytes of all pictures of a page, as they stand in it
_SMALL = 64  # images up to this size are shown pixel by pixel, without loss
_AT_A_TIME = 4  # tars; each reads ahead, and decoding takes the processor
_CAPTION = 240  # characters of a caption that are shown
# Longer side in pixels and JPEG quality, the best that fits; the last one fits in 3 kB or so.
_STEPS = ((320, 80), (320, 65), (256, 65), (192, 60), (160, 50), (128, 40), (96, 30))


@dataclass(frozen=True, slots=True)
class Exhibit:
    """What a visitor sees of a pair.

    Attributes:
        image: a data URI, or None. width, height: of the original, in pixels. tiny: to be enlarged pixel by pixel.
        caption: the beginning of it, or None. hidden: how many characters are not shown.
        trouble: why there is no image or no caption; None if all is well.
    """

    image: str | None = None
    width: int = 0
    height: int = 0
    tiny: bool = False
    caption: str | None = None
    hidden: int = 0
    trouble: str | None = None


def exhibits(
    pairs: Iterable[ScoredPair],
    shards: Mapping[str, Shard],
    storage: Storage,
    caption: str,
    progress: Progress,
    room: int | None = None,
) -> dict[tuple[str, int], Exhibit]:
    """Fetch the pairs; every one of them gets an exhibit.

    Args:
        pairs: the same one may stand there more than once. shards: the inventory by name.
        caption: where captions are: `txt` or `json:FIELD`.
        room: bytes of a picture as a data URI; left out: its part of `BUDGET`.

    Returns:
        (shard, index) -> exhibit.
    """
    wanted: dict[str, dict[int, ScoredPair]] = {}
    for pair in pairs:
        wanted.setdefault(pair.shard, {})[pair.index] = pair
    each = room_of(sum(map(len, wanted.values()))) if room is None else room
    shown: dict[tuple[str, int], Exhibit] = {}
    progress.stage("report: images", len(wanted), "shards")

    def look(name: str) -> dict[int, Exhibit]:
        return _of_shard(shards.get(name), wanted[name], storage, caption, each)

    for name, found in zip(sorted(wanted), ahead(look, sorted(wanted), _AT_A_TIME), strict=True):
        shown |= {(name, index): exhibit for index, exhibit in found.items()}
        progress.advance()
    progress.end()
    return shown


def room_of(pictures: int) -> int:
    """Bytes of each of so many pictures. Their number is rounded up, so that one more pair changes no other picture."""
    return BUDGET // (1 << max(4, (pictures - 1).bit_length()))


def _of_shard(
    shard: Shard | None, wanted: Mapping[int, ScoredPair], storage: Storage, caption: str, room: int
) -> dict[int, Exhibit]:
    """An exhibit for every pair of one shard; None: the inventory does not have it."""
    found: dict[int, Exhibit] = {}
    trouble = "its shard is not in the inventory" if shard is None else "not found in the input shard any more"
    try:
        if shard is not None:
            found = _read(shard, wanted, storage, caption, room)
    except EcifError as error:
        trouble = f"the input cannot be read any more: {error}"
    return {index: found.get(index, Exhibit(trouble=trouble)) for index in wanted}


def _read(
    shard: Shard, wanted: Mapping[int, ScoredPair], storage: Storage, caption: str, room: int
) -> dict[int, Exhibit]:
    found: dict[int, Exhibit] = {}
    with storage.open(shard.url) as stream:
        for sample in group(read_members(stream, shard.url), url=shard.url):
            if isinstance(sample, Sample) and sample.index in wanted:
                found[sample.index] = _exhibit(sample, wanted[sample.index], caption, room)
                if len(found) == len(wanted):
                    break
    return found


def _exhibit(sample: Sample, scored: ScoredPair, caption: str, room: int) -> Exhibit:
    if sample.key != scored.key:
        return Exhibit(trouble=f"the input has changed: sample {sample.index} is now {sample.key}")
    pair = to_pair(sample, scored.shard, caption)
    if isinstance(pair, Refused):
        return Exhibit(trouble=f"cannot be shown: {pair.detail}")
    return exhibit(pair.image, pair.caption, room)


def exhibit(data: bytes, caption: str, room: int = BUDGET) -> Exhibit:
    """What a visitor sees of an encoded image and its caption.

    Args:
        room: bytes of the picture as a data URI.
    """
    text, hidden = caption[:_CAPTION], max(0, len(caption) - _CAPTION)
    try:
        image, width, height = _thumbnail(data, room)
    except Undecodable as error:
        return Exhibit(caption=text, hidden=hidden, trouble=f"cannot be shown: {error.detail}")
    return Exhibit(image, width, height, max(width, height) <= _SMALL, text, hidden)


def _thumbnail(data: bytes, room: int) -> tuple[str, int, int]:
    """A data URI of the image as the model sees it (RGB, not turned by EXIF), and its original size."""
    image = decode_image(data)
    width, height = image.size
    image = image.convert("RGB")
    uri = ""
    if max(width, height) <= _SMALL:
        uri = _uri("png", image, optimize=True)
    for edge, quality in () if 0 < len(uri) <= room else _STEPS:
        image.thumbnail((edge, edge))
        uri = _uri("jpeg", image, quality=quality, optimize=True)
        if len(uri) <= room:
            break
    return uri, width, height


def _uri(kind: str, image: Image, **options: Any) -> str:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode()}"
