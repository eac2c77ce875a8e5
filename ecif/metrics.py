"""Numbers for Prometheus: what was done, how long it took, what failed. Nothing is kept unless a variable asks for it.

    ECIF_METRICS_FILE   a file for the textfile collector of the node exporter; its name ends in `.prom`
    ECIF_METRICS_PUSH   URL of a Pushgateway

A process that works on a group of shards ends before anybody could scrape it. So it adds its numbers to those in the
file, which therefore counts for all processes of a machine, or pushes them; both once per group, after its work, and
never inside the loop over shards. Whatever goes wrong here is said once and ends no run: numbers may be lost, shards
are not.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ecif.storage.secrets import redact

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

FILE, PUSH = "ECIF_METRICS_FILE", "ECIF_METRICS_PUSH"
LOCK_SECONDS, PUSH_SECONDS = 5.0, 5.0
JOB = "ecif"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Metric:
    """A name as Prometheus knows it; counters only rise, gauges are replaced."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...]


METRICS: Mapping[str, Metric] = {
    "ecif_groups_total": Metric("counter", "groups of shards that were worked through", ("stage",)),
    "ecif_shards_total": Metric("counter", "shards that were worked through", ("stage",)),
    "ecif_samples_total": Metric("counter", "samples in these shards", ("stage",)),
    "ecif_bytes_total": Metric("counter", "bytes of the tars of these shards", ("stage",)),
    "ecif_work_seconds_total": Metric("counter", "seconds that groups took, loading the model included", ("stage",)),
    "ecif_failed_shards_total": Metric(
        "counter", "shards that were set aside; cause: data, or passing, which another run may mend", ("stage", "cause")
    ),
    "ecif_failed_attempts_total": Metric("counter", "attempts at a group that ended in an error", ("stage", "error")),
    "ecif_scored_samples_total": Metric("counter", "samples by the status that scoring gave them", ("status",)),
    "ecif_corpus_shards": Metric("gauge", "shards of an output, by state", ("out", "state")),
    "ecif_corpus_samples": Metric("gauge", "samples of an output, by state", ("out", "state")),
    "ecif_corpus_statuses": Metric("gauge", "samples of an output, by status", ("out", "status")),
    "ecif_run_seconds": Metric("gauge", "seconds that the last run over an output took, by stage", ("out", "stage")),
    "ecif_run_finished_timestamp_seconds": Metric("gauge", "when the last run over an output ended", ("out",)),
    "ecif_drift_psi": Metric("gauge", "population stability index of the last arrivals", ("out", "column")),
}
"""Everything that is counted."""

Totals = Mapping[tuple[str, tuple[str, ...]], float]
"""Values by name and labels, the labels in the order of `METRICS`."""

_LOCK = threading.Lock()
# What this process has counted, for a gateway without a file beside it.
_OWN: dict[tuple[str, tuple[str, ...]], float] = {}
_SAID: set[str] = set()


def wanted() -> bool:
    """Whether anybody asks for numbers."""
    return bool(os.environ.get(FILE) or os.environ.get(PUSH))


def record(totals: Totals) -> None:
    """Add counters to what was counted before, and replace gauges. Never raises."""
    if not wanted():
        return
    try:
        with _LOCK:
            if file := os.environ.get(FILE):
                known = _into_file(Path(file), totals)
            else:
                _merge(_OWN, totals)
                known = dict(_OWN)
            if gateway := os.environ.get(PUSH):
                _push(gateway, known)
    except Exception as error:
        kind = type(error).__name__
        if kind not in _SAID:
            _SAID.add(kind)
            _LOG.warning(redact(f"metrics are not written ({kind}: {error}); the run goes on without"))


def exposition(totals: Totals) -> str:
    """The text that Prometheus reads."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collected(totals))
    return generate_latest(registry).decode()


def parse(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """What `exposition` wrote; names that are not ours are left out.

    Raises:
        ValueError: it is not Prometheus's text.
    """
    from prometheus_client.parser import text_string_to_metric_families

    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metric = METRICS.get(sample.name)
            if metric is not None and set(sample.labels) == set(metric.labels):
                found[sample.name, tuple(sample.labels[label] for label in metric.labels)] = sample.value
    return found


def of_group(
    stage: str,
    *,
    shards: int,
    samples: int,
    size: int,
    seconds: float,
    failed: Mapping[str, int],
    statuses: Mapping[str, int],
) -> Totals:
    """What a group of shards adds.

    Args:
        shards, samples, size: of what was done; size in bytes.
        failed: shards that were set aside, by cause.
        statuses: samples by status, where they were scored.
    """
    totals: Counter[tuple[str, tuple[str, ...]]] = Counter()
    values = {"groups": 1, "shards": shards, "samples": samples, "bytes": size, "work_seconds": seconds}
    totals.update({(f"ecif_{name}_total", (stage,)): value for name, value in values.items()})
    totals.update({("ecif_failed_shards_total", (stage, cause)): count for cause, count in failed.items()})
    totals.update({("ecif_scored_samples_total", (status,)): count for status, count in statuses.items()})
    return totals


def _merge(known: dict[tuple[str, tuple[str, ...]], float], totals: Totals) -> None:
    for place, value in totals.items():
        known[place] = known.get(place, 0.0) + value if METRICS[place[0]].kind == "counter" else value


def _into_file(file: Path, totals: Totals) -> Totals:
    """Add to the file, which other processes add to as well; the collector never sees half of it."""
    from filelock import FileLock

    with FileLock(f"{file}.lock", timeout=LOCK_SECONDS):
        try:
            known = parse(file.read_text("utf-8"))
        except FileNotFoundError:
            known = {}
        _merge(known, totals)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, suffix=".tmp", delete=False) as target:
            try:
                target.write(exposition(known))
                target.close()
                os.chmod(target.name, 0o644)  # the collector is another user
                os.replace(target.name, file)
            except BaseException:
                os.unlink(target.name)
                raise
    return known


def _push(gateway: str, totals: Totals) -> None:
    from prometheus_client import CollectorRegistry, push_to_gateway

    registry = CollectorRegistry()
    registry.register(_Collected(totals))
    push_to_gateway(
        gateway, job=JOB, registry=registry, grouping_key={"instance": socket.gethostname()}, timeout=PUSH_SECONDS
    )


class _Collected:
    """Values in the form that prometheus_client takes."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for name, metric in METRICS.items():
            family = kinds[metric.kind](name, metric.help, labels=metric.labels)
            for (of, labels), value in sorted(self._totals.items()):
                if of == name:
                    family.add_metric(labels, value)
            if family.samples:
                yield family
