from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeTar
from tests.interop.cleaned import Cleaned, cleaned


@pytest.fixture
def done(tmp_path: Path, make_tar: MakeTar) -> Cleaned:
    """A cleaned corpus."""
    return cleaned(tmp_path, make_tar)
