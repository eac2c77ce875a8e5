"""The fit of a run in one process, as `ecif fit` goes through it, for benches that need a direction or time one."""

from __future__ import annotations

from ecif.run import Run
from ecif.stages import fit
from ecif.stages.engine import Engine


def fit_whole(run: Run, engine: Engine) -> None:
    """Sample, projection, all shards of the sample, and the reduction; what is finished is kept."""
    sample = fit.freeze_sample(run)
    project = fit.freeze_projection(run, engine, fit.sample_shards(run, sample))
    for shard in fit.todo(run, sample):
        fit.map_shard(run, engine, project, shard)
    fit.reduce(run, engine)
