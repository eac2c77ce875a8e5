"""Where the time of scoring goes, on shards of one's own: each stage alone, then all of them together.

The stages are the functions that scoring calls, one after the other, with the device waited for behind each. That is a
path of its own because scoring must not wait for the device between stages, and because what tells which part to buy
is how long each takes when nothing else runs: together they overlap, and the slowest one decides. The direction is
random, which changes no time, so that no fit is needed. Canaries and further columns are left out.
"""

from __future__ import annotations

import io
import itertools
import secrets
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import polars as pl
import torch
from torch import Tensor

from ecif.errors import InputError
from ecif.layout import META
from ecif.progress import Progress, Silent
from ecif.settings import ScoreSettings
from ecif.shards.decode import Pair, Refused, Undecodable, open_image
from ecif.sources import expand
from ecif.stages.column_rows import Rows
from ecif.stages.column_sources import Sources
from ecif.stages.embedding import EmbeddedShard, embed
from ecif.stages.engine import TASK, Engine, load_engine
from ecif.stages.reading import read_pairs
from ecif.stages.score import score_rows
from ecif.stages.spool import image_digest
from ecif.stages.wanted import Wanted
from ecif.storage import Storage, join
from ecif.towers import Parameters

T = TypeVar("T")

STAGES = ("read", "decode", "tokenise", "transfer", "forward", "tangent", "loss", "write")
"""In the order of the data's way. `tangent` is what the derivative adds to the forward pass."""
_ON_DEVICE = ("transfer", "forward", "tangent", "loss", "write")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage alone.

    Attributes:
        seconds: for all pairs of the profile, in one thread, the device waited for.
        share: of the seconds of all stages.
        rate: pairs a second that the stage alone could do; of decoding, with all its threads or processes.
        bound: what it is limited by.
    """

    name: str
    seconds: float
    share: float
    rate: float
    bound: str


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured.

    Attributes:
        pairs: that were scored. refused: samples that were none. pair_bytes: encoded image and caption, mean.
        side: median of the shorter sides of the images. model_side: shorter side of the model's input.
        input_rate: pairs a second that reading, decoding and tokenizing come to. device_rate: those that the rest
            would take. together: those of the loop that scoring runs, with everything overlapped.
        limit: the stage that decides, and what would make it faster.
        workers: threads that decode, unless `processes` do.
    """

    pairs: int
    refused: int
    pair_bytes: float
    side: float
    model_side: int
    device: str
    workers: int
    processes: int
    stages: tuple[Stage, ...]
    input_rate: float
    device_rate: float
    together: float
    limit: str

    def to_json(self) -> dict[str, Any]:
        """As one JSON document."""
        return asdict(self)


