"""`minigpt sweep`: trials as processes of their own, kills, a trial that fails."""

import json
import os
import signal
import time

from command import QUICK, finished, process

from minigpt.experiments.trials import read_outcomes

SWEEP = """
data = ["{text}"]
seeds = [1]
device = "cpu"
backend = "{backend}"
jobs = 2
[base]
"model.n_layer" = 1
"model.d_model" = 32
"model.n_head" = 2
"model.n_kv_head" = 1
"model.d_ff" = 64
"model.context" = 64
"tokenizer.kind" = "byte"
"pretrain.steps" = {steps}
"pretrain.batch_size" = 2
"pretrain.eval_every" = 10
"pretrain.save_every" = 5
"pretrain.eval_rows" = 4
[grid]
"pretrain.learning_rate" = [0.001, 0.003, -1.0]
"""


def written(path, sources, steps):
    path.write_text(SWEEP.format(text=sources.text, steps=steps, backend=QUICK))
    return path


def table_of(result):
    """Without what the clock decides."""
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_a_sweep_that_is_killed_ends_with_the_same_table(sources, tmp_path):
    """Also: a rate below 0 is refused by its trial, which is reported, and the others go on. SIGTERM says what is kept
    and how the command goes on.
    """
    file = written(tmp_path / "rates.toml", sources, steps=20)
    whole = finished(process("sweep", file, "--out", tmp_path / "whole", "--json"))
    rows = table_of(whole)
    assert [row["settings"]["pretrain.learning_rate"] for row in rows] == [0.003, 0.001, -1.0]
    assert [row["failed"] for row in rows] == [0, 0, 1] and rows[2]["figure"]["value"] is None
    assert "seed 1: failed:" in whole.err and "learning_rate" in whole.err
    seen_first = {"trials/*.txt": signal.SIGKILL, "trials/*/pretrain/checkpoints/step-*": signal.SIGTERM,
                  "results.jsonl": signal.SIGKILL}  # fmt: skip
    for seen, number in seen_first.items():  # how far each one comes
        killed = process("sweep", file, "--out", tmp_path / "killed", "--json")
        while killed.poll() is None and not list((tmp_path / "killed").glob(seen)):
            time.sleep(0.05)
        os.kill(killed.pid, number)
        told = killed.communicate()[1].decode()
        if number == signal.SIGTERM:
            assert killed.returncode == 128 + number, told
            assert f"minigpt: Stopped. The finished runs are kept in {tmp_path / 'killed'}" in told, told
            assert f" Go on with: minigpt sweep {file} --out" in told and "Traceback" not in told, told
    assert table_of(finished(process("sweep", file, "--out", tmp_path / "killed", "--json"))) == rows


def test_the_budget_ends_a_sweep(sources, tmp_path):
    """Two trials run at once, and neither comes to its end."""
    file = written(tmp_path / "rates.toml", sources, steps=100_000)
    file.write_text('budget = "3s"\n' + file.read_text())
    result = finished(process("sweep", file, "--out", tmp_path / "out"))
    assert result.code == 0 and "The budget ended before" in result.err
    assert read_outcomes(tmp_path / "out") == {}
