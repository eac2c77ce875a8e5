"""Which pairs of a shard host a canary, of which kind, and with which caption.

Everything is drawn from sha256 over seed, shard and key, so that it depends on nothing but this shard, the seed and
the share: no generator whose stream could change with a library, no order in which shards are handled. A shard has
share x n hosts, rounded up or down by its own hash, so that small shards have their part on average. Each host gets
the kind that has the fewest so far among those that its caption allows.

A caption that says the same as the host's (but for case and white space) is never used, nor one of the same image:
both would be right. Words to change or to leave out are drawn among the rarer of the caption: without "the" a caption
is as right as before. How frequent a word is, is counted in a thousand captions of the shard.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ecif.canaries import KINDS, Kind

# Rows of similarities at once: 41 MB for a shard of 10,000 pairs.
CHUNK = 1024
# Captions in which words are counted.
_COUNTED = 1000
# Captions that are asked for a word to use.
_DONORS = 8
_PUNCTUATION = ".,;:!?\"'()[]"


@dataclass(frozen=True, slots=True)
class Canary:
    """One of them.

    Attributes:
        host: row of the pair whose image it is. caption: the wrong one. source: row of the pair that has this caption
            (swap, near), -1 where it was made (word, drop).
    """

    host: int
    kind: Kind
    caption: str
    source: int


@dataclass(frozen=True)
class Shard:
    """What canaries are made from, of N pairs.

    Attributes:
        name: of the shard. keys: of the pairs. captions_N: number of each one's caption. texts: the distinct captions
            by number. images_N: equal numbers for equal images. usable_N: Boolean, whose caption may be used elsewhere.
    """

    name: str
    keys: Sequence[str]
    captions_N: np.ndarray
    texts: Sequence[str]
    images_N: np.ndarray
    usable_N: np.ndarray

    @cached_property
    def meanings_N(self) -> np.ndarray:
        """A number for each pair, equal where captions say the same."""
        numbers: dict[str, int] = {}
        of_text = [numbers.setdefault(_plain(text), len(numbers)) for text in self.texts]
        return np.array(of_text, np.int64)[self.captions_N]

    @cached_property
    def frequencies(self) -> Counter[str]:
        """In how many of at most a thousand captions, evenly spaced, a word stands."""
        some = self.texts[:: -(-len(self.texts) // _COUNTED) or 1]
        return Counter(word for text in some for word in {_core(word) for word in text.split()})

    def caption(self, row: int) -> str:
        """The caption of a pair."""
        return self.texts[self.captions_N[row]]

    def others(self, host: int) -> np.ndarray:
        """Rows whose caption is a wrong one for this host."""
        differ = (self.meanings_N != self.meanings_N[host]) & (self.images_N != self.images_N[host])
        return np.flatnonzero(differ & self.usable_N)


def hosts(name: str, keys: Sequence[str], seed: int, share: float) -> list[tuple[int, bytes]]:
    """Rows that host a canary, each with the hash from which all else of it is drawn; in the order of the hashes."""
    digests = [_hash(seed, f"{name}/{key}") for key in keys]
    count = min(int(share * len(keys) + _fraction(_hash(seed, name))), len(keys))
    return [(row, digests[row]) for row in sorted(range(len(keys)), key=lambda row: digests[row])[:count]]


def plant(shard: Shard, u_ND: Tensor, seed: int, share: float) -> list[Canary]:
    """The canaries of a shard, in the order of their hosts.

    A host that has no other caption to take gets none, so that a shard of one caption has no canaries.

    Args:
        u_ND: unit-norm image embeddings.
    """
    counts = dict.fromkeys(KINDS, 0)
    first = _below(len(KINDS), _hash(seed, shard.name))
    order = (*KINDS[first:], *KINDS[:first])
    found: list[Canary] = []
    for host, own in hosts(shard.name, shard.keys, seed, share):
        others = shard.others(host)
        for kind in sorted(order, key=counts.__getitem__):
            made = _made(kind, shard, host, own, others)
            if made is not None:
                counts[kind] += 1
                found.append(made)
                break
    near = [number for number, canary in enumerate(found) if canary.kind == "near"]
    for number, source in zip(near, _nearest(shard, u_ND, [found[number].host for number in near]), strict=True):
        found[number] = Canary(found[number].host, "near", shard.caption(source), source)
    return sorted(found, key=lambda canary: canary.host)


def _made(kind: Kind, shard: Shard, host: int, own: bytes, others: np.ndarray) -> Canary | None:
    """A canary of this kind, or None where there cannot be one; captions of `near` are found later, for all at once."""
    if not len(others):
        return None
    if kind in ("swap", "near"):
        source = int(others[_below(len(others), own, "swap")])
        return Canary(host, kind, shard.caption(source), source)
    words = shard.caption(host).split()
    text = _reworded(words, shard, own, others) if kind == "word" else _shortened(words, shard, own)
    return None if text is None or _plain(text) == _plain(shard.caption(host)) else Canary(host, kind, text, -1)


def _reworded(words: list[str], shard: Shard, own: bytes, others: np.ndarray) -> str | None:
    """The caption with one of its rarer words replaced by a rarer word of another one."""
    if len(words) < 2:
        return None
    rare = _rarer(words, shard)
    place = rare[_below(len(rare), own, "place")]
    present = {_core(word) for word in words}
    for attempt in range(_DONORS):
        donor = shard.caption(int(others[_below(len(others), own, f"donor{attempt}")])).split()
        fit = [donor[n].strip(_PUNCTUATION) for n in _rarer(donor, shard) if _core(donor[n]) not in {"", *present}]
        if fit:
            kept = words[place].strip(_PUNCTUATION)
            new = words[place].replace(kept, fit[_below(len(fit), own, "word")], 1) if kept else fit[0]
            return " ".join((*words[:place], new, *words[place + 1 :]))
    return None


def _shortened(words: list[str], shard: Shard, own: bytes) -> str | None:
    """The caption without half of its words, a rarer one among these; those that stay keep their order."""
    if len(words) < 3:
        return None
    rare = _rarer(words, shard)
    gone = {rare[_below(len(rare), own, "first")]}
    rest = [n for n in range(len(words)) if n not in gone]
    rest.sort(key=lambda n: hashlib.sha256(own + str(n).encode()).digest())
    gone.update(rest[: len(words) // 2 - 1])
    return " ".join(word for n, word in enumerate(words) if n not in gone)


def _rarer(words: Sequence[str], shard: Shard) -> list[int]:
    """Places of the words that stand in no more captions than the mean of these words."""
    counts = [shard.frequencies[_core(word)] for word in words]
    return [n for n, count in enumerate(counts) if count * len(counts) <= sum(counts)]


def _nearest(shard: Shard, u_ND: Tensor, rows: list[int]) -> list[int]:
    """For each row that with the nearest image whose caption is a wrong one for it."""
    meanings_N, images_N, usable_N = (
        torch.from_numpy(part).to(u_ND.device) for part in (shard.meanings_N, shard.images_N, shard.usable_N)
    )
    found: list[int] = []
    for start in range(0, len(rows), CHUNK):
        part = torch.tensor(rows[start : start + CHUNK], device=u_ND.device)
        right_CN = (meanings_N[part, None] == meanings_N) | (images_N[part, None] == images_N) | ~usable_N
        found += (u_ND[part] @ u_ND.T).masked_fill_(right_CN, -torch.inf).argmax(1).tolist()
    return found


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _core(word: str) -> str:
    return word.strip(_PUNCTUATION).casefold()


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:canary:{name}".encode("utf-8", "surrogateescape")).digest()


def _fraction(digest: bytes) -> float:
    """In [0, 1)."""
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _below(count: int, digest: bytes, purpose: str = "") -> int:
    """A number in [0, count)."""
    return int.from_bytes(hashlib.sha256(digest + purpose.encode()).digest()[:8], "big") % count
