"""Clean real shards whose wrong pairs are known, verify the result, and judge the scores against the truth.

    python -m bench.real --data DIR --work DIR [--sets cifar10n flickr8k_swap] [--s3]

DIR holds img2dataset shards with `truth/NAME_truth.parquet` (uid, key, shard, kind, misaligned) and, for cifar10n, a
model in `../models/cifar10-tiny`. The truth selects the validation pairs and judges the outcome; nothing in between
sees it. With --s3, input and output lie on an S3 server on loopback (moto). On flickr8k_swap a small model is trained
first, for a few minutes, on the very pairs that are then scored: the numbers show what such a model can do.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ecif.demo import training
from ecif.demo.evaluation import auroc
from ecif.layout import META

FLICKR_MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
DETECTORS = ("influence", "positive_influence", "negative_influence", "clip_score", "neg_clip_loss")


def select(tars: list[Path], keys: set[tuple[str, str]], target: Path) -> int:
    """Copy the samples (shard, key) of `tars` into one tar; returns how many."""
    found = set()
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as out:
        for path in tars:
            with tarfile.open(path) as source:
                for info in source:
                    key = (path.stem, info.name.split(".")[0])
                    if key in keys:
                        found.add(key)
                        out.addfile(info, io.BytesIO(source.extractfile(info).read()))  # type: ignore[union-attr]
    return len(found)


def cifar10n(data: Path, work: Path, truth: pl.DataFrame) -> tuple[list[Path], Path, dict[str, str]]:
    """Corpus: shards 0 to 3. Validation: the pairs of shard 4 that are right."""
    right = truth.filter((pl.col("shard") == "000004") & ~pl.col("misaligned"))
    validation = work / "cifar10n-validation.tar"
    count = select([data / "cifar10n" / "000004.tar"], set(right.select("shard", "key").iter_rows()), validation)
    print(f"validation: {count} pairs of 000004.tar that are right")
    model = data.parent / "models" / "cifar10-tiny"
    options = {"--model": str(model / "cifar10-tiny.json"), "--pretrained": str(model / "weights.safetensors")}
    return [data / "cifar10n" / f"{n:06d}.tar" for n in range(4)], validation, options


def flickr8k_swap(data: Path, work: Path, truth: pl.DataFrame, epochs: int) -> tuple[list[Path], Path, dict[str, str]]:
    """Corpus: both shards. Validation: the pairs of flickr8k_human_dev that people judged right."""
    corpus = [data / "flickr8k_swap" / f"{n:06d}.tar" for n in range(2)]
    judged = pl.read_parquet(data / "truth" / "flickr8k_human_dev_truth.parquet")
    right = judged.filter(pl.col("misaligned").not_().fill_null(False))
    validation = work / "flickr-validation.tar"
    source = data / "flickr8k_human_dev" / "000000.tar"
    count = select([source], set(right.select("shard", "key").iter_rows()), validation)
    print(f"validation: {count} pairs of flickr8k_human_dev that people judged right")
    model, weights = work / "flickr.json", work / f"flickr-{epochs}.safetensors"
    model.write_text(json.dumps(FLICKR_MODEL))
    if not weights.exists():
        report = training.train(corpus, model, weights, epochs=epochs, batch_size=128, lr=1e-3, seed=0, augment=True)
        losses = f"{report.losses[0]:.2f} .. {report.losses[-1]:.2f}"
        print(f"trained on {report.pairs} pairs in {report.seconds:.0f} s, losses {losses}")
    return corpus, validation, {"--model": str(model), "--pretrained": str(weights)}


@contextmanager
def storage(work: Path, s3: bool) -> Iterator[Any]:
    """A function (local files) -> their URLs, and the URL of the output."""
    if not s3:
        yield lambda paths: [str(path) for path in paths], str(work / "out")
        return
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client("s3")
    client.create_bucket(Bucket="corpus")

    def upload(paths: list[Path]) -> list[str]:
        for path in paths:
            for file in (path, path.with_suffix(".parquet"), path.with_name(path.stem + "_stats.json")):
                if file.exists():
                    client.upload_file(str(file), "corpus", f"raw/{file.name}")
        return [f"s3://corpus/raw/{path.name}" for path in paths]

    try:
        yield upload, "s3://corpus/clean"
    finally:
        server.stop()


def ecif(*arguments: str) -> dict[str, Any]:
    """Run the command line and return what it prints with --json."""
    started = time.perf_counter()
    command = [str(Path(sys.executable).with_name("ecif")), *arguments, "--json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(f"$ ecif {' '.join(arguments)}\n  exit code {result.returncode}, {time.perf_counter() - started:.0f} s")
    if result.returncode not in (0, 3, 4):
        raise SystemExit(f"failed: {result.stdout}")
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def judge(scores: pl.DataFrame, truth: pl.DataFrame) -> None:
    """Print the AUROC of every detector, against all right pairs, for all wrong ones and by kind."""
    joined = scores.join(truth.select("uid", "misaligned", "kind"), on="uid").filter(pl.col("status") == "ok")
    right = ~joined["misaligned"].to_numpy()
    kinds = joined["kind"].to_numpy()
    groups = {"all wrong pairs": ~right}
    groups |= {kind: ~right & (kinds == kind) for kind in sorted(set(kinds[~right]))}
    print(f"{'AUROC':20}" + "".join(f"{name:>20}" for name in DETECTORS))
    for title, wrong in groups.items():
        rows = right | wrong
        cells = [auroc(wrong[rows], -joined[name].to_numpy()[rows].astype(np.float64)) for name in DETECTORS]
        print(f"{title:20}" + "".join(f"{cell:20.3f}" for cell in cells) + f"   n = {wrong.sum()}")


def precision(ledgers: pl.DataFrame, truth: pl.DataFrame) -> None:
    """Print how many of the dropped pairs are wrong."""
    wrong = ledgers.join(truth.select("uid", "misaligned"), on="uid")["misaligned"].sum()
    print(f"of {len(ledgers)} dropped pairs, {wrong} are wrong; at random it would be {_expected(ledgers, truth):.0f}")


def _expected(ledgers: pl.DataFrame, truth: pl.DataFrame) -> float:
    return len(ledgers) * float(truth["misaligned"].cast(pl.Float64).mean())  # type: ignore[arg-type]


def survivors(source: Path, cleaned: bytes) -> None:
    """Print the sha256 of three surviving members before and after."""
    with tarfile.open(source) as before, tarfile.open(fileobj=io.BytesIO(cleaned)) as after:
        names = after.getnames()
        for name in (names[0], names[len(names) // 2], names[-1]):
            digests = [hashlib.sha256(tar.extractfile(name).read()).hexdigest() for tar in (before, after)]  # type: ignore[union-attr]
            print(
                f"  {name}  {digests[0][:32]}  {digests[1][:32]}  {'same' if digests[0] == digests[1] else 'DIFFERENT'}"
            )


def main() -> None:
    """Run the sets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["cifar10n", "flickr8k_swap"])
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--epochs", type=int, default=60, help="of the model trained for flickr8k_swap")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("--NAME", "VALUE"))
    arguments = parser.parse_args()
    for name in arguments.sets:
        work = arguments.work / (name + ("-s3" if arguments.s3 else ""))
        work.mkdir(parents=True, exist_ok=True)
        truth = pl.read_parquet(arguments.data / "truth" / f"{name}_truth.parquet")
        if name == "cifar10n":
            corpus, validation, options = cifar10n(arguments.data, work, truth)
        else:
            corpus, validation, options = flickr8k_swap(arguments.data, work, truth, arguments.epochs)
        with storage(work, arguments.s3) as (place, out):
            sources = place(corpus)
            flat = [part for pair in [*options.items(), *arguments.option] for part in pair]
            outcome = ecif("clean", *sources, "--validation", str(validation), *flat, "--out", out, "--drop", "0.1")
            print(json.dumps(outcome, indent=1))
            print(json.dumps(ecif("verify", out), indent=1))
            from ecif.storage import Storage

            files = Storage()
            found = [info.url for info in files.list(f"{out}/{META}/scores", ".parquet")]
            judge(pl.concat([pl.read_parquet(files.read_bytes(url)) for url in found]), truth)
            found = [info.url for info in files.list(f"{out}/{META}/ledger", ".parquet")]
            precision(pl.concat([pl.read_parquet(files.read_bytes(url)) for url in found]), truth)
            print("three surviving members, sha256 before and after:")
            survivors(corpus[0], files.read_bytes(f"{out}/{corpus[0].stem}.tar"))


if __name__ == "__main__":
    main()
