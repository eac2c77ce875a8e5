"""All settings as one typed object; the command line, a YAML file and the environment set the same fields.

Small groups come first and `Settings` is their sum, so that each command takes the fields it uses and no
flag silently does nothing. Precedence: command line, environment (`ECIF_...`), `--config` file, defaults.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from ecif import detectors
from ecif.errors import UsageError
from ecif.fields import G, Group, build
from ecif.nearest import did_you_mean
from ecif.policy.settings import PolicySettings
from ecif.shards.limits import Limits

if TYPE_CHECKING:
    from ecif.storage import Storage


class StorageSettings(Group):
    """How to reach files."""

    storage_options: dict[str, Any] = Field(
        {}, description='options for fsspec as JSON, e.g. \'{"endpoint_url": "http://127.0.0.1:9000"}\'; never saved'
    )
    allow: tuple[str, ...] = Field((), description="if given, only URLs under these prefixes may be read or written")
    patience: float = Field(
        60, ge=0, description="seconds to go on asking a storage that does not answer, for each file or listing"
    )

    def storage(self) -> Storage:
        """The files as these settings reach them."""
        from ecif.storage import Storage  # and with it fsspec, which `ecif --help` need not wait for

        return Storage(self.storage_options, self.allow, patience=self.patience)


class FailureSettings(Group):
    """What to do about shards that fail."""

    max_failed: int | None = Field(
        None, ge=0, description="stop when more shards than this have failed [default: the others always go on]"
    )


class SampleSettings(Group):
    """How a tar becomes pairs."""

    caption: str = Field("txt", description="where the caption is: txt, or json:FIELD")
    max_member_bytes: int = Field(256 * 2**20, ge=1, description="a shard with a larger member fails")
    max_sample_bytes: int = Field(512 * 2**20, ge=1, description="a shard with a larger sample fails")
    max_sample_members: int = Field(64, ge=1, description="a shard with a sample of more members fails")
    max_caption_bytes: int = Field(64 * 2**10, ge=1, description="a longer caption is not scored")
    max_json_bytes: int = Field(4 * 2**20, ge=1, description="a larger .json member is not read")
    max_json_depth: int = Field(64, ge=1, description="a .json member nested deeper is not read")
    max_pixels: int = Field(64_000_000, ge=1, description="a larger image is not decoded, and not scored")

    def limits(self) -> Limits:
        """What a tar, a sample and an image may be."""
        return Limits(
            member_bytes=self.max_member_bytes,
            sample_bytes=self.max_sample_bytes,
            members_per_sample=self.max_sample_members,
            caption_bytes=self.max_caption_bytes,
            json_bytes=self.max_json_bytes,
            json_depth=self.max_json_depth,
            pixels=self.max_pixels,
        )

    @field_validator("caption")
    @classmethod
    def _caption(cls, value: str) -> str:
        if value != "txt" and not re.fullmatch(r"json:[^:]+", value):
            raise ValueError(f"{value!r} is neither 'txt' nor 'json:FIELD'")
        return value


class ModelSettings(Group):
    """The model, and the parameters in which influence lives."""

    model: str = Field("", description="an open_clip model name, or the path of a JSON model config")
    pretrained: str = Field("", description="an open_clip pretrained tag, or a weights file (.safetensors, .pt)")
    trainable: str = Field("heads", description="the parameters influence lives in: heads, last:K or all")
    biases: Literal["include", "freeze"] = Field(
        "include", description="biases, norms and other vectors among them: trainable, too, or frozen"
    )
    decode: Literal["full", "draft"] = Field(
        "full", description="JPEGs whole, or no larger than the model's input needs: faster, and other scores"
    )
    precision: Literal["fp32", "tf32", "bf16", "fp64"] = Field(
        "fp32", description="arithmetic of the towers (tf32: NVIDIA GPUs only); losses stay >= fp32"
    )

    @field_validator("trainable")
    @classmethod
    def _trainable(cls, value: str) -> str:
        if value not in ("heads", "all") and not re.fullmatch(r"last:[1-9]\d*", value):
            hint = did_you_mean(value, ("heads", "all"))
            raise ValueError(f"{value!r} is not one of 'heads', 'last:K' (K >= 1), 'all'.{hint}")
        return value


class DeviceSettings(Group):
    """Where and in which pieces to compute; results agree within a stated tolerance whatever is chosen."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="samples that go through the towers at once [default: what fits the memory; at most 512 on a GPU, "
        "128 on a CPU, or 32 of a larger model]",
    )
    workers: int | None = Field(
        None, ge=0, description="threads that decode images; 0 decodes in the main thread [default: one per core]"
    )
    processes: int | None = Field(
        None,
        ge=0,
        description="processes that decode images, in place of threads; 0: none "
        "[default: beside a GPU with 6 cores or more one per core but two, unless --workers is given; otherwise 0]",
    )
    compile: Literal["off", "on"] = Field(
        "off", description="compile the frozen part of the towers when the model is loaded: for GPUs and long runs"
    )


