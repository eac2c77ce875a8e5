"""Create or update ECIF's automations on the Prefect server that PREFECT_API_URL names; again is fine.

    python infra/automations/apply.py
    python infra/automations/apply.py --notify slack-webhook/ecif

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import sys

from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from ecif.errors import EcifError
from flows import automations


def main() -> int:
    """Apply, and print what was done; 2 when it cannot be."""
    parser = argparse.ArgumentParser(description="Create or update ECIF's automations on a Prefect server.")
    parser.add_argument("--notify", metavar="TYPE/NAME", help="the notification block that hears of failures")
    notify = parser.parse_args().notify
    if not get_current_settings().api.url:
        print("error: PREFECT_API_URL names no server", file=sys.stderr)
        return 2
    try:
        with get_client(sync_client=True) as client:
            block = automations.notification_block(client, notify) if notify else None
            for name, change in automations.apply(client, automations.shipped(block)).items():
                print(f"{change:10} {name}")
    except EcifError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
