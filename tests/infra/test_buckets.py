"""The buckets of compose.yaml: made once, with the rule that removes what killed runs leave."""

from __future__ import annotations

import pytest

from ecif import doctor
from ecif.doctor import races
from infra.docker.buckets import make
from tests.conftest import Bucket


def test_they_are_made_once_and_the_doctor_finds_their_rule(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"endpoint_url": s3_endpoint, "key": "testing", "secret": "testing"}
    client = Bucket("s3://any", options).client()
    for _ in range(2):
        make(["compose-raw", "compose-clean"], client)
    monkeypatch.setattr(races, "_ROUNDS", 1)
    found = doctor.examine("s3://compose-clean", options)
    (line,) = [line for line in found.lines if line.check == "lifecycle"]
    assert (line.level, line.detail) == ("ok", "a rule aborts pending uploads after 3 days")
