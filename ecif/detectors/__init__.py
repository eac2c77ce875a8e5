"""Score columns that can decide what is dropped, each with its sign.

This module holds the facts and needs no torch; the arithmetic is one file per detector beside it, with one
function `compute(terms: BatchTerms) -> Tensor (B,)` that the scoring pass calls on every batch and averages
over the segmentations.
"""

from __future__ import annotations

from dataclasses import dataclass

from ecif.errors import UsageError


@dataclass(frozen=True, slots=True)
class Facts:
    """What a user of a score has to know.

    Attributes:
        name: on the command line; also the column. higher_is_worse: which end is dropped first.
        title: one line for tables and the report. reference: where the score was published.
    """

    name: str
    higher_is_worse: bool
    title: str
    reference: str

    @property
    def column(self) -> str:
        """The column of the score files."""
        return self.name


# In the order of the columns.
_FACTS = (
    Facts("clip_score", False, "cosine similarity of image and caption", "arXiv 2104.08718"),
    Facts("neg_clip_loss", False, "similarity normalised by the pair's competitors", "arXiv 2405.19547"),
    Facts(
        "positive_influence",
        False,
        "change of the validation loss by losing the pair as a positive",
        "arXiv 2411.11667",
    ),
    Facts("negative_influence", False, "change of the validation loss by losing it as a negative", "arXiv 2411.11667"),
    Facts("influence", False, "predicted change of the validation loss when the pair is removed", "arXiv 2411.11667"),
)
_BY_NAME = {facts.name: facts for facts in _FACTS}
NAMES = tuple(_BY_NAME)


def facts(name: str) -> Facts:
    """The facts of one detector.

    Raises:
        UsageError: there is no such detector.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UsageError(f"--detector: there is no {name!r}; choose one of {', '.join(NAMES)}") from None
