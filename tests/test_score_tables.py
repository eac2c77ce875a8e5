"""Scores are written once, and read as often as docs/speed.md says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ecif
from ecif import api
from ecif.storage import Storage
from ecif.storage.view import View
from tests.conftest import MakeTar
from tests.squares import SHARDS, Corpus, lay_out
from tests.tiny import write_model


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Counter[str], Counter[str]]]:
    """How often each score table was opened and written since it was last asked."""
    read: Counter[str] = Counter()
    written: Counter[str] = Counter()
    open_file, create = View.open, Storage._create

    def is_table(url: str) -> bool:
        return "/_ecif/scores/" in url and url.endswith(".parquet")

    def opened(self: View, url: str, **options: Any) -> Any:
        read.update([Path(url).stem] if is_table(url) else [])
        return open_file(self, url, **options)

    def created(self: Storage, url: str, at_most: int | None, replace: bool) -> Any:
        written.update([Path(url).stem] if is_table(url) else [])
        return create(self, url, at_most, replace)

    monkeypatch.setattr(View, "open", opened)
    monkeypatch.setattr(Storage, "_create", created)

    def since() -> tuple[Counter[str], Counter[str]]:
        found = Counter(read), Counter(written)
        read.clear()
        written.clear()
        return found

    return since


def test_each_table_is_written_once_and_read_once_by_each_stage(
    tmp_path: Path, make_tar: MakeTar, traffic: Callable[[], tuple[Counter[str], Counter[str]]]
) -> None:
    corpus: Corpus = lay_out(tmp_path, write_model(tmp_path), make_tar)
    values = corpus.values | {"canaries": 0.5}
    ecif.fit(*corpus.sources, **values)
    assert traffic() == (Counter(), Counter())
    ecif.score(*corpus.sources, **values)
    names = sorted(path.stem for path in corpus.raw.glob("*.tar"))
    once = Counter(names)
    assert traffic() == (Counter(), once)

    # Here, or in `plan` where nobody has asked before: up to a thousand tables.
    ecif.calibrate(corpus.out)
    assert traffic() == (once, Counter())
    planned = ecif.plan(corpus.out, drop=0.25, detector="influence")
    ties = Counter([planned.facts["tie"][2]])
    assert traffic() == (once + ties, Counter())
    for stage in (ecif.apply, api.report, ecif.verify):
        stage(corpus.out)
        assert traffic() == (once, Counter())
    # What is done is not looked at again, but by the proof.
    ecif.score(*corpus.sources, **values)
    ecif.plan(corpus.out, drop=0.25, detector="influence")
    ecif.apply(corpus.out)
    api.report(corpus.out)
    assert traffic() == (Counter(), Counter())
    assert len(names) == SHARDS
