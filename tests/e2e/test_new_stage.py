"""A new stage is one file and one row: a copy of the package gets one, and everything knows it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
REVERSE = '''"""A toy: learn to write a text backwards."""

from dataclasses import replace

from minigpt.data.examples import Conversation, Text
from minigpt.data.forms import CONVERSATIONS, TEXTS
from minigpt.sections import TuneConfig
from minigpt.stages.language import measure_language, next_token
from minigpt.stages.stage import Stage


def backwards(example):
    if not isinstance(example, Text):
        return None
    asked, right = {"role": "user", "content": example.text}, {"role": "assistant", "content": example.text[::-1]}
    return Conversation([asked, right])


REVERSE = Stage(
    name="reverse",
    summary="Learns to write a text backwards.",
    taught="It was taught to write texts backwards.",
    config=TuneConfig,
    form=replace(CONVERSATIONS, kind=Text, needs="texts", unit="text", example=TEXTS.example, accept=backwards,
                 world=TEXTS.world),
    objective=next_token,
    measure=measure_language,
    starts_from=("sft", "pretrain"),
)
'''
SETTINGS = {
    "model.n_layer": 1, "model.n_head": 2, "model.n_kv_head": 1, "model.d_model": 32, "model.d_ff": 48,
    "model.context": 48, "tokenizer.kind": "byte", "pretrain.steps": 2, "pretrain.batch_size": 2,
    "reverse.steps": 6, "reverse.batch_size": 2, "reverse.save_every": 2, "reverse.eval_every": 2,
    "reverse.warmup_steps": 1, "reverse.lora_rank": 2, "reverse.learning_rate": 0.02,
}  # fmt: skip
STOPPED = """
import sys
from pathlib import Path
from backends import get_backend
from minigpt.events import Step, silent
from minigpt.runs.control import Control
from minigpt.runs.run import open_run
from minigpt.runs.training import train_stage
from minigpt.train.stop import Stop

stop = Stop()
def report(event):
    if isinstance(event, Step) and event.step == 3:
        stop.signal = 15
train_stage(open_run(Path(sys.argv[1])), "reverse", get_backend("mlx", "cpu"), report, Control(stop))
"""
COMMANDS = """
import contextlib, io, json, sys
from minigpt.cli import app
found = []
for words in json.loads(sys.argv[1]):
    sys.argv, out, err = ["minigpt", *words], io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app.main()
    except SystemExit as ended:
        assert not ended.code, (words, err.getvalue())
    found.append([out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """script(text, …words): what a script says beside a copy of the package that has one stage more."""
    tree = tmp_path_factory.mktemp("tree")
    for part in ("minigpt", "backends", "presets"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "minigpt/stages/reverse.py").write_text(REVERSE, "utf-8")
    table = tree / "minigpt/stages/table.py"
    text = table.read_text("utf-8").replace("SFT, DPO", "SFT, REVERSE, DPO")
    assert "SFT, REVERSE, DPO" in text
    table.write_text(text.replace("from minigpt.stages.sft", "from minigpt.stages.reverse import REVERSE\n"
                                  "from minigpt.stages.sft"), "utf-8")  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}

    def run(text, *words, fails=False):
        command = [sys.executable, "-c", text, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tree, timeout=120)
        assert (done.returncode != 0) == fails, done.stderr
        return done

    return run


def test_a_stage_is_one_file_and_one_row(script, tmp_path):
    lines = [f"line {i} of a short text" for i in range(40)]
    rows, whole, parts = tmp_path / "rows.jsonl", tmp_path / "whole", tmp_path / "parts"
    rows.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), "utf-8")
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    where = ["--backend", "mlx", "--no-supervise"]

    def commands(*lines):
        """(stdout, stderr) of each command, one after the other in one process."""
        return json.loads(script(COMMANDS, json.dumps([list(map(str, line)) for line in lines])).stdout)

    (shown, _), (helped, _), (planned, _), (checked, _), _, (_, told) = commands(
        ("train", "--help"), ("train", "reverse", "--help"),
        ("plan", "--preset", "tiny", "--stages", "reverse", *sets, "--backend", "mlx", "--json"),
        ("data", "check", rows, "--stage", "reverse", *sets, "--json"),
        ("train", "pretrain", "--run", whole, "--data", rows, *sets, *where),
        ("train", "reverse", "--run", whole, "--data", rows, *where),
    )  # fmt: skip
    assert "reverse" in shown and "backwards" in helped
    assert json.loads(planned)["presets"]["tiny"]["stages"][0]["stage"] == "reverse"
    example = "".join(text for text, learned in json.loads(checked)["example"] if learned)
    assert example.startswith(lines[0][::-1])
    assert "reverse: LoRA of rank 2" in told and "texts (" in told and "Plan:" in told

    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "reverse")
    assert "Stopped during reverse after step 3 of 6" in script(STOPPED, parts, fails=True).stderr
    (_, resumed), (measured, _), _ = commands(
        ("train", "reverse", "--run", parts, *where),
        ("evaluate", whole, "--json", "--backend", "mlx"),
        ("export", whole, "--to", "hf", "--out", tmp_path / "out", "--no-verify"),
    )
    assert "going on from step 3" in resumed
    ends = [load_file(run / "reverse/final/weights.safetensors") for run in (whole, parts)]
    assert ends[0].keys() == ends[1].keys() and all((ends[0][key] == ends[1][key]).all() for key in ends[0])
    before = load_file(whole / "pretrain/final/weights.safetensors")
    assert any(np.abs(ends[0][key] - before[key]).max() > 0 for key in before)

    measured = json.loads(measured)
    assert measured["stage"] == "reverse" and measured["loss"] > 0
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert "taught to write texts backwards" in card and "after reverse" in card
