"""The documentation says what is true of the code: links, commands, options, make targets, generated parts."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import generate
from ecif.layout import Layout

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("infra/**/*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def _prose(page: Path) -> str:
    """The page without its code blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<=\n\n)(    .*\n|\n)+", "", text)


def _commands(page: Path) -> Iterator[list[str]]:
    """Command lines in indented code blocks, split into words; continued lines are joined."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE):
        words = shlex.split(line.split("   ")[0] if line.startswith("make ") else line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words:
            yield words


def _command(words: list[str]) -> str:
    """The command that a line names: its first word, or its first two where the first is a group of commands."""
    group = any(name.startswith(f"{words[0]} ") for name in generate.commands())
    return " ".join(words[: 2 if group else 1])


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), target


@each_page
def test_commands_and_their_options_exist(page: Path) -> None:
    known = generate.commands()
    options = generate.options()
    for words in _commands(page):
        if words[0] != "ecif":
            continue
        command = _command(words[1:])
        assert command in {*known, "--install-completion"}, " ".join(words)
        for word in words[2:]:
            if word.startswith("--"):
                assert command in options[word.partition("=")[0]].commands, " ".join(words)


@each_page
def test_named_options_and_commands_exist(page: Path) -> None:
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _prose(page))]
    for option in re.findall(r"^(--[a-z][a-z-]+)", "\n".join(inline), flags=re.MULTILINE):
        assert option in {*generate.options(), "--help"}, option
    for words in re.findall(r"^ecif ([a-z]+(?: [a-z]+)?)", "\n".join(inline), flags=re.MULTILINE):
        assert _command(words.split()) in generate.commands(), words


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    named = [words[1] for words in _commands(page) if words[0] == "make"]
    named += re.findall(r"`make ([a-z-]+)", _prose(page))
    assert set(named) <= targets


def test_the_readme_starts_with_two_commands() -> None:
    assert [" ".join(words) for words in _commands(ROOT / "README.md")][:2] == ["make demo", "make test"]


@pytest.mark.parametrize("page", generate.PAGES, ids=[page.name for page in generate.PAGES])
def test_generated_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text == generate.render(text), "run `make docs`"


def test_every_option_has_a_meaning_and_is_listed() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    options = generate.options()
    assert len(options) > 20
    for option in options.values():
        assert option.help, option.name
        assert f"| `{option.name}` |" in page


def _files() -> list[str]:
    """Every file name that ecif/layout.py can make, with SHARD and KEY in the place of names and keys."""
    layout = Layout("OUT")
    found = []
    for name, method in inspect.getmembers(layout, inspect.ismethod):
        if not name.startswith("_"):
            wanted = inspect.signature(method).parameters
            values = {"shard": "SHARD", "n": 1, "level": 0, "digest": "DIGEST", "kind": "deny", "attempt": 1}
            found.append(method(*(values.get(parameter, "KEY") for parameter in wanted)))
    return [file for file in found if "." in file.rpartition("/")[2]]


@pytest.mark.parametrize("file", _files())
def test_every_file_of_an_output_is_described(file: str) -> None:
    tree = (ROOT / "docs" / "files.md").read_text("utf-8").split("## ")[0]
    assert re.search(rf"(?<=[ /]){re.escape(file.removeprefix('OUT/').removeprefix('_ecif/'))}\b", tree)
