"""Peak memory of scoring and of applying one shard, as the shard grows.

Each measurement is a process of its own; the figure is the operating system's own (VmHWM of /proc/self/status, because
ru_maxrss begins with what the parent held), the imports of torch included. What may grow is the index of a shard:
keys, and 4 D numbers of 4 bytes a pair while it is scored.

    python -m bench.memory --work DIR [--sizes 1000 4000 16000]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from bench.prepared import Prepared, prepare


def one(stage: str, demo: Prepared, out: Path) -> None:
    """Run one stage in this process."""
    from ecif.policy.settings import PolicySettings
    from ecif.run import open_run
    from ecif.settings import Settings
    from ecif.stages import apply, fit, plan, score
    from ecif.stages.engine import load_engine

    run = open_run(demo.sources, Settings(**demo.settings, out=str(out), fit_pairs=1, sketches=1))
    (shard,) = run.inventory.shards
    if stage == "apply":
        decision = plan.plan(run.layout, run.storage, PolicySettings(drop=Decimal("0.1")))
        apply.apply_shard(shard, decision, run.layout, run.storage)
        return
    engine = load_engine(run.settings)
    if stage == "fit":
        project = fit.freeze_projection(run, engine, fit.sample_shards(run, fit.freeze_sample(run)))
        fit.map_shard(run, engine, project, shard)
        fit.reduce(run, engine)
    else:
        score.score_shard(run, engine, shard, score.load_direction(run, engine))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--child", nargs=2, metavar=("STAGE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        stage, out = arguments.child
        one(stage, prepare(arguments.work, arguments.sizes[0], epochs=0, shards=1), Path(out))
        status = Path("/proc/self/status").read_text("utf-8")
        print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")))
        return
    print(f"{'pairs in the shard':>18} {'tar MB':>8} {'score, peak MB':>15} {'apply, peak MB':>15}")
    for size in arguments.sizes:
        demo = prepare(arguments.work, size, epochs=0, shards=1)
        out = arguments.work / "memory-out"
        shutil.rmtree(out, ignore_errors=True)
        peaks = {}
        for stage in ("fit", "score", "apply"):
            command = [sys.executable, "-m", "bench.memory", "--work", str(arguments.work), "--sizes", str(size)]
            result = subprocess.run([*command, "--child", stage, str(out)], check=True, capture_output=True, text=True)
            peaks[stage] = int(result.stdout.splitlines()[-1]) / 1024
        tar = Path(demo.sources[0]).stat().st_size / 2**20
        print(f"{size:18,} {tar:8.1f} {peaks['score']:15.0f} {peaks['apply']:15.0f}")
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
