"""The command that writes what other tools read: uid lists, indexes for loaders, tables in CommonPool's form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ecif import progress
from ecif.cli import dry
from ecif.cli.answer import Answer
from ecif.cli.options import DryRun, Usual, place, settings_of, wants_json
from ecif.cli.output import Out
from ecif.cli.text import failures, listed
from ecif.errors import EXIT_OK, EXIT_SHARDS_FAILED, InputError, UsageError
from ecif.settings import StorageSettings

if TYPE_CHECKING:
    from ecif.inventory import Shard
    from ecif.layout import Layout
    from ecif.progress import Progress
    from ecif.stages.loop import Failure
    from ecif.storage import Storage


@dataclass(frozen=True, slots=True)
class Asked:
    """What to write: files of uid lists by name, the directory of tables, the two indexes."""

    lists: dict[str, str | None]
    commonpool: str | None
    sizes: bool
    wids: bool
    beside: bool


def export(
    out: Out,
    /,
    *,
    uids: Annotated[
        str | None, Parameter(help="FILE.npy for the uids of the samples that are left: a DataComp list")
    ] = None,
    dropped_uids: Annotated[
        str | None, Parameter(help="FILE.npy for the uids of the samples that went, likewise")
    ] = None,
    commonpool: Annotated[
        str | None, Parameter(help="DIR for one parquet per shard with CommonPool's column names")
    ] = None,
    sizes: Annotated[
        bool, Parameter(help="write sizes.json, for open_clip, to _ecif/index; done when nothing is asked for")
    ] = False,
    wids: Annotated[
        bool, Parameter(help="write wids.json, for wids, to _ecif/index; done when nothing is asked for")
    ] = False,
    beside: Annotated[
        bool, Parameter(help="write these two beside the shards as well, where img2dataset's logger fails on them")
    ] = False,
    dry_run: DryRun = False,
    settings: Annotated[StorageSettings | None, Parameter(name="*")] = None,
    usual: Annotated[Usual | None, Parameter(name="*")] = None,
) -> Answer:
    """Write what loaders and DataComp's tools read of an output: uid lists, tables, sizes.json, a wids index."""
    if not (sizes or wids) and (beside or not (uids or dropped_uids or commonpool)):
        sizes = wids = True
    for option, file in (("--uids", uids), ("--dropped-uids", dropped_uids)):
        if file and not file.endswith(".npy"):
            raise UsageError(f"{option} {file}: a DataComp list is a .npy file; name it so")
    layout, storage = place(out, settings_of(StorageSettings, settings, usual))
    show = progress.choose(wants_json(usual))
    asked = Asked({"uids": uids, "dropped_uids": dropped_uids}, commonpool, sizes, wids, beside)
    if dry_run:
        with dry.rehearsal(storage) as trial:
            return dry.rehearsed("export", _export(layout, trial, asked, show), trial, layout)
    return _export(layout, storage, asked, show)


def _export(layout: Layout, storage: Storage, asked: Asked, show: Progress) -> Answer:
    from ecif import inventory, manifest
    from ecif.interop import outcome
    from ecif.interop.loaders import write_index

    shards = inventory.load(layout, storage).shards
    value: dict[str, Any] = {"out": layout.root, "shards": len(shards)}
    lines: list[str] = []
    failed: dict[str, Failure] = {}
    if any(asked.lists.values()):
        value["uids"] = _lists(shards, layout, storage, asked.lists, failed, show)
        lines.append(_about_lists(value["uids"]))
    if asked.commonpool:
        value["commonpool"] = _tables(shards, layout, storage, asked.commonpool, failed, show)
        lines.append("{rows:,} rows in {tables:,} tables: {dir}".format(**value["commonpool"]))
        if unknown := value["commonpool"]["unknown"]:
            lines.append(f"  nothing is known for {', '.join(unknown)}: the input has no such column")
    if asked.sizes or asked.wids:
        index = write_index(layout, storage, sizes=asked.sizes, wids=asked.wids, beside=asked.beside)
        value["index"] = {"tars": index.tars, "samples": index.samples, "files": list(index.files)}
        lines.append(f"{index.samples:,} samples in {index.tars:,} tars: {', '.join(index.files)}")
        done = manifest.done(layout, storage)
        failed |= {shard.name: outcome.unfinished(shard, layout) for shard in shards if shard.name not in done}
    if asked.beside:
        show.note("img2dataset reads every JSON file beside the shards as statistics: remove these before it runs here")
    value["failed"] = failures(failed.values())
    code = EXIT_SHARDS_FAILED if failed else EXIT_OK
    return Answer("\n".join([*lines, listed(value["failed"])]).rstrip(), value, code)


def _lists(
    shards: tuple[Shard, ...],
    layout: Layout,
    storage: Storage,
    files: dict[str, str | None],
    failed: dict[str, Failure],
    show: Progress,
) -> dict[str, Any]:
    """Write the lists that have a name in `files`, none when shards are missing."""
    from ecif.interop import outcome
    from ecif.interop.uids import write_lists

    with TemporaryDirectory(prefix="ecif-uids-") as folder:
        stay, gone = (Path(folder, name) if url else None for name, url in files.items())
        with progress.shown(show, "uids", len(shards), "shards"):
            found = outcome.each(shards, layout, storage, failed, progress=show)
            listed = write_lists((of_shard for _, of_shard in found), stay, gone)
        # A list that lacks shards looks like one that dropped them.
        for url, path in zip(files.values(), (stay, gone), strict=True):
            if url and path and not failed:
                storage.publish(url, path)
    written = {name: url if url and not failed else None for name, url in files.items()}
    counts = {"left": listed.survivors, "went": listed.gone, "repeated": listed.repeated, "in_both": listed.in_both}
    return written | counts


def _about_lists(value: dict[str, Any]) -> str:
    lines = [
        f"{value[count]:,} uids of samples that {what}: {value[name]}"
        for name, count, what in (("uids", "left", "are left"), ("dropped_uids", "went", "went"))
        if value[name]
    ] or ["no uid list is written, because shards are missing"]
    if value["repeated"]:
        both = f"of {value['in_both']:,} of them some went and some are left, which no list can tell"
        lines.append(f"  {value['repeated']:,} uids stand at several samples; {both}")
    return "\n".join(lines)


def _tables(
    shards: tuple[Shard, ...],
    layout: Layout,
    storage: Storage,
    folder: str,
    failed: dict[str, Failure],
    show: Progress,
) -> dict[str, Any]:
    """Write the tables in CommonPool's form."""
    from ecif.interop import commonpool, outcome
    from ecif.stages.loop import Failure

    tables = rows = 0
    unknown = set(commonpool.ALWAYS)
    with progress.shown(show, "commonpool", len(shards), "shards"):
        for shard, found in outcome.each(shards, layout, storage, failed, None, show):
            try:
                table = commonpool.table(shard, found, storage)
                storage.publish(f"{folder.rstrip('/')}/{shard.name}.parquet", commonpool.encode(table))
            except InputError as error:
                failed[shard.name] = Failure(shard.name, error)
                continue
            tables, rows = tables + 1, rows + table.height
            if table.height:
                unknown.intersection_update(commonpool.unknown(table))
    return {"dir": folder, "tables": tables, "rows": rows, "unknown": sorted(unknown) if rows else []}
