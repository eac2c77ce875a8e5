"""Print the dependencies that pyproject.toml declares, one per line, so that an image installs them before the code.

    python requirements.py gcs dask        with those of the extras gcs and dask

pip can install a project with its dependencies, but not the dependencies alone; then every edited line of code would
install torch again.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def requirements(project: str, extras: Sequence[str]) -> list[str]:
    """The requirements of the text of a pyproject.toml, with those of some extras.

    Raises:
        KeyError: there is no such extra.
    """
    declared = tomllib.loads(project)["project"]
    found: list[str] = list(declared["dependencies"])
    for extra in extras:
        found += declared["optional-dependencies"][extra]
    return found


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(Path("pyproject.toml").read_text("utf-8"), sys.argv[1:]))