@dataclass(slots=True)
class _Clock:
    """Seconds by stage; the device is waited for where it stops."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*STAGES, "pool", "tail"), 0.0))

    def time(self, stage: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        found = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - started
        return found


def profile(
    sources: Sequence[str], settings: ScoreSettings, storage: Storage, pairs: int, progress: Progress = Silent()
) -> Profile:
    """Measure scoring of the first `pairs` samples of the sources.

    Raises:
        ModelError, UsageError, InputError: as for scoring; or none of the samples can be scored.
    """
    shards = expand(sources, storage).shards
    engine = load_engine(settings, say=progress.note)

    def samples() -> Iterator[Pair | Refused]:
        tars = (read_pairs(one.url, one.name, storage, settings.caption, engine.limits) for one in shards)
        return itertools.islice(itertools.chain.from_iterable(tars), pairs)

    generator = torch.Generator().manual_seed(settings.seed)
    direction = {
        name: (1e-3 * torch.randn(value.shape, generator=generator)).to(value)
        for name, value in engine.towers.parameters.items()
    }
    clock, sizes = _alone(engine, samples(), direction, progress)
    clock.seconds["pool"] = _pooled(engine, samples())
    # Once more, with all that scoring overlaps.
    started = time.perf_counter()
    found = embed(engine, samples(), [direction], mask=settings.equal_captions == "mask")
    if found.embedded is None:
        raise InputError(f"none of the first {pairs:,} samples can be scored; `ecif lint` says why", url=shards[0].url)
    embedded = time.perf_counter() - started
    scores = clock.time("loss", lambda: _score(settings, direction, found))
    clock.time("write", lambda: _write(scores, settings.out, storage))
    together = len(found.pairs) / (embedded + clock.seconds["loss"] + clock.seconds["write"])
    return _profile(engine, clock, sizes, len(found.pairs), len(found.refused), together)


def _alone(
    engine: Engine, samples: Iterator[Pair | Refused], direction: Parameters, progress: Progress
) -> tuple[_Clock, list[tuple[int, int]]]:
    """The stages of embedding, micro-batch by micro-batch; shorter side of the image and bytes of each pair.

    The first micro-batch goes through twice, the first time to warm up.
    """
    towers, clock, derivatives = engine.towers, _Clock(engine.towers.device), engine.derivatives()
    sizes: list[tuple[int, int]] = []

    def through(read: list[Pair]) -> None:
        decoded = clock.time("decode", lambda: [(engine.decode(pair), image_digest(pair.image)) for pair in read])
        good = [(pair, image) for pair, (image, _) in zip(read, decoded, strict=True) if isinstance(image, Tensor)]
        if not good:
            return
        tokens = clock.time("tokenise", lambda: towers.loaded.tokenize([pair.caption for pair, _ in good]))
        stacked = torch.stack([image for _, image in good])
        moved = clock.time("transfer", lambda: (towers.to_input(stacked), tokens.to(towers.device)))
        states = clock.time("forward", lambda: (towers.image_stem(moved[0]), towers.text_stem(moved[1])))
        with torch.no_grad():
            clock.time("tail", lambda: towers.embed(towers.parameters, *states))
        clock.time("tangent", lambda: derivatives.push_forward([direction], *states))

    warm = False
    while block := clock.time("read", lambda: list(itertools.islice(samples, engine.micro_batch))):
        pairs = [one for one in block if isinstance(one, Pair)]
        if not warm and pairs:
            kept = clock.seconds["read"]
            through(pairs)
            clock.seconds.update({**dict.fromkeys(clock.seconds, 0.0), "read": kept})
            warm = True
        through(pairs)
        sizes += [size for pair in pairs if (size := _size(pair, engine)) is not None]
        progress.advance(len(block))
    # A forward pass is stem and tail; the derivative is what comes on top of the tail.
    clock.seconds["forward"] += clock.seconds["tail"]
    clock.seconds["tangent"] = max(0.0, clock.seconds["tangent"] - clock.seconds["tail"])
    return clock, sizes


def _pooled(engine: Engine, samples: Iterator[Pair | Refused]) -> float:
    """Seconds of all threads or processes together for samples that are read already; the first ones warm up."""
    at_once = max(1, engine.processes or engine.workers)
    seconds, warm = 0.0, False
    with ThreadPoolExecutor(at_once) as pool:
        # Several lists for each, so that few of them are idle at the end.
        while block := list(itertools.islice(samples, 4 * at_once * TASK)):
            tasks = [block[start : start + TASK] for start in range(0, len(block), TASK)]
            for _ in range(1 if warm else 2):
                started = time.perf_counter()
                deque(pool.map(engine.prepare, tasks), maxlen=0)
                spent = time.perf_counter() - started
            seconds, warm = seconds + spent, True
    return seconds


def _size(pair: Pair, engine: Engine) -> tuple[int, int] | None:
    try:
        return min(open_image(pair.image, engine.limits).size), len(pair.image) + len(pair.caption.encode())
    except Undecodable:
        return None


def _score(settings: ScoreSettings, direction: Parameters, found: EmbeddedShard) -> pl.DataFrame:
    """The algebra of all batches and segmentations, as a table."""
    assert found.embedded is not None
    sources = Sources(Wanted.of(settings.model_copy(update={"columns": ()})), {"influence": direction})
    captions = torch.tensor(found.captions, device=found.embedded.u_BD.device)
    rows = Rows(settings, sources, found.embedded, found.others, captions)
    scores, _, statuses = score_rows(rows, [pair.key for pair in found.pairs])
    return pl.DataFrame({"key": [pair.key for pair in found.pairs], "status": statuses, **scores})


def _write(frame: pl.DataFrame, out: str, storage: Storage) -> None:
    """A table as scoring writes it, below the output or in a temporary directory, removed again."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    with tempfile.TemporaryDirectory(prefix="ecif-") as elsewhere:
        url = storage.check(join(out or elsewhere, META, f"profile-{secrets.token_hex(6)}.parquet"), write=True)
        storage.publish(url, buffer.getvalue())
        storage.delete(url)


