"""What `minigpt check` measures on a machine: each function states a fact, or raises with what is wrong.

They are called one by one in processes of their own (see `minigpt.parity.selfcheck`).
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from backends.base import Backend
from minigpt.errors import says_out_of_memory
from minigpt.events import Compared, Event, silent
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import Sampling
from minigpt.machine import ceiling
from minigpt.machine.brake import Brake
from minigpt.machine.formats import bfloat16_speed, bfloat16_units
from minigpt.machine.limits import Limits
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.parity.controls import check_controls
from minigpt.parity.models import compare_losses, compare_models
from minigpt.parity.ops import compare_ops
from minigpt.parity.reference import Row
from minigpt.parity.trajectories import losses_of, tiny_config
from minigpt.quantize.codes import quantize_matrix
from minigpt.runs.control import Control
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.planning import plan_of_run
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.sections import ModelConfig
from minigpt.stages.table import FIRST, STAGES
from minigpt.text.learn import train_tokenizer
from minigpt.train.stop import Stop
from minigpt.units import gigabytes

STEPS, SAME_CURVE = 6, 5e-4  # steps of each stage, and how far compiled and plain losses may be apart
SHARE, NEAR_SHARE, BRAKED = 0.4, 0.08, 8.0  # CPU limit that is tried, how near it is held, seconds
ROOM = 400_000_000  # bytes above what is resident that the ceiling leaves
WIDTH = 512


class Wrong(Exception):
    """A fact that is not as it should be."""


class Unable(Exception):
    """What this machine or framework does not have, so that there is nothing to state."""


def operations(backend: Backend) -> str:
    return _agreement(compare_ops([backend]))


def models(backend: Backend) -> str:
    return _agreement([*compare_models([backend]), *compare_losses([backend])])


def controls(backend: Backend) -> str:
    rows = check_controls(backend)
    missed = [row.case for row in rows if not row.ok]
    _fail(f"{len(missed)} planted mistakes are not noticed: {'; '.join(missed[:3])}" if missed else "")
    return f"all {len(rows)} planted mistakes are caught"


def _agreement(rows: list[Row]) -> str:
    """How many comparisons with NumPy hold. Raises Wrong with the first that do not."""
    broken = [row for row in rows if not row.ok]
    told = "; ".join(f"{row.case} {row.quantity} {row.difference:.2g} > {row.bound:.2g}" for row in broken[:4])
    _fail(f"{len(broken)} of {len(rows)} differ from NumPy: {told}" if broken else "")
    return f"{len(rows):,} comparisons with NumPy hold"


def training(backend: Backend) -> str:
    """Some steps of each stage, compiled and not: the same losses, and milliseconds of a step."""
    told = []
    with tempfile.TemporaryDirectory() as directory:
        for compiled in (True, False):
            run = _prepared(Path(directory) / str(compiled), compile=compiled, dtype="float32")
            found = {}
            for stage in STAGES:
                began = time.perf_counter()
                found[stage] = losses_of(run, stage, backend), (time.perf_counter() - began) / STEPS
            told.append(found)
    gaps = {
        stage: max(abs(a - b) for a, b in zip(told[0][stage][0], told[1][stage][0], strict=True)) for stage in STAGES
    }
    finite = all(np.isfinite(told[0][stage][0]).all() for stage in STAGES)
    _fail("" if finite else "a loss is not finite")
    _fail("; ".join(f"{stage}: compiled and plain losses are {gap:.2g} apart" for stage, gap in gaps.items()
                    if gap > SAME_CURVE))  # fmt: skip
    times = ", ".join(f"{stage} {told[0][stage][1] * 1e3:.0f}/{told[1][stage][1] * 1e3:.0f}" for stage in STAGES)
    return f"{STEPS} steps of each stage, the same losses within {max(gaps.values()):.1g}; ms compiled/plain: {times}"


def _prepared(directory: Path, **settings: object) -> Run:
    """A run with a tiny model and its data, ready to be trained for a few steps."""
    run = Run(directory, tiny_config(steps=STEPS, eval_every=STEPS, save_every=STEPS, **settings))
    make_tokenizer(run, tuple(STAGES), silent)
    for stage in STAGES:
        make_data(run, stage, silent)
    return run


def bfloat16(backend: Backend) -> str:
    """A product in bfloat16: within its precision of float64, and how fast."""
    draw = np.random.default_rng(0)
    x, w = (draw.standard_normal((rows, WIDTH)).astype(np.float32) for rows in (64, 96))
    narrow = backend.linear(*(backend.cast(backend.array(a), "bfloat16") for a in (x, w)))
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    error = float(np.abs(backend.numpy(narrow) - exact).max() / np.abs(exact).max())
    _fail(f"a product is off by {error:.2g} of its largest number" if not error < 0.02 else "")
    units = f", CPU units: {bfloat16_units()}" if backend.device == "cpu" else ""
    return f"a product is {bfloat16_speed(backend, WIDTH):.2f}× as fast as in float32, error {error:.1g}{units}"


def packed(backend: Backend) -> str:
    """A row, and many rows, times a matrix in 4 bits: the same as with the floats that it stands for, and how fast."""
    draw = np.random.default_rng(0)
    leaves = quantize_matrix(draw.standard_normal((4 * WIDTH, WIDTH)).astype(np.float32), 4, 64)
    codes = [backend.array(leaves[name]) for name in ("packed", "scales", "biases")]
    scales, biases = (backend.cast(array, "float32") for array in codes[1:])
    floats = backend.quantized.dequantize(codes[0], scales, biases, 4)
    said = []
    for rows in (1, 256):
        x = backend.array(draw.standard_normal((1, rows, WIDTH)).astype(np.float32))
        few, plain = (lambda x=x: backend.quantized.linear(x, *codes)), (lambda x=x: backend.linear(x, floats))
        a, b = backend.numpy(few()), backend.numpy(plain())
        error = float(np.abs(a - b).max() / np.abs(b).max())
        _fail(f"{rows} rows differ by {error:.2g} from the unpacked product" if not error < 1e-3 else "")
        said.append(f"{rows} row{'s' * (rows > 1)} {_best(backend, plain) / _best(backend, few):.2f}×")
    kernels = "kernels" if backend.quantized.fast else "unpacking"
    return f"{kernels}; speed against floats: {', '.join(said)}"


def decode(backend: Backend) -> str:
    """Greedy tokens with the cache are those of the whole text read anew for each; tokens per second."""
    tokenizer = train_tokenizer("byte", [], 0)
    config = ModelConfig(n_layer=4, n_head=8, n_kv_head=4, d_model=256, d_ff=704, context=256,
                         vocab_size=tokenizer.vocab_size)  # fmt: skip
    weights = to_backend(backend, init_weights(config, 0))
    engine, count = Engine(GPT(config, backend), weights, tokenizer), 64
    prompt, greedy = tokenizer.encode("Once upon a time"), Sampling(temperature=0.0)
    ids = engine.answer([prompt], greedy, 8)[0].ids
    text = list(prompt)
    for position, token in enumerate(ids):
        row = backend.numpy(GPT(config, backend)(weights, backend.array(np.array([text], np.int32))))[0, -1]
        close = row.max() - row[token] < 1e-4
        _fail("" if close else f"token {position + 1} with the cache is not the one of the whole text")
        text.append(token)
    began = time.perf_counter()
    made = len(engine.answer([prompt], greedy, count)[0].ids)
    return f"{max(1, made) / (time.perf_counter() - began):.0f} tokens/s of {gigabytes(_size(weights))}, cache exact"


def plan(backend: Backend) -> str:
    """What a stage was planned to take beside what it took."""
    found: list[Event] = []
    with tempfile.TemporaryDirectory() as directory:
        config = tiny_config(steps=40, eval_every=40, save_every=40, batch_size=16, dtype="auto")
        wider = config.model.model_copy(update={"d_model": 128, "d_ff": 352, "n_layer": 4})
        run = Run(Path(directory) / "run", config.model_copy(update={"model": wider}))
        make_tokenizer(run, (FIRST,), silent)
        make_data(run, FIRST, silent)
        planned = plan_of_run(run, (FIRST,), backend, Limits(), "1h")
        train_stage(run, FIRST, backend, found.append, Control(plan=planned))
    took = next(event for event in found if isinstance(event, Compared))
    times = "" if not took.planned_seconds else f", time {took.seconds / took.planned_seconds - 1:+.0%} "
    times += "" if not took.planned_seconds else f"({took.seconds:.1f} s)"
    busy = "; another program is busy" if planned.note else ""
    memory = f"memory {took.memory / took.planned_memory - 1:+.0%} ({gigabytes(took.memory)})"
    _fail(f"{memory}{times}: far from the plan" if took.memory > 1.5 * took.planned_memory else "")
    return f"against the plan: {memory}{times}{busy}"


def memory_ceiling(backend: Backend) -> str:
    """Within the ceiling memory can be had; beyond, an allocation fails with an error that Python can catch."""
    start = Brake(Limits(), backend, Stop()).resident
    brake = Brake(Limits("full", None, start + ROOM), backend, Stop())
    room = brake.apply()
    if room is None and backend.device == "cpu":
        raise Unable("this system holds no ceiling for a process; caches are cleared and steps divided instead")
    numbers = ROOM // 4 // 4
    backend.sync(backend.zeros((numbers,)) + 1.0)
    try:
        backend.sync(*[backend.zeros((numbers,)) + float(part) for part in range(12)])
    except (MemoryError, RuntimeError, ValueError) as error:
        _fail("" if isinstance(error, MemoryError) or says_out_of_memory(str(error)) else f"unclear error: {error}")
        return f"an allocation {gigabytes(2 * ROOM)} beyond the ceiling is refused and caught"
    finally:
        ceiling.release()
    raise Wrong(f"{gigabytes(3 * ROOM)} were given out under a ceiling that leaves {gigabytes(ROOM)}")


def throttle(backend: Backend) -> str:
    """The share of the processor that work takes under a limit."""
    brake = Brake(Limits("full", SHARE), backend, Stop())
    x = backend.zeros((WIDTH, WIDTH)) + 0.001
    began, cpu = time.monotonic(), sum(os.times()[:2])
    while time.monotonic() - began < BRAKED:
        backend.sync(x @ x)
        brake.rest()
    elapsed = time.monotonic() - began
    used = (sum(os.times()[:2]) - cpu) / elapsed / brake.machine.cores
    if backend.device == "gpu":
        used = max(used, 1 - brake.rested / elapsed)  # of a GPU the time without rest is the share
    held = used <= SHARE + NEAR_SHARE
    _fail("" if held else f"{used:.0%} were used of at most {SHARE:.0%}")
    return f"at most {SHARE:.0%} asked, {used:.0%} used"


def _best(backend: Backend, work: Callable, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        backend.sync(work())
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _size(weights: object) -> int:
    from backends.tree import leaves

    return sum(leaf.nbytes for leaf in leaves(weights))


def _fail(reason: str) -> None:
    """Raises Wrong when there is a reason."""
    if reason:
        raise Wrong(reason)


FACTS: dict[str, Callable[[Backend], str]] = {
    "operations": operations, "models": models, "planted mistakes": controls, "training": training,
    "bfloat16": bfloat16, "4 bits": packed, "decode": decode, "plan": plan, "memory ceiling": memory_ceiling,
    "throttle": throttle,
}  # fmt: skip
