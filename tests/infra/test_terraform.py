"""The Terraform files, parsed: what is made is closed, cleans up after itself, and uses the policies of infra/iam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hcl2
import pytest

from tests.infra.policies import FOLDER as POLICIES

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "terraform" / "aws"
FILES = sorted(FOLDER.rglob("*.tf"))


def _plain(value: Any) -> Any:
    """What the parser returns, without the quotes and marks that it keeps."""
    if isinstance(value, dict):
        return {_plain(name): _plain(inner) for name, inner in value.items() if not name.startswith("__")}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.removeprefix('"').removesuffix('"') if isinstance(value, str) else value


def _blocks(kind: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    parsed = [_plain(hcl2.loads(path.read_text("utf-8"))) for path in sorted(folder.glob("*.tf"))]
    return [block for one in parsed for block in one.get(kind, ())]


def _resources() -> dict[str, dict[str, Any]]:
    """Resources as `type.name`."""
    return {
        f"{kind}.{name}": body
        for block in _blocks("resource")
        for kind, named in block.items()
        for name, body in named.items()
    }


RESOURCES = _resources()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_it_parses(path: Path) -> None:
    assert hcl2.loads(path.read_text("utf-8"))


def test_uploads_of_killed_runs_are_given_up() -> None:
    (rule,) = RESOURCES["aws_s3_bucket_lifecycle_configuration.output"]["rule"]
    assert rule["status"] == "Enabled"
    assert rule["filter"] == [{"prefix": ""}]
    (abort,) = rule["abort_incomplete_multipart_upload"]
    assert abort == {"days_after_initiation": "${var.pending_upload_days}"}
    (days,) = [block["pending_upload_days"] for block in _blocks("variable") if "pending_upload_days" in block]
    assert days["default"] == 3


def test_the_bucket_is_private_and_takes_encrypted_connections_only() -> None:
    block = RESOURCES["aws_s3_bucket_public_access_block.output"]
    names = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert [block[name] for name in names] == [True] * 4
    assert "aws:SecureTransport" in (FOLDER / "bucket.tf").read_text("utf-8")


def test_messages_that_are_refused_are_moved_aside_and_somebody_is_told() -> None:
    redrive = RESOURCES["aws_sqs_queue.arrivals"]["redrive_policy"]
    assert "aws_sqs_queue.refused.arn" in redrive
    assert "5" in redrive
    alarm = RESOURCES["aws_cloudwatch_metric_alarm.refused"]
    assert "aws_sqs_queue.refused.name" in str(alarm["dimensions"])
    for queue in ("aws_sqs_queue.arrivals", "aws_sqs_queue.refused"):
        assert RESOURCES[queue]["sqs_managed_sse_enabled"] is True


def test_only_the_bucket_of_the_sources_may_send() -> None:
    (document,) = [
        block["aws_iam_policy_document"]["arrivals"]
        for block in _blocks("data")
        if "arrivals" in block.get("aws_iam_policy_document", {})
    ]
    (statement,) = document["statement"]
    assert statement["actions"] == ["sqs:SendMessage"]
    assert {one["variable"] for one in statement["condition"]} == {"aws:SourceArn", "aws:SourceAccount"}


def test_roles_have_the_policies_of_their_work() -> None:
    (roles,) = [block["roles"] for block in _blocks("locals") if "roles" in block]
    assert roles == {"worker": ["sources", "output"], "poller": ["queue"], "doctor": ["output", "doctor"]}
    attached = {kind for kind in RESOURCES if kind.startswith("aws_iam_")}
    assert attached == {"aws_iam_role.role", "aws_iam_role_policy.policy"}  # and no policy from elsewhere


def test_every_policy_of_the_folder_is_rendered() -> None:
    outputs = {name for block in _blocks("output", FOLDER / "policies") for name in block}
    assert outputs == {path.stem for path in POLICIES.glob("*.json")}


def test_nothing_secret_is_written_down_or_kept() -> None:
    text = "".join(path.read_text("utf-8") for path in FILES)
    assert [word for word in ("password", "secret", "access_key") if word in text.lower()] == []
