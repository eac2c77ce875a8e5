"""`ecif diff`: two decisions side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from ecif import progress
from ecif.cli.answer import Answer
from ecif.cli.options import Usual, place, settings_of, wants_json
from ecif.settings import StorageSettings


def diff(
    out: Annotated[str, Parameter(help="the output that holds the decisions")],
    one: Annotated[str, Parameter(help="key of a decision, as `ecif plan` names it")],
    other: Annotated[str, Parameter(help="key of another one")],
    /,
    *,
    other_out: Annotated[
        str, Parameter(help="the output of the other decision, where it is another one [default: the same]")
    ] = "",
    settings: Annotated[StorageSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Compare two decisions: which pairs both drop, which only one, by shard, with examples."""
    from ecif.stages.diff import Side, difference
    from ecif.stages.plan import load_decision

    chosen = settings_of(StorageSettings, settings, usual)
    sides = []
    for url, key in ((out, one), (other_out or out, other)):
        layout, storage = place(url, chosen)
        sides.append(Side(layout, storage, load_decision(layout, storage, key)))
    found = difference(sides[0], sides[1], progress.choose(wants_json(usual)))
    return Answer("\n".join(found.lines()), asdict(found))