def _profile(
    engine: Engine, clock: _Clock, sizes: list[tuple[int, int]], pairs: int, refused: int, together: float
) -> Profile:
    seconds, pool = {name: clock.seconds[name] for name in STAGES}, clock.seconds["pool"]
    rates = {name: pairs / max(spent, 1e-9) for name, spent in seconds.items()}
    at_once = decoders(engine.processes, engine.workers)
    if engine.processes:
        both = seconds["decode"] + seconds["tokenise"]
        rates |= {name: pairs / max(pool * seconds[name] / both, 1e-9) for name in ("decode", "tokenise")}
    else:  # the threads decode and tokenise, one of them at a time the latter
        rates["decode"] = pairs / max(pool - seconds["tokenise"], pool / 2)
    pair_bytes = statistics.mean(size for _, size in sizes)
    device, cpu = str(engine.towers.device), engine.towers.device.type == "cpu"
    on = "the same cores" if cpu else device
    bounds = {
        "read": f"storage and one core: {rates['read'] * pair_bytes / 1e6:,.0f} MB/s",
        "decode": f"cores: {at_once}",
        "tokenise": f"cores: {at_once}" if engine.processes else "one core, whatever their number",
        "transfer": on if cpu else f"the bus to {device}",
        **dict.fromkeys(("forward", "tangent", "loss"), on),
        "write": "storage",
    }
    total = sum(seconds.values())
    return Profile(
        pairs=pairs,
        refused=refused,
        pair_bytes=pair_bytes,
        side=statistics.median(side for side, _ in sizes),
        model_side=min(engine.towers.size),
        device=device,
        workers=engine.workers,
        processes=engine.processes,
        stages=tuple(Stage(name, seconds[name], seconds[name] / total, rates[name], bounds[name]) for name in STAGES),
        input_rate=min(rates["read"], pairs / pool),
        device_rate=pairs / sum(seconds[name] for name in _ON_DEVICE),
        together=together,
        limit=limit(seconds, pool, processes=engine.processes, cpu=cpu),
    )


def decoders(processes: int, workers: int) -> str:
    """Who decodes, and how many of them, in words."""
    if processes:
        return "1 process" if processes == 1 else f"{processes} processes"
    return "1 thread" if workers == 1 else f"{workers} threads"


def limit(seconds: Mapping[str, float], pool: float, *, processes: int, cpu: bool) -> str:
    """Which stage decides, and what changes that.

    Args:
        seconds: by stage. pool: of all that decode and tokenise together. processes: that do; 0: threads.
        cpu: no device of its own.
    """
    if cpu:
        most = max(seconds, key=lambda name: seconds[name])
        return f"the cores, which all stages share: most of their time goes into {most}"
    device = sum(seconds[name] for name in _ON_DEVICE)
    if device >= max(seconds["read"], pool):
        most = max(_ON_DEVICE, key=lambda name: seconds[name])
        return f"the device, most of it in {most}: more cores gain nothing"
    if seconds["read"] >= pool:
        return "reading: storage nearer by, or several processes; a faster device gains nothing"
    if processes == 0 and seconds["tokenise"] >= pool / 2:
        return "tokenising, which one process does on one core: --processes; a faster device gains nothing"
    return "decoding: more cores, or --decode draft where images are large; a faster device gains nothing"
