"""Listing, globbing and looking up, on disk and in memory."""

from __future__ import annotations

from pathlib import Path

from ecif.storage import Storage, join


def test_list_and_glob(root: str) -> None:
    storage = Storage()
    for name in ("b.tar", "a.tar", "a.json", "sub/c.tar", "sub/deep/d.tar", ".hidden.0.tmp", "sub/.x.1.tmp"):
        storage.publish(join(root, name), name.encode())
    storage.publish(root + "-private/z.tar", b"")

    def names(files: list[object]) -> list[str]:
        return [str(getattr(file, "url", "")).removeprefix(storage.check(root) + "/") for file in files]

    assert names([*storage.list(root)]) == ["a.json", "a.tar", "b.tar", "sub/c.tar", "sub/deep/d.tar"]
    assert names([*storage.list(root + "/", ".tar")]) == ["a.tar", "b.tar", "sub/c.tar", "sub/deep/d.tar"]
    assert names([*storage.list(root, recursive=False)]) == ["a.json", "a.tar", "b.tar"]
    assert names([*storage.glob(join(root, "*.tar"))]) == ["a.tar", "b.tar"]
    assert names([*storage.glob(join(root, "*"))]) == ["a.json", "a.tar", "b.tar"]
    assert names([*storage.glob(join(root, "sub/[a-c].tar"))]) == ["sub/c.tar"]
    assert names([*storage.glob(join(root, "**/*.tar"))]) == ["a.tar", "b.tar", "sub/c.tar", "sub/deep/d.tar"]
    assert [file.size for file in storage.list(root, ".json")] == [6]


def test_lookup_asks_or_lists(root: str) -> None:
    storage = Storage()
    names = [f"{i:03d}.tar" for i in range(0, 80, 2)]
    for name in names:
        storage.publish(join(root, name), b"x")
    base = storage.check(root)
    wanted = [f"{base}/{i:03d}.tar" for i in range(80)] + [f"{base}/sub/1.tar"]
    many = storage.lookup(wanted)
    assert sorted(many) == [f"{base}/{name}" for name in names]
    few = storage.lookup(wanted[:5])
    assert few == {url: many[url] for url in wanted[:5:2]}


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.tar").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.tar").write_bytes(b"y")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "dangling.tar").symlink_to(tmp_path / "nowhere")
    found = [file.url for file in Storage().list(str(tmp_path / "a"), ".tar")]
    assert found == [str(tmp_path / "a" / "other" / "y.tar"), str(tmp_path / "a" / "x.tar")]
