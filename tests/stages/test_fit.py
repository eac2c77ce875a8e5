"""Fit: a map and a reduce over files, against an autograd oracle, resumable and independent of grouping."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors

from ecif import contrastive
from ecif.errors import InputError, UsageError
from ecif.run import Run, open_run
from ecif.settings import Settings
from ecif.stages import fit, score
from ecif.stages.batches import load_batch
from ecif.stages.engine import Engine, load_engine
from ecif.stages.reading import read_pairs
from ecif.stages.spool import spool
from tests.tiny import write_model

COLOURS = ["red", "green", "blue", "white", "black", "gray", "pink", "navy"]


def write_tar(path: Path, n: int, first: int = 0, bad: tuple[int, ...] = ()) -> None:
    """n pairs of a coloured image and its colour; the images at `bad` cannot be decoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(first, first + n):
            image = io.BytesIO()
            noise = np.random.default_rng(i).integers(0, 80, (16, 16, 3), np.uint8)
            base = np.asarray(Image.new("RGB", (16, 16), COLOURS[i % 8])) // 2
            Image.fromarray(base + noise).save(image, "PNG")
            payload = b"not an image" if i in bad else image.getvalue()
            for name, data in ((f"{i:09d}.png", payload), (f"{i:09d}.txt", f"a {COLOURS[i % 8]} thing".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for n in range(3):
        write_tar(tmp_path / "raw" / f"{n:05d}.tar", 24, 100 * n, bad=(100, 105))
    write_tar(tmp_path / "validation.tar", 16, 1000)
    write_model(tmp_path / "model")
    return tmp_path


def settings(root: Path, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "model": str(root / "model" / "model.json"),
        "pretrained": str(root / "model" / "weights.safetensors"),
        "validation": (str(root / "validation.tar"),),
        "out": str(root / "out"),
        "batch_size": 8,
        "precision": "fp64",
        "workers": 0,
        "device": "cpu",
        "segmentations": 2,
        # Captions repeat here: the plain loss is what most tests write down. Few sketches, for speed.
        "equal_captions": "compete",
        "sketches": 8,
    }
    return Settings(**values | changes)


def prepare(root: Path, **changes: Any) -> tuple[Run, Engine]:
    run = open_run([str(root / "raw" / "{00000..00002}.tar")], settings(root, **changes))
    return run, load_engine(run.settings)


def fit_all(run: Run, engine: Engine) -> fit.FitSample:
    sample = fit.freeze_sample(run)
    project = fit.freeze_projection(run, engine, fit.sample_shards(run, sample))
    for shard in fit.todo(run, sample):
        fit.map_shard(run, engine, project, shard)
    fit.reduce(run, engine)
    return sample


@pytest.mark.parametrize(("trainable", "rank"), [("heads", 5), ("last:1", 2)])
def test_the_partial_is_the_gram_of_autograds_per_sample_gradients(corpus: Path, trainable: str, rank: int) -> None:
    run, engine = prepare(corpus, curvature="fisher", trainable=trainable, logra_rank=rank)
    fit_all(run, engine)
    shard = run.inventory.shards[0]
    partial = load_tensors(run.storage.read_bytes(run.layout.partial(run.fit_key, shard.name)))["joint"]
    project = fit.load_projection(run, engine)
    expected = torch.zeros_like(partial)
    with spool() as samples:
        samples.add(read_pairs(shard.url, shard.name, run.storage, "txt", engine.limits))
        from ecif.segmentation import segment

        for rows in segment(samples.keys, 8, 0, 0).batches:
            batch = load_batch(engine, samples, rows.tolist())
            (image, text) = batch.states[0]
            values = {name: p.clone().requires_grad_() for name, p in engine.towers.parameters.items()}
            s = contrastive.logits(*engine.towers.embed(values, image, text), engine.towers.scale)
            for term in contrastive.positive(s):
                gradient = torch.autograd.grad(term, list(values.values()), retain_graph=True)
                row = project.project(dict(zip(values, gradient, strict=True)))
                expected += torch.outer(row, row)
    torch.testing.assert_close(partial, expected, rtol=1e-9, atol=1e-12)


def test_the_direction_solves_the_damped_system(corpus: Path) -> None:
    """Without compression, w = (N / N_fit K + delta I)^-1 grad L_val, and meta.json says with which numbers."""
    run, engine = prepare(corpus, curvature="fisher", logra_rank=64, factor_rank=4096, damping="0.5")
    sample = fit_all(run, engine)
    meta = run.storage.read_json(run.layout.fit_meta(run.fit_key))
    k = torch.zeros(meta["projected_size"], meta["projected_size"], dtype=torch.float64)
    for name in sample.shards:
        k += load_tensors(run.storage.read_bytes(run.layout.partial(run.fit_key, name)))["joint"]
    from ecif.stages.validation import load_validation

    validation = load_validation(run.validation, run.settings, run.storage, engine)
    project = fit.load_projection(run, engine)
    h = k * meta["N"] / meta["N_fit"] + 0.5 * torch.eye(len(k), dtype=torch.float64)
    expected = project.lift(torch.linalg.solve(h, project.project(validation.gradient)))
    direction = score.load_direction(run, engine)
    for name, part in direction.tensors.items():
        torch.testing.assert_close(part, expected[name], rtol=1e-7, atol=1e-10)
    assert (meta["N"], meta["N_fit"]) == (72, 70)  # two images of the corpus cannot be decoded
    assert meta["damping"]["lambda"] == pytest.approx(0.5 / 72)
    assert meta["validation"]["loss"] == pytest.approx(validation.loss)


def label(corpus: Path) -> None:
    """labelled.tar: the validation pairs with the class of each in its .json, in the place of a caption."""
    with (
        tarfile.open(corpus / "labelled.tar", "w", format=tarfile.USTAR_FORMAT) as tar,
        tarfile.open(corpus / "validation.tar") as source,
    ):
        for info in source:
            data = source.extractfile(info).read()  # type: ignore[union-attr]
            if info.name.endswith(".txt"):
                info.name = info.name.replace(".txt", ".json")
                data = json.dumps({"class": data.decode().split()[1]}).encode()
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_zero_shot_objective_differentiates_both_towers(corpus: Path) -> None:
    """The gradient of the cross-entropy over class prompts, against autograd of the whole model."""
    from ecif.stages.validation import load_validation

    classes = {name: [f"a {name} thing", f"{name}"] for name in COLOURS}
    (corpus / "prompts.json").write_text(json.dumps({"label": "class", "classes": classes}))
    label(corpus)
    run, engine = prepare(
        corpus,
        trainable="all",
        objective=f"prompts:{corpus / 'prompts.json'}",
        validation=(str(corpus / "labelled.tar"),),
        micro_batch=3,
    )
    validation = load_validation(run.validation, run.settings, run.storage, engine)
    towers = engine.towers
    values = {name: p.clone().requires_grad_() for name, p in towers.parameters.items()}
    images, labels = [], []
    with spool() as samples:
        samples.add(read_pairs(str(corpus / "labelled.tar"), "v", run.storage, "json:class", engine.limits))
        for chunk in engine.chunks(samples.pairs(range(16)), []):
            images.append(chunk.images)
            labels += [COLOURS.index(pair.caption) for pair in chunk.pairs]
    u = towers.embed_images(values, towers.image_stem(torch.cat(images)))
    texts = towers.embed_texts(values, towers.text_stem([t for ts in classes.values() for t in ts])).reshape(8, 2, -1)
    v = torch.nn.functional.normalize(texts.mean(1), dim=-1)
    loss = torch.nn.functional.cross_entropy(values["logit_scale"].exp() * u @ v.T, torch.tensor(labels))
    assert validation.loss == pytest.approx(float(loss))
    gradients = torch.autograd.grad(loss, list(values.values()), allow_unused=True)
    for name, gradient in zip(values, gradients, strict=True):
        torch.testing.assert_close(validation.gradient[name], gradient, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("trainable", ["heads", "last:1", "all"])
def test_micro_batches_do_not_change_the_fit(corpus: Path, trainable: str) -> None:
    directions = []
    for micro_batch in (3, 64):
        run, engine = prepare(
            corpus, trainable=trainable, micro_batch=micro_batch, out=str(corpus / f"out{micro_batch}")
        )
        fit_all(run, engine)
        directions.append(score.load_direction(run, engine).tensors)
    for name, part in directions[0].items():
        torch.testing.assert_close(part, directions[1][name], rtol=1e-8, atol=1e-10)


def digests(root: Path) -> dict[str, str]:
    return {
        str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*") if f.is_file()
    }


def test_the_order_of_the_map_does_not_change_a_byte_and_a_second_run_does_nothing(corpus: Path) -> None:
    first, engine = prepare(corpus)
    sample = fit_all(first, engine)
    second, _ = prepare(corpus, out=str(corpus / "other"))
    fit.freeze_sample(second)
    project = fit.freeze_projection(second, engine, fit.sample_shards(second, sample))
    for shard in reversed(fit.todo(second, sample)):
        fit.map_shard(second, engine, project, shard)
    fit.reduce(second, engine)
    where = f"out/_ecif/fit/{first.fit_key}"
    before = digests(corpus / where)
    assert before == digests(corpus / where.replace("out/", "other/"))
    times = {f: f.stat().st_mtime_ns for f in (corpus / "out").rglob("*")}
    again, _ = prepare(corpus)
    assert fit.is_done(again)
    assert not fit.todo(again, fit.freeze_sample(again))
    fit_all(again, engine)
    assert times == {f: f.stat().st_mtime_ns for f in (corpus / "out").rglob("*")}


def test_the_sample_is_frozen_before_arrivals(corpus: Path) -> None:
    run, _ = prepare(corpus, fit_pairs=30)
    sample = fit.freeze_sample(run)
    assert len(sample.shards) == 2  # two shards of 24 hold 30 pairs
    assert sample.corpus_pairs == 72
    write_tar(corpus / "raw" / "00003.tar", 24, 300)
    later = open_run([str(corpus / "raw")], settings(corpus, fit_pairs=30))
    assert later.fit_key == run.fit_key
    assert fit.freeze_sample(later) == sample


def test_a_shard_that_is_no_tar_leaves_the_fit_with_its_reason(corpus: Path) -> None:
    run, engine = prepare(corpus)
    fit.freeze_sample(run)
    tar = corpus / "raw" / "00001.tar"
    before, data = tar.stat(), tar.read_bytes()
    tar.write_bytes(data[:5000].ljust(len(data), b"x"))
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))  # rotten, not replaced
    fit_all(run, engine)
    meta = run.storage.read_json(run.layout.fit_meta(run.fit_key))
    assert set(meta["problems"]) == {"00001"}
    assert "00001.tar" in meta["problems"]["00001"]
    assert (meta["N"], meta["N_fit"]) == (72, 48)


def test_what_cannot_be_fitted_is_refused(corpus: Path) -> None:
    run, engine = prepare(corpus, batch_size=256)  # shards of 24 are below --min-batch
    with pytest.raises(UsageError, match="--min-batch"):
        fit_all(run, engine)
    write_tar(corpus / "one.tar", 1)
    run, engine = prepare(corpus, validation=(str(corpus / "one.tar"),), out=str(corpus / "o3"))
    with pytest.raises(UsageError, match="validation"):
        fit_all(run, engine)
    (corpus / "bad.json").write_text("[]")
    run, engine = prepare(corpus, objective=f"prompts:{corpus / 'bad.json'}", out=str(corpus / "o4"))
    with pytest.raises(InputError, match="prompts file"):
        fit_all(run, engine)
