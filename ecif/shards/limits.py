"""What is refused of a shard instead of being held in memory: apart from the reader, because settings name it, too."""

from __future__ import annotations

from dataclasses import dataclass

_MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused instead of being held in memory or decoded.

    Attributes:
        member_bytes: payload of one member. sample_bytes, members_per_sample: of all members of a sample.
        header_bytes: of all PAX and long-name headers in front of one member.
        caption_bytes, json_bytes: text of a caption; size of a `.json` member that is parsed.
        json_depth: how deep the objects and arrays of a `.json` member may be nested.
        pixels: width times height of an image, checked before it is decoded.
    """

    member_bytes: int = 256 * _MiB
    sample_bytes: int = 512 * _MiB
    members_per_sample: int = 64
    header_bytes: int = 1 * _MiB
    caption_bytes: int = 64 * 1024
    json_bytes: int = 4 * _MiB
    json_depth: int = 64
    pixels: int = 64_000_000
