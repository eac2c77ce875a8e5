"""A small corpus with everything a real one has, and the stages that clean it as commands: what matrices run on.

Shards of noisy coloured squares with captions, uids and the sidecars of img2dataset. One shard carries ballast, a
member of random bytes in every sample, so that its tar is read in several blocks and written in several parts. The
model has random weights and 200,000 numbers: a stage takes a second, its way through the storage is the real one.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from bench.places import Files

COLOURS = ("red", "green", "blue", "white")
SAMPLES, SHARDS = 12, 4
HEAVY = 1  # the shard with the ballast
MODEL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 4, "heads": 2, "layers": 2},
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        after: the stage whose result it starts from; "" is an empty output.
        arguments: of `bench.trial.execute`.
        writes: False: what counts is what it prints.
    """

    name: str
    after: str
    arguments: tuple[str, ...]
    writes: bool = True


def write_model(folder: Path) -> tuple[Path, Path]:
    """Config and random weights; returns their paths."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / "model.json", folder / "weights.safetensors"
    config.write_text(json.dumps(MODEL), "utf-8")
    torch.manual_seed(0)
    network = open_clip.CLIP(**MODEL)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim:  # away from the initial point, where all embeddings are nearly equal
                parameter += 0.05 * torch.randn_like(parameter)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    return config, weights


def corpus(ballast: int = 0) -> Files:
    """Tars with sidecars below `raw/`, and `validation.tar`.

    Args:
        ballast: bytes of the extra member of every sample of the heavy shard.
    """
    files = {"validation.tar": shard(99)[0]}
    for number in range(SHARDS):
        tar, keys = shard(number, ballast if number == HEAVY else 0)
        states = ["success"] * len(keys) + ["failed_to_download"]
        table = pl.DataFrame(
            {"url": [f"u/{n}" for n in range(len(states))], "key": [*keys, f"{number:04d}99999"], "status": states}
        )
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        stats = {"count": len(states), "successes": len(keys), "failed_to_download": 1, "failed_to_resize": 0}
        files[f"raw/{number:05d}.tar"] = tar
        files[f"raw/{number:05d}.parquet"] = buffer.getvalue()
        files[f"raw/{number:05d}_stats.json"] = json.dumps(stats, indent=4).encode()
    return files


def shard(number: int, ballast: int = 0, samples: int = SAMPLES) -> tuple[bytes, list[str]]:
    """A tar and its keys."""
    random = np.random.default_rng(number)
    buffer, keys = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(samples):
            colour = int(random.integers(len(COLOURS)))
            pixels = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            pixels[4:12, 4:12, : 3 if colour == 3 else 1] += np.uint8(120 + 10 * colour)
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "PNG")
            key = f"{number:04d}{index:05d}"
            keys.append(key)
            uid = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
            members = {"png": image.getvalue(), "txt": f"a {COLOURS[colour]} square".encode()}
            members["json"] = json.dumps({"key": key, "uid": uid}).encode()
            members |= {"bin": random.bytes(ballast)} if ballast else {}
            for extension, data in members.items():
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue(), keys


SMALL: dict[str, Any] = {
    "device": "cpu",
    "batch_size": 6,
    "min_batch": 3,
    "micro_batch": 6,
    "workers": 0,
    "segmentations": 1,
    "sketches": 2,
    "logra_rank": 4,
    "fit_pairs": 30,
}
"""Settings under which a corpus of some dozen pairs is cleaned."""


def stages(root: str, out: str, model: tuple[Path, Path]) -> dict[str, Stage]:
    """The stages by name, each after the one that it needs.

    Args:
        root: URL of the folder that holds `corpus`. out: URL of the output.
    """
    sources = [f"{root}/raw/{{00000..{SHARDS - 1:05d}}}.tar"]
    values: dict[str, Any] = {
        "validation": f"{root}/validation.tar",
        "model": str(model[0]),
        "pretrained": str(model[1]),
        "out": out,
        **SMALL,
    }
    options = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    taking = (json.dumps(sources), json.dumps(values | {"validation": [values["validation"]]}))
    exports = ("--uids", f"{out}/export/uids.npy", "--commonpool", f"{out}/export/commonpool", "--sizes", "--wids")
    found = (
        Stage("inventory", "", ("inventory", *taking)),
        Stage("lint", "", ("lint", *sources, "--json"), writes=False),
        Stage("fit", "inventory", ("fit", *sources, *options, "--json")),
        Stage("score", "fit", ("score", *sources, *options, "--json")),
        Stage("plan", "score", ("plan", out, "--drop", "0.25", "--json")),
        Stage("apply", "plan", ("apply", out, "--json")),
        Stage("repack", "plan", ("apply", out, "--repack", "10", "--json")),
        Stage("restore", "apply", ("restore", out, "--all", "--json")),
        Stage("verify", "apply", ("verify", out, "--json"), writes=False),
        Stage("export", "apply", ("export", out, *exports, "--json")),
    )
    return {stage.name: stage for stage in found}
