"""The demo's corpus and model, made once in a work directory and used again by every benchmark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecif.demo import corpus, training


@dataclass(frozen=True, slots=True)
class Prepared:
    """Sources, and settings without `out` and `trainable`."""

    sources: list[str]
    settings: dict[str, Any]


def prepare(work: Path, pairs: int, *, epochs: int = 1, shards: int = 4) -> Prepared:
    """Build and train in `work`, unless the same was done there before. Speed needs no well-trained model."""
    root = work / f"demo-{pairs}-{shards}-{epochs}"
    stamp = root / "prepared.json"
    if not stamp.exists():
        root.mkdir(parents=True, exist_ok=True)
        made = corpus.build(root, pairs=pairs, validation_pairs=256, shards=shards, wrong=0.16, seed=0)
        training.train(
            made.shards, made.config, root / "weights.safetensors", epochs=epochs, batch_size=128, lr=1e-3, seed=0
        )
        settings = {"model": str(made.config), "pretrained": str(root / "weights.safetensors")}
        paths = {"sources": [str(tar) for tar in made.shards], "validation": str(made.validation)}
        stamp.write_text(json.dumps({"settings": settings, **paths}))
    done = json.loads(stamp.read_text())
    return Prepared(done["sources"], {**done["settings"], "validation": (done["validation"],)})
