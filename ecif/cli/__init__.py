"""The command line: `ecif COMMAND`. Each command takes the settings it uses and returns an `Answer`.

Modules that compute are imported inside the commands, so that `ecif --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

import ecif
from ecif.cli import corpus, edit, output, trace
from ecif.cli.answer import Answer, give, refuse
from ecif.errors import EXIT_BUG, EXIT_OK, EXIT_REFUSED, EcifError
from ecif.settings import explain

EXIT_INTERRUPTED = 130  # as shells count: 128 + SIGINT

app = App(
    name="ecif",
    help="Clean image-text corpora by the influence of every pair on a contrastive model.",
    version=f"ecif {ecif.__version__}",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
# In the order of the data's way, also in the help.
_COMMANDS: tuple[Callable[..., Answer], ...] = (
    corpus.demo,
    corpus.clean,
    corpus.lint,
    corpus.fit,
    corpus.score,
    output.plan,
    output.apply,
    output.verify,
    output.report,
    trace.trace,
    edit.edit,
)
for _place, _command in enumerate(_COMMANDS):
    app.command(_command, sort_key=_place)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code (docs/cli.md)."""
    # OpenMP reads this when torch is imported. Threads that spin while they wait cost a shared machine several times
    # what they gain (docs/log.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.warnoptions:
        # Libraries deprecate among themselves; nobody who cleans a corpus can act on it. -W shows it.
        warnings.simplefilter("ignore")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    as_json = "--json" in arguments
    try:
        answer = app(list(arguments), exit_on_error=False, print_error=False)
    except EcifError as error:
        return refuse(str(error), error.exit_code, as_json)
    except CycloptsError as error:
        cause = error.__cause__
        message = explain(cause) if isinstance(cause, ValidationError) else str(error)
        return refuse(message, EXIT_REFUSED, as_json)
    except KeyboardInterrupt:
        return refuse("interrupted; the same command again goes on where this one was", EXIT_INTERRUPTED, as_json)
    except Exception as error:
        traceback.print_exc()
        return refuse(f"unexpected {type(error).__name__}: {error}", EXIT_BUG, as_json)
    # Help and version print themselves.
    return give(answer, as_json) if isinstance(answer, Answer) else EXIT_OK
