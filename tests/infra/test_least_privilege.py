"""The shipped policies grant what the code asks for, and nothing else.

A small corpus goes through all commands against a server in memory. Every request is noted as it leaves, and the
policies are compared with the notes in both directions: nothing is refused, and no grant is idle. Sources and output
lie in two buckets, so that it shows which of them a request is for.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.world import corpus, stages, write_model
from ecif import restores
from ecif.cli import run
from ecif.doctor import races
from ecif.errors import ConflictError
from ecif.layout import Layout
from ecif.storage import Storage
from flows.fanout.plan import Fan
from tests.conftest import Bucket
from tests.infra.policies import Grant, Request, grants, refused, rendered, unused
from tests.infra.recorded import recording
from tests.storage.proxy import proxied

# Of the heavy shard's samples; its tar takes three parts.
BALLAST = 1_500_000
# Two outputs, since one holds either the shards one to one or the packed ones; each has the policy of an output.
OUTPUTS = ("clean/one", "clean/packed")
VARIABLES = {"sources_bucket": "iam-sources", "sources_prefix": "pairs/", "output_bucket": "iam-output"}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What all commands but `doctor` asked for, and what `doctor` did."""

    working: list[Request]
    doctor: list[Request]


@pytest.fixture(scope="module")
def traffic(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    """A corpus that went from inventory to export, with a restore, a repack and writers that failed."""
    options = {"endpoint_url": s3_endpoint, "key": "testing", "secret": "testing"}
    client = Bucket("s3://any", options).client()
    for name in ("iam-sources", "iam-output"):
        client.create_bucket(Bucket=name)
    for name, data in corpus(BALLAST).items():
        client.put_object(Bucket="iam-sources", Key=f"pairs/{name}", Body=data)
    model = write_model(tmp_path_factory.mktemp("model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECIF_STORAGE_OPTIONS", json.dumps(options))
        patch.setattr(races, "_ROUNDS", 1)
        with recording(options) as working:
            _work(model)
            _withdrawn(Layout(f"s3://iam-output/{OUTPUTS[0]}"), Storage(options), patch)
        # Of what it tries out, the doctor removes old versions, too.
        client.put_bucket_versioning(Bucket="iam-output", VersioningConfiguration={"Status": "Enabled"})
        with recording(options) as doctor:
            assert run(["doctor", f"s3://iam-output/{OUTPUTS[0]}", "--json"]) == 0
    return Traffic(working + _broken_off(options), doctor)


def _work(model: tuple[Path, Path]) -> None:
    one, packed = (stages("s3://iam-sources/pairs", f"s3://iam-output/{output}", model) for output in OUTPUTS)
    assert run(["lint", "s3://iam-sources/pairs/raw/", "--json"]) == 0  # a directory is listed, a range is not
    chain = [one[name] for name in ("fit", "score", "plan", "apply", "restore", "verify", "export")]
    chain += [packed[name] for name in ("fit", "score", "plan", "repack", "verify")]
    for stage in chain:
        assert run(stage.arguments) == 0, stage.arguments
    assert run(["report", f"s3://iam-output/{OUTPUTS[0]}", "--json"]) == 0


def _withdrawn(layout: Layout, storage: Storage, patch: pytest.MonkeyPatch) -> None:
    """A fan-out that has ended, and a restore that gives way to another one, which it sees only after its own claim."""
    fan = Fan(f"score-{'0' * 12}-{'0' * 12}", layout, storage)
    storage.publish_json(layout.fan_plan(fan.key), {"stage": "score", "parent": ""})
    fan.end()
    there = restores.claims(layout, storage)
    shard, indices = next(iter(there[0].samples.items()))
    views = iter([[], there])
    patch.setattr(restores, "claims", lambda *_: next(views))
    with pytest.raises(ConflictError):
        restores.claim(layout, storage, there[0].decision_key, {shard: {indices[0]: "key"}})


def _broken_off(options: dict[str, Any]) -> list[Request]:
    """A writer that is left by an error, after the answer that named its upload was lost once."""
    lost = iter([True])
    with proxied(options["endpoint_url"]) as proxy:
        proxy.on = lambda name: "lost" if name == "CreateMultipartUpload" and next(lost, False) else None
        through = options | {"endpoint_url": proxy.url}
        with recording(through) as seen, pytest.raises(ZeroDivisionError):
            _leave(Storage(through))
    return seen


def _leave(storage: Storage) -> None:
    with storage.create(f"s3://iam-output/{OUTPUTS[0]}/left.tar") as left:
        for _ in range(20):
            left.write(bytes(2**20))
        raise ZeroDivisionError


def _granted(*names: str) -> list[Grant]:
    """What the policies grant, with a copy of each for both outputs."""
    copies = [
        [grant for name in names for grant in grants(rendered(name, VARIABLES | {"output_prefix": f"{output}/"}))]
        for output in OUTPUTS
    ]
    return [
        dataclasses.replace(first, resources=first.resources + second.resources)
        for first, second in zip(*copies, strict=True)
    ]


def test_all_that_is_needed_is_granted(traffic: Traffic) -> None:
    assert refused(traffic.working, _granted("sources", "output")) == []
    assert refused(traffic.doctor, _granted("output", "doctor")) == []


def test_nothing_is_granted_that_is_not_needed(traffic: Traffic) -> None:
    assert unused(traffic.working, _granted("sources", "output")) == []
    assert unused(traffic.doctor, _granted("doctor")) == []


def test_sources_are_only_read(traffic: Traffic) -> None:
    asked = [one for one in traffic.working if one.resource.partition("/")[0] == "arn:aws:s3:::iam-sources"]
    assert {one.action for one in asked} == {"s3:GetObject", "s3:ListBucket"}


def test_only_marks_are_removed(traffic: Traffic) -> None:
    """No shard, score or manifest: claims by which writers agree, files of fan-outs, and what the doctor tried out."""
    removed = [one.resource for one in traffic.working + traffic.doctor if one.action.startswith("s3:DeleteObject")]
    marks = re.compile(r".*/_ecif/(.*\.claims/.*|fan/.*|restore/[^/]*/_meta\.json|doctor-.*)")
    assert removed
    assert [name for name in removed if not marks.fullmatch(name)] == []
