"""Score: a row for every sample, right against a dense computation, the same however it is cut up."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from ecif import contrastive
from ecif.errors import InputError, ModelError, UsageError
from ecif.influence import Embedded
from ecif.segmentation import segment
from ecif.settings import MethodSettings
from ecif.stages import score
from ecif.stages.column_rows import Rows
from ecif.stages.column_sources import Sources
from ecif.stages.wanted import Wanted
from tests.stages.test_fit import corpus as corpus  # the fixture
from tests.stages.test_fit import fit_all, prepare, write_tar

SCHEMA = score.schema(Wanted.of(MethodSettings()))


def scores(root: Path, **changes: object) -> pl.DataFrame:
    run, engine = prepare(root, **changes)
    fit_all(run, engine)
    direction = score.load_direction(run, engine)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    names = [shard.name for shard in run.inventory.shards]
    return pl.concat([pl.read_parquet(run.layout.scores(run.score_key, name)) for name in names])


@pytest.mark.parametrize("trainable", ["heads", "last:1", "all"])
def test_scores_equal_a_dense_computation_along_the_saved_direction(corpus: Path, trainable: str) -> None:
    """<w, grad> of both roles by reverse-mode autograd over the whole batch, in float64, to 1e-9."""
    run, engine = prepare(corpus, trainable=trainable, segmentations=1)
    fit_all(run, engine)
    w = score.load_direction(run, engine).tensors
    shard = run.inventory.shards[0]
    score.score_shard(run, engine, shard, score.load_direction(run, engine))
    frame = pl.read_parquet(run.layout.scores(run.score_key, shard.name))
    from ecif.stages.reading import read_pairs

    pairs = list(read_pairs(shard.url, shard.name, run.storage, "txt", engine.limits))
    chunks = list(engine.chunks(iter(pairs), []))
    towers = engine.towers
    image = towers.image_stem(torch.cat([chunk.images for chunk in chunks]))
    text = towers.text_stem([pair.caption for chunk in chunks for pair in chunk.pairs])
    values = {name: p.clone().requires_grad_() for name, p in towers.parameters.items()}
    u, v = towers.embed(values, image, text)
    scale = values["logit_scale"].exp() if "logit_scale" in values else towers.scale
    for rows in segment([pair.key for pair in pairs], 8, 0, 0).batches:
        s = contrastive.logits(u[rows], v[rows], scale)
        expected = {
            "clip_score": (u[rows] * v[rows]).sum(1).detach(),
            "neg_clip_loss": -contrastive.positive(s).detach() / (2 * towers.scale),
        }
        for column, terms in (
            ("positive_influence", contrastive.positive(s)),
            ("negative_influence", contrastive.negative_exact(s)),
        ):
            found = []
            for term in terms:
                gradients = torch.autograd.grad(term, list(values.values()), retain_graph=True, allow_unused=True)
                found.append(sum((w[n] * g).sum() for n, g in zip(values, gradients, strict=True) if g is not None))
            expected[column] = torch.stack(found)  # type: ignore[arg-type]
        expected["influence"] = expected["positive_influence"] + expected["negative_influence"]
        for column, want in expected.items():
            # The file holds float32.
            np.testing.assert_allclose(
                frame[column].to_numpy()[rows], want.numpy().astype(np.float32), rtol=1e-6, atol=1e-9
            )


def rows_of(embedded: Embedded, settings: MethodSettings) -> Rows:
    """Embedded rows with no more than the columns that are always there."""
    sources = Sources(Wanted.of(settings), {"influence": {}})
    return Rows(settings, sources, embedded, [], torch.arange(len(embedded.u_BD)))


def test_before_rounding_the_scores_are_exact_to_1e_9(corpus: Path) -> None:
    """score_rows against the definition, both roles, without the rounding of the file to float32."""
    generator = torch.Generator().manual_seed(0)
    u, v, du, dv = (torch.randn(21, 5, generator=generator, dtype=torch.float64) for _ in range(4))
    u, v = torch.nn.functional.normalize(u, dim=1), torch.nn.functional.normalize(v, dim=1)
    keys = [str(n) for n in range(21)]
    settings = MethodSettings(batch_size=8, segmentations=3)
    got, places, statuses = score.score_rows(rows_of(Embedded(u, v, du[None], dv[None], 9.0, (0.4,)), settings), keys)
    assert statuses == ["ok"] * 21
    totals = {name: np.zeros(21) for name in ("positive_influence", "negative_influence")}
    for k in range(3):
        for rows in segment(keys, 8, 0, k).batches:

            def logits(t: torch.Tensor, rows: np.ndarray = rows) -> torch.Tensor:
                return (9.0 + 0.4 * t) * ((u + t * du)[rows] @ (v + t * dv)[rows].T)

            zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
            for name, role in (
                ("positive_influence", contrastive.positive),
                ("negative_influence", contrastive.negative_exact),
            ):
                _, slope, *_ = torch.func.jvp(lambda t, f=role, g=logits: f(g(t)), (zero,), (one,))
                totals[name][rows] += slope.numpy() / 3
    for name, total in totals.items():
        np.testing.assert_allclose(got[name], total, rtol=1e-9, atol=1e-9)
    assert (places == np.stack(segment(keys, 8, 0, 0).places(21))).all()


def test_every_sample_has_a_row_in_the_order_of_the_tar(corpus: Path) -> None:
    frame = scores(corpus)
    assert frame.columns == list(SCHEMA)
    assert dict(frame.schema) == SCHEMA
    assert len(frame) == 72
    for (_,), shard in frame.group_by("shard"):
        assert sorted(shard["index"].to_list()) == list(range(24))
    bad = frame.filter(pl.col("status") != "ok")
    assert bad["key"].to_list() == ["000000100", "000000105"]
    assert bad["status"].to_list() == ["undecodable_image"] * 2
    assert bad["influence"].null_count() == bad["batch"].null_count() == 2
    good = frame.filter(pl.col("status") == "ok")
    assert good.null_count().row(0) == (0,) * len(frame.columns)
    assert all(good[name].is_finite().all() for name in SCHEMA if SCHEMA[name] == pl.Float32)


def test_micro_batch_and_threads_change_speed_and_not_scores(corpus: Path) -> None:
    first = scores(corpus, micro_batch=64, workers=0)
    second = scores(corpus, micro_batch=5, workers=3, out=str(corpus / "other"))
    assert first.drop(SCHEMA.keys() - {"uid", "status", "batch"}).equals(
        second.drop(SCHEMA.keys() - {"uid", "status", "batch"})
    )
    np.testing.assert_allclose(first["influence"].fill_null(0), second["influence"].fill_null(0), rtol=1e-5, atol=1e-8)


def test_the_two_roles_of_the_paper_and_of_exact_removal_differ(corpus: Path) -> None:
    exact = scores(corpus)
    paper = scores(corpus, negative_role="first-order", out=str(corpus / "paper"))
    assert exact["positive_influence"].equals(paper["positive_influence"])
    assert not exact["negative_influence"].equals(paper["negative_influence"])


def test_a_shard_below_the_smallest_batch_is_said_not_scored(corpus: Path) -> None:
    write_tar(corpus / "raw" / "00002.tar", 1, 500)
    write_tar(corpus / "raw" / "00001.tar", 3, 600)
    frame = scores(corpus, min_batch=4)
    small = frame.filter(pl.col("shard") != "00000")
    assert small["status"].to_list() == ["small_batch"] * 4
    assert small["influence"].null_count() == 4
    assert (frame.filter(pl.col("shard") == "00000")["status"] == "ok").all()


def test_an_empty_tar_gives_an_empty_table(corpus: Path) -> None:
    write_tar(corpus / "raw" / "00002.tar", 0)
    frame = scores(corpus)
    assert frame.filter(pl.col("shard") == "00002").is_empty()


def test_a_truncated_shard_is_an_error_that_writes_nothing(corpus: Path) -> None:
    run, engine = prepare(corpus)
    fit_all(run, engine)
    (corpus / "raw" / "00001.tar").write_bytes((corpus / "raw" / "00001.tar").read_bytes()[:5000])
    shard = run.inventory.by_name()["00001"]
    with pytest.raises(InputError, match="00001"):
        score.score_shard(run, engine, shard, score.load_direction(run, engine))
    assert "00001" not in score.done(run)


def test_overlap_with_the_validation_set_is_counted(corpus: Path) -> None:
    with tarfile.open(corpus / "raw" / "00001.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("validation.tar", "raw/00000.tar"):
            with tarfile.open(corpus / name) as source:
                for info in source:
                    tar.addfile(info, source.extractfile(info))
    run, engine = prepare(corpus)
    fit_all(run, engine)
    direction = score.load_direction(run, engine)
    overlaps = [score.score_shard(run, engine, shard, direction).overlap for shard in run.inventory.shards]
    assert overlaps == [0, 16, 0]
    again = [score.score_shard(run, engine, shard, direction) for shard in run.inventory.shards]
    assert [summary.overlap for summary in again] == overlaps
    assert all(summary.skipped for summary in again)


def test_a_sample_that_is_not_finite_does_not_spoil_its_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v, du, dv = (torch.randn(12, 4, generator=generator) for _ in range(4))
    settings = MethodSettings(batch_size=4, min_batch=2, segmentations=2)
    keys = [str(n) for n in range(12)]
    du[7, 1] = torch.nan
    got, _, statuses = score.score_rows(rows_of(Embedded(u, v, du[None], dv[None], 10.0, (0.0,)), settings), keys)
    assert statuses == ["ok"] * 7 + ["non_finite"] + ["ok"] * 4
    kept = [n for n in range(12) if n != 7]
    alone, _, _ = score.score_rows(
        rows_of(Embedded(u[kept], v[kept], du[None, kept], dv[None, kept], 10.0, (0.0,)), settings),
        [keys[n] for n in kept],
    )
    for name, values in got.items():
        np.testing.assert_array_equal(values[kept], alone[name])
        assert np.isnan(values[7])


def test_a_direction_is_refused_for_other_weights_and_before_the_fit(corpus: Path) -> None:
    run, engine = prepare(corpus)
    with pytest.raises(UsageError, match="ecif fit"):
        score.load_direction(run, engine)
    fit_all(run, engine)
    weights = corpus / "model" / "weights.safetensors"
    tensors = load_file(weights)
    save_file({name: part + 1 if name == "visual.proj" else part for name, part in tensors.items()}, weights)
    _, other = prepare(corpus, out=str(corpus / "other"))
    with pytest.raises(ModelError, match="other weights"):
        score.load_direction(run, other)


def test_bf16_stems_give_nearly_the_same_scores(corpus: Path) -> None:
    exact = scores(corpus, precision="fp32")
    coarse = scores(corpus, precision="bf16", out=str(corpus / "bf16"))
    assert coarse["status"].equals(exact["status"])
    a, b = (frame.filter(pl.col("status") == "ok")["clip_score"].to_numpy() for frame in (exact, coarse))
    assert np.abs(a - b).max() < 0.02
    assert np.corrcoef(a, b)[0, 1] > 0.99


@pytest.mark.parametrize(("trainable", "off"), [("heads", 0.0), ("last:1", 1e-6), ("all", 1e-6)])
def test_differences_give_the_scores_of_the_derivative(corpus: Path, trainable: str, off: float) -> None:
    """In float64 they agree to six digits; behind the heads there is nothing to save, and scores are the same."""
    exact = scores(corpus, trainable=trainable)
    found = scores(corpus, trainable=trainable, derivative="difference")
    assert found["status"].equals(exact["status"])
    for column in ("clip_score", "neg_clip_loss", "positive_influence", "negative_influence", "influence"):
        want = exact[column].drop_nulls().to_numpy()
        got = found[column].drop_nulls().to_numpy()
        np.testing.assert_allclose(got, want, rtol=off, atol=off * np.abs(want).max())
