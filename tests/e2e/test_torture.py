"""A slice of scripts/torture.py, and that its comparison of two runs can fail."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from command import environment

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_a_slice_of_every_ordeal():
    ordeals = "resume,sampling,kills,signals,corruption,disk,numbers,rows,configurations"
    # not memory, which needs much
    command = [sys.executable, SCRIPTS / "torture.py", "--scale", "0.01", "--json", "--only", ordeals]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    outcomes = json.loads(result.stdout)
    tried = {outcome["what"]: outcome["tried"] for outcome in outcomes}
    assert len(outcomes) >= 20 and all(number or "file system" in what for what, number in tried.items()), tried
    assert [outcome["lost"] for outcome in outcomes] == [[]] * len(outcomes)


def test_a_single_changed_number_is_a_difference(trained, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from ordeals.ordeal import difference

    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    assert difference(copy, trained) == ""
    journal = copy / "sft" / "metrics.jsonl"
    journal.write_text(journal.read_text("utf-8").replace('"loss": 5', '"loss": 6', 1).replace("6.", "7.", 1), "utf-8")
    assert difference(copy, trained) == "sft/metrics.jsonl differs"
    weights = copy / "pretrain" / "final" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    assert difference(copy, trained) == "pretrain/final differs"