class MethodSettings(Group):
    """The influence computation (docs/method.md)."""

    validation: tuple[str, ...] = Field((), description="tars of trusted pairs: what 'better' is measured on")
    objective: str = Field("contrastive", description="validation loss: contrastive, or prompts:FILE (zero-shot)")
    batch_size: int = Field(256, ge=2, description="contrastive batch B: samples that compete in one softmax")
    equal_captions: Literal["compete", "mask"] = Field(
        "mask", description="pairs of equal captions: negatives of each other, or out of each other's softmax"
    )
    min_batch: int | None = Field(None, ge=2, description="smaller batches are not scored [default: B/4]")
    segmentations: int = Field(8, ge=1, description="K: ways to cut a shard into batches, averaged")
    validation_segmentations: int = Field(
        8, ge=1, description="S: ways to cut the validation pairs into contrastive batches, averaged"
    )
    seed: int = Field(0, ge=0, description="seed of every random choice")
    fit_pairs: int = Field(20_000, ge=1, description="the curvature is fitted on this many pairs, or 1 % if more")
    curvature: Literal["ggn", "fisher", "ekfac", "pointwise", "identity"] = Field(
        "ggn", description="curvature matrix of the fit; pointwise is the Fisher matrix without the batch's coupling"
    )
    blocks: Literal["joint", "layer"] = Field(
        "joint", description="one matrix for all parameters, or one for each (ekfac is diagonal)"
    )
    sketches: int | None = Field(
        None, ge=1, description="ggn and ekfac: random sketches per batch [default: 64 for heads, otherwise 16]"
    )
    logra_rank: int = Field(32, ge=1, description="rows and columns kept of each weight's gradient (LoGra)")
    projected_size: int = Field(
        2048, ge=1, description="numbers in the projected gradient at most; lowers --logra-rank"
    )
    logra_init: Literal["random", "pca"] = Field(
        "pca", description="rows of the projections: random, or leading eigenvectors of the gradients' sides"
    )
    basis_pairs: int = Field(2_000, ge=2, description="pairs from which these eigenvectors are taken (pca, ekfac)")
    extend: str = Field(
        "", description="an earlier output: its curvature is taken over, and only new shards are fitted"
    )
    complement: Literal["drop", "keep"] = Field(
        "drop", description="the part of the validation gradient outside the projection: drop, or keep over delta"
    )
    factor_rank: int = Field(1024, ge=1, description="eigenvectors kept of the projected curvature")
    damping: str = Field("10x", description="delta: an absolute value, or a multiple of the mean eigenvalue ('0.1x')")
    negative_role: Literal["exact", "first-order"] = Field(
        "exact", description="a removed pair as a negative of others: exactly, or to first order (ECIF paper)"
    )
    derivative: Literal["exact", "difference"] = Field(
        "exact",
        description="the embeddings' derivative: exact, or a central difference, faster with more than the heads",
    )

    columns: tuple[str, ...] = Field((), description="further score columns (docs/detectors.md); may be repeated")
    checkpoints: tuple[str, ...] = Field(
        (), description="weights of other moments of the training run, for the columns that compare them"
    )
    column_probes: int = Field(
        16, ge=4, description="random directions for the relative columns, where parameters are more than the heads"
    )
    index: bool = Field(
        False, description="keep the projected gradient of every pair, so that `trace` needs no pass of the model"
    )

    @field_validator("columns")
    @classmethod
    def _columns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in detectors.OPTIONAL:
                known = ", ".join(detectors.OPTIONAL)
                hint = did_you_mean(name, detectors.OPTIONAL)
                raise ValueError(f"there is no column {name!r} to add; choose of {known}.{hint}")
        # Their order and repetition change nothing.
        return tuple(sorted(set(value)))

    @field_validator("objective")
    @classmethod
    def _objective(cls, value: str) -> str:
        if value != "contrastive" and not value.startswith("prompts:"):
            raise ValueError(f"{value!r} is neither 'contrastive' nor 'prompts:FILE'")
        return value

    @field_validator("damping")
    @classmethod
    def _damping(cls, value: str) -> str:
        try:
            number = float(value.removesuffix("x"))
        except ValueError:
            raise ValueError(f"{value!r} is neither a number nor a multiple such as '0.1x'") from None
        if not 0 < number < float("inf"):
            raise ValueError("damping must be positive and finite")
        return value

    @property
    def smallest_batch(self) -> int:
        """Batches below this many samples are not scored."""
        return self.min_batch if self.min_batch is not None else max(2, self.batch_size // 4)


class WriteSettings(Group):
    """In which form the cleaned corpus is written."""

    write: Literal["shards", "columns"] = Field(
        "shards", description="the surviving shards, or only tables with scores and decisions beside untouched ones"
    )
    repack: int | None = Field(
        None, ge=1, description="pack the survivors into new shards of this many samples [default: one to one]"
    )

    guard: Literal["on", "off"] = Field(
        "on", description="stop before writing when a shard or a group loses far more than the rest, or go on"
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.repack is not None and self.write == "columns":
            raise ValueError("--repack packs shards, and --write columns writes none: give one of them")
        return self


class CanarySettings(Group):
    """Wrong captions that are planted in memory while a shard is scored; the scores of its pairs stay as they are."""

    canaries: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="share of the pairs that lend their image to a wrong caption, to measure what scores find; 0: none",
    )


class ScoreSettings(
    StorageSettings, FailureSettings, SampleSettings, ModelSettings, DeviceSettings, MethodSettings, CanarySettings
):
    """What `fit` and `score` take."""

    out: str = Field("", description="where results go: a directory or an object-storage prefix")

    @model_validator(mode="after")
    def _difference(self) -> Self:
        if self.derivative == "difference" and self.precision == "tf32":
            raise ValueError("--derivative difference needs the digits that --precision tf32 rounds away: use fp32")
        return self

    @property
    def sketches_per_batch(self) -> int:
        """Sketches: nearly free behind the heads, a backward pass of the differentiated part each otherwise."""
        return self.sketches or (64 if self.trainable == "heads" else 16)


class OrchestrationSettings(Group):
    """How work is handed out; no result depends on it."""

    fan_out: Literal["local", "deployment", "dask"] = Field(
        "local", description="where groups of shards run: here, as runs of deployments in work pools, or on Dask"
    )
    dask: str = Field("", description="address of the Dask scheduler, with --fan-out dask")
    group_size: int | None = Field(
        None, ge=1, description="shards per group: the unit of orchestration [default: by measured seconds]"
    )
    group_seconds: float = Field(600, gt=0, description="what a group should take, where its size is not given")
    max_groups: int = Field(4, ge=1, description="groups at the same time: of copying work here, of all work elsewhere")
    group_attempts: int = Field(3, ge=1, description="how often a group is sent before its shards count as failed")
    group_timeout: float = Field(
        3600, gt=0, description="seconds without a sign of life after which a group elsewhere counts as dead"
    )
    drift: float = Field(
        0.25, gt=0, description="population stability index of the deciding score above which arrivals have drifted"
    )
    on_drift: Literal["ask", "refit", "ignore"] = Field(
        "ask", description="when arrivals have drifted: say so, fit again into a new output, or nothing"
    )


_ORCHESTRATION = frozenset(OrchestrationSettings.model_fields)


class Settings(ScoreSettings, PolicySettings, WriteSettings, OrchestrationSettings):
    """What `clean` takes: everything."""

    @model_validator(mode="after")
    def _deciding_column(self) -> Self:
        for name in sorted(self.columns_used & set(detectors.OPTIONAL) - set(self.columns)):
            given = f"--detector {name}" if name == self.detector else "an expression"
            raise ValueError(f"{given} decides by a column that is not computed: add --columns {name} too")
        return self

    @model_validator(mode="after")
    def _something_to_write(self) -> Self:
        if not self.has_policy and (self.repack is not None or self.write == "columns"):
            given = "--repack" if self.repack is not None else "--write columns"
            raise ValueError(f"{given} writes what a decision leaves: add a policy, --drop 0 to drop nothing")
        return self


def merge(given: G, config: Path | None) -> G:
    """Lay the fields that were set explicitly over those of a YAML file.

    Fields of the file that this group does not have are refused unless `Settings` has them: one file serves
    all commands of a run.

    Raises:
        UsageError: the file cannot be read, or a field is unknown or wrong.
    """
    if config is None:
        return given
    try:
        loaded = yaml.safe_load(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{config}: cannot be read as YAML settings: {error}") from error
    loaded = {} if loaded is None else loaded
    if not isinstance(loaded, dict):
        raise UsageError(f"{config}: settings are 'name: value' lines, not a {type(loaded).__name__}")
    values = {str(name).replace("-", "_"): value for name, value in loaded.items()}
    if unknown := sorted(set(values) - set(Settings.model_fields) - {"sources"}):
        hint = did_you_mean(unknown[0], Settings.model_fields)
        raise UsageError(f"{config}: unknown setting {', '.join(unknown)}.{hint}")
    fields = type(given).model_fields
    values = {name: value for name, value in values.items() if name in fields}
    explicit = {name: getattr(given, name) for name in given.model_fields_set}
    return build(type(given), values | explicit)


def saved(settings: Group) -> dict[str, Any]:
    """The settings as they are handed on: all but what may hold a secret."""
    return settings.model_dump(mode="json", exclude={"storage_options", "allow"})


def recorded(settings: Group) -> dict[str, Any]:
    """The settings as they are written beside results: those of `saved` on which results can depend.

    How long a storage is asked again, how many failures end a run, and who does the work change nothing: two runs that
    differ in them write the same files.
    """
    without = {"storage_options", "allow", "patience", "max_failed", *_ORCHESTRATION}
    return settings.model_dump(mode="json", exclude=without)
