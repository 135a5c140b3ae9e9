"""What other tools read from our files and calls: TensorBoard's own reader; wandb's and trackio's stores, offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EVENTS = """
import json, sys
import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
read.Reload()
found = {tag: [[e.step, e.value] for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
print(json.dumps({"version": tensorboard.__version__, "found": found}))
"""
TRACK = """
import importlib, sys
from pathlib import Path
from minigpt.events import Eval, Step
from minigpt.watch.trackers import tracker
name, place = sys.argv[1], Path(sys.argv[2])
print(importlib.import_module(name).__version__)
logged = tracker(name, place / "mine", {"seed": 1})
for stage in ("pretrain", "sft"):
    for step in range(1, 6):
        logged(Step(stage, step, 5, 1 / step, 1e-3, 0.5, 512, 0.01, {"accuracy": 0.5}))
    logged(Eval(stage, 5, {"loss": 0.25}))
logged.finish()
"""
KEPT = """
import glob, json, sqlite3, sys
name, place = sys.argv[1:]
if name == "trackio":
    rows = [json.loads(m) for f in glob.glob(place + "/*.db") for (m,) in sqlite3.connect(f).execute(
        "select metrics from metrics order by id")]
else:
    from wandb.proto import wandb_internal_pb2 as pb
    data = open(glob.glob(place + "/**/*.wandb", recursive=True)[0], "rb").read()
    rows, at, whole = [], 7, b""  # LevelDB's log: blocks of 32 KiB, of parts with their length and kind
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + size], at + 7 + size
        record = pb.Record()
        if kind in (1, 4) and record.ParseFromString(whole) and record.WhichOneof("record_type") == "history":
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
print(json.dumps(rows))
"""


def tensorboard(place: Path, python: str, bound: float) -> int:
    """Train a little with --tensorboard, and compare what TensorBoard reads with metrics.jsonl."""
    run, sets = place / "run", {"model.n_layer": 1, "pretrain.steps": 30, "pretrain.log_every": 1,
                                "pretrain.eval_every": 10, "data.world_texts": 200,
                                "data.world_lessons": 0}  # fmt: skip
    flags = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "minigpt", "train", "pretrain", "--data", "world", "--run", str(run), *flags]
    subprocess.run([*command, "--tensorboard"], env=_environment(), check=True, stderr=subprocess.DEVNULL)
    events = str(run / "tensorboard" / "pretrain")
    done = subprocess.run([python, "-c", EVENTS, events], capture_output=True, text=True, check=True)
    read = json.loads(done.stdout)
    lines = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    worst = 0.0
    for tag, name in (("train/loss", "loss"), ("train/norm", "norm"), ("train/learning_rate", "learning_rate"),
                      ("validation/loss", "validation_loss")):  # fmt: skip
        own = {line["step"]: line[name] for line in lines if name in line}
        theirs = dict(map(tuple, read["found"][tag]))
        if own.keys() != theirs.keys():
            print(f"{tag}: steps differ: {sorted(own.keys() ^ theirs.keys())[:5]}")
            return 1
        worst = max([worst, *(abs(theirs[step] - value) / max(abs(value), 1e-12) for step, value in own.items())])
        print(f"{tag:<22} {len(own)} points")
    print(f"tensorboard {read['version']}: largest relative difference {worst:.1e} (float32; bound {bound:g})")
    return int(worst > bound)


def trackers(place: Path, python: str) -> int:
    """Log with the real packages, offline, and read what they kept."""
    good = True
    for name in ("wandb", "trackio"):
        kept = place / name
        kept.mkdir()
        more = {"WANDB_MODE": "offline", "WANDB_DIR": str(kept), "WANDB_SILENT": "true", "TRACKIO_DIR": str(kept)}
        environment = _environment() | more
        done = subprocess.run([python, "-c", TRACK, name, str(kept)], env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            good = False
            continue
        read = subprocess.run([python, "-c", KEPT, name, str(kept)], env=environment, capture_output=True, text=True)
        if read.returncode:
            print(f"{name}: what it kept cannot be read: {read.stderr.strip().splitlines()[-1]}")
        rows = json.loads(read.stdout) if read.returncode == 0 else []
        losses = [row[f"{stage}/loss"] for stage in ("pretrain", "sft") for row in rows if f"{stage}/loss" in row]
        held_out = [row["sft/validation_loss"] for row in rows if "sft/validation_loss" in row]
        same = losses == [1 / step for step in range(1, 6)] * 2 and held_out == [0.25]
        good &= same
        version = done.stdout.splitlines()[0]
        print(f"{name} {version}, offline: {len(rows)} rows kept, {'the same numbers' if same else 'OTHER NUMBERS'}")
    return int(not good)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
