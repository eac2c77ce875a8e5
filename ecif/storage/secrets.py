"""What must not be printed: values of secret options, of the environment, and of signed URLs.

Servers and libraries quote what they were sent, so every message is cleaned on its way out, by value where the
secret is known and by pattern where it is not. Too much is hidden rather than too little: a message that lost a
harmless word can still be read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"

_SECRET = re.compile(
    r"(^|[_.\-])(secret|token|pass|password|passwd|passphrase|sas|signature|credentials?|authorization|cookie)($|[_.\-])"
    r"|(account|api|private|access|customer)_?key($|_(?!id))|connection_?string|customerkey|secret_?(access)?_?key",
    re.IGNORECASE,
)
# The name of an account is no secret by itself, and often the name of a bucket, too: hidden where it stands alone.
_IDENTITY = re.compile(r"^(key|username|user|aws_access_key_id|access_key_id)$", re.IGNORECASE)
_ENVIRONMENT = re.compile(
    r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|SAS|CONNECTION_STRING|ACCOUNT_KEY|STORAGE_KEY)(_|$)|API_KEY"
)
_NO_VALUE = re.compile(r"_(FILE|URI|URL|PATH|DIR|NAME|ID)$")

# A password may hold a slash that should have been encoded; a port is none.
_USER_IN_URL = re.compile(
    r"(?i)(?<![a-z0-9+.\-])(?!abfss?:|wasbs?:)([a-z][a-z0-9+.\-]+://)([^/\s@'\"?#:]*:(?!\d+[/?#])[^\s@'\"]*|[^/\s@'\"?#:]+)@"
)
_IN_QUERY = re.compile(
    r"(?i)\b(x-(?:amz|goog)-(?:signature|credential|security-token)|signature|awsaccesskeyid|googleaccessid|sig|sas|token"
    r"|access_token|api_?key|password|secret)=[^&\s'\"<>]+"
)
_AUTHORIZATION = re.compile(r"(?i)\b(credential|signature)=[^,&\s'\"<>]+|\b(bearer|basic)\s+[a-z0-9+/=._~\-]{8,}")
# Shorter values are no secrets, and would tear holes into words.
_SHORTEST = 4


# Options that this process was given: a traceback may quote them far from where they are at hand.
_GIVEN: list[Mapping[str, Any]] = []


def remember(options: Mapping[str, Any]) -> None:
    """Hide the secrets of these options in whatever this process prints from now on."""
    if options and options not in _GIVEN:
        _GIVEN.append(dict(options))


def redact(text: str, options: Mapping[str, Any] | None = None) -> str:
    """`text` with `***` in place of whatever must not be printed.

    Args:
        text: a message, a traceback, or anything else for people.
        options: storage options; values of theirs that are secret by name, at any depth, are hidden. None: all that
            this process has been given.
    """
    every = _GIVEN if options is None else [options]
    secrets = {*_values(every), *_of_environment()}
    for value in sorted((form for secret in secrets for form in _forms(secret)), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for name in (name for given in every for name in _identities(given)):
        text = re.sub(rf"(?<![\w./:\-]){re.escape(name)}(?![\w./:\-])", HIDDEN, text)
    text = _USER_IN_URL.sub(rf"\1{HIDDEN}@", text)
    text = _IN_QUERY.sub(rf"\1={HIDDEN}", text)
    return _AUTHORIZATION.sub(lambda match: f"{match[1]}={HIDDEN}" if match[1] else f"{match[2]} {HIDDEN}", text)


def _values(value: object, inside: bool = False) -> Iterator[str]:
    """The strings below names that say they are secret."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _values(below, inside or bool(_SECRET.search(str(name))))
    elif isinstance(value, str):
        if inside and len(value) >= _SHORTEST:
            yield value
    elif isinstance(value, bytes):
        yield from _values(value.decode("utf-8", "replace"), inside)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _values(item, inside)


def _identities(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            if isinstance(below, str) and _IDENTITY.match(str(name)) and len(below) >= _SHORTEST:
                yield below
            yield from _identities(below)


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _ENVIRONMENT.search(name) and not _NO_VALUE.search(name) and len(value) >= 2 * _SHORTEST:
            yield value


def _forms(secret: str) -> set[str]:
    """How it looks in messages, URLs, and quoted by Python or JSON."""
    in_urls = {quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
    return {secret, *in_urls, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
