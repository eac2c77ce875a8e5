"""The command line: `ecif COMMAND`. Each command takes the settings it uses and returns an `Answer`.

Modules that compute are imported inside the commands, so that `ecif --help` answers at once.
"""

from __future__ import annotations

import itertools
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

import ecif
from ecif.cli import examples
from ecif.cli.answer import Answer, give, refuse
from ecif.errors import EXIT_BUG, EXIT_OK, EXIT_REFUSED, EcifError, no_room

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
# Name, where it is below this package, and its line in the list of commands: the first one of its docstring, written
# here, too, so that the list imports none of them. In the order of the data's way, also in the help.
_COMMANDS = (
    ("demo", "corpus:demo", "Render, damage, clean and judge a small corpus: offline, on the CPU, in a few minutes."),
    (
        "clean",
        "corpus:clean",
        "Score a corpus and write it again without the harmful pairs: everything, as one Prefect flow.",
    ),
    (
        "lint",
        "lint:lint",
        "Look for what is wrong with shards before anything is computed: broken tars, missing captions, bad images.",
    ),
    ("fit", "corpus:fit", "Fit the direction along which influence is measured, on a sample of the corpus."),
    ("score", "corpus:score", "Score every pair of the corpus, shard by shard."),
    (
        "calibrate",
        "calibrate:calibrate",
        "Learn from the canaries: how well each score finds mistakes, how many there are, and the score p_misaligned.",
    ),
    ("plan", "output:plan", "Turn scores and a policy into a decision: the frozen cut that apply follows."),
    ("diff", "diff:diff", "Compare two decisions: which pairs both drop, which only one, by shard, with examples."),
    (
        "apply",
        "output:apply",
        "Write the shards without the pairs that the decision drops; every surviving byte as it was.",
    ),
    ("verify", "verify:verify", "Prove from the bytes of input and output that nothing but the dropped pairs is gone."),
    (
        "report",
        "output:report",
        "Make the report again: outcome, scores and how far to trust them, and pairs to look at and to review.",
    ),
    ("restore", "restore:restore", "Bring dropped or quarantined samples back, byte for byte, as additional shards."),
    (
        "export",
        "export:export",
        "Write what loaders and DataComp's tools read of an output: uid lists, tables, sizes.json, a wids index.",
    ),
    ("trace", "trace:trace", "Find the pairs of the corpus that a right or wrong answer of the model comes from."),
    ("edit", "edit:edit", "Write weights as if pairs had never been trained on: those of a decision, or of a list."),
    (
        "watch",
        "watch:watch",
        "Look which shards have arrived or are not finished, and clean them; do nothing when there are none.",
    ),
    (
        "notify",
        "watch:notify",
        "Tell the Prefect server that shards have arrived, when all of them are there; returns when it has heard.",
    ),
    (
        "poll",
        "watch:poll",
        "Turn notifications of S3 in a queue into arrival events, one for many; a message goes when its event is safe.",
    ),
    (
        "doctor",
        "doctor:doctor",
        "Try out whether a place can be read, written and trusted: credentials, clock, uploads, simultaneous writers.",
    ),
    (
        "bench",
        "bench:app",
        "Measure, on a corpus of one's own: what cleaning does to a model, and where the time goes.",
    ),
)
for _place, (_name, _path, _line) in enumerate(_COMMANDS):
    # An App has its settings where it is made.
    _own: dict[str, Any] = (
        {} if _path.endswith(":app") else {"help_epilogue": examples.epilogue(_name), "help_format": "markdown"}
    )
    app.command(f"ecif.cli.{_path}", name=_name, help=_line, sort_key=_place, **_own)
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
        return refuse(_safe(_explained(error) + _elsewhere(error), typed), EXIT_REFUSED, as_json)
    except KeyboardInterrupt:
        return refuse("interrupted; the same command again goes on where this one was", EXIT_INTERRUPTED, as_json)
    except Exception as error:
        if (full := no_room(error)) is not None:
            return refuse(str(full), full.exit_code, as_json)
        print(_safe(traceback.format_exc(), typed), file=sys.stderr, end="")
        return refuse(_safe(f"unexpected {type(error).__name__}: {error}", typed), EXIT_BUG, as_json)
    # Help and version print themselves.
    return give(answer, as_json) if isinstance(answer, Answer) else EXIT_OK


def _explained(error: CycloptsError) -> str:
    from pydantic import ValidationError

    from ecif.fields import explain

    cause = error.__cause__
    return explain(cause) if isinstance(cause, ValidationError) else str(error)


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
