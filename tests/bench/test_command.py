"""python -m bench.method: every part can be imported, and says what it takes."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest

from bench.method.__main__ import PARTS, main


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_options_and_runs(part: str) -> None:
    module = import_module(f"bench.method.{part}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert parser.format_help()
    assert callable(module.run)


def test_an_unknown_part_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench.method", "agreemnt"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "agreement" in capsys.readouterr().err
