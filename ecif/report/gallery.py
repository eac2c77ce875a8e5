"""Images and captions of the pairs that the report shows, taken from the input tars.

Only tars that hold a chosen pair are opened, each is read once from its start to the last pair wanted, and one sample
is in memory at a time. What cannot be read any more is said in the place of the picture: a report about a finished
run must not fail because the raw corpus has moved since.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ecif.errors import EcifError
from ecif.inventory import Shard
from ecif.progress import Progress
from ecif.report.numbers import ScoredPair
from ecif.shards.decode import Refused, Undecodable, decode_image, to_pair
from ecif.shards.samples import Sample, group
from ecif.shards.tar import read_members
from ecif.storage import Storage

EDGE = 160  # pixels of a thumbnail's longer side
_SMALL = 64  # images up to this size are shown pixel by pixel, without loss
_CAPTION = 240  # characters of a caption that are shown
_JPEG_QUALITY = 80


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
    pairs: Iterable[ScoredPair], shards: Mapping[str, Shard], storage: Storage, caption: str, progress: Progress
) -> dict[tuple[str, int], Exhibit]:
    """Fetch the pairs; every one of them gets an exhibit.

    Args:
        shards: the inventory by name.
        caption: where captions are: `txt` or `json:FIELD`.

    Returns:
        (shard, index) -> exhibit.
    """
    wanted: dict[str, dict[int, ScoredPair]] = {}
    for pair in pairs:
        wanted.setdefault(pair.shard, {})[pair.index] = pair
    shown: dict[tuple[str, int], Exhibit] = {}
    progress.stage("report: images", len(wanted), "shards")
    for name in sorted(wanted):
        trouble = "not found in the input shard any more"
        try:
            if name not in shards:
                trouble = "its shard is not in the inventory"
            else:
                _from_shard(shards[name], wanted[name], storage, caption, shown)
        except EcifError as error:
            trouble = f"the input cannot be read any more: {error}"
        for index in wanted[name]:
            shown.setdefault((name, index), Exhibit(trouble=trouble))
        progress.advance()
    progress.end()
    return shown


def _from_shard(
    shard: Shard,
    wanted: Mapping[int, ScoredPair],
    storage: Storage,
    caption: str,
    shown: dict[tuple[str, int], Exhibit],
) -> None:
    last = max(wanted)
    with storage.open(shard.url) as stream:
        for sample in group(read_members(stream, shard.url), url=shard.url):
            if isinstance(sample, Sample) and sample.index in wanted:
                shown[shard.name, sample.index] = _exhibit(sample, wanted[sample.index], caption)
                if sample.index == last:
                    return


def _exhibit(sample: Sample, scored: ScoredPair, caption: str) -> Exhibit:
    if sample.key != scored.key:
        return Exhibit(trouble=f"the input has changed: sample {sample.index} is now {sample.key}")
    pair = to_pair(sample, scored.shard, caption)
    if isinstance(pair, Refused):
        return Exhibit(trouble=f"cannot be shown: {pair.detail}")
    return exhibit(pair.image, pair.caption)


def exhibit(data: bytes, caption: str) -> Exhibit:
    """What a visitor sees of an encoded image and its caption."""
    text, hidden = caption[:_CAPTION], max(0, len(caption) - _CAPTION)
    try:
        image, width, height = _thumbnail(data)
    except Undecodable as error:
        return Exhibit(caption=text, hidden=hidden, trouble=f"cannot be shown: {error.detail}")
    return Exhibit(image, width, height, max(width, height) <= _SMALL, text, hidden)


def _thumbnail(data: bytes) -> tuple[str, int, int]:
    """A data URI of the image as the model sees it (RGB, not turned by EXIF), and its original size."""
    image = decode_image(data)
    width, height = image.size
    image = image.convert("RGB")
    image.thumbnail((EDGE, EDGE))
    target = io.BytesIO()
    if max(width, height) <= _SMALL:
        kind = "png"
        image.save(target, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(target, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode()}", width, height
