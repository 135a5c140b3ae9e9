"""A real want of memory: the address space ends between what a whole step needs and what its parts need."""

import resource
import subprocess
import sys
import time
from pathlib import Path

from .ordeal import Outcome, count, journal_of

# A step whose activations outweigh everything else, so that half of its rows need clearly less.
SETTINGS = {
    "pretrain.steps": 3, "pretrain.batch_size": 64, "pretrain.log_every": 1, "pretrain.save_every": 1,
    "pretrain.eval_every": 100, "pretrain.eval_rows": 4, "model.n_layer": 2, "data.world_texts": 2000,
    "data.world_lessons": 0, "data.pretrain": "['world']",
}  # fmt: skip


def out_of_memory(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """Training starts again with more micro-batches per step, and the losses are the same within 1e-5."""
    outcome, ended = Outcome("the memory ends in a step (Linux: address space limited)"), 0
    if not Path("/proc/self/status").exists():
        outcome.note = "left out: this system does not limit the address space"
        return [outcome]
    for name in backends:
        peaks = [_peak(directory / f"{name}-{parts}", name, parts) for parts in (1, 2)]
        right = _losses(directory / f"{name}-1")
        for number in range(count(3, scale)):
            run = directory / f"{name}-limited-{number}"
            limit = peaks[1] + (peaks[0] - peaks[1]) * (number + 2) // 5
            code = _start(run, name, 1, "--supervise", limit).wait()
            gap = max(abs(a - b) for a, b in zip(_losses(run), right, strict=True)) if code == 0 else float("inf")
            ended += (run / "pretrain" / "memory.json").exists()
            outcome.check(gap < 1e-5, f"{name}, {limit / 1e9:.2f} GB: exit {code}, difference {gap}")
    outcome.note = f"{ended} died and went on with more micro-batches per step; losses the same within 1e-5"
    return [outcome]


def _peak(run: Path, backend: str, parts: int) -> int:
    """Bytes of address space that a training takes at most."""
    process, peak = _start(run, backend, parts, "--no-supervise", None), 0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = max([peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak"))])
        time.sleep(0.05)
    assert process.returncode == 0, run
    return peak


def _losses(run: Path) -> list[float]:
    return [line["loss"] for line in journal_of(run / "pretrain") if "loss" in line]


def _start(run: Path, backend: str, parts: int, supervise: str, limit: int | None) -> subprocess.Popen:
    def bounded() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    values = SETTINGS | {"pretrain.accumulation": parts}
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "minigpt", "train", "pretrain", "--run", run, "--backend", backend, *sets]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*map(str, command), "--device", "cpu", supervise], preexec_fn=bounded, **streams)
