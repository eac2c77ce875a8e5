"""The shipped policies, enforced: a stranger on Ceph is granted nothing but them, by the policies of two buckets.

tests/infra compares the policies with what is asked; here a server that checks every request agrees, and each right
that a command cannot do without is taken away once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bench.places import Server
from bench.trial import Ended, Nursery
from bench.world import Stage, corpus, stages
from tests.infra.policies import rendered
from tests.integration.conftest import Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# A member of random bytes in each sample of one shard, whose tar then takes three parts.
BALLAST = 1_500_000
WAY = ("lint", "fit", "score", "plan", "apply", "restore", "verify", "export")


@dataclass(frozen=True, slots=True)
class Place:
    """Sources and output in buckets of the owner, and the stranger who works on them."""

    owner: Server
    stranger: Server
    sources: str
    output: str
    stages: dict[str, Stage]
    nursery: Nursery

    def grant(self, without: tuple[str, str] = ("", "")) -> None:
        """Give the stranger what is shipped for a worker, or all of it but one action of one statement."""
        values = {
            "sources_bucket": self.sources,
            "sources_prefix": "pairs/",
            "output_bucket": self.output,
            "output_prefix": "one/",
        }
        for bucket, name in ((self.sources, "sources"), (self.output, "output")):
            policy = rendered(name, values)
            for statement in policy["Statement"]:
                actions = statement["Action"]
                statement["Action"] = [
                    action
                    for action in (actions if isinstance(actions, list) else [actions])
                    if (statement["Sid"], action) != without
                ]
                statement["Principal"] = {"AWS": [f"arn:aws:iam:::user/{self.stranger.key}"]}
            policy["Statement"] = [statement for statement in policy["Statement"] if statement["Action"]]
            self.owner.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

    def run(self, name: str, server: Server | None = None) -> Ended:
        """A stage, by the stranger unless another is named."""
        options = (server or self.stranger).options()
        environment = {"ECIF_STORAGE_OPTIONS": json.dumps(options), "ECIF_PATIENCE": "5"}
        return self.nursery.run(self.stages[name].arguments, environment)


@pytest.fixture
def place(ceph: Store, nursery: Nursery, model: tuple[Path, Path], new_bucket: Callable[[Server], str]) -> Place:
    sources, output = new_bucket(ceph.server), new_bucket(ceph.server)
    client = ceph.server.client()
    for name, data in corpus(BALLAST).items():
        client.put_object(Bucket=sources, Key=f"pairs/{name}", Body=data)
    found = stages(f"s3://{sources}/pairs", f"s3://{output}/one", model)
    return Place(ceph.server, ceph.other, sources, output, found, nursery)


def _refused(ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except ClientError as error:
        return bool(error.response["Error"]["Code"] in ("AccessDenied", "403"))
    return False


def test_a_worker_needs_no_more_and_can_do_no_more(place: Place) -> None:
    place.grant()
    for name in WAY:
        ended = place.run(name)
        assert ended.code == 0, (name, ended.out, ended.err)
    client = place.stranger.client()
    shard, other = {"Bucket": place.output, "Key": "one/00000.tar"}, {"Bucket": place.output, "Key": "two/x"}
    source = {"Bucket": place.sources, "Key": "pairs/raw/00000.tar"}
    assert client.head_object(**shard)["ContentLength"]
    assert _refused(lambda: client.delete_object(**shard))
    assert _refused(lambda: client.put_object(Body=b"x", **other))
    assert _refused(lambda: client.put_object(Body=b"x", **source))
    assert _refused(lambda: client.delete_object(**source))
    assert _refused(lambda: client.put_bucket_policy(Bucket=place.output, Policy="{}"))


@pytest.mark.parametrize(
    ("sid", "action", "command"),
    [
        ("ReadSources", "s3:GetObject", "fit"),
        ("ListOutput", "s3:ListBucket", "fit"),
        ("ReadAndWriteOutput", "s3:GetObject", "score"),
        ("ReadAndWriteOutput", "s3:PutObject", "fit"),
        ("RemoveOwnMarks", "s3:DeleteObject", "fit"),
    ],
)
def test_without_one_right_it_ends_with_the_reason(place: Place, sid: str, action: str, command: str) -> None:
    if command == "score":  # on Ceph, whoever has written an object may read it; so this is the owner's
        assert place.run("fit", place.owner).code == 0
    place.grant(without=(sid, action))
    ended = place.run(command)
    assert ended.code not in (0, 1)
    assert "denied" in ended.err.lower() or "permission" in ended.err.lower() or "forbidden" in ended.err.lower()


def test_a_condition_on_the_prefix_would_make_what_is_absent_look_forbidden(place: Place) -> None:
    """Why `s3:ListBucket` is granted for the whole bucket."""
    place.grant()
    client = place.stranger.client()
    absent = {"Bucket": place.output, "Key": "one/absent"}
    with pytest.raises(ClientError, match="404"):
        client.head_object(**absent)
    arn = f"arn:aws:s3:::{place.output}"
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Action": "s3:GetObject", "Resource": f"{arn}/one/*"},
            {"Action": "s3:ListBucket", "Resource": arn, "Condition": {"StringLike": {"s3:prefix": "one/*"}}},
        ],
    }
    for statement in policy["Statement"]:
        assert isinstance(statement, dict)
        statement |= {"Effect": "Allow", "Principal": {"AWS": [f"arn:aws:iam:::user/{place.stranger.key}"]}}
    place.owner.client().put_bucket_policy(Bucket=place.output, Policy=json.dumps(policy))
    assert _refused(lambda: client.head_object(**absent))
