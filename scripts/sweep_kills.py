"""A sweep of 12 trials that is killed five times with SIGKILL ends with the table of one that was left alone.

    python scripts/sweep_kills.py --out /tmp/sweeps

Minutes, as every trial is a process of its own. Prints both tables' digests and where the kills struck; exits with 1
when the tables differ. The suite has a slice of it: tests/e2e/test_sweep_command.py.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TRIALS, KILLS = 12, 5
SWEEP = """
data = [{text}]
seeds = [1, 2, 3]
device = "cpu"
backend = "torch"
[base]
"model.n_layer" = 1
"model.d_model" = 32
"model.n_head" = 2
"model.n_kv_head" = 1
"model.d_ff" = 64
"model.context" = 64
"tokenizer.kind" = "byte"
"pretrain.steps" = 20
"pretrain.batch_size" = 2
"pretrain.eval_every" = 10
"pretrain.save_every" = 5
"pretrain.eval_rows" = 4
[grid]
"pretrain.learning_rate" = [0.001, 0.003]
"pretrain.warmup_steps" = [2, 8]
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sweeps"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    text = out / "story.txt"
    text.write_text("".join(f"This was day {day}. The cat sat on the mat.\n" for day in range(400)))
    file = out / "kills.toml"
    file.write_text(SWEEP.format(text=json.dumps(str(text))))
    struck = []
    for kill in range(KILLS):  # each a few trials later than the one before
        process = start(file, out / "killed")
        wanted = 2 * kill + 1
        while process.poll() is None and ended(out / "killed") < wanted:
            time.sleep(0.05)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        struck.append(ended(out / "killed"))
    tables = [start(file, out / name).communicate()[0] for name in ("killed", "whole")]
    digests = [hashlib.sha256(table).hexdigest()[:16] for table in tables]
    rows = json.loads(tables[1])
    same = tables[0] == tables[1] and sum(row["figure"]["rows"] for row in rows) == TRIALS and len(struck) == KILLS
    print(f"{len(struck)} kills after {', '.join(map(str, struck))} of {TRIALS} trials")
    print(f"table of the killed sweep {digests[0]}, of the whole one {digests[1]}: {'the same' if same else 'DIFFER'}")
    return int(not same)


def start(file: Path, directory: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "minigpt", "sweep", str(file), "--out", str(directory), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def ended(directory: Path) -> int:
    """How many trials have a result."""
    path = directory / "results.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
