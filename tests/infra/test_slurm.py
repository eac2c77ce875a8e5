"""The job script of Slurm: what it asks for, and what it does when its time is over.

There is no Slurm here. The script is run as its node would run it, with stand-ins for the two programs that it starts:
`prefect`, which works until it is told to stop, and `scontrol`, which notes what it was asked.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "slurm" / "gpu-workers.sbatch"
PREFECT = """#!/usr/bin/env bash
echo "$@" > "$NOTES/arguments"; env > "$NOTES/environment"
trap 'echo stopped >> "$NOTES/end"; exit 0' TERM
echo > "$NOTES/began"
for _ in $(seq 600); do sleep 0.05; done
"""
SCONTROL = '#!/usr/bin/env bash\necho "$@" >> "$NOTES/scontrol"\n'


@pytest.fixture
def node(tmp_path: Path) -> dict[str, str]:
    """The environment of a job."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("prefect", PREFECT), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "tmp").mkdir()
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "NOTES": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "8",
    }


def _settings(folder: Path, mode: int = 0o600) -> Path:
    path = folder / "worker.env"
    path.write_text("PREFECT_API_URL=http://127.0.0.1:4200/api\nPREFECT_API_AUTH_STRING=somebody:secret\n")
    path.chmod(mode)
    return path


def test_it_asks_for_one_gpu_and_to_be_put_back() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SCRIPT.read_text("utf-8"), re.M))
    assert asked["gres"] == "gpu:1"
    assert asked["ntasks"] == "1"
    assert "requeue" in asked
    assert re.fullmatch(r"B:TERM@\d+", asked["signal"])
    assert int(asked["signal"].partition("@")[2]) < 3600


def test_it_is_a_bash_script() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_on_a_signal_the_worker_ends_first_and_the_job_is_put_back(tmp_path: Path, node: dict[str, str]) -> None:
    job = subprocess.Popen(["bash", SCRIPT, _settings(tmp_path)], env=node)
    deadline = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 0
    assert (tmp_path / "end").read_text() == "stopped\n"
    assert (tmp_path / "scontrol").read_text() == "requeue 4711\n"
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:4] == ["worker", "start", "--type", "process"]
    assert arguments[arguments.index("--limit") + 1] == "1"
    environment = (tmp_path / "environment").read_text()
    assert "PREFECT_API_AUTH_STRING=somebody:secret" in environment
    assert "secret" not in " ".join(arguments)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_file_that_others_can_read_is_refused(tmp_path: Path, node: dict[str, str]) -> None:
    done = subprocess.run(["bash", SCRIPT, _settings(tmp_path, 0o644)], env=node, capture_output=True, text=True)
    assert done.returncode == 2
    assert "chmod 600" in done.stderr
    assert not (tmp_path / "began").exists()


def test_without_a_password_nothing_starts(tmp_path: Path, node: dict[str, str]) -> None:
    settings = _settings(tmp_path)
    settings.write_text("PREFECT_API_URL=http://127.0.0.1:4200/api\n")
    done = subprocess.run(["bash", SCRIPT, settings], env=node, capture_output=True, text=True)
    assert done.returncode != 0
    assert "PREFECT_API_AUTH_STRING" in done.stderr
    assert not (tmp_path / "began").exists()
