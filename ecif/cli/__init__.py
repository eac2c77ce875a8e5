"""The command line: `ecif COMMAND`. Each command takes the settings it uses and returns an `Answer`.

Modules that compute are imported inside the commands, so that `ecif --help` answers at once.
"""

from __future__ import annotations

import itertools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError
from pydantic import ValidationError

import ecif
from ecif.cli import (
    bench,
    calibrate,
    corpus,
    diff,
    doctor,
    edit,
    examples,
    export,
    lint,
    output,
    restore,
    trace,
    verify,
    watch,
)
from ecif.cli.answer import Answer, give, refuse
from ecif.errors import EXIT_BUG, EXIT_OK, EXIT_REFUSED, EcifError, no_room
from ecif.fields import explain

EXIT_INTERRUPTED = 130  # as shells count: 128 + SIGINT

app = App(
    name="ecif",
    help="Clean image-text corpora by the influence of every pair on a contrastive model.",
    version=f"ecif {ecif.__version__}",
    default_parameter=Parameter(negative=()),
    help_format="plaintext",  # the list of commands needs no more, and what renders Markdown takes long to import
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
# In the order of the data's way, also in the help.
_COMMANDS: tuple[Callable[..., Answer], ...] = (
    corpus.demo,
    corpus.clean,
    lint.lint,
    corpus.fit,
    corpus.score,
    calibrate.calibrate,
    output.plan,
    diff.diff,
    output.apply,
    verify.verify,
    output.report,
    restore.restore,
    export.export,
    trace.trace,
    edit.edit,
    watch.watch,
    watch.notify,
    watch.poll,
    doctor.doctor,
)
for _place, _command in enumerate(_COMMANDS):
    app.command(_command, sort_key=_place, help_epilogue=examples.epilogue(_command.__name__))
bench.app.sort_key = len(_COMMANDS)
app.command(bench.app)
# It writes one file and leaves the start-up files of the shell alone: these are their owner's.
app.register_install_completion_command(
    help="Write the completion of commands, options and values for this shell: bash, zsh or fish.", add_to_startup=False
)


def commands() -> dict[str, App]:
    """Everything that can be typed behind `ecif`, in order; commands of a group by both words, as `bench effects`."""
    found: dict[str, App] = {}
    for name in app:
        if not name.startswith("-"):
            parts = {f"{name} {part}": app[name][part] for part in app[name] if not part.startswith("-")}
            found |= parts or {name: app[name]}
    return found


for _app in commands().values():
    _app.help_format = "markdown"  # for their examples


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
    typed = _storage_options(arguments)
    try:
        answer = app(list(arguments), exit_on_error=False, print_error=False)
    except EcifError as error:
        return refuse(_safe(str(error), typed), error.exit_code, as_json)
    except CycloptsError as error:
        cause = error.__cause__
        message = explain(cause) if isinstance(cause, ValidationError) else str(error)
        message += _elsewhere(error)
        return refuse(_safe(message, typed), EXIT_REFUSED, as_json)
    except KeyboardInterrupt:
        return refuse("interrupted; the same command again goes on where this one was", EXIT_INTERRUPTED, as_json)
    except Exception as error:
        if (full := no_room(error)) is not None:
            return refuse(str(full), full.exit_code, as_json)
        print(_safe(traceback.format_exc(), typed), file=sys.stderr, end="")
        return refuse(_safe(f"unexpected {type(error).__name__}: {error}", typed), EXIT_BUG, as_json)
    # Help and version print themselves.
    return give(answer, as_json) if isinstance(answer, Answer) else EXIT_OK


def _elsewhere(error: CycloptsError) -> str:
    """Which commands have the option that this one does not have."""
    if not isinstance(error, UnknownOptionError):
        return ""
    option = (error.token.keyword or error.token.value).partition("=")[0]
    takers = [
        name
        for name, command in commands().items()
        if any(option in one.names for one in command.assemble_argument_collection())
    ]
    return f" {option} is an option of {', '.join(takers)}." if takers else ""


def _storage_options(arguments: Sequence[str]) -> list[str]:
    """What was typed as --storage-options, which messages about arguments may quote."""
    name = "--storage-options"
    behind = [value for before, value in itertools.pairwise(arguments) if before == name]
    return behind + [word.partition("=")[2] for word in arguments if word.startswith(f"{name}")]


def _safe(text: str, typed: Sequence[str]) -> str:
    from ecif.storage.secrets import HIDDEN, redact

    for value in typed:
        if value:
            text = text.replace(value, HIDDEN)
    return redact(text)
