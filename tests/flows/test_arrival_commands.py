"""`ecif watch`, `ecif notify` and `ecif poll` as people and scripts call them."""

from __future__ import annotations

import json

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from ecif.cli import run
from tests.flows.queues import Queue, announced
from tests.squares import SHARDS, Corpus


def test_watch_cleans_what_is_new_and_then_nothing(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["watch", str(corpus.raw), *corpus.options(), "--drop", "0.25", "--quiet", "0"]
    assert run(command) == 0
    assert capsys.readouterr().out.startswith(f"{SHARDS} shards, {SHARDS} of them new: kept ")
    assert run([*command, "--json"]) == 0
    watched = json.loads(capsys.readouterr().out)
    assert (watched["new"], watched["unfinished"], watched["started"]) == (0, 0, False)


@pytest.mark.parametrize("wrong", [["--every", "0"], ["--quiet", "9", "--longest", "8"], ["--deployment", "no/where"]])
def test_watch_refuses_what_is_wrong(corpus: Corpus, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["watch", str(corpus.raw), *corpus.options(), "--quiet", "0"]
    assert run([*command, *wrong]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert wrong[-1] in error or wrong[0] in error


def test_notify_announces_prefixes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["notify", "s3://bucket/raw/day", "s3://bucket/raw/day/0.tar", "--name", "by-command", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"announced": ["s3://bucket/raw/day/"], "name": "by-command"}
    assert announced("by-command") == ["s3://bucket/raw/day/"]


def test_notify_fails_where_nobody_hears_it(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert run(["notify", "s3://bucket/raw/day"]) == 2
    assert "PREFECT_API_URL" in capsys.readouterr().err
    assert run(["notify"]) == 2
    assert run(["notify", "s3://bucket/a::b"]) == 2


def test_poll_turns_messages_into_events(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.put_keys("raw/day/0.tar", "raw/day/1.tar")
    queue.put("nonsense")
    command = ["poll", queue.url, "s3://bucket/raw/", "--name", queue.name, "--quiet", "1", "--once", "--json"]
    assert run(command) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"announced": 2, "empty": 0, "left": 1, "events": 1}
    assert "left in the queue: message " in printed.err
    assert announced(queue.name) == ["s3://bucket/raw/day/"]
