"""Twenty training steps of every stage: the same curve on each backend, however a step is divided."""

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from backends import tree
from backends.base import Backend
from minigpt.config import Config, build_config
from minigpt.events import Event, Saved, Step, silent
from minigpt.parity.reference import Row, difference, row
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.stages.table import FIRST, STAGES

STEPS = 20
# Rounding differs by 1e-7 per step between frameworks and between whole and divided batches, and Adam divides by
# small second moments at first. Measured: 5e-6 in the loss, 1.3e-5 in a weight. A wrong formula shows from step 2 on.
LOSS, WEIGHTS = 5e-5, 2e-4
WAYS = [(1, False), (1, True), (4, False), (4, True)]  # accumulation, checkpointing
PLAIN_AND_BOTH = WAYS[::3]
# Ways of training beside the plain one of all weights.
LORA = {"lora_rank": 4, "lora_alpha": 8.0, "lora_dropout": 0.1, "learning_rate": 2e-3}
VARIATIONS = {
    "LoRA": LORA, "DoRA": LORA | {"dora": True}, "LoRA of two layers": LORA | {"lora_targets": ["q_proj", "v_proj"]},
    "dropout": {"dropout": 0.2},
}  # fmt: skip


def compare_trajectories(
    backends: list[Backend], ways: Sequence[tuple[int, bool]] = WAYS,
    varied: Sequence[tuple[int, bool]] = PLAIN_AND_BOTH,
) -> list[Row]:  # fmt: skip
    """Each stage from the same start, for all backends × `ways` (accumulation, checkpointing); then adapters and
    dropout in the `varied` ways.

    Compares the loss at every step and the last weights with those of the first backend's plain run; then a
    run that one backend begins and the other finishes.
    """
    with tempfile.TemporaryDirectory() as directory:
        base = Run(Path(directory) / "base", tiny_config())
        make_tokenizer(base, tuple(STAGES), silent)
        for stage in STAGES:
            make_data(base, stage, silent)
        rows: list[Row] = []
        for stage in STAGES:
            rows += _compare_stage(base, stage, stage, {}, backends, ways)
        for stage, row in STAGES.items():
            for name in row.variations:
                rows += _compare_stage(base, f"{stage} {name}", stage, VARIATIONS[name], backends, varied)
        for first, second in itertools.permutations(backends, 2):
            rows.append(_compare_handover(base, first, second))
    return rows


def tiny_config(stages: Sequence[str] = tuple(STAGES), **stage: object) -> Config:
    """A model small enough that sixty steps take seconds, with data for `stages`; `stage` settings hold for all."""
    common = {"steps": STEPS, "batch_size": 4, "warmup_steps": 2, "eval_every": STEPS, "eval_rows": 4,
              "save_every": STEPS // 2, "grad_clip": 0.5, "dtype": "float32"} | stage  # fmt: skip
    return build_config(
        {
            "model": {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 64, "context": 128}
            | {"qk_norm": True},
            "tokenizer": {"vocab_size": 800},
            "data": {name: ["world"] for name in stages}
            | {"world_texts": 400, "world_instructions": 300, "world_pairs": 60, "world_solutions": 60},
        }
        | {name: common | dict(row.checked) for name, row in STAGES.items()}
    )


def _compare_stage(
    base: Run, name: str, stage: str, settings: dict, backends: list[Backend], ways: Sequence[tuple[int, bool]]
) -> list[Row]:
    rows = []
    expected = None
    for backend, (parts, checkpointing) in itertools.product(backends, ways):
        way = settings | {"grad_accumulation": parts, "activation_checkpointing": checkpointing}
        run = _copy(base, f"{name}-{backend.name}-{parts}-{checkpointing}", stage, way)
        losses = losses_of(run, stage, backend)
        weights = tree.leaves(run.weights(stage)[0])
        if expected is None:
            expected = losses, weights
            if name == stage:
                shutil.copytree(run.store(stage).final, base.store(stage).final)  # where the next stage starts
        case = f"{name}, {backend.name}, accumulation {parts}, checkpointing {'on' if checkpointing else 'off'}"
        pair = "vs the first"
        gap = max(abs(a - b) for a, b in zip(losses, expected[0], strict=True))
        rows.append(row("trajectory", case, "loss", pair, gap, LOSS))
        gap = max(difference(a, b) for a, b in zip(weights, expected[1], strict=True))
        rows.append(row("trajectory", case, "weights", pair, gap, WEIGHTS))
    return rows


def _compare_handover(base: Run, first: Backend, second: Backend) -> Row:
    whole = losses_of(_copy(base, f"whole-{first.name}-{second.name}", FIRST), FIRST, first)
    run = _copy(base, f"handover-{first.name}-{second.name}", FIRST)
    losses = losses_of(run, FIRST, first, stop_after=STEPS // 2) + losses_of(run, FIRST, second)
    gap = max(abs(a - b) for a, b in zip(losses, whole, strict=True))
    case = f"{first.name} for {STEPS // 2} steps, then {second.name}"
    return row("trajectory", case, "loss", "vs one backend", gap, LOSS)


class _Stopped(Exception):
    pass


def losses_of(run: Run, stage: str, backend: Backend, stop_after: int | None = None) -> list[float]:
    """The loss of each step that this call trained, until the checkpoint at `stop_after`."""
    losses: list[float] = []

    def collect(event: Event) -> None:
        if isinstance(event, Step):
            losses.append(event.loss)
        if isinstance(event, Saved) and event.step == stop_after:
            raise _Stopped

    with contextlib.suppress(_Stopped):
        train_stage(run, stage, backend, collect)
    return losses


def _copy(base: Run, name: str, stage: str, settings: dict | None = None) -> Run:
    """A run beside `base` with the same data and the same start, and its own `settings` of `stage`."""
    run = Run(base.directory.parent / name, base.config.with_section(stage, **(settings or {})))
    finals = [f"{before}/final" for before in STAGES if before != stage and base.store(before).finished()]
    for part in ("tokenizer", f"data/{stage}", *finals):
        shutil.copytree(base.directory / part, run.directory / part)
    return run
