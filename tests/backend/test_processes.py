"""Two processes train what one does: every stage, with adapters, Muon, micro-batches, and from N processes to M."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from backends import BACKENDS
from backends.group import Several
from minigpt.cli.launching import free_ports
from minigpt.data.batches import normalized, split
from minigpt.errors import LOST
from minigpt.events import Saved
from minigpt.runs.heartbeat import DIRECTORY, read_beat, state_of
from minigpt.runs.run import open_run
from minigpt.runs.training import train_stage
from minigpt.stages.assemble import Custom
from minigpt.store.checkpoint import load_checkpoint
from minigpt.train.together import Together

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from several import equality
from several.rank import Stopped

STEPS, HALF = 4, 2
LEFT_OUT = ("adamw", "adamw, checkpointing", "adamw, full", "full, dropout")
CASES = [case for case in equality.CASES if case.name not in LEFT_OUT]  # a slice
OUTER = [equality.Case("sft", f"outer {name}", {"outer_every": HALF}) for name in ("whole", "resumed", "handed over")]
AVERAGED = [equality.Case("pretrain", "ema", {"ema_decay": 0.9}), equality.Case("sft", "swa", {"swa_fraction": 0.75})]
# Stopped between two steps that learn from the same answers, whose only row two processes then share.
MORE = equality.Case(
    "grpo", "one prompt, moments", {"batch_size": 4, "group_size": 4, "updates": 3, "kl_coefficient": 0.05}
    | {"shard": "moments"},
)  # fmt: skip
EXACT = 4e-6  # DPO's sums of log-probabilities are near -300, where float32 has steps of 3e-5, times beta


class Twins(Several):
    """Two processes that compute the same: a sum is twice its own part."""

    def __init__(self, backend):
        super().__init__(backend, 0, 2)
        self.kinds = []

    def _sum(self, flat):
        self.kinds.append(self.backend.dtype(flat))
        return flat + flat


def test_gradients_in_bfloat16_keep_their_digits(backend, monkeypatch):
    """Half the traffic, an error of at most 2^-8 of each number; the loss and the votes travel whole."""
    monkeypatch.setattr(backend, "group", Twins(backend), raising=False)
    together = Together(backend, "bfloat16")
    answer = together.agreed(lambda: "pause", ("stop", "pause"))
    x = np.random.default_rng(1).standard_normal((20, 30)).astype(np.float32)
    loss, metrics, grads = together.summed(
        backend.array(np.float32(0.1)), {"kl": backend.array(np.float32(0.3))}, {"w": backend.array(x)}
    )
    assert backend.group.kinds == ["float32", "bfloat16"] and backend.dtype(grads["w"]) == "float32"
    assert float(loss) == np.float32(0.1) * 2 and float(metrics["kl"]) == np.float32(0.3) * 2
    apart = np.abs(backend.numpy(grads["w"]) / (2 * x) - 1)
    assert 2**-12 < apart.max() <= 2**-8 and answer() == "pause"


@pytest.mark.skipif(sys.platform == "win32", reason="gloo and the ring are for Linux and macOS here")
def test_two_processes_equal_one(backend, tmp_path, monkeypatch):
    """Every second case is handed over to one process in the middle, and one to two that a single one began."""
    if backend.device == "gpu":
        pytest.skip("two processes need two GPUs")
    both = [case for case in CASES if len(case.backends) > 1]  # they take turns
    own = [case for case in CASES if case.backends == (backend.name,)]
    cases = [*AVERAGED, *both[BACKENDS.index(backend.name) :: 2], *own]
    places = [tmp_path / name for name in ("alone", "together")]
    base = equality.prepared(tmp_path, backend.name, STEPS)
    for place, count in zip(places, (1, 2), strict=True):
        place.mkdir()
        jobs, more = equality.copies(base, place, cases, STEPS, HALF), equality.copies(base, place, [MORE], STEPS, HALF)
        if count == 2:
            equality.trained(place, backend.name, 1, [job | {"stop_after": HALF} for job in more])
            jobs = [job | {"stop_after": HALF} if i % 2 else job for i, job in enumerate(jobs)]
            whole, *parts = equality.copies(base, place, OUTER, STEPS, HALF)
            halves = [job | {"stop_after": HALF} for job in parts]
            equality.trained(place, backend.name, 2, [*jobs, whole, *halves, parts[0], *more])
            jobs, more = [job | {"stop_after": None} for job in jobs[1::2]] + [parts[1]], []
        equality.trained(place, backend.name, 1, jobs + more)
    with np.load(places[1] / MORE.directory / "grpo" / "rollouts" / "00000000.npz") as kept:
        assert len(kept["ids"]) == 1, "fewer rows than processes"
    for gap in equality.gaps([*cases, MORE], "2 processes", *places):
        assert gap.losses <= (EXACT if gap.case.stage == "dpo" else equality.LOSS), gap
        assert gap.weights <= equality.WEIGHTS, gap
    assert equality.same_bits(cases, places[0], places[0]) == []
    check_outer_steps(backend, base, tmp_path, places[1])


@dataclass(frozen=True)
class Share(Custom):
    """The rows of one of two processes, for a training that knows nothing of the other."""

    rank: int = 0

    def of(self, model, objective):
        whole = objective.batches
        return replace(objective, batches=lambda step, weights: normalized(split(whole(step, weights), 2)[self.rank]))


def check_outer_steps(backend, base, directory, place):
    """The first outer step is that of two trainings alone, by NumPy; a resumed training has the same bits."""
    runs = [place / case.directory for case in OUTER]
    kept = [open_run(run).store("sft").checkpoints() for run in runs]
    (found, _), start = load_checkpoint(kept[0][0]), load_checkpoint(base.store("pretrain").final)[0]["weights"]

    def report(event):
        if isinstance(event, Saved) and event.step == HALF:
            raise Stopped

    ends = []
    for rank in (0, 1):
        [job] = equality.copies(base, directory / f"rank-{rank}", [equality.Case("sft", "alone", {})], STEPS, HALF)
        with pytest.raises(Stopped):
            train_stage(run := open_run(Path(job["run"])), "sft", backend, report, custom=Share(rank=rank))
        ends.append(load_checkpoint(run.store("sft").checkpoints()[-1])[0]["weights"])
    for name, common in start.items():
        way = common - (ends[0][name] + ends[1][name]) / 2  # 0.7 (g + 0.6 m), where the first m is g
        assert np.abs(found["weights"][name] - (common - 0.7 * 1.6 * way)).max() < 1e-6, name
        assert np.abs(way).max() > 1e-5 or not way.any(), name
    assert {name.split(".")[1] for name in found["optim"] if name.startswith("ranks.")} == {"0", "1"}
    (losses, weights), (others, theirs), (handed, _) = (equality.result(run, "sft") for run in runs)
    assert losses == others and all(weights[name].tobytes() == theirs[name].tobytes() for name in weights)
    assert len(handed) == STEPS and handed[:HALF] == losses[:HALF] and np.isfinite(handed).all()


WAITS = """
import os, signal, sys
from pathlib import Path

