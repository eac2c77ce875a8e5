"""The other curvatures and projections of a fit, extension of an earlier fit, and what a factor is bound to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors

from ecif.errors import InputError, ModelError, UsageError
from ecif.run import open_run
from ecif.stages import fit, fitted, score, sums
from tests.stages.test_fit import corpus as corpus
from tests.stages.test_fit import fit_all, prepare, settings, write_tar


@pytest.mark.parametrize(
    "changes",
    [
        {"curvature": "ekfac"},
        {"curvature": "ekfac", "trainable": "last:1"},
        {"curvature": "identity", "damping": "2"},
        {"blocks": "layer"},
        {"blocks": "layer", "trainable": "last:1", "biases": "freeze"},
        {"logra_init": "pca", "logra_rank": 3},
        {"logra_init": "pca", "logra_rank": 3, "trainable": "last:1", "complement": "keep"},
    ],
)
def test_every_curvature_solves_with_the_moments_on_disk(corpus: Path, changes: dict[str, Any]) -> None:
    """w is H^-1 of the saved gradient, with H built densely here from the saved moments and the saved damping."""
    run, engine = prepare(corpus, **changes)
    fit_all(run, engine)
    found = fit.load_fit(run, engine)
    gradient = fitted.load_by_parameter(run.layout.gradient(run.fit_key), run, engine)
    project = found.projection
    moments = (
        {}
        if changes.get("curvature") == "identity"
        else load_tensors(run.storage.read_bytes(run.layout.moments(run.fit_key)))
    )
    h = torch.zeros(project.size, project.size, dtype=torch.float64)
    if "joint" in moments:
        h = moments["joint"]
    elif "diagonal" in moments:
        h = torch.diag(moments["diagonal"])
    else:
        for name, part in moments.items():
            h[project.slices()[name], project.slices()[name]] = part
    delta = found.curvature.complement(project)
    h = h + torch.diag(
        torch.cat([torch.full((part.size,), delta[n], dtype=torch.float64) for n, part in project.parts.items()])
    )
    projected = project.project(gradient)
    expected = project.lift(torch.linalg.solve(h, projected))
    if changes.get("complement") == "keep":
        inside = project.lift(projected)
        expected = {name: part + (gradient[name] - inside[name]) / delta[name] for name, part in expected.items()}
    direction = score.load_direction(run, engine).tensors
    assert list(direction) == list(engine.towers.parameters)
    for name, part in direction.items():
        torch.testing.assert_close(
            part, expected[name], rtol=1e-6, atol=1e-9 * float(expected[name].abs().max() + 1e-300)
        )


def test_frozen_biases_leave_only_matrices(corpus: Path) -> None:
    _, engine = prepare(corpus, trainable="all", biases="freeze")
    assert all(p.dim() > 1 for p in engine.towers.parameters.values())
    _, everything = prepare(corpus, trainable="all", out=str(corpus / "all"))
    assert set(engine.towers.parameters) < set(everything.towers.parameters)
    assert engine.towers.coverage.covered < engine.towers.coverage.total == everything.towers.coverage.covered


def test_a_tree_of_sums_is_the_sum_and_is_taken_up_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, engine = prepare(corpus)
    fit_all(run, engine)
    urls = [run.layout.partial(run.fit_key, shard.name) for shard in run.inventory.shards]
    parts = [sums.unpack(url, run.storage)[0] for url in urls]
    monkeypatch.setattr(sums, "FAN", 2)
    other, _ = prepare(corpus, out=str(corpus / "other"))
    total = sums.add_up(other, urls)
    torch.testing.assert_close(
        total.tensors["joint"], sum(p.tensors["joint"] for p in parts[1:]) + parts[0].tensors["joint"]
    )
    assert total.pairs == sum(part.pairs for part in parts)
    nodes = sorted(f for f in (corpus / "other").rglob("sum/*/*.safetensors"))
    assert [f.relative_to(f.parents[1]).as_posix() for f in nodes] == [
        "0/000000.safetensors", "0/000001.safetensors", "1/000000.safetensors",
    ]  # fmt: skip
    nodes[-1].unlink()
    before = {f: f.stat().st_mtime_ns for f in nodes[:-1]}
    again = sums.add_up(other, urls)
    assert torch.equal(again.tensors["joint"], total.tensors["joint"])
    assert before == {f: f.stat().st_mtime_ns for f in nodes[:-1]}


def test_a_fit_of_new_shards_extends_an_earlier_one(corpus: Path) -> None:
    """Two shards fitted first, the third later: curvature and direction are those of a fit of all three at once."""
    raw = corpus / "raw"
    first = open_run([str(raw / "{00000..00001}.tar")], settings(corpus, out=str(corpus / "first")))
    _, engine = prepare(corpus, out=str(corpus / "whole"))
    fit_all(first, engine)
    later = open_run([str(raw)], settings(corpus, out=str(corpus / "later"), extend=str(corpus / "first")))
    sample = fit_all(later, engine)
    assert sample.shards == ("00002",)
    assert sample.corpus_pairs == 72
    whole, _ = prepare(corpus, out=str(corpus / "whole"))
    fit_all(whole, engine)
    both = [load_tensors(run.storage.read_bytes(run.layout.moments(run.fit_key)))["joint"] for run in (later, whole)]
    # The first fit's moments stand for its 48 pairs (46 could be used), the whole fit's for 72 (70).
    parts = [
        load_tensors(run.storage.read_bytes(run.layout.partial(run.fit_key, name)))["joint"]
        for run, name in ((first, "00000"), (first, "00001"), (later, "00002"))
    ]
    torch.testing.assert_close(both[0], (parts[0] + parts[1]) * 48 / 46 + parts[2])
    torch.testing.assert_close(both[1], sum(parts[1:], parts[0]) * 72 / 70)
    meta = later.storage.read_json(later.layout.fit_meta(later.fit_key))
    assert (meta["N"], meta["N_fit"]) == (72, 70)
    assert later.fit_key not in (first.fit_key, whole.fit_key)
    # A third generation finds the second.
    write_tar(raw / "00003.tar", 24, 300)
    third = open_run([str(raw)], settings(corpus, out=str(corpus / "third"), extend=str(corpus / "later")))
    assert fit_all(third, engine).corpus_pairs == 96


def test_an_extension_that_cannot_be_is_refused(corpus: Path) -> None:
    with pytest.raises(UsageError, match="no finished fit"):
        prepare(corpus, extend=str(corpus / "nothing"))
    run, engine = prepare(corpus)
    fit_all(run, engine)
    other, _ = prepare(corpus, out=str(corpus / "o2"), batch_size=6)
    fit_all(other, engine)
    write_tar(corpus / "raw" / "00003.tar", 24, 300)
    sources = [str(corpus / "raw")]
    layered = open_run(sources, settings(corpus, out=str(corpus / "o3"), extend=str(corpus / "out"), blocks="layer"))
    with pytest.raises(InputError, match="another structure"):
        fit_all(layered, engine)
    deeper = open_run(sources, settings(corpus, out=str(corpus / "o4"), extend=str(corpus / "out"), trainable="last:1"))
    from ecif.stages.engine import load_engine

    with pytest.raises((InputError, ModelError)):
        fit_all(deeper, load_engine(deeper.settings))


def test_a_factor_for_another_version_of_these_files_is_refused(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, engine = prepare(corpus)
    fit_all(run, engine)
    monkeypatch.setattr(fitted, "VERSION", 99)
    with pytest.raises(ModelError, match="another version"):
        fit.load_fit(run, engine)


def test_the_projection_on_disk_is_what_all_workers_use(corpus: Path) -> None:
    run, engine = prepare(corpus, logra_init="pca", logra_rank=3)
    sample = fit.freeze_sample(run)
    first = fit.freeze_projection(run, engine, fit.sample_shards(run, sample))
    again = fit.load_projection(run, engine)
    for name, part in first.tensors().items():
        assert torch.equal(part, again.tensors()[name])
    url = run.layout.projection(run.fit_key)
    before = Path(url).stat().st_mtime_ns
    fit.freeze_projection(run, engine, [])
    assert Path(url).stat().st_mtime_ns == before


def test_pca_without_a_usable_pair_is_refused(corpus: Path) -> None:
    run, engine = prepare(corpus, logra_init="pca", batch_size=256)
    with pytest.raises(UsageError, match="--min-batch"):
        fit_all(run, engine)


def test_a_file_that_holds_no_moments_is_named(corpus: Path) -> None:
    run, engine = prepare(corpus)
    sample = fit.freeze_sample(run)
    fit.freeze_projection(run, engine, fit.sample_shards(run, sample))
    url = Path(run.layout.partial(run.fit_key, "00000"))
    url.parent.mkdir(parents=True)
    url.write_bytes(json.dumps({"x": 1}).encode() * 10)
    with pytest.raises(InputError, match="00000"):
        fit_all(run, engine)
