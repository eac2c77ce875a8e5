"""A report to look at: corpora of every kind that it has to tell about, and the page taken apart."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import polars as pl
from PIL import Image

from ecif import inventory, keys, manifest
from ecif.inventory import Inventory
from ecif.layout import Layout
from ecif.manifest import Manifest
from ecif.policy.settings import PolicySettings
from ecif.progress import Silent
from ecif.report import build_report, compose
from ecif.report.gather import gather
from ecif.report.numbers import Numbers
from ecif.selection import Decision, choose, dropped_mask
from ecif.settings import Settings, saved
from ecif.sources import expand
from ecif.storage import FileInfo, Storage
from tests.conftest import MakeTar

SCORES, FIT = "0123456789ab", "ba9876543210"
VOID = {"meta", "img", "br", "line", "path", "input"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror="alert(2)">',
    "{{ 7 * 7 }} {% raw %}",
    "كلب يركض على الشاطئ",
    "\u202ereversed",
    "a\x00b\x07c",
    "</p></li></ol>&amp;",
    "word " * 2_000,
]


class Page(HTMLParser):
    """The page taken apart: elements with their attributes, and the text of each kind of element."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self._page = page.decode("utf-8")
        self.feed(self._page)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((tuple(self._open), " ".join(data.split())))

    def text(self, tag: str | None = None) -> str:
        """All text, or that inside the elements of a kind."""
        seen = ((path, text) for path, text in self.texts if not {"style", "script"} & {*path})
        return " ".join(text for path, text in seen if tag is None or tag in path)

    def source(self, tag: str) -> str:
        """What stands between the tags of the one element of a kind, to the letter."""
        ((_, rest),) = [self._page.split(f"<{tag}>", 1)]
        return rest.split(f"</{tag}>", 1)[0]

    def cards(self, name: str = "") -> list[dict[str, str]]:
        """The attributes of the cards: all of them in the order of the page, or those in a set in its order."""
        found = [
            {key: value or "" for key, value in attributes.items()}
            for tag, attributes in self.elements
            if tag == "li" and attributes.get("class") == "card"
        ]
        if not name:
            return found
        inside = [(card["data-sets"].split(), card["data-places"].split(), card) for card in found]
        there = [(int(places[sets.index(name)]), n) for n, (sets, places, _) in enumerate(inside) if name in sets]
        return [found[n] for _, n in sorted(there)]

    def rows(self) -> dict[str, str]:
        """First cell -> the others, of all table rows."""
        found: dict[str, str] = {}
        last = ""
        for path, text in self.texts:
            if "th" in path and "tbody" in path:
                last = text
                found[last] = ""
            elif "td" in path:
                found[last] = f"{found[last]} {text}".strip()
        return found


def picture(index: int, width: int = 200, height: int = 100) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (width, height), (index * 20 % 256, 90, 120)).save(target, "JPEG")
    return target.getvalue()


@dataclass
class Corpus:
    """Input tars with pictures, and an output with their scores."""

    folder: Path
    make_tar: MakeTar
    storage: Storage = field(default_factory=Storage)
    frames: dict[str, pl.DataFrame] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return Layout(str(self.folder / "out"))

    def add(
        self,
        name: str,
        scores: list[float | None],
        captions: list[str] | None = None,
        images: list[bytes] | None = None,
        statuses: list[str] | None = None,
        scored: bool = True,
    ) -> None:
        """A shard; a score of None is a pair without one."""
        n = len(scores)
        captions = captions or [f"caption {name}-{i}" for i in range(n)]
        images = images or [picture(i) for i in range(n)]
        members = []
        for i in range(n):
            members += [(f"{name}{i:04d}.jpg", images[i]), (f"{name}{i:04d}.txt", captions[i].encode())]
        path = self.folder / "in" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.make_tar(members))
        if not scored:
            return
        values = pl.Series(scores, dtype=pl.Float32)
        self.frames[name] = pl.DataFrame(
            {
                "uid": pl.Series([f"{name}{i:04d}" for i in range(n)], dtype=pl.String),
                "key": pl.Series([f"{name}{i:04d}" for i in range(n)], dtype=pl.String),
                "shard": pl.Series([name] * n, dtype=pl.String),
                "index": pl.Series(range(n), dtype=pl.UInt32),
                "status": pl.Series(statuses or ["no_caption" if s is None else "ok" for s in scores], dtype=pl.String),
                "clip_score": -values,
                "neg_clip_loss": values * 2,
                "positive_influence": values,
                "negative_influence": values * 0,
                "influence": values,
            }
        )
        target = io.BytesIO()
        self.frames[name].write_parquet(target)
        self.storage.publish(self.layout.scores(SCORES, name), target.getvalue())

    def inventory(self) -> Inventory:
        meta = {
            "settings": saved(Settings(model="ViT-B-32", batch_size=512)),
            "fit_key": FIT,
            "versions": {"torch": "9.8.7"},
        }
        self.storage.publish_json(self.layout.score_meta(SCORES), meta)
        self.storage.publish_json(self.layout.fit_meta(FIT), {"N_fit": 4321, "coverage": {"x": 1}})
        return inventory.take(expand([str(self.folder / "in")], self.storage), self.layout, self.storage, {})

    def decide(self, **policy: object) -> Decision:
        given = PolicySettings(**{"detector": "influence", **policy})  # type: ignore[arg-type]
        scores = {name: self.layout.scores(SCORES, name) for name in self.frames}
        key = keys.decision_key(SCORES, given, {})
        return choose(self.storage, scores, given, key=key, score_key=SCORES, fit_key=FIT)

    def write(self, decision: Decision, *names: str) -> None:
        """Manifests as `apply` leaves them."""
        for name in names:
            frame = self.frames[name]
            unscored = int((frame["status"] != "ok").sum())
            dropped = int(dropped_mask(frame, decision).sum()) + (unscored if decision.unscored == "drop" else 0)
            quarantined = unscored if decision.unscored == "quarantine" else 0
            kept = frame.height - dropped - quarantined
            source = FileInfo("in.tar", 1, "e")
            counts = (frame.height, kept, dropped, quarantined, unscored)
            entry = Manifest(name, source, *counts, {}, {}, FIT, SCORES, decision.key, 1)
            manifest.write(entry, self.layout, self.storage)

    def numbers(self, decision: Decision | None = None) -> Numbers:
        """What the page of this output says."""
        return gather(self.layout, self.storage, self.inventory(), decision, SCORES, {}, Silent())

    def composed(self, decision: Decision | None, numbers: Numbers) -> Page:
        """The page of other numbers than those of the output."""
        return Page(compose(self.layout, self.storage, self.inventory(), decision, numbers))

    def page(self, decision: Decision | None = None, failed: Mapping[str, str] = MappingProxyType({})) -> Page:
        return Page(build_report(self.layout, self.storage, self.inventory(), decision, SCORES, failed=failed))
