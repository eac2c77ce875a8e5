"""What is wrong with shards, found before anything is computed and without decoding an image.

Everything that other tools swallow, merge or crash on: gaps in the numbering, interleaved samples, repeated names,
cut tars, missing captions, sidecars that belong to another tar, one image under many keys. An error is something that
costs samples or breaks readers, a warning is something to know. One pass over each tar; of each image only the header
is looked at, which is what makes it faster than scoring. Findings are handed out as they are made and not held, so
that memory does not grow with the corpus.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecif.progress import Progress, Silent, shown
from ecif.shards.lint.finding import Finding
from ecif.shards.lint.numbering import numbering
from ecif.shards.lint.repeats import Repeats
from ecif.shards.lint.shard import lint_shard
from ecif.shards.tar import Limits
from ecif.sources import Expansion, sidecars_of
from ecif.storage import Storage

__all__ = ["Finding", "Lint", "lint"]


@dataclass(slots=True)
class Lint:
    """How much was read, and how many findings there were."""

    shards: int = 0
    samples: int = 0
    errors: int = 0
    warnings: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # by code

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "shards": self.shards,
            "samples": self.samples,
            "errors": self.errors,
            "warnings": self.warnings,
            "counts": dict(sorted(self.counts.items())),
        }


def lint(
    expansion: Expansion,
    storage: Storage,
    caption: str,
    report: Callable[[Finding], object],
    *,
    equal_images: int = 2,
    limits: Limits = Limits(),
    progress: Progress = Silent(),
) -> Lint:
    """Look at all shards; a file that cannot be read is a finding, too.

    Args:
        caption: `txt`, or `json:FIELD`.
        report: takes the findings, in the order of the shards; those about the whole corpus come first and last.
        equal_images: report an image that this many samples have, 2 or more; 0: do not look for any.
    """
    result = Lint()

    def note(finding: Finding) -> None:
        result.counts[finding.code] += 1
        result.errors += finding.severity == "error"
        result.warnings += finding.severity == "warning"
        report(finding)

    for finding in numbering(expansion):
        note(finding)
    total = len(expansion.shards)
    with (
        tempfile.TemporaryDirectory(prefix="ecif-lint-") as folder,
        shown(progress, "lint", total, "shards"),
    ):
        corpus = Repeats(Path(folder))
        beside = {shard.url: sidecars_of(shard.url) for shard in expansion.shards}
        there = storage.lookup([url for pair in beside.values() for url in pair])
        for shard in expansion.shards:
            parquet, stats = (url if url in there else None for url in beside[shard.url])
            found = lint_shard(shard, parquet, stats, storage, limits, caption)
            for finding in found.findings():
                note(finding)
            corpus.add(shard.name, shard.url, found.seen)
            result.shards += 1
            result.samples += found.samples
            progress.advance()
        for finding in corpus.findings(equal_images):
            note(finding)
    return result
