"""The stages of `clean`: each does what it does not find done yet, and notes the shards that failed on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

from prefect import Task

from ecif import logs, manifest, packmap, packs, rollup
from ecif.errors import ConflictError
from ecif.interop.loaders import write_index
from ecif.inventory import Shard
from ecif.progress import Progress
from ecif.report import compose
from ecif.report.gather import gather
from ecif.report.numbers import Numbers
from ecif.run import Run, open_run
from ecif.selection import Decision
from ecif.settings import Settings
from ecif.stages import deciding, fit, outcome, score
from ecif.stages.loop import bear
from ecif.stages.plan import decision_keys, freeze_lists, load_decision, mark_applied, plan
from ecif.stages.write import to_pack
from ecif.storage.urls import is_allowed, resolved
from flows import artifacts
from flows.counts import counts
from flows.fanout import Fanned, fan_out
from flows.harmless import harmless
from flows.outcome import Outcome
from tasks.device import devices
from tasks.groups import Job
from tasks.stages import Result, fit_group, freeze_projection, pack_group, reduce_fit, score_group, write_group


class Stages:
    """One run of the flow.

    Attributes:
        shards: all of the inventory, or those under `prefix`.
        failed: what `Outcome.failed` holds, by shard.
        seconds: by stage.
        numbers: what the report was made from; None before.
    """

    def __init__(self, sources: Sequence[str], settings: Settings, prefix: str | None, progress: Progress) -> None:
        """Take the inventory; raises what `ecif.run.open_run` raises."""
        self.settings, self.progress = settings, progress
        self.failed: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.numbers: Numbers | None = None
        self.overlap = 0
        self._wanted: set[str] = set()  # shards that had no scores when the run began
        with self._stage("inventory"):
            self.run = open_run(sources, settings)
            self.job = Job.of(self.run)
            known, missing = self.run.inventory.shards, self.run.inventory.missing
            self.shards = known
            if prefix is not None:
                under = (resolved(prefix),)  # once for all of them
                self.shards = tuple(shard for shard in known if is_allowed(shard.url, under))
                progress.note(f"{len(self.shards):,} of {len(known):,} shards are under {prefix}")
            if missing:
                progress.note(f"{len(missing):,} shards of the ranges do not exist, the first is {missing[0]}")

    def fit(self) -> bool:
        """Map and reduce, of the run's curvature and of those that further columns rest on; whether all are there."""
        with self._stage("fit") as finished:
            runs = [self.run, *self.run.other_fits().values()]
            for number, one in enumerate(runs):

                def share(done: float, number: int = number) -> None:
                    finished((number + 0.9 * done) / len(runs))

                if not self._fit(one, share):
                    return False
            return True

    def _fit(self, one: Run, finished: Callable[[float], None]) -> bool:
        if fit.is_done(one):
            return True
        job = Job.of(one)
        sample = fit.freeze_sample(one)
        todo = fit.todo(one, sample)
        shards = fit.sample_shards(one, sample)
        freeze_projection(job, shards)
        self._fan(
            "fit",
            fit_group,
            todo,
            job=job,
            unit="shards",
            total=len(todo),
            outputs=lambda: set(sample.shards) - {shard.name for shard in fit.todo(one, sample)},
            finished=finished,
        )
        if self.failed:
            self.progress.note("the fit waits for the shards that failed: its sample is frozen")
            return False
        reduce_fit(job, shards)
        return True

    def score(self) -> None:
        """Score tables of all shards."""
        with self._stage("score") as finished:
            done = score.done(self.run)
            todo = [shard for shard in self.shards if shard.name not in done]
            self._wanted = {shard.name for shard in todo}
            fanned = self._fan(
                "score",
                score_group,
                todo,
                unit="pairs",
                total=sum(shard.samples or 0 for shard in todo),
                outputs=lambda: score.done(self.run),
                finished=finished,
            )
            self.overlap = sum(item["overlap"] for item in fanned.done)
            if self.overlap:
                self.progress.note(
                    f"{self.overlap:,} of the pairs scored now have an image of the validation set: their influence "
                    "is biased; keep validation pairs out of the corpus"
                )

    def arrived(self) -> set[str]:
        """Shards scored since the last run: with a policy those without a manifest, else those of this run."""
        scored = score.done(self.run)
        if not self.settings.has_policy:
            return scored & self._wanted
        return (scored & {shard.name for shard in self.shards}) - manifest.done(self.run.layout, self.run.storage)

    def decide(self) -> Decision | None:
        """The frozen cut, bound to this output; None when it cannot be made yet or nothing was asked for."""
        run, layout, storage = self.run, self.run.layout, self.run.storage
        if not self.settings.has_policy:
            return None
        with self._stage("plan"):
            if not any(storage.exists(layout.decision(key)) for key in self._decision_keys):
                # The cut holds for good, so it is not made from a part of the corpus that is only late.
                if any(item["passing"] for item in self.failed.values()):
                    self.progress.note(
                        "the cut holds for good, so it waits for shards whose data are not to blame: run the same "
                        f"command again, or decide without them: ecif plan {run.layout.root} --without NAME ..."
                    )
                    return None
                if len(self.shards) < len(run.inventory.shards):
                    self.progress.note("the cut waits for a run over the whole corpus: this one has a prefix")
                    return None
            decision = plan(layout, storage, self.settings, run.score_key, self.progress, set_aside=set(self.failed))
            outcome.check(layout, storage, decision, self.settings.guard, self.progress)
            mark_applied(layout, storage, decision, self.settings)
            self.job = replace(self.job, decision_key=decision.key)
            return decision

    def write(self) -> None:
        """Cleaned shards, ledgers and manifests of all scored shards; then the loaders' index."""
        run = self.run
        with self._stage("write") as finished:
            ready = score.done(run) - manifest.done(run.layout, run.storage)
            todo = [shard for shard in self.shards if shard.name in ready]
            self._fan(
                "write",
                write_group,
                todo,
                unit="pairs",
                total=sum(shard.samples or 0 for shard in todo),
                outputs=lambda: manifest.done(run.layout, run.storage),
                finished=finished,
                workers=self.settings.max_groups,
            )

    def pack(self) -> None:
        """The survivors in shards of `--repack` samples.

        The map is frozen, so it waits for shards that failed just now, if they can be scored at all.
        """
        layout, storage = self.run.layout, self.run.storage
        if self.settings.repack is None:
            return
        if any(item["passing"] or item["stage"] == "write" for item in self.failed.values()):
            self.progress.note("packing waits for the shards that failed: mend them, and run the same command again")
            return
        with self._stage("pack") as finished:
            targets = to_pack(layout, storage, self.settings.repack)
            # Fan-out knows shards; a packed one has no input of its own, and its map never changes.
            todo = [
                Shard(t.name, layout.tar(t.name), 0, f"packed-{t.generation}", t.samples, None, None) for t in targets
            ]
            self._fan(
                "pack",
                pack_group,
                todo,
                unit="pairs",
                total=sum(target.samples for target in targets),
                outputs=lambda: packs.done(packmap.load(layout, storage), layout, storage),
                finished=finished,
                workers=self.settings.max_groups,
            )

    def index(self) -> None:
        """What training loaders ask for."""
        with self._stage("index"):
            rollup.refresh(self.run.layout, self.run.storage)
            write_index(self.run.layout, self.run.storage)

    def report(self, decision: Decision | None) -> None:
        """The report, from all that is there."""
        run = self.run
        with self._stage("report"):
            place = (run.layout, run.storage, run.inventory, decision)
            self.numbers = gather(*place, run.score_key, self._reasons(), self.progress)
            page = compose(*place, self.numbers, self.progress)
            run.storage.publish(run.layout.report(), page, replace=True)

    def standing_decision(self) -> Decision | None:
        """The decision that the output holds already, if it cuts these scores.

        Raises:
            ConflictError: this run has a policy, and the output holds the decision of another.
        """
        layout, storage = self.run.layout, self.run.storage
        if not storage.exists(layout.applied()):
            return None
        decision = load_decision(layout, storage)
        if self.settings.has_policy and decision.key not in self._decision_keys:
            raise ConflictError(
                f"this output holds the decision {decision.key}, made with other settings; choose a new --out",
                url=layout.applied(),
            )
        return decision if decision.score_key == self.run.score_key else None

    def outcome(self, decision: Decision | None, worst: artifacts.Worst) -> Outcome:
        """Count what is there, after the report; the rows of single shards go to `worst`."""
        run, numbers = self.run, self.numbers
        assert numbers is not None
        scored = set(numbers.tables["shard"])
        manifests = rollup.load(run.layout, run.storage) if decision else None
        written = set(manifests["shard"]) if manifests is not None else set()
        statuses: dict[str, int] = {}
        kept = dropped = quarantined = unscored = 0
        for item in counts(self.shards, numbers.tables, manifests):
            for status, count in item.statuses.items():
                statuses[status] = statuses.get(status, 0) + count
            unscored += item.unscored
            kept, dropped = kept + (item.kept or 0), dropped + (item.dropped or 0)
            quarantined += item.quarantined or 0
            worst.add(artifacts.row(item), item.lost, item.samples)
        names = {shard.name for shard in self.shards}
        return Outcome(
            out=run.layout.root,
            shards=len(self.shards),
            pairs=sum(shard.samples or 0 for shard in self.shards),
            scored=len(scored & names),
            written=len(written & names),
            kept=kept,
            dropped=dropped,
            quarantined=quarantined,
            unscored=unscored,
            overlap=self.overlap,
            statuses=dict(sorted(statuses.items())),
            failed=[self.failed[name] for name in sorted(self.failed)],
            missing=len(run.inventory.missing),
            score_key=run.score_key,
            decision_key=decision.key if decision else None,
            cut=decision.cut if decision and decision.n_dropped else "",
            expected=self._promised(decision),
            report=run.layout.report() if run.storage.exists(run.layout.report()) else None,
            seconds={stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
        )

    def _promised(self, decision: Decision | None) -> str:
        """What canaries say of the decision; it is no reason for a run to fail."""
        promised = None
        with harmless("what canaries promise is not known"):
            promised = deciding.expected(self.run.layout, self.run.storage, decision) if decision else None
        return promised.line() if promised else ""

    def _reasons(self) -> dict[str, str]:
        return {name: item["reason"] for name, item in self.failed.items()}

    @cached_property
    def _decision_keys(self) -> tuple[str, ...]:
        """The lists are read once: what they say when the run begins."""
        return decision_keys(self.run.score_key, self.settings, freeze_lists(self.settings, self.run.storage))

    def _fan(
        self,
        stage: str,
        group_task: Task[..., Result],
        todo: Sequence[Shard],
        *,
        unit: str,
        total: int,
        outputs: Callable[[], AbstractSet[str]],
        finished: Callable[[float], None],
        workers: int | None = None,
        job: Job | None = None,
    ) -> Fanned:
        if not todo:
            return Fanned((), ())
        self.progress.stage(stage, total, unit)
        try:
            fanned = fan_out(
                group_task,
                job or self.job,
                todo,
                outputs=outputs,
                workers=workers or self._devices(),
                weigh=(lambda shard: shard.samples or 0) if unit == "pairs" else (lambda shard: 1),
                advanced=lambda through: finished(through / len(todo)),
                bear=lambda failed: bear({**self._reasons(), **failed}, self.settings.max_failed),
            )
        finally:
            self.progress.end()
        for item in fanned.failed:
            with logs.about(shard=item["shard"]):
                self.progress.note(f"set aside: {item['reason']}")
            self.failed[item["shard"]] = {"stage": stage, **item}
        return fanned

    def _devices(self) -> int:
        """How many groups compute at the same time in this process."""
        if self.settings.fan_out != "local":
            return 1  # does not count; and the devices of the workers need not exist here
        return len(devices(self.settings.device))

    @contextmanager
    def _stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a stage and show it as a progress artifact; yields a function that takes the share that is done."""
        started = time.monotonic()
        finished = artifacts.stage_bar(name)
        try:
            with logs.about(stage=name):
                yield finished
            finished(1.0)
        finally:
            self.seconds[name] = time.monotonic() - started
