"""Training learns, repeats itself, and leaves weights that the rest of the program can load."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from ecif.demo.corpus import Corpus
from ecif.demo.training import TrainingReport, train
from ecif.errors import BadTarError, InputError, ModelError
from ecif.towers.loading import load

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 18, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is slower on several threads, and much slower where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The config of a model that trains in a second."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def _train(tars: Any, model: Path, weights: Path, **changes: Any) -> TrainingReport:
    options: dict[str, Any] = {"epochs": 4, "batch_size": 50, "lr": 3e-3, "seed": 1} | changes
    return train(tars, model, weights, **options)


def test_the_loss_falls_and_the_weights_load(small_corpus: Corpus, tiny: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    report = _train(small_corpus.shards, tiny, weights, epochs=8)
    assert report.pairs == 400
    assert report.unusable == {}
    assert len(report.losses) == 8
    assert report.losses[-1] < 0.8 * report.losses[0]
    scale = load(str(tiny), str(weights)).model.get_parameter("logit_scale")
    assert float(scale.exp()) == pytest.approx(report.logit_scale)


def test_same_seed_same_weights(small_corpus: Corpus, tiny: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    reports = [
        _train(small_corpus.shards[:1], tiny, tmp_path / f"{n}.safetensors", seed=seed, augment=True)
        for n, seed in enumerate((1, 1, 2))
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    saved = [(tmp_path / f"{n}.safetensors").read_bytes() for n in range(3)]
    assert saved[0] == saved[1] != saved[2]
    assert reports[0].losses == reports[1].losses != reports[2].losses


def test_only_tokens_that_occur_change(small_corpus: Corpus, tiny: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    _train(small_corpus.shards[:1], tiny, weights, epochs=1, seed=9)
    trained = load(str(tiny), str(weights)).model.get_parameter("token_embedding.weight")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        fresh = open_clip.CLIP(**TINY).token_embedding.weight
    changed = (trained != fresh).any(dim=1)
    ids = open_clip.SimpleTokenizer(context_length=18)(["one red ring above two blue crosses", "dog"])
    start, red, dog = int(ids[0, 0]), int(ids[0, 2]), int(ids[1, 1])
    assert changed[start]
    assert changed[red]
    assert not changed[dog]
    assert int(changed.sum()) < 60


def test_the_logit_scale_is_clamped(small_corpus: Corpus, tiny: Path, tmp_path: Path) -> None:
    report = _train(small_corpus.shards[:1], tiny, tmp_path / "w.safetensors", lr=1.0)
    assert report.logit_scale <= 100 * (1 + 1e-6)


def _tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def test_unusable_samples_are_counted_and_captions_may_be_json(
    small_corpus: Corpus, tiny: Path, tmp_path: Path
) -> None:
    with tarfile.open(small_corpus.shards[0]) as archive:
        picture = archive.extractfile(archive.getnames()[0])
        assert picture is not None
        image = picture.read()
    members = [
        ("a.jpg", image), ("a.json", b'{"text": "one red ring"}'),
        ("b.jpg", image), ("b.json", b'{"text": "two red rings"}'),
        ("c.jpg", b"nothing like a picture"), ("c.json", b'{"text": "three red rings"}'),
        ("d.jpg", image), ("d.json", b"{}"),
    ]  # fmt: skip
    tar = _tar(tmp_path / "mixed.tar", members)
    report = _train([str(tar)], tiny, tmp_path / "w.safetensors", batch_size=2, caption="json:text")
    assert report.pairs == 2
    assert report.unusable == {"undecodable_image": 1, "no_caption": 1}


def test_too_few_pairs_and_bad_tars_are_named(
    small_corpus: Corpus, tiny: Path, tmp_path: Path, make_tar: Callable[..., bytes]
) -> None:
    weights = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match=r"00000\.tar: 13\d usable pairs are fewer than one batch of 500"):
        _train(small_corpus.shards[:1], tiny, weights, batch_size=500)
    pictureless = tmp_path / "no-pictures.tar"
    pictureless.write_bytes(make_tar(3))
    with pytest.raises(InputError, match=r"no-pictures\.tar: 0 usable pairs"):
        _train([pictureless], tiny, weights)
    broken = tmp_path / "broken.tar"
    broken.write_bytes(small_corpus.shards[0].read_bytes()[:5_000])
    with pytest.raises(BadTarError, match="broken"):
        _train([broken], tiny, weights)
    assert not weights.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"embed_dim": 4}', '{"embed_dim": 4, "vision_cfg": {"size": 3}}'])
def test_bad_configs_are_named(small_corpus: Corpus, tmp_path: Path, content: str) -> None:
    model = tmp_path / "bad.json"
    model.write_text(content)
    with pytest.raises(ModelError, match=r"bad\.json"):
        _train(small_corpus.shards, model, tmp_path / "w.safetensors")
