"""The names of everything in an output, in one place, so that writers and readers cannot drift apart.

    OUT/00000.tar 00000.parquet 00000_stats.json     the cleaned shards
    OUT/_ecif/...                                    everything else (docs/files.md)

Nothing but shards lies at the top: img2dataset reads every `*.json` there as the statistics of a shard.
"""

from __future__ import annotations

from dataclasses import dataclass

from ecif.errors import UsageError

META = "_ecif"


@dataclass(frozen=True, slots=True)
class Layout:
    """URLs below one output root. `shard` is a shard's name: its relative path without `.tar`."""

    root: str

    def __post_init__(self) -> None:
        if not self.root.rstrip("/"):
            raise UsageError("--out is needed: a directory or an object-storage prefix")
        object.__setattr__(self, "root", self.root.rstrip("/"))

    def _meta(self, *parts: str) -> str:
        return "/".join((self.root, META, *parts))

    def tar(self, shard: str) -> str:
        return f"{self.root}/{shard}.tar"

    def parquet(self, shard: str) -> str:
        return f"{self.root}/{shard}.parquet"

    def stats(self, shard: str) -> str:
        return f"{self.root}/{shard}_stats.json"

    def inventories(self) -> str:
        return self._meta("inventory")

    def inventory(self, n: int, digest: str) -> str:
        """A file of the inventory. Its name holds a digest of its content: two writers never take the same one."""
        return self._meta("inventory", f"{n:06d}-{digest}.json")

    def fit_sample(self, fit_key: str) -> str:
        """Which shards the fit uses: frozen before the first of them is read."""
        return self._meta("fit", fit_key, "sample.json")

    def partials(self, fit_key: str) -> str:
        return self._meta("fit", fit_key, "partial")

    def partial(self, fit_key: str, shard: str) -> str:
        return self._meta("fit", fit_key, "partial", f"{shard}.safetensors")

    def sums(self, fit_key: str, level: int, n: int) -> str:
        """Node of the tree in which partials are added."""
        return self._meta("fit", fit_key, "sum", str(level), f"{n:06d}.safetensors")

    def moments(self, fit_key: str) -> str:
        """The sum of all, scaled to the corpus: what another fit can take over."""
        return self._meta("fit", fit_key, "moments.safetensors")

    def projection(self, fit_key: str) -> str:
        return self._meta("fit", fit_key, "projection.safetensors")

    def fits(self) -> str:
        return self._meta("fit")

    def factor(self, fit_key: str) -> str:
        return self._meta("fit", fit_key, "factor.safetensors")

    def direction(self, fit_key: str) -> str:
        return self._meta("fit", fit_key, "direction.safetensors")

    def gradient(self, fit_key: str) -> str:
        """Gradient of the validation loss by parameter name."""
        return self._meta("fit", fit_key, "gradient.safetensors")

    def validation(self, fit_key: str) -> str:
        """Digests of the validation images, to notice a corpus that holds them, too."""
        return self._meta("fit", fit_key, "validation.safetensors")

    def fit_meta(self, fit_key: str) -> str:
        """Written last: a fit without it is not finished."""
        return self._meta("fit", fit_key, "meta.json")

    def edit_partials(self, edit_key: str) -> str:
        return self._meta("edit", edit_key, "partial")

    def edit_partial(self, edit_key: str, shard: str) -> str:
        """What the pairs of one shard that are to go add to the step of the weights."""
        return self._meta("edit", edit_key, "partial", f"{shard}.safetensors")

    def trace(self, trace_key: str) -> str:
        return self._meta("trace", f"{trace_key}.parquet")

    def trace_page(self, trace_key: str) -> str:
        return self._meta("trace", f"{trace_key}.html")

    def score_keys(self) -> str:
        return self._meta("scores")

    def score_meta(self, score_key: str) -> str:
        return self._meta("scores", score_key, "_meta.json")

    def scores_of(self, score_key: str) -> str:
        return self._meta("scores", score_key)

    def scores(self, score_key: str, shard: str) -> str:
        return self._meta("scores", score_key, f"{shard}.parquet")

    def harm(self, score_key: str) -> str:
        """Single validation pairs, for the column `harm`."""
        return self._meta("scores", score_key, "_validation.safetensors")

    def index(self, score_key: str, shard: str) -> str:
        """Projected gradients of every pair, where they were kept."""
        return self._meta("scores", score_key, "index", f"{shard}.safetensors")

    def canaries_of(self, canary_key: str) -> str:
        return self._meta("canary", canary_key)

    def canaries(self, canary_key: str, shard: str) -> str:
        """Scores of the wrong captions that were planted while this shard was scored, and written nowhere else."""
        return self._meta("canary", canary_key, f"{shard}.parquet")

    def calibration(self, calibration_key: str) -> str:
        """What the canaries say of every score, and the detector that was learned from them."""
        return self._meta("calibration", f"{calibration_key}.json")

    def decisions(self) -> str:
        return self._meta("decision")

    def decision(self, decision_key: str) -> str:
        return self._meta("decision", f"{decision_key}.json")

    def list_of(self, decision_key: str, kind: str) -> str:
        """A frozen list of a decision: denylist `deny`, allowlist `allow`, overrides of a review `drop` and `keep`."""
        return self._meta("decision", f"{decision_key}.{kind}.txt")

    def duplicates(self, decision_key: str, digest: str) -> str:
        """Pairs that have a better equal; named by its content, which depends on the shards that there were."""
        return self._meta("decision", f"{decision_key}.same-{digest[:12]}.parquet")

    def outcome(self, decision_key: str) -> str:
        """What a decision comes to, by shard and by group: derived, and may be deleted."""
        return self._meta("plan", f"{decision_key}.json")

    def applied(self) -> str:
        """Names the one decision that this output holds, and the form in which it is written."""
        return self._meta("decision", "applied", "key.json")

    def ledgers(self) -> str:
        return self._meta("ledger")

    def ledger(self, shard: str) -> str:
        return self._meta("ledger", f"{shard}.parquet")

    def quarantine(self, shard: str) -> str:
        return self._meta("quarantine", f"{shard}.tar")

    def manifests(self) -> str:
        return self._meta("manifest")

    def manifest(self, shard: str) -> str:
        """Written last: a shard without it does not exist."""
        return self._meta("manifest", f"{shard}.json")

    def restored(self, restore_key: str, shard: str) -> str:
        """Name of the shard that brings samples of `shard` back: a shard like others, with a tar and sidecars."""
        return f"restored-{restore_key}/{shard}"

    def restores(self) -> str:
        return self._meta("restore")

    def restore(self, restore_key: str, shard: str) -> str:
        """Written last: the restored shard is complete."""
        return self._meta("restore", restore_key, f"{shard}.json")

    def sizes(self) -> str:
        return self._meta("index", "sizes.json")

    def wids(self) -> str:
        return self._meta("index", "wids.json")

    def report(self) -> str:
        return self._meta("report", "index.html")

    def manifest_rollup(self) -> str:
        """All manifests in one table, to spare later runs a request for each: derived, and may be deleted."""
        return self._meta("rollup", "manifests.parquet")

    def report_rollup(self, key: str) -> str:
        """What the report has taken from the score tables so far: derived, and may be deleted."""
        return self._meta("rollup", "report", f"{key}.npz")

    def report_pictures(self, key: str) -> str:
        """The pictures that the last page showed: derived, and may be deleted."""
        return self._meta("rollup", "report", f"{key}.pictures.parquet")

    def packs(self) -> str:
        return self._meta("pack")

    def pack_map(self, n: int) -> str:
        """Which survivors go to which new shard, for the shards of generation `n`: frozen before one is packed."""
        return self._meta("pack", f"{n:06d}.json")

    def pack_manifests(self, n: int) -> str:
        return self._meta("pack", f"{n:06d}")

    def pack_manifest(self, n: int, shard: str) -> str:
        """Written last: the packed shard is complete."""
        return self._meta("pack", f"{n:06d}", f"{shard}.json")

    def pack_table(self, n: int, shard: str) -> str:
        """Where every sample of a packed shard comes from."""
        return self._meta("pack", f"{n:06d}", f"{shard}.parquet")

    def fans(self) -> str:
        return self._meta("fan")

    def fan_plan(self, fan_key: str) -> str:
        """What one stage of a run hands out to other machines; of use only while it is under way."""
        return self._meta("fan", fan_key, "plan.json")

    def fan_group(self, fan_key: str, n: int) -> str:
        """A group of shards, as the run that works on it reads it."""
        return self._meta("fan", fan_key, f"{n:06d}.json")

    def fan_result(self, fan_key: str, n: int, attempt: int) -> str:
        """What became of a group: names and small numbers."""
        return self._meta("fan", fan_key, f"{n:06d}.{attempt}.result.json")

    def drift(self, score_key: str) -> str:
        """Distribution of the scores that the direction was made for: what arrivals are compared with."""
        return self._meta("drift", f"{score_key}.json")

    def effects(self, effects_key: str) -> str:
        return self._meta("effects", effects_key)

    def effect(self, effects_key: str, n: int, variant: str) -> str:
        """What became of the model of one variant and seed in a study of effects."""
        return self._meta("effects", effects_key, f"{n:06d}-{variant}.json")

    def effects_table(self, effects_key: str) -> str:
        """All of them in one table: derived, and may be deleted."""
        return self._meta("effects", effects_key, "table.csv")

    def announced(self, state_key: str) -> str:
        """That the server was told of a finished state of this output."""
        return self._meta("announced", f"{state_key}.json")
