"""ECIF: clean image-text corpora by the influence of every pair on a contrastive model.

Importing this package is cheap on purpose: it pulls in neither torch nor polars nor prefect, so that the command line
answers at once. The functions of the Python API (`ecif.score`, `ecif.plan`, ...; docs/python.md) come from ecif/api.py
when they are first asked for. The rooms of the package are listed in docs/architecture.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecif.api import apply as apply
    from ecif.api import calibrate as calibrate
    from ecif.api import clean as clean
    from ecif.api import diff as diff
    from ecif.api import edit as edit
    from ecif.api import export as export
    from ecif.api import fit as fit
    from ecif.api import lint as lint
    from ecif.api import load_scores as load_scores
    from ecif.api import plan as plan
    from ecif.api import restore as restore
    from ecif.api import score as score
    from ecif.api import trace as trace
    from ecif.api import verify as verify

__version__ = "0.1.0"

# Raised whenever the same input and settings would give other scores or other bytes; part of every key, so
# that results of two versions never mix in one output.
ALGO_VERSION = 3

_API = (
    "apply", "calibrate", "clean", "diff", "edit", "export", "fit", "lint", "load_scores", "plan", "restore", "score",
    "trace", "verify",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _API:
        from ecif import api

        return getattr(api, name)
    if name == "report":
        # The room of that name, which can be called (ecif/report/__init__.py).
        from importlib import import_module

        return import_module("ecif.report")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_API, "report"})
