"""Hosts, kinds and captions: drawn from the shard alone, balanced, and wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif import canaries
from ecif.canaries import captions
from ecif.canaries.captions import Shard, hosts, plant
from ecif.detectors import LEARNED, NAMES, OPTIONAL

WORDS = ["red", "green", "blue", "circle", "square", "house", "tree", "dog", "river", "street"]


def shard(texts: list[str], name: str = "00000", images: list[int] | None = None, bad: tuple[int, ...] = ()) -> Shard:
    """A shard of these captions; each image is its own unless given."""
    numbers: dict[str, int] = {}
    of_pair = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
    rows = np.arange(len(texts))
    return Shard(
        name,
        [f"{row:05d}" for row in rows],
        of_pair,
        list(numbers),
        rows if images is None else np.array(images),
        ~np.isin(rows, bad),
    )


def sentences(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [f"a photo of the {' '.join(random.choice(WORDS, 3, replace=False))} number {n}" for n in range(count)]


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 5, generator=generator), dim=1)


def test_hosts_are_the_share_of_a_shard_on_average_and_depend_on_nothing_else() -> None:
    keys = [f"{n:05d}" for n in range(37)]
    counts = [len(hosts(f"{n:05d}", keys, 0, 0.1)) for n in range(400)]
    assert set(counts) == {3, 4}
    assert np.mean(counts) == pytest.approx(3.7, abs=0.1)
    chosen = {row for row, _ in hosts("a", keys, 0, 0.3)}
    assert chosen == {keys.index(keys[::-1][row]) for row, _ in hosts("a", keys[::-1], 0, 0.3)}
    assert chosen != {row for row, _ in hosts("b", keys, 0, 0.3)}
    assert chosen != {row for row, _ in hosts("a", keys, 1, 0.3)}
    # A larger share has more of the same.
    assert {row for row, _ in hosts("a", keys, 0, 0.1)} < chosen
    assert hosts("a", [], 0, 0.5) == []


def test_kinds_are_balanced_and_captions_are_what_they_say() -> None:
    whole = shard(sentences(400))
    found = plant(whole, pictures(400), seed=0, share=0.5)
    assert [canary.host for canary in found] == sorted({canary.host for canary in found})
    counts = Counter(canary.kind for canary in found)
    assert set(counts) == set(canaries.KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1
    for canary in found:
        own, words = whole.caption(canary.host).split(), canary.caption.split()
        assert words != own
        if canary.kind in ("swap", "near"):
            assert canary.caption == whole.caption(canary.source)
            assert canary.source != canary.host
            continue
        assert canary.source == -1
        if canary.kind == "word":
            assert len(words) == len(own)
            (place,) = (n for n in range(len(own)) if own[n] != words[n])
            # "a photo of the", "number" are in all captions: a change of them says nothing.
            assert own[place] in WORDS or own[place].isdigit()
            assert words[place] in WORDS or words[place].isdigit()
        else:
            assert len(words) == len(own) - len(own) // 2
            assert [word for word in own if word in words] == words
            assert set(own) - set(words) & {*WORDS, own[-1]}


def test_near_is_the_nearest_image_with_a_caption_that_is_wrong_for_it() -> None:
    texts = [*sentences(60), *(text.upper() + " " for text in sentences(20))]
    u = pictures(80)
    u[60:70] = torch.nn.functional.normalize(u[:10] + 0.001, dim=1)  # nearest, and of the same caption
    whole = shard(texts, images=[*range(79), 3])
    near = [canary for canary in plant(whole, u, 0, 0.5) if canary.kind == "near"]
    assert len(near) == 10
    for canary in near:
        right = [n for n in range(80) if texts[n].strip().casefold() != texts[canary.host].strip().casefold()]
        right = [n for n in right if whole.images_N[n] != whole.images_N[canary.host]]
        assert canary.source == max(right, key=lambda n: float(u[canary.host] @ u[n]))


def test_similarities_are_never_all_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, u = shard(sentences(90)), pictures(90)
    expected = plant(whole, u, 0, 0.5)
    sizes = []
    monkeypatch.setattr(captions, "CHUNK", 4)
    matmul = torch.Tensor.__matmul__

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        sizes.append(len(a))
        return matmul(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    assert plant(whole, u, 0, 0.5) == expected
    assert max(sizes) == 4


def test_what_a_caption_does_not_allow_becomes_another_kind() -> None:
    one = plant(shard([WORDS[n % 10] for n in range(100)]), pictures(100), 0, 0.5)
    assert Counter(canary.kind for canary in one) == {"swap": 25, "near": 25}
    two = plant(shard([f"{WORDS[n % 10]} {WORDS[n // 10]}" for n in range(100)]), pictures(100), 0, 0.5)
    assert set(Counter(canary.kind for canary in two)) == {"swap", "near", "word"}


def test_there_is_no_canary_where_there_is_no_wrong_caption() -> None:
    same = ["A red square", "a red  square", " a RED square "]
    assert plant(shard(same * 4), pictures(12), 0, 0.5) == []
    # All other captions are of the same image, or of a pair that the model has no number for.
    assert plant(shard(sentences(6), images=[0] * 6), pictures(6), 0, 0.5) == []
    one = plant(shard(sentences(6), bad=(0, 1, 2, 3, 4)), pictures(6), 0, 0.5)
    assert {canary.source for canary in one} <= {5, -1}


TEXTS = st.lists(st.text(alphabet="aB .,é\u4e2d\t", min_size=1, max_size=12), min_size=1, max_size=12)


@given(texts=TEXTS, seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.2, 0.5]))
@settings(max_examples=150, deadline=None)
def test_no_canary_says_what_its_host_says(texts: list[str], seed: int, share: float) -> None:
    whole, u = shard(texts), pictures(len(texts))
    found = plant(whole, u, seed, share)
    assert len(found) <= np.ceil(share * len(texts))
    assert plant(replace(whole, texts=tuple(whole.texts)), u, seed, share) == found
    for canary in found:
        plain = [" ".join(text.split()).casefold() for text in (canary.caption, whole.caption(canary.host))]
        assert plain[0] != plain[1]
        assert canary.kind in canaries.KINDS


def test_columns_of_gradients_of_single_pairs_are_not_those_of_canaries() -> None:
    assert {name for name in (*NAMES, *OPTIONAL, LEARNED) if not canaries.has(name)} == {
        LEARNED,
        "harm", "self_influence", "gradient_l1", "gradient_l2", "outlier_gradient",
        "theta_relative", "l_relative", "relative_influence", "gradient_norm",
    }  # fmt: skip
