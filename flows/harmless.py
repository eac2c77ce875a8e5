"""Telling about work must not end it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ecif.storage.secrets import redact

_LOG = logging.getLogger("ecif.flows")
_SAID: set[tuple[str, str]] = set()


@contextmanager
def harmless(consequence: str) -> Iterator[None]:
    """Run the block; an exception in it is logged as a warning, once of a kind, and goes no further.

    Args:
        consequence: what does not happen, for the message.
    """
    try:
        yield
    except Exception as error:
        kind = (consequence, type(error).__name__)
        if kind not in _SAID:
            _SAID.add(kind)
            _LOG.warning("%s (%s); the run goes on", consequence, redact(f"{kind[1]}: {error}"[:500]))
