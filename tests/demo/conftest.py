"""A small corpus that several tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecif.demo import corpus


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    """400 pairs in three shards, 16 % of them wrong, and 40 validation pairs. Nobody writes to it."""
    root: Path = tmp_path_factory.mktemp("corpus")
    return corpus.build(root, pairs=400, validation_pairs=40, shards=3, wrong=0.16, seed=5)
