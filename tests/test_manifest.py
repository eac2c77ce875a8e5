"""Manifests say what was done, strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif import manifest
from ecif.errors import ConflictError, InputError
from ecif.layout import Layout
from ecif.manifest import FILES, FileMark, Manifest
from ecif.storage import FileInfo, Storage, join
from tests.manifests import made_manifest


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture(params=["local", "memory"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    root = str(tmp_path) if request.param == "local" else str(request.getfixturevalue("memory_root"))
    return Layout(join(root, "clean"))


_COUNT = st.integers(0, 2**53)
_MARK = st.builds(FileMark, size=_COUNT, sha256=st.text("0123456789abcdef", min_size=64, max_size=64))


@given(
    kept=_COUNT,
    dropped=_COUNT,
    quarantined=_COUNT,
    statuses=st.dictionaries(st.text(min_size=1), _COUNT),
    files=st.dictionaries(st.sampled_from(FILES), _MARK),
    url=st.text(),
)
def test_json_and_back(
    kept: int, dropped: int, quarantined: int, statuses: dict[str, int], files: dict[str, FileMark], url: str
) -> None:
    made = made_manifest(
        samples=kept + dropped + quarantined,
        kept=kept,
        dropped=dropped,
        quarantined=quarantined,
        unscored=0,
        statuses=statuses,
        files=files,
        input=FileInfo(url, 1, "tag"),
    )
    assert Manifest.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"dropped": 3},
        {"samples": 9},
        {"kept": -1, "dropped": 10},
        {"unscored": 11},
        {"statuses": {"ok": -1}},
        {"files": {"zip": FileMark(1, "a" * 64)}},
    ],
)
def test_a_contradiction_is_never_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is not|negative|unscored|unknown"):
        made_manifest(**changes)


def _without(field: str) -> dict[str, Any]:
    value = made_manifest().to_json()
    del value[field]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {},
        _without("shard"),
        _without("files"),
        made_manifest().to_json() | {"more": 1},
        made_manifest().to_json() | {"kept": 8},
        made_manifest().to_json() | {"kept": 7.0},
        made_manifest().to_json() | {"kept": "7"},
        made_manifest().to_json() | {"kept": True, "samples": 4},
        made_manifest().to_json() | {"shard": None},
        made_manifest().to_json() | {"statuses": []},
        made_manifest().to_json() | {"statuses": {"ok": None}},
        made_manifest().to_json() | {"files": None},
        made_manifest().to_json() | {"files": {"tar": {"size": 1}}},
        made_manifest().to_json() | {"files": {"tar": {"size": "1", "sha256": ""}}},
        made_manifest().to_json() | {"files": {"zip": {"size": 1, "sha256": "a" * 64}}},
        made_manifest().to_json() | {"input": {"url": "u", "size": 1}},
        made_manifest().to_json() | {"input": "u"},
    ],
)
def test_strictly_read(layout: Layout, storage: Storage, value: object) -> None:
    storage.publish_json(layout.manifest("00000"), value)
    with pytest.raises(InputError, match=r"manifest/00000\.json: is not a valid manifest"):
        manifest.read(layout, storage, "00000")


def test_write_read_and_done(layout: Layout, storage: Storage) -> None:
    assert manifest.read(layout, storage, "00000") is None
    assert manifest.done(layout, storage) == set()
    made = made_manifest()
    manifest.write(made, layout, storage)
    manifest.write(made, layout, storage)
    manifest.write(made_manifest("part/a.b"), layout, storage)
    assert manifest.read(layout, storage, "00000") == made
    assert manifest.done(layout, storage) == {"00000", "part/a.b"}
    with pytest.raises(ConflictError, match=r"00000\.json"):
        manifest.write(made_manifest(kept=8), layout, storage)
    assert manifest.read(layout, storage, "00000") == made


def test_done_whatever_the_spelling_of_the_output(tmp_path: Path, storage: Storage) -> None:
    manifest.write(made_manifest(), Layout(str(tmp_path / "out")), storage)
    for root in (f"file://{tmp_path}/out/", f"{tmp_path}/x/../out"):
        assert manifest.done(Layout(root), storage) == {"00000"}


def test_a_manifest_under_another_name(layout: Layout, storage: Storage) -> None:
    storage.publish_json(layout.manifest("00001"), made_manifest("00000").to_json())
    with pytest.raises(InputError, match=r"00001\.json: is the manifest of shard '00000'"):
        manifest.read(layout, storage, "00001")
