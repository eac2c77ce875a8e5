"""The messages of S3, SNS and EventBridge, and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.errors import InputError
from ecif.notifications import created


def record(key: str, event: str = "ObjectCreated:Put", bucket: str = "bucket") -> dict[str, Any]:
    """What S3 writes, without what is not read."""
    return {"eventSource": "aws:s3", "eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}


@pytest.mark.parametrize(
    "event", ["ObjectCreated:Put", "ObjectCreated:CompleteMultipartUpload", "s3:ObjectCreated:Copy"]
)
def test_objects_are_told_by_their_decoded_keys(event: str) -> None:
    body = json.dumps({"Records": [record("raw/2026-11-22/a+b%2Bc%C3%A4.tar", event), record("x.tar")]})
    assert created(body) == ("s3://bucket/raw/2026-11-22/a b+cä.tar", "s3://bucket/x.tar")


def test_in_the_envelope_of_sns() -> None:
    inner = json.dumps({"Records": [record("raw/0.tar")]})
    assert created(json.dumps({"Type": "Notification", "Message": inner})) == ("s3://bucket/raw/0.tar",)


def test_from_eventbridge_whose_keys_are_not_encoded() -> None:
    detail = {"bucket": {"name": "bucket"}, "object": {"key": "raw/a+b%20.tar"}}
    body = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}
    assert created(json.dumps(body)) == ("s3://bucket/raw/a+b%20.tar",)
    assert created(json.dumps({**body, "detail-type": "Object Deleted"})) == ()


def test_what_tells_of_something_else_is_empty() -> None:
    assert created(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bucket"})) == ()
    assert created(json.dumps({"Records": [record("raw/0.tar", "ObjectRemoved:Delete")]})) == ()
    assert created(json.dumps({"Records": []})) == ()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"Records": 3}',
        '{"Records": [{}]}',
        '{"Records": [{"eventName": 7}]}',
        '{"Type": "Notification", "Message": "none"}',
        '{"Type": "Notification", "Message": {}}',
        "[" * 100_000,
        json.dumps({"Records": [record("raw/%FF.tar")]}),
        json.dumps({"Records": [record("")]}),
        json.dumps({"Records": [record("0.tar", bucket="../bucket")]}),
        json.dumps({"Records": [record("0.tar", bucket="user:word@host")]}),
    ],
)
def test_what_is_no_message_is_refused(body: str) -> None:
    with pytest.raises(InputError, match="message 5: is no notification"):
        created(body, "message 5")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Records", "s3", "eventName", "bucket", "object", "key", "name", "Type", "Message", "source"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        urls = created(json.dumps(value))
    except InputError:
        return
    assert all(url.startswith("s3://") for url in urls)
