"""The names under which published corpora carry the same thing: uid, url, caption, digest, sizes, similarities.

Every corpus has its own spelling: LAION writes `URL`, `TEXT`, `SAMPLE_ID` and `hash`, CommonPool `url`, `text` and
`uid`, COYO `id` and `clip_similarity_vitb32`, img2dataset renames to `url` and `caption` and keeps the rest. The
names below are tried in their order and the first one that is there counts, so that the same input always gives the
same answer; where a table has two of them (a `text` beside a `caption`), the others are left alone. Names that mean
different things in different corpora are left out: LAION's `similarity` is of another model in each of its parts.
The sources are cited in docs/interoperation.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

ALIASES: dict[str, tuple[str, ...]] = {
    "uid": ("uid", "UID", "SAMPLE_ID", "sample_id", "hash", "id"),
    "url": ("url", "URL", "image_url", "image_urls", "img_url"),
    "text": ("text", "caption", "TEXT", "alt_text", "alt", "captions"),
    "key": ("key", "__key__"),
    "sha256": ("sha256", "image_sha256"),
    # img2dataset always writes both: `width` is then that of the resized image.
    "original_width": ("original_width", "WIDTH", "width"),
    "original_height": ("original_height", "HEIGHT", "height"),
    "clip_b32_similarity_score": ("clip_b32_similarity_score", "oai-clip-vit-b32-score", "clip_similarity_vitb32"),
    "clip_l14_similarity_score": ("clip_l14_similarity_score", "oai-clip-vit-l14-score", "clip_similarity_vitl14"),
    "face_bboxes": ("face_bboxes", "face-boxes"),
}
"""By our name of a thing, which is CommonPool's: the names to look for, in order."""

# Beyond this a float does not hold every whole number, so that two uids may have become one.
_EXACT = 2**53


def column(thing: str, names: Collection[str]) -> str | None:
    """Which of a table's columns holds a thing (a key of `ALIASES`); None when none does."""
    return next((name for name in ALIASES[thing] if name in names), None)


def value(thing: str, record: Mapping[str, Any]) -> Any:
    """A thing (a key of `ALIASES`) out of the fields of one sample: the first that is not null; None without."""
    return next((record[name] for name in ALIASES[thing] if record.get(name) is not None), None)


def uid(record: Mapping[str, Any]) -> str | None:
    """The uid among the fields of one sample, as text; None when there is none that can be one.

    The first alias with a usable value counts, so that an empty `uid` beside a `SAMPLE_ID` does no harm.
    """
    return next((found for name in ALIASES["uid"] if (found := as_uid(record.get(name))) is not None), None)


def as_uid(value: object) -> str | None:
    """A uid as text: strings as they are, whole numbers in decimal; None for what is no uid (null, empty, NaN).

    LAION's `SAMPLE_ID` and `hash` are 64-bit numbers, and some writers have turned the first into floats.
    """
    if isinstance(value, str):
        return value if value and _is_utf8(value) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return str(int(value))
    return str(value) if isinstance(value, int) else None


def _is_utf8(text: str) -> bool:
    """Whether text can be written to a table: JSON admits single surrogates, UTF-8 does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
