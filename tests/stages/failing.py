"""Real storage that stops to make files appear after some, as a killed process does."""

from __future__ import annotations

from pathlib import Path

from ecif.errors import StorageError
from ecif.storage import Published, Storage, Writer


class Failing(Storage):
    """Makes `left` files appear, then none."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def publish(self, url: str, data: bytes | Path, *, replace: bool = False) -> Published:
        self._appears(url)
        return super().publish(url, data, replace=replace)

    def create(self, url: str, *, at_most: int | None = None) -> Writer:
        writer = super().create(url, at_most=at_most)
        finish = writer.finish

        def counted() -> Published:
            self._appears(url)
            return finish()

        writer.finish = counted  # type: ignore[method-assign]
        return writer

    def _appears(self, url: str) -> None:
        if not self.left:
            raise StorageError("killed", url=url)
        self.left -= 1
