"""Commands about arrivals: watch, notify, poll."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ecif import progress
from ecif.cli.answer import Answer
from ecif.cli.corpus import Sources, clean_dry
from ecif.cli.options import DryRun, Usual, settings_of, sources_of, wants_json
from ecif.errors import UsageError
from ecif.orchestration import orchestrator
from ecif.settings import Settings

Name = Annotated[str, Parameter(help="of the corpus: deployments with triggers for ecif.shards.NAME hear of it")]


def watch(
    *sources: Sources,
    every: Annotated[float | None, Parameter(help="look again every so many seconds [default: once]")] = None,
    deployment: Annotated[
        str | None, Parameter(help="FLOW/NAME of the deployment that does the work [default: it is done here]")
    ] = None,
    quiet: Annotated[float, Parameter(help="seconds without a change after which an upload counts as complete")] = 30,
    longest: Annotated[float, Parameter(help="seconds to wait for that at most")] = 600,
    dry_run: DryRun = False,
    settings: Annotated[Settings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Look which shards have arrived or are not finished, and clean them; do nothing when there are none.

    The sources are compared with the inventory and the manifests of --out, so nothing is forgotten and nothing is
    done twice. Name directories: what arrives belongs to them. With --every it goes on until it is interrupted.
    """
    chosen = settings_of(Settings, settings, usual)
    named = sources_of(sources, usual)
    show = progress.choose(wants_json(usual))
    if every is not None and every <= 0:
        raise UsageError(f"--every: {every} is no number of seconds")
    if not 0 <= quiet <= longest:
        raise UsageError(f"--quiet and --longest: 0 <= {quiet} <= {longest} is needed")
    if dry_run:
        return clean_dry(named, chosen)
    looks = orchestrator("watch")(named, chosen, show, deployment=deployment, quiet=quiet, longest=longest, every=every)
    watched = None
    for watched in looks:
        if every is not None:
            show.note(watched.said)
    assert watched is not None
    return Answer(watched.said, watched.to_json())


def notify(
    *urls: Annotated[str, Parameter(help="where shards have arrived: prefixes, directories or tars")],
    name: Name = "corpus",
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Tell the Prefect server that shards have arrived, when all of them are there; returns when it has heard.

    One event for each prefix; that of a tar is its directory. The server is that of PREFECT_API_URL.
    """
    if not urls:
        raise UsageError("name the prefixes under which shards have arrived")
    prefixes = orchestrator("notify")(urls, name)
    return Answer("\n".join(f"announced {prefix}" for prefix in prefixes), {"announced": prefixes, "name": name})


def poll(
    queue: Annotated[str, Parameter(help="URL of the SQS queue that takes the notifications of the bucket")],
    /,
    *prefixes: Annotated[str, Parameter(help="prefixes below which shards may arrive; others are not listened to")],
    name: Name = "corpus",
    quiet: Annotated[float, Parameter(help="seconds without a change after which an upload counts as complete")] = 30,
    longest: Annotated[float, Parameter(help="seconds to wait for that at most")] = 600,
    once: Annotated[bool, Parameter(help="end when the queue is empty")] = False,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Turn notifications of S3 in a queue into arrival events, one for many; a message goes when its event is safe.

    Region and endpoint follow from the queue's URL, credentials are those of AWS_ACCESS_KEY_ID and its like. The
    server is that of PREFECT_API_URL. Without --once it goes on until it is interrupted.
    """
    polled = orchestrator("poll")(queue, prefixes, name, quiet, longest, once, progress.choose(wants_json(usual)))
    text = (
        f"{polled.announced:,} messages in {polled.events:,} events; {polled.empty:,} told of no shard, "
        f"{polled.left:,} were left in the queue"
    )
    return Answer(text, polled.to_json())
