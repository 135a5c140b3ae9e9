"""How time and memory grow: each curve measured point by point, every point in a process of its own."""

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comparisons.duel import Figures, worker

from minigpt.config import Config, load_config
from minigpt.data.forms import TEXTS
from minigpt.machine.now import memory_total
from minigpt.model.gpt import parameter_count
from minigpt.plan.memory import stage_memory

BASE = 400_000_000  # bytes of Python and a framework, about: only to leave out what does not fit
SHARE = 0.8  # of this machine's memory, which a point may take
STEP = ["seconds a step", "peak MB"]
LAYERS = {128: 4, 256: 6, 512: 8, 768: 15}  # width: layers; 0.9, 4.7, 24 and 99 M parameters
Curve = dict[str, Any]


def growth() -> Iterator[Curve]:
    """Training steps against context, parameters and batch; then what must not grow faster than its input."""
    yield steps("torch", "context", [128, 256, 512, 1024, 2048, 4096], "1 M, batch 1")
    yield steps("torch", "batch", [1, 2, 4, 8, 16, 32, 64], "1 M, context 256")
    yield steps("torch", "parameters", [*LAYERS], "context 256, batch 1")
    yield steps("mlx", "context", [128, 256, 512, 1024], "1 M, batch 1")
    yield steps("mlx", "batch", [1, 2, 4, 8], "1 M, context 256")
    for backend in ("torch", "mlx"):
        points = [(n, {"backend": backend, "context": n}) for n in (128, 256, 512, 1024, 2048, 4096)]
        yield curve(f"Decoding, {backend}, 1 M", "tokens before", "decode", points, ["ms a token", "ms for the prompt"])
    for name, axis, sizes, figure in (
        ("sampling", "vocabulary", [4096 * 2**i for i in range(7)], "ms a token"),
        ("packing", "rows", [2000 * 2**i for i in range(7)], "seconds"),
        ("logging", "steps", [500 * 2**i for i in range(7)], "seconds"),
    ):
        yield curve(name.capitalize(), axis, name, [(size, {"size": size}) for size in sizes], [figure])


def steps(backend: str, axis: str, values: Sequence[int], rest: str) -> Curve:
    """Training steps of `backend` with everything as usual but `axis`; points that would not fit are left out."""
    points, left_out = [], []
    for value in values:
        asked = {"width": value} if axis == "parameters" else {axis: value}
        config = config_of(**asked)
        x = parameter_count(config.model) if axis == "parameters" else value
        need = stage_memory(config.model, TEXTS, config.sft, (backend, "cpu"), "float32", BASE).total
        if need > SHARE * memory_total():
            left_out.append(f"{x:,}")
        else:
            points.append((x, {"backend": backend} | asked))
    note = f"; {', '.join(left_out)} left out: more memory than here is" * bool(left_out)
    return curve(f"A training step, {backend}, {rest}{note}", axis, "step", points, STEP)


def config_of(width: int = 128, context: int = 256, batch: int = 1) -> Config:
    """The tiny preset with AdamW in float32, with other sizes. The step is SFT's section: adapter_bench.py's."""
    sets = {"model.d_model": width, "model.n_layer": LAYERS[width], "model.n_head": width // 32,
            "model.n_kv_head": width // 64, "model.d_ff": 8 * width // 3 // 32 * 32, "model.context": context,
            "model.vocab_size": 1536, "sft.batch_size": batch, "sft.optimizer": "adamw"}  # fmt: skip
    return load_config("tiny", None, [f"{name}={value}" for name, value in sets.items()])


def curve(what: str, axis: str, kind: str, points: Sequence[tuple[int, dict]], figures: Sequence[str]) -> Curve:
    """Measure the points (x, settings) of one curve."""
    found = []
    for x, asked in points:
        found.append({"x": x} | measured(kind, asked))
        print(f"{what}: {found[-1]}", file=sys.stderr)
    shown = {name: exponents([(point["x"], point[name]) for point in found]) for name in figures}
    return {"what": what, "axis": axis, "figures": shown, "points": found}


def measured(kind: str, asked: dict) -> Figures:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        figures, done = worker(Path(directory), "growth_points", kind, json.dumps(asked))
    return figures | {"peak MB": done.peak_mb}


def exponents(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The slopes of log y over log x between neighbours, and of a line through the upper half of the points."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    between = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(logs, logs[1:], strict=False)]
    upper = logs[len(logs) // 2 :] if len(logs) > 3 else logs
    fit = statistics.linear_regression(*zip(*upper, strict=True)).slope if len(upper) > 1 else None
    return {"exponents": between, "fit": fit}
