"""Numbers for Prometheus: they add up over processes, can be read by its own parser, and never end a run."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ecif import metrics

GROUP = metrics.of_group(
    "score", shards=2, samples=24, size=2048, seconds=1.5, failed={"data": 1}, statuses={"ok": 23, "no_caption": 1}
)


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(metrics.FILE, raising=False)
    monkeypatch.delenv(metrics.PUSH, raising=False)
    monkeypatch.setattr(metrics, "_OWN", {})
    monkeypatch.setattr(metrics, "_SAID", set())


def _add(file: str) -> None:
    os.environ[metrics.FILE] = file
    for _ in range(10):
        metrics.record(GROUP)


def test_counters_of_several_processes_add_up_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "ecif.prom"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(str(file),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = metrics.parse(file.read_text("utf-8"))
    assert found["ecif_groups_total", ("score",)] == 30
    assert found["ecif_samples_total", ("score",)] == 720
    assert found["ecif_scored_samples_total", ("no_caption",)] == 30
    assert found["ecif_failed_shards_total", ("score", "data")] == 30
    assert {path.name for path in tmp_path.iterdir()} <= {"ecif.prom", "ecif.prom.lock"}
    assert file.stat().st_mode & 0o777 == 0o644


def test_gauges_are_replaced_and_hostile_labels_stay_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ecif.prom"
    monkeypatch.setenv(metrics.FILE, str(file))
    out = 's3://b/"x"\\\n# HELP y'
    for value in (3.0, 1.0):
        metrics.record({("ecif_corpus_shards", (out, "failed")): value})
    text = file.read_text("utf-8")
    assert metrics.parse(text) == {("ecif_corpus_shards", (out, "failed")): 1.0}
    assert [family.name for family in text_string_to_metric_families(text)] == ["ecif_corpus_shards"]


def test_what_is_written_is_what_prometheus_reads() -> None:
    text = metrics.exposition(GROUP)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["ecif_work_seconds"].type == "counter"
    assert families["ecif_bytes"].samples[0].value == 2048
    assert all(family.documentation for family in families.values())
    assert metrics.parse(text) == dict(GROUP)


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """An HTTP server that keeps what is pushed to it: its address, and (method, path, body)."""
    pushed: list[tuple[str, str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            pushed.append((self.command, self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", pushed
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_gateway_gets_all_that_was_counted_so_far(
    gateway: tuple[str, list[tuple[str, str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, pushed = gateway
    monkeypatch.setenv(metrics.PUSH, url)
    metrics.record(GROUP)
    metrics.record(GROUP)
    assert [method for method, _, _ in pushed] == ["PUT", "PUT"]
    assert all(path.startswith("/metrics/job/ecif/instance/") for _, path, _ in pushed)
    assert metrics.parse(pushed[-1][2])["ecif_shards_total", ("score",)] == 4


def test_nothing_is_kept_where_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metrics.record(GROUP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trouble", ["folder that is a file", "folder in its place", "damaged file", "dead gateway"])
def test_trouble_is_said_once_and_raises_nothing(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "ecif.prom"
    if trouble == "folder that is a file":
        (tmp_path / "textfile").touch()
        file = tmp_path / "textfile" / "ecif.prom"
    elif trouble == "folder in its place":
        file.mkdir()
    elif trouble == "damaged file":
        file.write_bytes(b'ecif_groups_total{stage="score"} many\n')
    if trouble == "dead gateway":
        monkeypatch.setenv(metrics.PUSH, "http://127.0.0.1:1")
    else:
        monkeypatch.setenv(metrics.FILE, str(file))
    with caplog.at_level(logging.WARNING):
        metrics.record(GROUP)
        metrics.record(GROUP)
    said = [line for line in caplog.messages if "metrics are not written" in line]
    assert len(said) == 1
    assert "the run goes on" in said[0]