import numpy as np

from backends import get_backend
from minigpt.errors import MiniGPTError
from minigpt.runs import heartbeat
from minigpt.runs.group import joined

heartbeat.EVERY, directory = 0.2, Path(sys.argv[1])
backend = get_backend("torch", "cpu")
leaf = np.eye(3, dtype=np.float32)


def stop(gradient):
    os.kill(os.getpid(), signal.SIGSTOP)


def trained(group, stops):
    def loss(weights, x):
        x = x @ weights["embed"]
        for layer in weights["layers"]:
            x = group.opened(lambda layer, x: x @ layer["w"])(layer, x)
        if stops and group.rank:
            x.register_hook(stop)
        return x.sum(), {}

    return backend.value_and_grad(loss)(weights, backend.array(leaf))


try:
    with joined(directory, backend, {}, print) as group:
        group.in_step = True
        tree = {"embed": leaf, "layers": [{"w": leaf}, {"w": leaf}]}
        weights = group.shared_out(tree, "layers", "float32")
        before = group.exchanges
        trained(group, stops=False)
        (directory / f"{group.rank}.json").write_text(str(group.exchanges - before))
        trained(group, stops=True)
except MiniGPTError as error:
    print(error.message)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_a_process_that_is_stopped_within_a_shared_step_is_noticed_where_the_other_waits(tmp_path):
    """In the backward pass of a model shared out: FSDP2's own exchanges are seen as all others are."""
    environment = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", WAITS, str(tmp_path)]
    both = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
            for rank in (0, 1)]  # fmt: skip
    try:
        seen = set()
        while both[0].poll() is None:
            beat = read_beat(tmp_path / DIRECTORY / "rank-0.json")
            if beat is not None and state_of(both[1].pid) == "stopped":
                seen.add((beat.exchanges, beat.waiting))
            time.sleep(0.05)
        told = both[0].communicate(timeout=60)[0]
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert both[0].returncode == LOST and f"Rank 1 (process {both[1].pid} on " in told, told
    assert "was stopped and does not go on." in told
    done = json.loads((tmp_path / "0.json").read_text("utf-8"))
    assert done == 9, "each of three parts is gathered forwards and backwards, and its gradients are added up"
    assert any(waiting for _, waiting in seen), seen
