"""Examples of every command: the end of its help, and a part of docs/cli.md. A test parses each of them.

They tell one story: shards in /data/raw, trusted pairs in /data/val.tar, the result in /data/clean.
"""

from __future__ import annotations

_RUN = "'/data/raw/{00000..01242}.tar' --config clean.yaml"

# command -> (what it is for, command line)
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "demo": (
        ("See it work, offline, in a few minutes", "ecif demo"),
        ("A smaller corpus, elsewhere", "ecif demo --pairs 2000 --out /tmp/demo"),
    ),
    "clean": (
        (
            "Score and report only",
            "ecif clean '/data/raw/*.tar' --validation /data/val.tar --out /data/clean \\\n"
            "  --model ViT-B-32 --pretrained laion2b_s34b_b79k",
        ),
        ("Drop the worst tenth; settings from a file", f"ecif clean {_RUN} --drop 0.1"),
        ("What would that do?", f"ecif clean {_RUN} \\\n  --drop 0.1 --dry-run"),
    ),
    "lint": (
        ("Are the shards sound?", "ecif lint '/data/raw/*.tar'"),
        ("All findings as lines of JSON", "ecif lint s3://bucket/raw/ --jsonl findings.jsonl"),
    ),
    "fit": (("On a sample of the corpus", f"ecif fit {_RUN}"),),
    "score": (
        ("Every pair", f"ecif score {_RUN}"),
        ("With further columns", f"ecif score {_RUN} \\\n  --columns lemon --columns vif"),
    ),
    "calibrate": (
        ("What do the scores find?", "ecif calibrate /data/clean"),
        ("As a document", "ecif calibrate /data/clean --json"),
    ),
    "plan": (
        ("Drop the worst tenth", "ecif plan /data/clean --drop 0.1"),
        ("As many as are wrong with 90 %", "ecif plan /data/clean --target-precision 0.9"),
        ("Look before", "ecif plan /data/clean --drop-count 50000 --dry-run"),
        ("The best 30 % of every language", "ecif plan /data/clean --keep 0.3 --by language --detector influence"),
    ),
    "diff": (
        ("Two plans of one output", "ecif diff /data/clean 0123456789ab ba9876543210"),
        (
            "Plans of two outputs",
            "ecif diff /data/clean 0123456789ab ba9876543210 --other-out /data/clean-2",
        ),
    ),
    "apply": (
        ("Write the surviving shards", "ecif apply /data/clean"),
        ("As even shards of 10,000", "ecif apply /data/clean --repack 10000"),
    ),
    "verify": (
        ("By the records of the output", "ecif verify /data/clean"),
        ("By the inputs alone", "ecif verify /data/clean --sources '/data/raw/*.tar'"),
    ),
    "report": (("Make the page again", "ecif report /data/clean"),),
    "restore": (
        ("One sample", "ecif restore /data/clean --key 000000017"),
        ("All that went", "ecif restore /data/clean --all"),
    ),
    "export": (
        ("A DataComp list of what is left", "ecif export /data/clean --uids left.npy"),
        ("For open_clip and wids, beside the shards", "ecif export /data/clean --beside"),
    ),
    "trace": (
        (
            "Where does this mistake come from?",
            f"ecif trace {_RUN} \\\n  --image odd.jpg --text 'a dog' --expected 'a cat'",
        ),
    ),
    "edit": (("Weights without what was dropped", f"ecif edit {_RUN} \\\n  --weights edited.safetensors"),),
    "watch": (
        ("Clean what has arrived, once", "ecif watch /data/raw/ --config clean.yaml --drop 0.1"),
        ("And again every hour", "ecif watch /data/raw/ --config clean.yaml --drop 0.1 --every 3600"),
    ),
    "notify": (("All shards of today are there", "ecif notify s3://bucket/raw/2026-11-22/"),),
    "poll": (
        (
            "Notifications of a bucket",
            "ecif poll https://sqs.eu-central-1.amazonaws.com/123456789012/arrivals \\\n  s3://bucket/raw/",
        ),
    ),
    "doctor": (
        ("Before a run", "ecif doctor s3://bucket/clean"),
        ("A place that is only a source", "ecif doctor s3://bucket/raw --read-only"),
    ),
    "bench profile": (("What would make it faster?", f"ecif bench profile {_RUN}"),),
    "bench effects": (
        (
            "Is a model better without the worst tenth?",
            "ecif bench effects /data/clean --evaluation /data/test.tar --drop 0.1",
        ),
        (
            "Two scores, with more seeds",
            "ecif bench effects /data/clean --evaluation /data/test.tar --drop 0.1 \\\n"
            "  --seeds 10 --compare clip_score --compare p_misaligned",
        ),
    ),
}


def epilogue(command: str) -> str:
    """The end of a command's help, in Markdown."""
    return f"Examples:\n\n```\n{lines(command)}\n```\n"


def lines(command: str) -> str:
    """The examples of a command as lines for a shell, each behind a comment that says what it is for."""
    return "\n\n".join(f"# {what}\n{line}" for what, line in EXAMPLES[command])
