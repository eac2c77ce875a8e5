"""Defaults for Prefect that fit a tool that runs anywhere, also without the internet.

* nothing is reported to anybody: neither the server's heartbeat nor the client's first-use events;
* the terminal belongs to ECIF's own progress lines: Prefect speaks from WARNING on;
* results are JSON: Prefect's default is pickle, by which whoever may write the result storage runs code here.

Each is only a default: a variable that is set already wins.
"""

from __future__ import annotations

import os

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}

# Whether the user wants to hear Prefect itself; asked before the default is set.
LOGGING_CHOSEN = "PREFECT_LOGGING_LEVEL" in os.environ


def set_defaults() -> None:
    """Put the defaults into the environment, for this process and the servers it starts."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
