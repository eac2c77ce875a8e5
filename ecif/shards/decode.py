"""From a sample to a pair of image and caption, or to the reason why there is none.

Nothing that a shard holds may stop a run: whatever is missing, broken or too large becomes a status from a closed
list, one per sample, and is counted. Images are opened by the four decoders named here and no other, because every
further one is attack surface; sizes are checked before pixels are decoded. What comes out is what open_clip's own
data loader gives its transform, that is webdataset's `decode("pilrgb")`: the first frame, converted to RGB before it
is resized, and not turned as EXIF says.

JPEGs can be decoded at a half, a quarter or an eighth of their size, which saves most of the work where they are much
larger than the model's input: `draft`. The pixels differ a little from those of the whole picture made smaller, so it
is asked for (docs/speed.md has the differences).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecif.interop import aliases
from ecif.shards.samples import Sample
from ecif.shards.tar import Limits

if TYPE_CHECKING:
    from PIL.Image import Image

OK = "ok"
STATUSES = {
    OK: "scored",
    "small_batch": "the shard has fewer samples than --min-batch",
    "no_image": "no .jpg, .jpeg, .png, .webp or .gif member",
    "empty_image": "the image member has no bytes",
    "undecodable_image": "not an image, damaged or cut short",
    "unsupported_image": "an image, but none of JPEG, PNG, WebP and GIF",
    "too_large_image": "more pixels than the limit",
    "no_caption": "no caption, or only white space",
    "non_utf8_caption": "the caption is not UTF-8 text",
    "too_large_caption": "the caption, or the .json member that holds it, is larger than the limit",
    "too_deep_json": "the .json member that holds the caption is nested deeper than the limit",
    "duplicate_key": "the key stands at an earlier sample of the shard, too",
    "duplicate_member": "two members with the same extension",
    "non_finite": "the model's output is not finite",
}
"""Every status that a row of a score table can have, and what it means."""

# Where a sample has several, open_clip's loader takes the first in this order; gif is our addition.
IMAGE_EXTENSIONS = ("jpg", "png", "jpeg", "webp", "gif")
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_PILLOW = r"PIL\."
_QUIET = ("ignore", None, Warning, re.compile(_PILLOW), 0)  # how `warnings` notes the filter
# A string, also one without its end: so that no input makes the search start again and again.
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_OTHER_FORMATS = (b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0", b"8BPS", b"\0\0\0\x0cjP", b"<svg", b"\xff\x0a")


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair that can be scored, unless its image turns out not to decode.

    Attributes:
        uid: of the `.json` member under any of the names of `interop.aliases`, or derived from shard and key.
        key, index: of the sample.
        image: the undecoded bytes.
        caption: not empty.
    """

    uid: str
    key: str
    index: int
    image: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that cannot be scored: `status` is one of `STATUSES`, `detail` says it for this sample."""

    uid: str
    key: str
    index: int
    status: str
    detail: str


class Undecodable(Exception):
    """An image that cannot be used; `status` is one of `STATUSES`."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def to_pair(sample: Sample, shard: str, caption: str, limits: Limits = Limits()) -> Pair | Refused:
    """Take image bytes and caption out of a sample.

    Args:
        shard: name of the shard, part of the uid where the sample brings none.
        caption: `txt`, or `json:FIELD` for a field of the `.json` member.
    """
    found = {extension: member.data for extension, member in sample.extensions().items()}
    said = record(found.get("json"), limits)
    uid = aliases.uid(said) or derived_uid(shard, sample.key)
    try:
        if sample.problem is not None:
            raise Undecodable(sample.problem, STATUSES[sample.problem])
        extension = next((extension for extension in IMAGE_EXTENSIONS if extension in found), None)
        if extension is None:
            raise Undecodable("no_image", f"the sample has {', '.join(sorted(found))}")
        if not found[extension]:
            raise Undecodable("empty_image", f"the .{extension} member has no bytes")
        if caption == "txt":
            text = _text(found.get("txt"), limits)
        else:
            text = _field(found.get("json"), said, caption.removeprefix("json:"), limits)
        return Pair(uid, sample.key, sample.index, bytes(found[extension]), text)
    except Undecodable as refusal:
        return Refused(uid, sample.key, sample.index, refusal.status, refusal.detail)


def derived_uid(shard: str, key: str) -> str:
    """The uid of a sample that brings none."""
    return hashlib.sha256(f"{shard}/{key}".encode()).hexdigest()[:32]


