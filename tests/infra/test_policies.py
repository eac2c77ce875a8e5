"""The policies are ones that AWS takes: its grammar, actions that exist, each on the kind of resource it is about."""

from __future__ import annotations

import json
import time
import types
from collections.abc import Mapping
from importlib import resources
from typing import Any

import pytest
from cfnlint.api import lint_all

from ecif.doctor.calls import RIGHTS
from ecif.progress import Silent
from flows import sqs
from tests.infra.policies import FOLDER, Grant, Request, grants, refused, rendered, unused

VARIABLES = {
    "sources_bucket": "raw",
    "sources_prefix": "pairs/",
    "output_bucket": "clean",
    "output_prefix": "one/",
    "queue_arn": "arn:aws:sqs:us-east-1:123456789012:ecif-arrivals",
}
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def _all() -> list[Grant]:
    return [grant for name in NAMES for grant in grants(rendered(name, VARIABLES))]


def _known() -> dict[str, Any]:
    """What cfn-lint knows of AWS's services: their actions, and the kinds of resources of each."""
    text = resources.files("cfnlint.data.AdditionalSpecs").joinpath("Policies.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _complaints(policies: Mapping[str, Any]) -> list[str]:
    """What cfn-lint says about policies, as parts of a template."""
    made = {
        name: {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": policy}}
        for name, policy in policies.items()
    }
    found = lint_all(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": made}))
    # About the template as a whole it has opinions, too.
    return [f"{one.path}: {one.message}" for one in found if "Properties" in one.path]


def test_the_grammar_is_that_of_identity_policies() -> None:
    assert _complaints({name: rendered(name, VARIABLES) for name in NAMES}) == []
    broken = rendered("queue", VARIABLES)
    broken["Statement"][0]["Action"] = ["sqs:HearMessage"]
    (complaint,) = _complaints({"queue": broken})
    assert "hearmessage" in complaint


def test_actions_exist_and_are_about_these_resources() -> None:
    known = _known()
    for grant in _all():
        service, _, action = grant.action.partition(":")
        assert "*" not in grant.action
        kinds = known[service]["Actions"][action.lower()]["Resources"]
        for resource in grant.resources:
            kind = "queue" if service == "sqs" else "object" if "/" in resource else "bucket"
            assert kind in kinds, grant


def test_no_policy_reaches_beyond_its_prefix() -> None:
    roots = ("arn:aws:s3:::raw/pairs/", "arn:aws:s3:::clean/one/")
    whole = ("arn:aws:s3:::raw", "arn:aws:s3:::clean", VARIABLES["queue_arn"])
    outside = [one for grant in _all() for one in grant.resources if one not in whole and not one.startswith(roots)]
    assert outside == []


def test_the_code_s_own_list_of_rights_is_what_the_policies_grant() -> None:
    granted = {grant.action for grant in _all() if grant.action.startswith("s3:")}
    assert granted == set(RIGHTS.values()) | {"s3:DeleteObjectVersion"}


def test_a_queue_is_polled_with_the_rights_of_its_policy(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Receive, keep in flight, delete: against a queue in memory, without waiting for the time to pass."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    client = sqs.client_of(f"{s3_endpoint}/any")
    queue = client.create_queue(QueueName="ecif-rights")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    seen: list[Request] = []

    def note(params: Mapping[str, Any], model: Any, **_: object) -> None:
        assert params["QueueUrl"] == queue
        # IAM knows no actions for batches: those of single messages count.
        seen.append(Request(f"sqs:{model.name.removesuffix('Batch')}", arn))

    made = sqs.client_of

    def recorded(url: str) -> Any:
        found = made(url)
        found.meta.events.register_first("before-parameter-build.sqs", note)
        return found

    monkeypatch.setattr(sqs, "client_of", recorded)
    poller = sqs.Poller(queue, ["s3://raw/pairs/"], "corpus", quiet=600, longest=600, progress=Silent(), patience=0)
    arrived = {"bucket": {"name": "raw"}, "object": {"key": "pairs/00000.tar", "size": 1}}
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": arrived}
    other = record | {"s3": arrived | {"object": {"key": "pairs/README.md", "size": 1}}}
    for body in (record, other):
        client.send_message(QueueUrl=queue, MessageBody=json.dumps({"Records": [body]}))
    poller.turn()
    later = types.SimpleNamespace(monotonic=lambda: time.monotonic() + 400, sleep=_never)
    monkeypatch.setattr(sqs, "time", later)
    poller.turn()
    granted = grants(rendered("queue", VARIABLES | {"queue_arn": arn}))
    assert refused(seen, granted) == []
    assert unused(seen, granted) == []


def _never(seconds: float) -> None:
    pytest.fail(f"waited for {seconds} s")
