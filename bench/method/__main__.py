"""The command: python -m bench.method PART --work DIR [--data DIR] [--seeds 3] ..."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

PARTS = {
    "agreement": "predicted against retrained changes: roles, curvatures, damping, projections, batches",
    "brittleness": "what removing the pairs that a prediction names does to single validation pairs",
    "removal": "accuracy against the fraction removed: harmful, valuable, random; influence and baselines",
    "editing": "edited against retrained weights",
    "errors": "the error of predictions against the size of the set, the gradient, the curvature, the probabilities",
    "sensitivity": "temperature, damping, validation set; superposition of the two roles",
    "detection": "which score finds the wrong pairs",
    "speed": "projected gradients against a forward and backward pass",
    "peers": "projected gradients against other libraries",
}


def main() -> None:
    """Import the part that was asked for, and only it; it adds its own options."""
    parser = argparse.ArgumentParser(prog="python -m bench.method", description=__doc__)
    parts = "".join(f"\n  {name:12} {what}" for name, what in PARTS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"parts:{parts}"
    parser.add_argument("part", choices=PARTS, metavar="PART", help="see below; PART --help lists its options")
    # The part's own options are known only once it is imported.
    chosen = parser.parse_args(sys.argv[1:2])
    module = import_module(f"bench.method.{chosen.part}")
    own = argparse.ArgumentParser(prog=f"python -m bench.method {chosen.part}", description=PARTS[chosen.part])
    own.add_argument("--work", type=Path, required=True, help="where results are kept, and found again")
    own.add_argument("--data", type=Path, help="real shards with known truth; without it, the demo's rendered corpus")
    own.add_argument("--seeds", type=int, default=3, help="repetitions with other data, batches and weights")
    module.add_arguments(own)
    module.run(own.parse_args(sys.argv[2:]))


if __name__ == "__main__":
    main()
