"""Two decisions side by side, against sets of pairs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ecif import inventory
from ecif.cli import run
from ecif.errors import InputError, UsageError
from ecif.layout import Layout
from ecif.policy.decision import Decision
from ecif.policy.settings import PolicySettings
from ecif.sources import expand
from ecif.stages.diff import EXAMPLES, Side, difference
from ecif.stages.plan import plan
from ecif.storage import Storage
from ecif.verdicts import KEEP, judge, read_scores
from tests.shards.tars import pack, sample
from tests.stages.outputs import FIT_KEY, SCORE_KEY, Output, parquet, scores_of

NAMES = [f"{n:05d}" for n in range(4)]
TAR = pack([member for n in range(20) for member in sample(f"{n:03d}")])


def made(folder: Path, seed: int, names: list[str] = NAMES, tar: bytes = TAR, n: int = 20) -> Output:
    storage, layout, source = Storage(), Layout(str(folder / "out")), folder / "in"
    source.mkdir(parents=True)
    rng = random.Random(seed)
    for name in names:
        (source / f"{name}.tar").write_bytes(tar)
        statuses = [rng.choice(["ok", "ok", "ok", "no_image"]) for _ in range(n)]
        table = scores_of(tar, name, [float(rng.randrange(100)) for _ in range(n)], statuses)
        storage.publish(layout.scores(SCORE_KEY, name), parquet(table))
    meta: dict[str, Any] = {"settings": {}, "fit_key": FIT_KEY, "versions": {}}
    storage.publish_json(layout.score_meta(SCORE_KEY), meta)
    return Output(layout, storage, inventory.take(expand([str(source)], storage), layout, storage, {}))


def decide(output: Output, **policy: Any) -> Decision:
    return plan(output.layout, output.storage, PolicySettings(**{"detector": "influence", **policy}))


def side(output: Output, **policy: Any) -> Side:
    return Side(output.layout, output.storage, decide(output, **policy))


def gone(output: Output, decision: Decision) -> set[tuple[str, str]]:
    found = set()
    for shard in output.inventory.shards:
        table = judge(read_scores(shard, decision, output.layout, output.storage)[0], decision)
        found |= {(shard.name, row["key"]) for row in table.iter_rows(named=True) if row["action"] != KEEP}
    return found


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return made(tmp_path / "one", 0)


@pytest.mark.parametrize(
    "other",
    [{"drop": "0.5"}, {"drop": "0.1"}, {"drop": "0.3", "unscored": "drop"}, {"drop": "0.3", "control": 1},
     {"keep": "0.2", "by": "shard"}, {"drop": "0.3", "rank_by": "-influence"}],
    ids=str,
)  # fmt: skip
def test_the_counts_are_those_of_the_sets(output: Output, other: dict[str, Any]) -> None:
    one, two = side(output, drop="0.3"), side(output, **other)
    found = difference(one, two)
    a, b = gone(output, one.decision), gone(output, two.decision)
    assert (found.pairs, found.both, found.only_one, found.only_other) == (80, len(a & b), len(a - b), len(b - a))
    for name, both, only_one, only_other in found.shards:
        counts = [sum(shard == name for shard, _ in pairs) for pairs in (a & b, a - b, b - a)]
        assert counts == [both, only_one, only_other]
    assert sum(row[2] + row[3] for row in found.shards) == len(a ^ b)
    for examples, pairs in ((found.examples_one, a - b), (found.examples_other, b - a)):
        assert len(examples) == min(len(pairs), EXAMPLES)
        assert {(example.shard, example.key) for example in examples} <= pairs
    first = [example.score for example in found.examples_one]
    assert first == sorted(first, key=lambda score: (score is None, score))


def test_a_decision_does_not_differ_from_itself(output: Output) -> None:
    found = difference(side(output, drop="0.3"), side(output, drop="0.3"))
    assert (found.only_one, found.only_other, found.shards, found.examples_one) == (0, 0, [], [])
    assert "both drop" in found.lines()[0]
    nothing = difference(side(output, drop="0"), side(output, drop="0"))
    assert "neither drops any" in nothing.lines()[0]


def test_outputs_are_compared_where_both_have_scores(output: Output, tmp_path: Path) -> None:
    second = made(tmp_path / "two", 1, NAMES[1:])
    one, two = side(output, drop="0.5"), side(second, drop="0.5")
    found = difference(one, two)
    own = {pair for pair in gone(output, one.decision) if pair[0] in NAMES[1:]}
    assert (found.pairs, found.lacking, found.both) == (60, 1, len(own & gone(second, two.decision)))
    assert found.only_one == len(own - gone(second, two.decision))
    assert "1 shards have scores for only one" in found.lines()[1]


def test_other_corpora_are_refused(output: Output, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no shard in common"):
        difference(side(output, drop="0.5"), side(made(tmp_path / "two", 1, ["x"]), drop="0.5"))
    other = pack([member for n in range(20) for member in sample(f"x{n:02d}")])
    with pytest.raises(InputError, match="shard 00000 holds other samples"):
        difference(side(output, drop="0.5"), side(made(tmp_path / "three", 1, NAMES, other), drop="0.5"))


def test_the_command_prints_the_same_as_text_and_json(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = decide(output, drop="0.3"), decide(output, drop="0.5")
    assert run(["diff", output.layout.root, one.key, two.key]) == 0
    assert f"only {two.key} drops, for example:" in capsys.readouterr().out
    assert run(["diff", output.layout.root, one.key, two.key, "--other-out", output.layout.root, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["one"], value["only_one"]) == (one.key, 0)
    assert run(["diff", output.layout.root, one.key, "ffffffffffff"]) == 2
    assert "holds no decision ffffffffffff" in capsys.readouterr().err
