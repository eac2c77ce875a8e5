"""An output of the real pipeline: canaries, a decision, a report and a trace; one shard of its corpus is hostile."""

from __future__ import annotations

from pathlib import Path

from ecif.cli import run
from tests.conftest import MakeTar
from tests.squares import lay_out, pairs
from tests.tiny import write_model

CAPTIONS = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror="alert(2)">',
    'a,"b"\'c': "</script><script>alert(3)</script><!-- </p></li></ol>&amp; {{ 7 * 7 }}",
    "two words": "كلب يركض على الشاطئ",
    "#hash": "\u202ereversed \u2066isolated",
    "<b>bold": "🐕‍🦺🏖️ " * 20,
    "ключ": "word " * 300,
    "sub'quote": "javascript:alert(4)",
    "long": "x" * 2_000,
}
"""By key; the shard is called `hostile`."""

SAMPLES = 40


def output(folder: Path, make_tar: MakeTar) -> Path:
    """Make it; returns the output's root."""
    corpus = lay_out(folder, write_model(folder / "model"), make_tar)
    for number in range(4):
        (corpus.raw / f"{number:05d}.tar").write_bytes(make_tar(pairs(number, SAMPLES)))
    squares = pairs(7, len(CAPTIONS))
    members = []
    for n, (key, caption) in enumerate(CAPTIONS.items()):
        members += [(f"{key}.png", squares[2 * n][1]), (f"{key}.txt", caption.encode())]
    members += [("bare.png", squares[0][1]), ("broken.png", b"no image"), ("broken.txt", b"a caption")]
    (corpus.raw / "hostile.tar").write_bytes(make_tar(members))
    (folder / "test.png").write_bytes(squares[0][1])
    for command in (
        ["fit", str(corpus.raw), *corpus.options()],
        ["score", str(corpus.raw), *corpus.options(), "--canaries", "0.3"],
        ["plan", str(corpus.out), "--detector", "clip_score", "--drop", "0.2"],
        ["report", str(corpus.out)],
        [
            "trace",
            str(corpus.raw),
            *corpus.options(),
            "--image",
            str(folder / "test.png"),
            "--text",
            CAPTIONS["script"],
        ],
    ):
        assert run(command) == 0, command
    return corpus.out
