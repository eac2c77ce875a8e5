"""The rooms of docs/architecture.md hold: who may import whom, and what an import may cost.

All imports count, also those inside functions and under TYPE_CHECKING: a dependency is one wherever it stands.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = (
    "contrastive",
    "towers",
    "segmentation",
    "logra",
    "curvature",
    "influence",
    "gradients",
    "relative",
    "editing",
    "detectors",
    "canaries",
)
# safetensors comes with open_clip, which reads its own weights with it.
CORE_MAY_USE = sys.stdlib_module_names | {"torch", "open_clip", "numpy", "safetensors"}
HEAVY = ("torch", "torchvision", "open_clip", "prefect", "polars", "s3fs", "numpy", "fsspec", "rich.markdown")


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of a top-level package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imports(name: str, path: Path) -> Iterator[str]:
    """Dotted names that a module imports: for `from a import b` both `a` and `a.b`, relative ones resolved."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _offences(package: str, forbidden: set[str]) -> list[str]:
    return [
        f"{name} imports {imported}"
        for name, path in _modules(package)
        for imported in _imports(name, path)
        if imported.split(".")[0] in forbidden
    ]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("ecif", {"prefect", "flows", "tasks", "bench", "tests"}),
        ("tasks", {"flows", "bench", "tests"}),
        ("flows", {"bench", "tests"}),
    ],
)
def test_imports_go_one_way(package: str, forbidden: set[str]) -> None:
    assert list(_modules(package))
    assert _offences(package, forbidden) == []


def _core_modules() -> list[tuple[str, Path]]:
    return [(name, path) for name, path in _modules("ecif") if name.split(".")[1:2] and name.split(".")[1] in CORE]


def test_every_room_of_the_core_exists() -> None:
    assert {name.split(".")[1] for name, _ in _core_modules()} == set(CORE)


@pytest.mark.parametrize(("name", "path"), _core_modules(), ids=[name for name, _ in _core_modules()])
def test_the_core_runs_on_a_bare_gpu_image(name: str, path: Path) -> None:
    def allowed(imported: str) -> bool:
        first, _, rest = imported.partition(".")
        if first != "ecif":
            return first in CORE_MAY_USE
        # `from ecif import contrastive` imports the package itself, which imports nothing.
        return rest == "" or rest.split(".")[0] in {"errors", "nearest", *CORE}

    assert [imported for imported in _imports(name, path) if not allowed(imported)] == []


@pytest.mark.parametrize("module", ["ecif", "ecif.settings", "ecif.detectors", "ecif.cli"])
def test_importing_is_cheap(module: str) -> None:
    """`ecif --help` answers at once because nothing heavy is loaded before a command runs."""
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
