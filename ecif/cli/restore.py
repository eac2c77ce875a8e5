"""The command `restore`: samples that went come back as additional shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ecif import progress
from ecif.cli import dry
from ecif.cli.answer import Answer
from ecif.cli.options import DryRun, Usual, place, settings_of, wants_json
from ecif.cli.output import Out
from ecif.cli.text import failures, listed
from ecif.errors import EXIT_OK, EXIT_SHARDS_FAILED, UsageError
from ecif.settings import StorageSettings

if TYPE_CHECKING:
    from ecif.layout import Layout
    from ecif.storage import Storage
    from ecif.storage.rehearsal import Rehearsal


def restore(
    out: Out,
    /,
    *,
    keys: Annotated[
        str | None, Parameter(help="a file that lists the samples, one key, uid or sample:SHARD/KEY per line")
    ] = None,
    key: Annotated[tuple[str, ...], Parameter(help="the sample with this key; may be repeated")] = (),
    uid: Annotated[tuple[str, ...], Parameter(help="the sample with this uid; may be repeated")] = (),
    shard: Annotated[tuple[str, ...], Parameter(help="only samples of this shard; may be repeated")] = (),
    reason: Annotated[
        tuple[str, ...], Parameter(help="only samples that went for this reason of the ledger; may be repeated")
    ] = (),
    everything: Annotated[bool, Parameter(name="--all", help="all samples that went")] = False,
    denied: Annotated[bool, Parameter(help="also samples that the denylist names")] = False,
    dry_run: DryRun = False,
    settings: Annotated[StorageSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Bring dropped or quarantined samples back, byte for byte, as additional shards."""
    if not (keys or key or uid or shard or reason or everything):
        raise UsageError("which samples? give --keys, --key, --uid, --shard, --reason or --all")
    if "" in (*key, *uid):
        raise UsageError("a key or uid is empty")
    if everything and (keys or key or uid):
        raise UsageError("--all means every sample that went: leave --keys, --key and --uid out, or --all")
    layout, storage = place(out, settings_of(StorageSettings, settings, usual))

    from ecif import lists
    from ecif.stages import restore as stage

    names = [lists.entry(f"{kind}:{text}") for kind, texts in (("key", key), ("uid", uid)) for text in texts]
    if keys:
        names += lists.entries(storage.read_bytes(keys), keys)
    wanted = stage.Selection(frozenset(names), frozenset(shard), frozenset(reason))
    selected = stage.select(layout, storage, wanted, denied=denied)
    if dry_run:
        with dry.rehearsal(storage) as trial:
            return _dry(layout, trial, selected)
    return _restore(layout, storage, selected, progress.choose(wants_json(usual)))


def _restore(
    layout: Layout, storage: Storage, selected: Mapping[str, Mapping[int, str]], show: progress.Progress
) -> Answer:
    from ecif import inventory, restores
    from ecif.interop.loaders import write_index
    from ecif.restores import Claim, Restored
    from ecif.stages import loop, plan
    from ecif.stages import restore as stage

    decision = plan.load_decision(layout, storage)
    claims = restores.claim(layout, storage, decision.key, selected)
    known = inventory.load(layout, storage).by_name()
    before = {(done.restore_key, done.shard) for done in restores.shards(layout, storage)}
    todo = {one.key: [name for name in one.samples if (one.key, name) not in before] for one in claims}
    samples = sum(len(one.samples[name]) for one in claims for name in todo[one.key])
    restored: list[Restored] = []
    failed: list[loop.Failure] = []
    with progress.shown(show, "restore", samples, "samples"):
        for one in claims:

            def work(shard: inventory.Shard, one: Claim = one) -> Restored:
                done = stage.restore_shard(shard, one, decision, layout, storage)
                show.advance(done.samples)
                return done

            worked = loop.over([known[name] for name in todo[one.key]], work, show)
            restored += worked.results
            failed += worked.failed
    write_index(layout, storage)
    counts = {name: sum(done.samples for done in restored if done.source == name) for name in ("input", "quarantine")}
    value: dict[str, Any] = {
        "out": layout.root,
        "asked": sum(map(len, selected.values())),
        "restored": sum(counts.values()),
        "from": counts,
        "restored_before": sum(len(one.samples[name]) for one in claims for name in one.samples) - samples,
        "shards": [layout.tar(done.name(layout)) for done in restored],
        "failed": failures(failed),
    }
    return Answer(_text(value), value, EXIT_SHARDS_FAILED if failed else EXIT_OK)


def _dry(layout: Layout, trial: Rehearsal, selected: Mapping[str, Mapping[int, str]]) -> Answer:
    from ecif import inventory, restores
    from ecif.stages import plan

    claims = restores.claim(layout, trial, plan.load_decision(layout, trial).key, selected)
    known = inventory.load(layout, trial).by_name()
    before = {(done.restore_key, done.shard) for done in restores.shards(layout, trial)}
    todo = [(one, name) for one in claims for name in one.samples if (one.key, name) not in before]
    samples = sum(len(one.samples[name]) for one, name in todo)
    asked, back = sum(map(len, selected.values())), f"{layout.root}/restored-KEY/"
    what = f"brings {samples:,} samples back; {asked:,} were asked for"
    return dry.would([dry.over("restore", what, [known[n] for _, n in todo], write_files=2 * len(todo), where=back)])


def _text(value: dict[str, Any]) -> str:
    folders = sorted({url.partition("/restored-")[2].partition("/")[0] for url in value["shards"]})
    lines = [
        f"asked for {value['asked']:,} samples, restored {value['restored']:,} in {len(value['shards']):,} shards: "
        f"{value['from']['input']:,} from the input, {value['from']['quarantine']:,} from the quarantine",
        *(f"  {value['out']}/restored-{folder}/" for folder in folders),
    ]
    if value["restored_before"]:
        lines.append(f"  restored by an earlier run, and left alone: {value['restored_before']:,} samples")
    if value["failed"]:
        lines.append(listed(value["failed"]))
    return "\n".join(lines)
