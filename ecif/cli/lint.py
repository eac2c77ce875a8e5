"""The command `lint`: what is wrong with shards, streamed so that a corpus of any size can be looked at."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ecif import progress
from ecif.cli.answer import Answer
from ecif.cli.corpus import Sources
from ecif.cli.options import Usual, settings_of, sources_of, wants_json
from ecif.errors import EXIT_CHECK_FAILED, EXIT_OK, UsageError
from ecif.settings import SampleSettings, StorageSettings

if TYPE_CHECKING:
    from ecif.shards.lint import Finding

# Of the one document that --json prints; --jsonl has no limit.
MOST_IN_JSON = 10_000


class LintSettings(StorageSettings, SampleSettings):
    """What `lint` takes."""


def lint(
    *sources: Sources,
    equal_images: Annotated[
        int, Parameter(help="report an image that so many samples have, 2 or more; 0: do not look for any")
    ] = 2,
    jsonl: Annotated[
        Path | None, Parameter(help="write all findings to this local file, one JSON object per line")
    ] = None,
    settings: Annotated[LintSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Look for what is wrong with shards before anything is computed: broken tars, missing captions, bad images."""
    if equal_images < 0 or equal_images == 1:
        raise UsageError(f"--equal-images: {equal_images} is neither 0 nor at least 2")
    chosen = settings_of(LintSettings, settings, usual)
    named = sources_of(sources, usual)

    from ecif.shards.lint import lint as stage
    from ecif.sources import expand

    storage, show = chosen.storage(), progress.choose(wants_json(usual))
    spool = _spool(jsonl)

    def report(finding: Finding) -> None:
        spool.write(finding.to_line() + "\n")

    found = stage(
        expand(named, storage),
        storage,
        chosen.caption,
        report,
        equal_images=equal_images,
        limits=chosen.limits(),
        progress=show,
    )
    spool.flush()
    head = f"{found.shards:,} shards, {found.samples:,} samples: {found.errors:,} errors, {found.warnings:,} warnings"

    def print_all() -> None:
        if jsonl is None:
            for finding in _findings(spool):
                print(finding)
        print(head if jsonl is None else f"{head}: {jsonl}")

    listed = [finding.to_json() for finding in itertools.islice(_findings(spool), MOST_IN_JSON)]
    not_shown = found.errors + found.warnings - len(listed)
    value = {**found.to_json(), "findings": listed, "not_shown": not_shown}
    return Answer(head, value, EXIT_CHECK_FAILED if found.errors else EXIT_OK, show=print_all)


def _spool(path: Path | None) -> IO[str]:
    """Where findings wait: a line is there as soon as it is found, also when the run is killed."""
    if path is None:
        return tempfile.TemporaryFile("w+", encoding="ascii")
    try:
        return path.open("w+", encoding="ascii", buffering=1)
    except OSError as error:
        raise UsageError(f"--jsonl: {path}: {error.strerror}") from error


def _findings(spool: IO[str]) -> Iterator[Finding]:
    from ecif.shards.lint import Finding

    spool.seek(0)
    return (Finding(**json.loads(line)) for line in spool)
