"""Write the parts of the documentation that the code knows better: options, commands, exit codes, statuses.

A generated part stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; the rest of a page is written by
hand. `make docs` rewrites the parts in place, and a test fails when one of them is out of date.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from cyclopts import App
from pydantic_settings import BaseSettings

from ecif import api, cli, errors, results, settings
from ecif.cli import examples
from ecif.policy.settings import PolicySettings
from ecif.shards.decode import STATUSES

DOCS = Path(__file__).resolve().parent
PAGES = (DOCS / "cli.md", DOCS / "files.md", DOCS / "python.md")

# In the order of the data's way. A field belongs to the first group that has it.
GROUPS: dict[type[BaseSettings], str] = {
    settings.SampleSettings: "Samples",
    settings.ModelSettings: "Model",
    settings.MethodSettings: "Method",
    settings.CanarySettings: "Canaries",
    PolicySettings: "Policy",
    settings.DeviceSettings: "Device",
    settings.WriteSettings: "Writing",
    settings.StorageSettings: "Storage",
    settings.FailureSettings: "Failures",
    settings.ScoreSettings: "Output",
    settings.OrchestrationSettings: "Orchestration",
}

EXIT_CODES = {
    "EXIT_OK": "done",
    "EXIT_BUG": "an unexpected error, with a traceback: please report it",
    "EXIT_REFUSED": "refused: a wrong option, a bad input, a storage that fails; the message says which and what to do",
    "EXIT_SHARDS_FAILED": "some shards failed and were set aside with their reasons; the others are done",
    "EXIT_CHECK_FAILED": "`lint`, `verify` or `doctor` found problems",
    "EXIT_INTERRUPTED": "interrupted; the same command again goes on where this one was",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option as the command line has it, and the commands that take it."""

    name: str
    default: str
    help: str
    commands: tuple[str, ...]

    @property
    def row(self) -> str:
        """A row of a table of options."""
        default = f"`{self.default}`" if self.default else ""
        others = [name for name in commands() if name not in self.commands]
        takers = f"all but {' and '.join(others)}" if len(others) in (1, 2) else ", ".join(self.commands)
        return _row(f"`{self.name}`", default, self.help, takers if others else "all")


def commands() -> dict[str, App]:
    """The commands of `ecif`, by name, in the order in which the command line has them."""
    return cli.commands()


def arguments(command: App) -> Iterator[tuple[str, Any]]:
    """Name and cyclopts argument of everything that a command takes; positional ones in capitals."""
    for argument in command.assemble_argument_collection():
        names = [name for name in argument.names if not re.match(r"--(no|empty)-", name) and name != "*"]
        if argument.show and names:
            yield max(names, key=len), argument


@functools.cache
def options() -> dict[str, Option]:
    """All options of all commands, by name. An option means the same wherever it is taken."""
    found: dict[str, Option] = {}
    for command, app in commands().items():
        for name, argument in arguments(app):
            if name.startswith("--"):
                before = found[name].commands if name in found else ()
                text = _choices(argument.hint) + (argument.parameter.help or "")
                found[name] = Option(name, _default(argument.field_info.default), text, (*before, command))
    return found


def _choices(hint: Any) -> str:
    values = [value for value in get_args(hint) if isinstance(value, str)]
    return f"({', '.join(values)}) " if values else ""


def _default(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, tuple)):
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(*head: str) -> list[str]:
    return [_row(*head), "|" + "---|" * len(head)]


def _sentence(text: str | None) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def command_table() -> str:
    """Commands with their positional arguments and what they do."""
    lines = _table("command", "what it does")
    for name, app in commands().items():
        places = " ".join(place for place, _ in arguments(app) if not place.startswith("--"))
        lines.append(_row(f"`ecif {name} {places}`".replace(" `", "`"), _sentence(app.help)))
    return "\n".join(lines)


def option_tables() -> str:
    """Options by group of settings, then those that are no settings."""
    left = dict(options())
    lines: list[str] = []
    seen: set[str] = set()
    for group, title in GROUPS.items():
        fields = [name for name in group.model_fields if name not in seen]
        seen |= set(fields)
        rows = [left.pop(option).row for name in fields if (option := "--" + name.replace("_", "-")) in left]
        if rows:
            lines += [f"### {title}", "", _sentence(group.__doc__), ""]
            lines += [*_table("option", "default", "meaning", "commands"), *rows, ""]
    lines += ["### Of single commands", "", *_table("option", "default", "meaning", "commands")]
    lines += [option.row for option in left.values()]
    return "\n".join(lines)


def exit_code_table() -> str:
    """Exit codes and what they mean."""
    codes = {name: code for name, code in {**vars(errors), **vars(cli)}.items() if name.startswith("EXIT_")}
    return "\n".join([*_table("exit code", "meaning"), *(_row(str(codes[name]), EXIT_CODES[name]) for name in codes)])


def status_table() -> str:
    """Statuses of a row of scores."""
    return "\n".join([*_table("status", "meaning"), *(_row(f"`{name}`", text) for name, text in STATUSES.items())])


def example_list() -> str:
    """The examples of all commands, as the help has them."""
    parts = []
    for name in commands():
        block = "\n".join(f"    {line}" if line else "" for line in examples.lines(name).splitlines())
        parts.append(f"`ecif {name}`:\n\n{block}")
    return "\n\n".join(parts)


# In the order of the data's way.
_FUNCTIONS = (
    "clean", "lint", "fit", "score", "load_scores", "calibrate", "plan", "diff", "apply", "verify", "report", "restore",
    "export", "trace", "edit",
)  # fmt: skip


def function_table() -> str:
    """The functions of the Python API."""
    lines = _table("function", "returns", "what it does")
    for name in _FUNCTIONS:
        function = getattr(api, name)
        place = next(iter(inspect.signature(function).parameters.values()))
        given = f"*{place.name}" if place.kind is place.VAR_POSITIONAL else place.name
        gives = str(function.__annotations__["return"]).removesuffix(" | Rehearsed")
        lines.append(_row(f"`ecif.{name}({given}, **settings)`", f"`{gives}`", _sentence(function.__doc__)))
    return "\n".join(lines)


def result_table() -> str:
    """What the functions return, with the fields."""
    lines = _table("result", "fields")
    for name, kind in vars(results).items():
        if inspect.isclass(kind) and issubclass(kind, results.Result):
            fields = ", ".join(f"`{field}`" for field in kind.__slots__)
            lines.append(_row(f"`{name}`", fields if kind is results.Result else f"those of `Result`, and {fields}"))
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {
    "commands": command_table,
    "options": option_tables,
    "exit codes": exit_code_table,
    "statuses": status_table,
    "examples": example_list,
    "functions": function_table,
    "results": result_table,
}


def render(page: str) -> str:
    """A page with its generated parts made anew."""

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{PARTS[match[2]]()}\n\n{match[3]}"

    return re.sub(r"(<!-- begin: ([a-z ]+) -->).*?(<!-- end: \2 -->)", part, page, flags=re.DOTALL)


def main() -> None:
    """Rewrite the pages that have generated parts."""
    for path in PAGES:
        path.write_text(render(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
