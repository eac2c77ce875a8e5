"""The shipped IAM policies, and which requests they allow: a small part of what IAM does, which refuses the rest.

Only `Allow` statements with actions and resources are known; a condition or a denial is an error here and not
silently true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "iam"
_KNOWN = {"Sid", "Effect", "Action", "Resource"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks for, in IAM's words."""

    action: str
    resource: str


@dataclass(frozen=True, slots=True)
class Grant:
    """One action of one statement on one resource, which may be several patterns that mean the same."""

    sid: str
    action: str
    resources: tuple[str, ...]

    def allows(self, request: Request) -> bool:
        return request.action == self.action and any(_matches(one, request.resource) for one in self.resources)


def rendered(name: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """A policy as it is given to AWS, with its variables filled in; one that is not known is an error."""
    text = Template((FOLDER / f"{name}.json").read_text("utf-8")).substitute(variables)
    policy: dict[str, Any] = json.loads(text)
    return policy


def grants(policy: Mapping[str, Any]) -> list[Grant]:
    """All that a policy grants, one action on one resource at a time."""
    found = []
    for statement in policy["Statement"]:
        assert set(statement) == _KNOWN, f"{statement['Sid']}: {sorted(set(statement) ^ _KNOWN)} is not understood"
        assert statement["Effect"] == "Allow"
        found += [
            Grant(statement["Sid"], action, (resource,))
            for action in _listed(statement["Action"])
            for resource in _listed(statement["Resource"])
        ]
    return found


def refused(requests: Iterable[Request], granted: Iterable[Grant]) -> list[Request]:
    """The requests that nothing allows."""
    granted = list(granted)
    return sorted({one for one in requests if not any(grant.allows(one) for grant in granted)}, key=str)


def unused(requests: Iterable[Request], granted: Iterable[Grant]) -> list[Grant]:
    """The grants that no request needed."""
    requests = list(requests)
    return [grant for grant in granted if not any(grant.allows(one) for one in requests)]


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _matches(pattern: str, resource: str) -> bool:
    """IAM's wildcards: any characters for a star, slashes too. A question mark is not used here."""
    assert "?" not in pattern
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), resource) is not None
