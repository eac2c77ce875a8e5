"""Groups and cache keys: what they hold on to, and what they do not depend on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif import ALGO_VERSION
from ecif.errors import InputError
from ecif.inventory import Inventory, Shard
from ecif.layout import Layout
from ecif.run import Run
from ecif.settings import Settings
from ecif.sources import Found
from ecif.storage import Storage
from tasks.groups import Group, Job, cache_key, pack_work, split, unpack_work


def _whole(left: int) -> int:
    return left


JOB = Job({"out": "s3://bucket/clean"}, (), "fit0", "score0")
SHARDS = [Shard(f"part/{n:05d}", f"s3://bucket/raw/part/{n:05d}.tar", 10 + n, f"e{n}", 5, None, None) for n in range(7)]


@given(st.integers(0, 7), st.integers(1, 9))
def test_groups_hold_every_shard_once_in_order(count: int, size: int) -> None:
    groups = list(split(SHARDS[:count], lambda left: size))
    assert [shard for group in groups for shard in group.shards] == SHARDS[:count]
    assert all(len(group.shards) == size for group in groups[:-1])
    assert all(1 <= len(group.shards) <= size for group in groups)


def test_a_key_has_the_documented_form_and_is_a_safe_relative_path() -> None:
    (group,) = split(SHARDS, _whole)
    key = cache_key("score", JOB, group)
    assert re.fullmatch(rf"score/v{ALGO_VERSION}/[0-9a-f]{{12}}/part_00000\+7-[0-9a-f]{{16}}", key)
    hostile = Shard("../" * 50 + "x y", "s3://b/x.tar", 1, "e", 1, None, None)
    *_, last = cache_key("score", JOB, next(split([hostile], _whole))).split("/")
    assert len(last) < 120
    assert re.fullmatch(r"[A-Za-z0-9_.+-]+", last)


def test_a_key_changes_with_everything_that_the_result_depends_on() -> None:
    (group,) = split(SHARDS[:2], _whole)
    first, second = group.shards
    others = [
        cache_key("write", JOB, group),
        cache_key("score", replace(JOB, settings={"out": "s3://bucket/other"}), group),
        cache_key("score", replace(JOB, fit_key="fit1"), group),
        cache_key("score", replace(JOB, score_key="score1"), group),
        cache_key("score", replace(JOB, decision_key="cut"), group),
        cache_key("score", JOB, Group(group.name, (first, replace(second, etag="new")))),
        cache_key("score", JOB, Group(group.name, (first, replace(second, size=1)))),
        cache_key("score", JOB, Group(group.name, (first, replace(second, url="s3://elsewhere/x.tar")))),
        cache_key("score", JOB, Group(group.name, (first,))),
    ]
    keys = {cache_key("score", JOB, group), *others}
    assert len(keys) == len(others) + 1


def test_a_key_does_not_change_with_what_only_changes_speed() -> None:
    (group,) = split(SHARDS, _whole)
    faster = replace(JOB, settings={"out": "s3://bucket/clean/", "micro_batch": 512, "device": "cuda", "workers": 9})
    assert cache_key("score", faster, group) == cache_key("score", JOB, group)


def test_the_size_of_a_group_is_asked_for_when_it_is_wanted() -> None:
    asked: list[int] = []

    def size(left: int) -> int:
        asked.append(left)
        return len(asked)

    groups = split(SHARDS, size)
    assert [len(next(groups).shards) for _ in range(2)] == [1, 2]
    assert asked == [7, 6]
    assert [len(group.shards) for group in groups] == [3, 1]


def test_work_travels_as_json() -> None:
    job = Job(
        {"out": "s3://bucket/clean", "drop": "0.1"}, (Found("val", "s3://bucket/val.tar"),), "fit0", "score0", "cut"
    )
    (group,) = split(SHARDS, _whole)
    assert unpack_work(json.loads(json.dumps(pack_work(job, group))), "s3://b/x.json") == (job, group)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("group"),
        lambda record: record["group"].update(shards=[{"name": "a"}]),
        lambda record: record["group"]["shards"][0].update(size="many"),
        lambda record: record["job"].update(settings=[]),
    ],
)
def test_other_json_is_no_work(change: Callable[[dict[str, Any]], object]) -> None:
    (group,) = split(SHARDS, _whole)
    record = json.loads(json.dumps(pack_work(JOB, group)))
    change(record)
    with pytest.raises(InputError, match=r"s3://b/x\.json: is not a group of shards"):
        unpack_work(record, "s3://b/x.json")


def test_a_fit_beside_the_run_travels_although_another_column_decides() -> None:
    settings = Settings(out="memory://out", columns=("if_ekfac",), detector="if_ekfac")
    run = Run(settings, Layout("memory://out"), Storage(), Inventory(tuple(SHARDS), ()), (), "fit0", "score0")
    beside = Job.of(run.other_fits()["if_ekfac"])
    assert beside.run(SHARDS).settings.curvature == "ekfac"
    assert Job.of(run).settings["detector"] == "if_ekfac"
