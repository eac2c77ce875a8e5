"""What runs hold in memory only."""

from __future__ import annotations

import threading
from contextvars import copy_context

import pytest

from ecif.progress import Lines
from ecif.settings import Settings, saved
from tasks import ambient
from tests.squares import Notes

SECRET = {"key": "k", "secret": "s"}


def test_the_public_and_the_private_part_make_the_settings_again() -> None:
    settings = Settings(out="s3://b/o", storage_options=SECRET, allow=("s3://b/",), batch_size=8)
    here = ambient.Ambient(Notes(), ambient.private(settings))
    assert "secret" not in str(saved(settings))
    assert here.settings(saved(settings)) == settings


def test_without_a_caller_private_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECIF_STORAGE_OPTIONS", '{"key": "from-the-worker"}')
    monkeypatch.setenv("ECIF_ALLOW", '["s3://b/"]')
    here = ambient.current()
    assert isinstance(here.progress, Lines)
    found = here.settings({"out": "s3://b/o"})
    assert found.storage_options == {"key": "from-the-worker"}
    assert found.allow == ("s3://b/",)


def test_it_holds_inside_the_block_and_in_threads_that_copy_the_context() -> None:
    mine = ambient.Ambient(Notes())
    seen: list[ambient.Ambient] = []
    with ambient.during(mine):
        context = copy_context()
        thread = threading.Thread(target=context.run, args=(lambda: seen.append(ambient.current()),))
        thread.start()
        thread.join()
        assert ambient.current() is mine
    assert seen == [mine]
    assert ambient.current() is not mine
