"""What a review in the page needs from here: how a pair is named in an overrides file, and the command to run then.

The page writes what `ecif plan --overrides` reads (`ecif/policy/overrides.py`). A pair is named by shard and key, which
people can read; where a line of such a file, or HTML, cannot hold that text unchanged, by its uid. A pair whose names
are all of that kind cannot be reviewed, and the page says so.
"""

from __future__ import annotations

import shlex

from ecif.report.numbers import ScoredPair
from ecif.report.templates import clean
from ecif.selection import Decision

FILE = "ecif-overrides.csv"
"""What the export is called."""


def entry(pair: ScoredPair) -> str:
    """`sample:SHARD/KEY` or `uid:UID`; empty where neither survives the way through page and file."""
    names = [f"sample:{pair.shard}/{pair.key}"] if pair.key else []
    names += [f"uid:{pair.uid}"] if pair.uid else []
    return next((name for name in names if _survives(name)), "")


def _survives(name: str) -> bool:
    """Whether a text is one line, and the same after HTML, UTF-8 and the stripping of a line's ends."""
    _, _, text = name.partition(":")
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return text == text.strip() and clean(name) == name and len(name.splitlines()) == 1


def command(root: str, decision: Decision | None) -> str:
    """The command line that makes a decision of the same policy and of the review, for a shell."""
    words = ["ecif", "plan", root]
    if decision is not None:
        if not decision.rank_by:
            words += ["--detector", decision.detector]
        for name, value in decision.policy.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        if decision.dropped != "drop":
            words += ["--dropped", decision.dropped]
        if decision.unscored != "keep":
            words += ["--unscored", decision.unscored]
    return shlex.join([*words, "--overrides", FILE])
