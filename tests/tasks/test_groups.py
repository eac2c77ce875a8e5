"""Groups and cache keys: what they hold on to, and what they do not depend on."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ecif import ALGO_VERSION
from ecif.inventory import Shard
from tasks.groups import Group, Job, cache_key, split

JOB = Job({"out": "s3://bucket/clean"}, (), "fit0", "score0")
SHARDS = [Shard(f"part/{n:05d}", f"s3://bucket/raw/part/{n:05d}.tar", 10 + n, f"e{n}", 5, None, None) for n in range(7)]


@given(st.integers(0, 7), st.integers(1, 9))
def test_groups_hold_every_shard_once_in_order(count: int, size: int) -> None:
    groups = list(split(SHARDS[:count], size))
    assert [shard for group in groups for shard in group.shards] == SHARDS[:count]
    assert all(len(group.shards) == size for group in groups[:-1])
    assert all(1 <= len(group.shards) <= size for group in groups)


def test_a_key_has_the_documented_form_and_is_a_safe_relative_path() -> None:
    (group,) = split(SHARDS, 10)
    key = cache_key("score", JOB, group)
    assert re.fullmatch(rf"score/v{ALGO_VERSION}/[0-9a-f]{{12}}/part_00000\+7-[0-9a-f]{{16}}", key)
    hostile = Shard("../" * 50 + "x y", "s3://b/x.tar", 1, "e", 1, None, None)
    *_, last = cache_key("score", JOB, next(split([hostile], 1))).split("/")
    assert len(last) < 120
    assert re.fullmatch(r"[A-Za-z0-9_.+-]+", last)


def test_a_key_changes_with_everything_that_the_result_depends_on() -> None:
    (group,) = split(SHARDS[:2], 2)
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
    (group,) = split(SHARDS, 10)
    faster = replace(JOB, settings={"out": "s3://bucket/clean/", "micro_batch": 512, "device": "cuda", "workers": 9})
    assert cache_key("score", faster, group) == cache_key("score", JOB, group)
