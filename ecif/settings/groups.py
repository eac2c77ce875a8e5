"""Groups of settings that say where data is, how it is read, with what it is computed and what is written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ecif.fields import Group
from ecif.nearest import did_you_mean
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
