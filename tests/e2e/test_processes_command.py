"""`--processes 2`: the same command with two processes, one of which is killed; and torchrun's own line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import call, environment, tiny

from backends import BACKENDS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and the ring are for Linux and macOS here")
STEPS = {"pretrain__steps": 36, "pretrain__save_every": 6, "pretrain__eval_every": 18, "pretrain__batch_size": 4}


def losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "pretrain" / "metrics.jsonl").read_text("utf-8").splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_killed_process_is_noticed_and_training_goes_on(name, tmp_path):
    """The supervisor starts both again from the last checkpoint, and the curve is that of one process."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    words = ["train", "pretrain", "--data", "world", "--backend", name, *tiny(**STEPS)]
    assert call(*words, "--run", alone).code == 0
    command = [sys.executable, "-m", "minigpt", *words, "--run", run, "--processes", "2"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        journal = run / "pretrain" / "metrics.jsonl"
        while not (journal.exists() and journal.read_text("utf-8").count("\n") > 10):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        os.kill(json.loads((run / ".ranks" / "rank-1.json").read_text("utf-8"))["pid"], signal.SIGKILL)
        told = process.communicate(timeout=120)[1]
    assert process.returncode == 0, told
    assert "2 processes train together" in told and "A rank of the training was killed" in told
    found, expected = losses(run), losses(alone)
    assert found.keys() == expected.keys() and len(found) == 36
    assert max(abs(found[step] - loss) for step, loss in expected.items()) < 1e-5


def test_torchruns_own_line_and_a_rank_with_other_settings(tmp_path):
    """`--` ends torchrun's options: it takes --run for its own --run-path. Both processes must be started alike."""
    run = tmp_path / "run"
    script = tmp_path / "different.sh"
    script.write_text('[ "$RANK" = 1 ] && set -- "$@" --seed 7\nexec python -m minigpt "$@"\n', "utf-8")
    line = ["torchrun", "--nproc-per-node", "2", "--no-python", "--", "bash", script, "train", "pretrain",
            "--run", run, "--data", "world", "--backend", "torch", *tiny(**STEPS)]  # fmt: skip
    done = subprocess.run(list(map(str, line)), env=environment(), capture_output=True, text=True)
    complaints = [one for one in done.stderr.splitlines() if one.startswith("minigpt: ")]
    assert done.returncode and len(complaints) == 1 and "Rank 1 on" in complaints[0], done.stderr
    assert "settings.seed is 7, not" in complaints[0]
