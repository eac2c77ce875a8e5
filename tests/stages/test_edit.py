"""Edit: the gradient of a removed set against autograd, weights that load, a map that resumes, requests refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import open_clip
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from ecif import editing
from ecif.errors import ConflictError, InputError, ModelError, UsageError
from ecif.policy.settings import PolicySettings
from ecif.run import Run
from ecif.segmentation import segment
from ecif.shards.decode import Pair
from ecif.stages import edit, fitted, plan, score
from ecif.stages.edit import Outcome
from ecif.stages.engine import Engine, load_engine
from ecif.stages.reading import read_pairs
from ecif.stages.removal import Removal, by_decision, by_names
from tests.stages.test_fit import corpus as corpus  # the fixture
from tests.stages.test_fit import digests, fit_all, prepare
from tests.tiny import CONFIG

# Four pairs of one shard, two of another; 000000100 cannot be decoded.
NAMES = [
    "00000/000000003",
    "00000/000000004",
    "00000/000000011",
    "00000/000000012",
    "00002/000000200",
    "00002/000000207",
]


def scored(root: Path, **changes: object) -> tuple[Run, Engine]:
    run, engine = prepare(root, **changes)
    fit_all(run, engine)
    direction = score.load_direction(run, engine)
    for shard in run.inventory.shards:
        score.score_shard(run, engine, shard, direction)
    return run, engine


def tabled(root: Path, **changes: object) -> tuple[Run, Engine]:
    """A run with score tables that only say who is there: all that the map looks at."""
    run, engine = prepare(root, **changes)
    for shard in run.inventory.shards:
        rows = [
            (pair.uid, pair.key, shard.name, pair.index, "undecodable_image" if pair.image == b"not an image" else "ok")
            for pair in read_pairs(shard.url, shard.name, run.storage, "txt", engine.limits)
            if isinstance(pair, Pair)
        ]
        table = pl.DataFrame(rows, schema=["uid", "key", "shard", "index", "status"], orient="row")
        Path(run.layout.scores_of(run.score_key)).mkdir(parents=True, exist_ok=True)
        table.write_parquet(run.layout.scores(run.score_key, shard.name))
    return run, engine


def listing(root: Path, names: Iterable[str]) -> str:
    path = root / "remove.txt"
    path.write_text("".join(f"{name}\n" for name in names), "utf-8")
    return str(path)


def map_all(run: Run, engine: Engine, removal: Removal) -> None:
    for shard in edit.todo(run, removal):
        edit.map_shard(run, engine, shard, removal)


def edit_all(run: Run, engine: Engine, removal: Removal, weights: Path) -> Outcome:
    map_all(run, engine, removal)
    return edit.reduce(run, engine, removal, str(weights))


def partials(run: Run, engine: Engine, removal: Removal) -> dict[str, torch.Tensor]:
    """The sum of the partial files."""
    files = [load_file(run.layout.edit_partial(removal.key, name)) for name in removal.counts]
    return {name: torch.stack([file[name] for file in files]).sum(0) for name in engine.towers.parameters}


@pytest.mark.parametrize(
    ("trainable", "equal"), [("heads", "compete"), ("heads", "mask"), ("last:1", "compete"), ("all", "mask")]
)
def test_partials_are_autograds_gradient_of_what_the_loss_loses(corpus: Path, trainable: str, equal: str) -> None:
    """Sum over shards, mean over two segmentations, of grad(L(batch) - L(batch without D)), to 1e-9."""
    run, engine = tabled(corpus, trainable=trainable, micro_batch=7, equal_captions=equal)
    removal = by_names(run, listing(corpus, NAMES))
    assert (removal.counts, removal.unscored, removal.pairs) == ({"00000": 4, "00002": 2}, {}, 6)
    map_all(run, engine, removal)
    towers = engine.towers
    values = {name: p.clone().requires_grad_() for name, p in towers.parameters.items()}
    lost = torch.zeros((), dtype=torch.float64)
    for shard in (run.inventory.shards[0], run.inventory.shards[2]):
        pairs = list(read_pairs(shard.url, shard.name, run.storage, "txt", engine.limits))
        chunks = list(engine.chunks(iter(pairs), []))
        image = towers.image_stem(torch.cat([chunk.images for chunk in chunks]))
        text = towers.text_stem([pair.caption for chunk in chunks for pair in chunk.pairs])
        u, v = towers.embed(values, image, text)
        scale = values["logit_scale"].exp() if "logit_scale" in values else towers.scale
        keys = [pair.key for pair in pairs]
        captions = [pair.caption for chunk in chunks for pair in chunk.pairs]
        rivals = torch.tensor([[equal == "compete" or a != b for b in captions] for a in captions])
        rivals |= torch.eye(len(captions), dtype=torch.bool)
        gone = torch.tensor([f"{shard.name}/{key}" in NAMES for key in keys])
        for k in range(2):
            for rows in map(torch.from_numpy, segment(keys, 8, 0, k).batches):
                left = rows[~gone[rows]]
                for sign, part in ((1, rows), (-1, left)):
                    s = (scale * u[part] @ v[part].T).masked_fill(~rivals[part][:, part], -torch.inf)
                    lost = lost + sign * (s.logsumexp(0) + s.logsumexp(1) - 2 * s.diagonal()).sum() / 2
    expected = torch.autograd.grad(lost, list(values.values()), allow_unused=True)
    for got, want in zip(partials(run, engine, removal).values(), expected, strict=True):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("role", ["exact", "first-order"])
def test_the_predicted_change_for_one_pair_is_its_influence(corpus: Path, role: str) -> None:
    run, engine = scored(corpus, negative_role=role)
    table = pl.read_parquet(run.layout.scores(run.score_key, "00002"))
    row = table.row(5, named=True)
    outcome = edit_all(run, engine, by_names(run, listing(corpus, [row["uid"]])), corpus / "one.safetensors")
    assert outcome.predicted == pytest.approx(row["influence"], rel=1e-5)


def test_the_weights_are_the_solved_step_and_load_with_open_clip(corpus: Path) -> None:
    run, engine = scored(corpus)
    removal = by_names(run, listing(corpus, NAMES))
    outcome = edit_all(run, engine, removal, corpus / "edited.safetensors")
    step = fitted.load_fit(run, engine).solve(partials(run, engine, removal))
    network = open_clip.CLIP(**CONFIG)
    open_clip.load_checkpoint(network, str(corpus / "edited.safetensors"), strict=True, weights_only=True)
    before = load_file(corpus / "model" / "weights.safetensors")
    for name, tensor in network.state_dict().items():
        want = (before[name].double() + step[name]).float() if name in step else before[name]
        assert torch.equal(tensor, want), name
    other = load_engine(run.settings.model_copy(update={"pretrained": str(corpus / "edited.safetensors")}))
    from ecif.stages.validation import load_validation

    after = load_validation(run.validation, run.settings, run.storage, other)
    assert outcome.after == after.loss
    assert outcome.before == fitted.load_facts(run, engine)["validation"]["loss"]
    assert outcome.actual == outcome.after - outcome.before != 0
    gradient = fitted.load_by_parameter(run.layout.gradient(run.fit_key), run, engine)
    assert outcome.predicted == pytest.approx(sum(float((gradient[n] * part).sum()) for n, part in step.items()))
    assert outcome.relative_step == pytest.approx(editing.norm(step) / editing.norm(engine.towers.parameters))
    assert (outcome.removed, outcome.shards, outcome.validation_pairs) == (6, 2, 16)


def test_a_small_step_changes_the_loss_as_predicted(corpus: Path) -> None:
    """Heavily damped, the edit is as linear as the prediction."""
    run, engine = scored(corpus, damping="1e5")
    outcome = edit_all(run, engine, by_names(run, listing(corpus, NAMES)), corpus / "edited.safetensors")
    assert outcome.actual == pytest.approx(outcome.predicted, rel=0.02)
    assert outcome.doubts == ()


def test_removing_nothing_changes_nothing(corpus: Path) -> None:
    """Also when everything that is named was never scored."""
    run, engine = scored(corpus)
    for number, names in enumerate(([], ["00001/000000100", "00001/000000105"])):
        removal = by_names(run, listing(corpus, names))
        assert removal.unscored == ({"undecodable_image": 2} if names else {})
        weights = corpus / f"same{number}.safetensors"
        outcome = edit_all(run, engine, removal, weights)
        assert (outcome.removed, outcome.relative_step, outcome.predicted, outcome.actual) == (0, 0.0, 0.0, 0.0)
        before, after = load_file(corpus / "model" / "weights.safetensors"), load_file(weights)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_order_and_interruption_do_not_change_a_byte_and_a_second_run_does_nothing(corpus: Path) -> None:
    run, engine = scored(corpus)
    file = listing(corpus, NAMES)
    removal = by_names(run, file)
    first, *_ = edit.todo(run, removal)
    edit.map_shard(run, engine, first, removal)
    assert [shard.name for shard in edit.todo(run, removal)] == ["00002"]
    one = corpus / "one.safetensors"
    assert edit.written(run, removal, str(one)) is None
    outcome = edit_all(run, engine, removal, one)
    other, engine = scored(corpus, out=str(corpus / "other"))
    removal = by_names(other, file)
    for shard in reversed(edit.todo(other, removal)):
        edit.map_shard(other, engine, shard, removal)
    edit.reduce(other, engine, removal, str(corpus / "two.safetensors"))
    assert one.read_bytes() == (corpus / "two.safetensors").read_bytes()
    assert digests(corpus / "out" / "_ecif" / "edit") == digests(corpus / "other" / "_ecif" / "edit")
    times = {path: path.stat().st_mtime_ns for path in corpus.rglob("*") if path.is_file()}
    assert edit.todo(run, removal) == []
    assert edit.written(run, removal, str(one)) == outcome
    edit_all(run, engine, removal, one)
    assert times == {path: path.stat().st_mtime_ns for path in corpus.rglob("*") if path.is_file()}


def test_micro_batches_do_not_change_the_gradient(corpus: Path) -> None:
    found = []
    for micro_batch in (5, 64):
        run, engine = tabled(corpus, trainable="last:1", micro_batch=micro_batch, out=str(corpus / f"out{micro_batch}"))
        removal = by_names(run, listing(corpus, NAMES))
        map_all(run, engine, removal)
        found.append(partials(run, engine, removal))
    for name, part in found[0].items():
        torch.testing.assert_close(part, found[1][name], rtol=1e-9, atol=1e-12)


def test_a_decision_names_the_same_pairs_as_a_list_of_them(corpus: Path) -> None:
    run, _ = scored(corpus)
    decision = plan.plan(run.layout, run.storage, PolicySettings(drop_count=9, detector="clip_score"))
    removal = by_decision(run, decision.key)
    assert removal.pairs == 9
    table = pl.concat([pl.read_parquet(run.layout.scores(run.score_key, shard.name)) for shard in run.inventory.shards])
    worst = table.filter(pl.col("status") == "ok").sort("clip_score").head(9)
    same = by_names(run, listing(corpus, worst["uid"]))
    assert (same.key, same.counts) == (removal.key, removal.counts)
    assert by_decision(run, None).key == removal.key


def test_requests_that_cannot_be_met_are_refused(corpus: Path) -> None:
    run, engine = prepare(corpus)
    with pytest.raises(UsageError, match="ecif score"):
        by_names(run, listing(corpus, NAMES))
    with pytest.raises(UsageError, match="no decision"):
        by_decision(run, None)
    run, engine = scored(corpus)
    with pytest.raises(InputError, match=r"remove\.txt: 2 of 3 names .*: nobody, 00000/000000999"):
        by_names(run, listing(corpus, ["nobody", NAMES[0], "00000/000000999"]))
    (corpus / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        by_names(run, str(corpus / "binary.txt"))
    decision = plan.plan(run.layout, run.storage, PolicySettings(detector="influence", drop_count=2))
    more, _ = scored(corpus, segmentations=3)
    with pytest.raises(UsageError, match="was made from the scores"):
        by_decision(more, decision.key)
    removal = by_names(run, listing(corpus, NAMES))
    with pytest.raises(UsageError, match="--weights"):
        edit.written(run, removal, str(corpus / "edited.pt"))
    with pytest.raises(ConflictError, match="not written by"):
        edit.written(run, removal, str(corpus / "model" / "weights.safetensors"))
    edit_all(run, engine, removal, corpus / "edited.safetensors")
    with pytest.raises(ConflictError, match="another edit"):
        edit.written(run, by_names(run, listing(corpus, NAMES[:2])), str(corpus / "edited.safetensors"))


def test_pairs_of_shards_without_scores_are_named_with_the_way_out(corpus: Path) -> None:
    run, _ = scored(corpus)
    Path(run.layout.scores(run.score_key, "00002")).unlink()
    with pytest.raises(InputError, match=r"2 of 6 names .* 1 shards have no scores yet"):
        by_names(run, listing(corpus, NAMES))


def test_another_model_or_another_fit_is_refused(corpus: Path) -> None:
    run, engine = scored(corpus)
    removal = by_names(run, listing(corpus, NAMES))
    map_all(run, engine, removal)
    weights = corpus / "model" / "weights.safetensors"
    tensors = load_file(weights)
    save_file({name: part + 1 if name == "visual.proj" else part for name, part in tensors.items()}, weights)
    _, other = prepare(corpus, out=str(corpus / "other"))
    with pytest.raises(ModelError, match="other weights"):
        edit.reduce(run, other, removal, str(corpus / "edited.safetensors"))
    save_file(tensors, weights)
    Path(run.layout.fit_meta(run.fit_key)).unlink()
    with pytest.raises(UsageError, match="ecif fit"):
        edit.reduce(run, engine, removal, str(corpus / "edited.safetensors"))
    assert not (corpus / "edited.safetensors").exists()


def test_a_shard_that_changed_since_is_refused(corpus: Path) -> None:
    run, engine = scored(corpus)
    removal = by_names(run, listing(corpus, NAMES))
    tar = corpus / "raw" / "00000.tar"
    tar.write_bytes(tar.read_bytes() + bytes(512))
    with pytest.raises(InputError, match="changed since"):
        edit.map_shard(run, engine, run.inventory.by_name()["00000"], removal)
    assert not Path(run.layout.edit_partial(removal.key, "00000")).exists()


def test_what_is_not_credible_is_said() -> None:
    good = Outcome("e", "f", 3, {}, 1, 0.01, -0.02, 2.0, 1.985, 100)
    assert good.doubts == ()
    assert good.actual == pytest.approx(-0.015)
    (long,) = replace(good, relative_step=0.4).doubts
    assert "40%" in long
    (opposite,) = replace(good, after=2.01).doubts
    assert "opposite signs" in opposite
    assert replace(good, predicted=-1e-9, after=2.0 + 1e-8).doubts == ()
