"""How a command ends: results on stdout, everything else on stderr, one exit code.

With `--json` stdout holds exactly one JSON document, also after a failure.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ecif.errors import EXIT_OK


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command returns.

    Attributes:
        text: for people; may be empty.
        value: for `--json`.
        code: the exit code.
        show: prints for people instead of `text`, where plain text is not enough.
    """

    text: str
    value: dict[str, Any]
    code: int = EXIT_OK
    show: Callable[[], None] | None = field(default=None, compare=False)


def give(answer: Answer, as_json: bool) -> int:
    """Print an answer; returns its exit code."""
    if as_json:
        print(json.dumps(answer.value, indent=1, allow_nan=False, default=str))
    elif answer.show is not None:
        answer.show()
    elif answer.text:
        print(answer.text)
    sys.stdout.flush()
    return answer.code


def refuse(message: str, code: int, as_json: bool) -> int:
    """Print an error as one line on stderr, red in a terminal; with `--json` also as a document on stdout.

    Colours are left out where the environment asks for none (no-color.org), or the terminal has none.
    """
    line = " ".join(message.split())
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    red, plain = ("\x1b[31m", "\x1b[0m") if coloured else ("", "")
    print(f"{red}error:{plain} {line}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": line, "exit_code": code}, indent=1))
    return code
