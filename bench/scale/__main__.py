"""The command: `python -m bench.scale plan|drive|cost`; see docs/scale.md."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from bench.scale import cost, driving, planning, requests


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    plan = commands.add_parser("plan", help="steps before the first shard is scored: seconds and peak memory")
    plan.add_argument("--work", type=Path, required=True)
    plan.add_argument("--shards", type=int, nargs="+", default=[10, 1_000, 100_000, 1_000_000])

    drive = commands.add_parser("drive", help="the flow with a real Prefect server, and nothing to compute")
    drive.add_argument("--work", type=Path, required=True)
    drive.add_argument("--shards", type=int, nargs="+", default=[10, 1_000, 10_000])
    drive.add_argument("--drop", default="0.1", help="the policy; empty: score and report only")
    drive.add_argument("--seconds", type=float, default=0.0, help="that scoring a shard takes")
    drive.add_argument("--s3", default="", metavar="ENDPOINT", help="corpus and output on an S3 server")
    drive.add_argument("--database", default="", metavar="URL", help="Prefect's, instead of SQLite")

    ask = commands.add_parser("requests", help="requests to S3 by step")
    ask.add_argument("--s3", required=True, metavar="ENDPOINT")
    ask.add_argument("--shards", type=int, default=200)

    price = commands.add_parser("cost", help="device hours, requests, storage and money")
    price.add_argument("--pairs", type=float, nargs="+", default=[100e6, 12.8e9])
    for variable in fields(cost.Assumed):
        option = f"--{variable.name.replace('_', '-')}"
        price.add_argument(option, type=float, help=f"[default: {variable.default:g}]")

    for name, arguments_of in (("child", ("name", "root")), ("drive-child", ("values",))):
        hidden = commands.add_parser(name)
        for argument in arguments_of:
            hidden.add_argument(argument)

    given = parser.parse_args()
    match given.command:
        case "child":
            planning.child(given.name, given.root)
        case "drive-child":
            driving.child(*json.loads(given.values))
        case "plan":
            planning.show({shards: planning.measure(given.work, shards) for shards in given.shards})
        case "requests":
            requests.show(requests.count(given.s3, given.shards), given.shards)
        case "cost":
            cost.show(given.pairs, cost.assumed(vars(given)))
        case "drive":
            options = {"seconds": given.seconds, "s3": given.s3, "database": given.database}
            found = (driving.drive(given.work, n, drop=given.drop or None, **options) for n in given.shards)
            driving.show([run for runs in found for run in runs])


if __name__ == "__main__":
    main()
