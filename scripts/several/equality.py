"""Do several processes train the same model as one? Each stage, in its ways of training, from the same start."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backends import BACKENDS
from minigpt.cli.launching import launch_command
from minigpt.errors import MiniGPTError
from minigpt.events import silent
from minigpt.parity.trajectories import LORA, tiny_config
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.run import Run, open_run
from minigpt.runs.training import train_stage
from minigpt.stages.table import STAGES
from minigpt.store.checkpoint import load_checkpoint
from minigpt.store.stage import averaged
from several.rank import train_all

LOSS, WEIGHTS = 1e-6, 1e-5
BATCH = 6  # rows of a step: four processes get two, two, one and one
FULL, TORCH = {"shard": "full"}, ("torch",)
ROUNDING = "1 process, row by row"  # which differs from one process by the order of its sums alone
RANK = Path(__file__).with_name("rank.py")


@dataclass(frozen=True)
class Case:
    """A way of training a stage. With `rows` batches have so few, as given ones may: fewer than there are processes."""

    stage: str
    name: str
    settings: dict
    backends: tuple[str, ...] = BACKENDS
    rows: int = 0

    @property
    def directory(self) -> str:
        return f"{self.stage}-{self.name.replace(', ', '-').replace(' ', '-')}"


WHOLE = (
    Case("pretrain", "muon", {"optimizer": "muon"}),
    Case("pretrain", "2 micro-batches, dropout", {"grad_accumulation": 2, "dropout": 0.1}),
    Case("sft", "adamw, checkpointing", {"activation_checkpointing": True}),
    Case("sft", "lora, 2 micro-batches", LORA | {"grad_accumulation": 2}),
    Case("sft", "muon, moments shared out", {"optimizer": "muon", "shard": "moments"}),
    Case("sft", "one row, moments shared out", {"shard": "moments"}, rows=1),
    Case("dpo", "muon, 3 micro-batches", {"optimizer": "muon", "grad_accumulation": 3}),
    Case("grpo", "adamw, kl", {"kl_coefficient": 0.05}),
)
SHARED_OUT = (
    Case("pretrain", "muon, full, 2 micro-batches", {"optimizer": "muon", "grad_accumulation": 2} | FULL, TORCH),
    Case("pretrain", "full, dropout", {"dropout": 0.1} | FULL, TORCH),
    Case("pretrain", "full, one row", FULL, TORCH, rows=1),
    Case("sft", "adamw, full, checkpointing", {"activation_checkpointing": True} | FULL, TORCH),
    Case("dpo", "muon, full, 3 micro-batches", {"optimizer": "muon", "grad_accumulation": 3} | FULL, TORCH),
)


def _others(special: Sequence[Case], name: str, settings: dict, backends: tuple[str, ...]) -> tuple[Case, ...]:
    """The plain way of each stage of the table that has no special one, where the settings are possible."""
    known = {case.stage for case in special} | {
        stage for stage, row in STAGES.items() if settings == FULL and row.config().needs_weights
    }
    return tuple(Case(stage, name, settings, backends) for stage in STAGES if stage not in known)


CASES = (
    *WHOLE, *_others(WHOLE, "adamw", {}, BACKENDS), *SHARED_OUT, *_others(SHARED_OUT, "adamw, full", FULL, TORCH)
)  # fmt: skip


@dataclass(frozen=True)
class Gap:
    """How far a training by several processes is from that by one: losses, gradient norms and last weights.

    It may be LOSS and WEIGHTS, or as far as one process is from itself that computes the same row by row (`rounding`):
    where numbers are large (sums of log-probabilities near -300 have steps of 3e-5) float32 is no better than that.
    """

    case: Case
    way: str
    losses: float
    weights: float
    rounding: tuple[float, float] = (0.0, 0.0)

    @property
    def equal(self) -> bool:
        return self.losses <= max(LOSS, self.rounding[0]) and self.weights <= max(WEIGHTS, self.rounding[1])

    @property
    def verdict(self) -> str:
        if self.way == ROUNDING:
            return "rounding"
        within = self.losses <= LOSS and self.weights <= WEIGHTS
        return "equal" if within else "as rounding" if self.equal else "APART"


def prepared(directory: Path, backend_name: str, steps: int, **settings: object) -> Run:
    """A run with its data, pretrained for two steps and then tuned for two, from which all cases start."""
    from backends import get_backend

    common = {"steps": 2, "batch_size": BATCH, "warmup_steps": 1, "eval_rows": 6, "save_every": 2, "log_every": 1}
    config = tiny_config(**common | settings)
    small = {"world_texts": 120, "world_lessons": 0, "world_instructions": 120, "world_pairs": 60}
    model = config.model.model_copy(update={"context": 80, "n_layer": 1})
    run = Run(directory / "base", config.model_copy(
        update={"model": model, "data": config.data.model_copy(update=small)}
    ))  # fmt: skip
    run.save_config()
    make_tokenizer(run, tuple(STAGES), silent)
    for stage in STAGES:
        make_data(run, stage, silent)
        if stage in ("pretrain", "sft"):
            train_stage(run, stage, get_backend(backend_name, "cpu"), silent)
    return run


def copies(base: Run, directory: Path, cases: Sequence[Case], steps: int, save_every: int) -> list[dict]:
    """A copy of the base for each case, in which its stage is still to be done; returns the jobs."""
    jobs = []
    for case in cases:
        own = {"steps": steps, "eval_every": save_every, "save_every": save_every} | case.settings
        run = Run(directory / case.directory, base.config.with_section(case.stage, **own))
        shutil.copytree(base.directory, run.directory)
        for later in list(STAGES)[list(STAGES).index(case.stage) :]:
            shutil.rmtree(run.store(later).directory, ignore_errors=True)
        run.save_config()
        jobs.append({"run": str(run.directory), "stage": case.stage, "stop_after": None, "rows": case.rows})
    return jobs


def trained(directory: Path, backend: str, processes: int, jobs: list[dict]) -> None:
    """Train the jobs with so many processes. Raises MiniGPTError with what they said when they fail."""
    file = directory / "jobs.json"
    file.write_text(json.dumps({"backend": backend, "jobs": jobs}), "utf-8")
    if processes == 1:
        train_all(file)
        return
    before = os.environ.get("OMP_NUM_THREADS")
    command = launch_command(backend, processes, [str(RANK), str(file)])
    path = os.pathsep.join([str(RANK.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": before or "1"}
    done = subprocess.run(command, env=environment, stdin=subprocess.PIPE, capture_output=True, text=True)
    if done.returncode:
        raise MiniGPTError(f"{processes} processes ended with {done.returncode}: {done.stdout}{done.stderr}")


def gaps(cases: Sequence[Case], way: str, alone: Path, together: Path) -> list[Gap]:
    """How far the runs of a directory are from those of the other."""
    found = []
    for case in cases:
        (losses, weights), (others, other) = (result(place / case.directory, case.stage) for place in (alone, together))
        assert len(losses) == len(others) and len(losses) > 0, (case, len(losses), len(others))
        apart = max(float(np.abs(weights[name] - other[name]).max()) for name in weights)
        found.append(Gap(case, way, max(abs(a - b) for a, b in zip(losses, others, strict=True)), apart))
    return found


def result(run: Path, stage: str) -> tuple[list[float], dict[str, np.ndarray]]:
    """(loss of each step, last weights or their averages) of a stage."""
    store = open_run(run).store(stage)
    lines = [json.loads(line) for line in store.journal.read_text("utf-8").splitlines()]
    trees = load_checkpoint(store.checkpoints()[-1])[0]
    return [line["loss"] for line in lines if "loss" in line], averaged(trees["weights"], trees["optim"])


def same_bits(cases: Sequence[Case], one: Path, other: Path) -> list[str]:
    """The cases whose losses or weights differ in any bit."""
    different = []
    for case in cases:
        (losses, weights), (others, theirs) = (result(place / case.directory, case.stage) for place in (one, other))
        if losses != others or any(weights[name].tobytes() != theirs[name].tobytes() for name in weights):
            different.append(case.directory)
    return different


def compared(
    directory: Path, backend: str, counts: Sequence[int], steps: int, cases: Sequence[Case] = CASES
) -> tuple[list[Gap], list[str]]:
    """All gaps for 1 against `counts` processes, the same launch again, and runs handed over from N to M; what one
    process differs by is the first of a case.
    """
    base = prepared(directory, backend, steps)

    def ran(name: str, *parts: tuple[int, int | None], each: dict | None = None) -> Path:
        place = directory / name
        place.mkdir()
        ways = [replace(case, settings=case.settings | (each or {})) for case in cases]
        jobs = copies(base, place, ways, steps, steps // 2)
        for processes, stop_after in parts:
            trained(place, backend, processes, [job | {"stop_after": stop_after} for job in jobs])
        return place

    alone, half, told = ran("alone", (1, None)), steps // 2, []
    rows = gaps(cases, ROUNDING, alone, ran("rows", (1, None), each={"grad_accumulation": BATCH}))
    rounding = {gap.case.directory: (gap.losses, gap.weights) for gap in rows}
    for count in counts:
        together = ran(f"by-{count}", (count, None))
        rows += gaps(cases, f"{count} processes", alone, together)
        rows += gaps(cases, f"1 process, {count} from step {half}", alone, ran(f"1-{count}", (1, half), (count, None)))
        rows += gaps(cases, f"{count}, 1 from step {half}", alone, ran(f"{count}-1", (count, half), (1, None)))
        again = {"the same launch again": ran(f"again-{count}", (count, None)),
                 "stopped and resumed": ran(f"resumed-{count}", (count, half), (count, None))}  # fmt: skip
        for what, place in again.items():
            different = same_bits(cases, together, place)
            told.append(f"{backend}, {count} processes, {what}: {different or 'the same bits'}")
    for one, other in itertools.permutations(counts, 2):
        handed = ran(f"{one}-{other}", (one, half), (other, None))
        rows += gaps(cases, f"{one}, {other} from step {half}", alone, handed)
    rows = [replace(row, rounding=rounding[row.case.directory]) for row in rows]
    return sorted(rows, key=lambda row: cases.index(row.case)), told

