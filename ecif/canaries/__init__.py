"""Canaries: pairs whose caption is known to be wrong, because it was put there, scored among the others.

Nobody knows which pairs of a corpus are wrong, so no score can be judged on them. A canary is one of its images with a
wrong caption in the place of its own: only in memory, in the very batches in which its host sits, everything else in
them unchanged. How far a score sets canaries apart from the real pairs says what it can find, by kind of mistake.

    swap   the caption of another pair of the shard, drawn at random
    near   the caption of the pair whose image is nearest to the host's: wrong, but about something alike
    word   one word of the caption replaced by a word of another caption
    drop   about half of the words left out

`captions` chooses hosts, kinds and captions; `terms` has the scores of a batch in closed form. This module holds names
and needs no torch. What canaries cannot show is that natural mistakes are like them (docs/canaries.md).
"""

from __future__ import annotations

from typing import Literal, get_args

from ecif import detectors

Kind = Literal["swap", "near", "word", "drop"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Part of the key of canary tables: another way to draw hosts or to make captions is another version.
VERSION = 1

# Which pair of the corpus hosts the canary, and what is wrong with its caption; the score columns follow (float32).
IDENTITY = ("shard", "index", "kind")


def has(column: str) -> bool:
    """Whether canaries have this score column; it is null where it needs gradients of single pairs or their lengths.

    Raises:
        UsageError: there is no such detector.
    """
    facts = detectors.facts(column)
    return facts.level in ("batch", "shard") and not any(need.startswith("gradients:") for need in facts.needs)
