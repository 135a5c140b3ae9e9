"""scripts/peers.py, with a slice of its counts; its checks by mlx-lm's commands take too long for here."""

import json
import subprocess
import sys
from pathlib import Path

from command import environment

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "peers.py"


def test_a_slice_of_the_tokens_is_the_same():
    command = [sys.executable, SCRIPT, "--only", "tokens", "--scale", "0.02", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert [outcome["tried"] for outcome in outcomes] == [80, 80, 20] * 3
    assert all(outcome["lost"] == [] for outcome in outcomes)