def decode_image(data: bytes, limits: Limits = Limits(), draft: int | None = None) -> Image:
    """Decode the first frame of an image and convert it to RGB, as open_clip's data loader does.

    Args:
        draft: decode a JPEG at the smallest scale at which its shorter side still has this many pixels.

    Raises:
        Undecodable: with the status to record.
    """
    image = open_image(data, limits)
    try:
        if draft is not None:
            image.draft("RGB", (draft, draft))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    except MemoryError:
        raise
    except Exception as error:
        # Pillow raises almost anything on hostile bytes: OSError, SyntaxError, struct.error, IndexError ...
        raise Undecodable("undecodable_image", f"{type(error).__name__}: {error}") from error


def open_image(data: bytes, limits: Limits = Limits()) -> Image:
    """Read the header of an image and check format and size, without decoding it.

    Raises:
        Undecodable: with the status to record.
    """
    import PIL.Image

    _quiet_pillow()
    bomb = PIL.Image.MAX_IMAGE_PIXELS
    if bomb is not None and limits.pixels > 2 * bomb:
        PIL.Image.MAX_IMAGE_PIXELS = limits.pixels  # Pillow's own limit must not undercut what was asked for
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise Undecodable("too_large_image", str(error)) from error
    except MemoryError:
        raise
    except Exception as error:
        if data.startswith(_OTHER_FORMATS) or data[4:8] == b"ftyp":
            raise Undecodable("unsupported_image", "an image, but none of JPEG, PNG, WebP and GIF") from error
        detail = f"no image can be read from these {len(data)} bytes: {bytes(data[:8])!r}..."
        raise Undecodable("undecodable_image", detail) from error
    if image.width * image.height > limits.pixels:
        raise Undecodable("too_large_image", f"{image.width} x {image.height} pixels, more than {limits.pixels}")
    return image


def _quiet_pillow() -> None:
    """Keep Pillow's warnings (odd EXIF, palettes, large images) from the terminal, also under `python -W error`.

    They say nothing that a status does not. The filter is one of the process: `warnings.catch_warnings` is not safe
    with the threads that decode. Put in front again whenever something else stands there.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=_PILLOW)


def record(data: memoryview | None, limits: Limits) -> dict[str, Any]:
    """The `.json` member as an object; empty when there is none, it is none, or it is beyond the limits."""
    if data is None or len(data) > limits.json_bytes:
        return {}
    raw = bytes(data)
    if _is_deeper(raw, limits.json_depth):
        return {}
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_deeper(raw: bytes, depth: int) -> bool:
    """Whether brackets are nested deeper, told before anything is parsed."""
    if raw.count(b"[") + raw.count(b"{") <= depth:
        return False
    open_now = 0
    for bracket in _JSON_STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
        open_now += 1 if bracket in b"[{" else -1
        if open_now > depth:
            return True
    return False


def _text(data: memoryview | None, limits: Limits) -> str:
    if data is None:
        raise Undecodable("no_caption", "there is no .txt member")
    if len(data) > limits.caption_bytes:
        raise Undecodable("too_large_caption", f"{len(data)} bytes, more than {limits.caption_bytes}")
    try:
        return _not_blank(str(data, "utf-8"))
    except UnicodeDecodeError as error:
        raise Undecodable("non_utf8_caption", f"byte {error.start} of the caption is not UTF-8") from error


def _field(data: memoryview | None, record: dict[str, Any], field: str, limits: Limits) -> str:
    if data is None:
        raise Undecodable("no_caption", "there is no .json member")
    if len(data) > limits.json_bytes:
        raise Undecodable("too_large_caption", f"the .json member has {len(data)} bytes, more than {limits.json_bytes}")
    if not record:
        if _is_deeper(bytes(data), limits.json_depth):
            problem = f"the .json member is nested deeper than {limits.json_depth} objects and arrays"
            raise Undecodable("too_deep_json", problem)
        try:
            str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise Undecodable("non_utf8_caption", f"byte {error.start} of the .json member is not UTF-8") from error
        raise Undecodable("no_caption", "the .json member is not a JSON object with fields")
    value = record.get(field)
    if not isinstance(value, str):
        raise Undecodable("no_caption", f"the field {field!r} of the .json member is {type(value).__name__}, not text")
    if not _is_utf8(value):
        raise Undecodable("non_utf8_caption", f"the field {field!r} holds half of a surrogate pair")
    if len(value.encode()) > limits.caption_bytes:
        raise Undecodable("too_large_caption", f"{len(value.encode())} bytes, more than {limits.caption_bytes}")
    return _not_blank(value)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise Undecodable("no_caption", "the caption is empty")
    return text


def _is_utf8(text: str) -> bool:
    """Whether text can be written to a table: JSON admits single surrogates, UTF-8 does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
