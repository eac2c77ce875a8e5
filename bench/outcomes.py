"""What came of a disturbed run, and whether it may: the same bytes, or a clear error and nothing lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.matrix import World, answer
from bench.places import DERIVED, differing
from bench.trial import Ended
from bench.world import Stage

SAME, ERROR, NOT_MET = "same", "error", "not met"


def judge(
    world: World,
    stage: Stage,
    allowed: Sequence[str],
    runs: tuple[Ended, Ended],
    files: tuple[Mapping[str, bytes], Mapping[str, bytes], Mapping[str, bytes]],
    hits: int,
    left: int,
) -> dict[str, Any]:
    """What came of a disturbed run.

    Returns:
        outcome: SAME, ERROR or NOT_MET (the stage makes no such request). wrong: all that must not be. code, said:
        exit code and end of what the disturbed run printed. seconds: how long it took. left: unfinished uploads
        after it; of a storage that refuses everything some may stay, so that they are counted and not judged.
    """
    (ended, again), (visible, final, expected) = runs, files
    # Derived views tell of what is there, and may tell of less for a while.
    lasting = {name: data for name, data in visible.items() if not name.startswith(DERIVED)}
    wrong = [f"not whole: {name}" for name, data in lasting.items() if data != expected.get(name)]
    if ended.code == 0:
        outcome = SAME
        wrong += [f"differs: {name}" for name in differing(visible, expected)] if stage.writes else []
        if not stage.writes and answer(ended) != world.answers[stage.name]:
            wrong.append("another answer, and no error")
    else:
        outcome = ERROR
        texts = ended.err + ended.out
        wrong += [f"exit code {ended.code}"] if ended.code not in (2, 3, 4) else []
        wrong += ["a traceback"] if "Traceback" in texts or "unexpected" in texts else []
    outcome = NOT_MET if hits == 0 else outcome
    if outcome not in (*allowed, NOT_MET):
        wrong.append(f"ended as: {outcome}")
    if outcome == SAME and left:
        wrong.append(f"{left} uploads pending")
    wrong += [f"afterwards exit code {again.code}"] if again.code else []
    wrong += [f"differs afterwards: {name}" for name in differing(final, expected)]
    said_last = (ended.err + ended.out)[-600:] + (f"\n--- afterwards:\n{again.err[-600:]}" if again.code else "")
    return {
        "outcome": outcome,
        "wrong": wrong,
        "code": ended.code,
        "said": said_last,
        "seconds": round(ended.seconds, 2),
        "left": left,
        "hits": hits,
    }


def cell(results: Sequence[Mapping[str, Any]]) -> str:
    """A cell of the table."""
    if not results or all(result["outcome"] == NOT_MET for result in results):
        return ""
    counts = Counter("WRONG" if result["wrong"] else result["outcome"] for result in results)
    parts = [f"{what} {counts[what]}" for what in (SAME, ERROR, NOT_MET, "WRONG") if counts[what]]
    return ", ".join(parts)
