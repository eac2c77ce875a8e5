"""What averaging the validation loss over several ways to cut the pairs into batches costs.

    python -m bench.cuts --work DIR [--cuts 1 8 64] [--rounds 3]

CPU seconds of the validation loss and its gradient over the demo's 512 pairs, decoding included, for each choice of
trainable parameters; median (smallest to largest). What the cuts are worth is what `bench.fit_size --cuts` prints.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.calibration import material
from bench.method.measures import table
from ecif.run import open_run
from ecif.settings import Settings
from ecif.stages.engine import load_engine
from ecif.stages.validation import load_validation


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cuts", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tars, validation, options, _ = material("demo", arguments.work, arguments.work / "demo", arguments.work)
    common: dict[str, Any] = {name.removeprefix("--"): value for name, value in options.items()}
    common |= {"validation": (str(validation),), "out": str(arguments.work / "cuts"), "device": "cpu", "workers": 0}
    rows = []
    for trainable in ("heads", "last:1", "all"):
        cells = [f"`{trainable}`"]
        for cuts in arguments.cuts:
            settings = Settings(**common, trainable=trainable, validation_segmentations=cuts)
            run, engine = open_run([str(tars[0])], settings), load_engine(settings)
            taken = []
            for _ in range(1 + arguments.rounds):  # the first one warms up
                started = time.process_time()
                load_validation(run.validation, settings, run.storage, engine)
                taken.append(time.process_time() - started)
            cells.append(f"{np.median(taken[1:]):.2f} ({min(taken[1:]):.2f} to {max(taken[1:]):.2f})")
        rows.append(cells)
    table("CPU seconds by the number of cuts.", ["trainable", *map(str, arguments.cuts)], rows)


if __name__ == "__main__":
    main()
