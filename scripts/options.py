"""What each option is worth: one small model, one change at a time, at equal tokens and at equal time.

    python scripts/options.py --data tinyshakespeare --steps 600 --seeds 3 --out options.md

Every option is trained with the same seeds as the model without it, first for as many steps, then for as many as take
the time that the plain model takes. How long a step of each takes is measured once, by turns: two trainings in one
process, of which always one waits, as machines are not always equally fast. The table has the difference in bits per
byte on held-out text (negative: better) with a 95 % interval over the seeds, and says what that shows: helps, hurts, or
noise. Trainings are kept in --directory, so that the same command goes on where it was interrupted.
"""

import argparse
import json
import math
import shutil
import statistics
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from backends import get_backend
from backends.base import Backend
from minigpt.config import Config, load_config
from minigpt.events import Event, Step, silent
from minigpt.runs.pipeline import run_pipeline
from minigpt.runs.run import Run
from minigpt.stages.table import FIRST
from minigpt.store.checkpoint import read_state
from minigpt.store.durable import whole_directory, write_whole

PLAIN = "as it is"
TURNS = 60  # steps of the plain model and of an option, one after the other, which tell how long a step of it takes
FIRST_TURNS = 5  # that do not count: much is made in them
# Option -> its settings, beside those of the preset. Experts have the arithmetic of the dense layer.
Settings = dict[str, object]
OF_THE_MODEL: dict[str, Settings] = {
    "learned positions": {"positions": "learned"},
    "sinusoidal positions": {"positions": "sinusoidal", "embedding_scale": True},
    "ALiBi": {"positions": "alibi"},
    "no positions": {"positions": "none"},
    "half of a head rotates": {"rope_fraction": 0.5},
    "window 64, every second layer full": {"sliding_window": 64, "full_attention_every": 2},
    "post-norm": {"norm_placement": "post"},
    "sandwich norm": {"norm_placement": "sandwich"},
    "LayerNorm": {"norm": "layer"},
    "GeGLU": {"feed_forward": "geglu"},
    "ReLU² (as wide as SwiGLU is large)": {"feed_forward": "relu2", "d_ff": 528},
    "GELU (as wide as SwiGLU is large)": {"feed_forward": "gelu", "d_ff": 528},
    "parallel layers": {"parallel": True},
    "no QK-norm": {"qk_norm": False},
    "logit soft-cap 15": {"logit_softcap": 15.0},
    "shift of one token": {"token_shift": 1},
    "shift of four tokens": {"token_shift": 4},
    "short convolution": {"convolution": 3},
    "value embeddings": {"value_embeddings": True},
    "values from projected embeddings": {"value_projection": True},
    "gates of heads": {"head_gate": True},
    "skips between halves": {"skips": True},
    "last block twice": {"repeat_layers": 1},
    "one token further ahead": {"predict_ahead": 1},
    "4 experts, top 1": {"experts": 4, "experts_per_token": 1},
    "8 experts, top 2": {"experts": 8, "expert_width": 176},
    "8 experts, sigmoid, bias": {"experts": 8, "expert_width": 176, "router": "sigmoid", "balance": "bias",
                                 "normalize_gates": True},
    "8 experts, threshold": {"experts": 8, "expert_width": 176, "router": "threshold"},
}  # fmt: skip
OF_THE_TRAINING: dict[str, Settings] = {
    "dropout 0.1": {"dropout": 0.1},
    "stochastic depth 0.1": {"stochastic_depth": 0.1},
    "weight decay 0.8": {"weight_decay": 0.8},
    "weight decay 1.6, dropout 0.1": {"weight_decay": 1.6, "dropout": 0.1},
    "moving average of weights, 0.95": {"ema_decay": 0.95},
    "mean weights of the last quarter": {"swa_fraction": 0.25},
    "a rate that falls to nothing": {"final_fraction": 0.0},
    "a rate that falls as a cosine": {"schedule": "cosine"},
}
OPTIONS: dict[str, dict[str, Settings]] = {
    PLAIN: {},
    **{name: {"model": settings} for name, settings in OF_THE_MODEL.items()},
    **{name: {FIRST: settings} for name, settings in OF_THE_TRAINING.items()},
}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t by the number of seeds


def main() -> None:
    arguments = parser().parse_args()
    backend = get_backend(arguments.backend)
    chosen = {PLAIN: {}} | {name: OPTIONS[name] for name in arguments.only or OPTIONS}
    rows = []
    for name, settings in chosen.items():
        part = 1.0 if name == PLAIN else of_its_time(arguments, backend, name, settings)
        steps = max(1, round(arguments.steps / part))
        tokens, times = [], []
        for seed in range(1, arguments.seeds + 1):
            plain = 0.0 if name == PLAIN else trained(arguments, backend, PLAIN, {}, seed, arguments.steps)
            tokens.append(trained(arguments, backend, name, settings, seed, arguments.steps) - plain)
            times.append(trained(arguments, backend, name, settings, seed, steps) - plain)
        rows.append((name, part, tokens, times))
        print(line(*rows[-1]), flush=True)
    if arguments.out:
        write_whole(Path(arguments.out), table(rows, arguments))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", nargs="+", default=["tinyshakespeare"])
    found.add_argument("--backend", default="torch")
    found.add_argument("--preset", default="tiny")
    found.add_argument("--steps", type=int, default=600)
    found.add_argument("--seeds", type=int, default=3)
    found.add_argument("--only", nargs="+", choices=list(OPTIONS), metavar="OPTION")
    found.add_argument("--set", nargs="+", default=[], dest="sets", metavar="A.B=C", help="for all trainings")
    found.add_argument("--directory", type=Path, default=Path("runs/options"))
    found.add_argument("--out", help="a Markdown file for the table")
    return found


def trained(
    arguments: argparse.Namespace, backend: Backend, name: str, settings: dict[str, Settings], seed: int, steps: int
) -> float:
    """Bits per byte of one training's best weights, or what is kept of it. A seed has one vocabulary and data."""
    directory = _directory(arguments, name) / f"{seed}-{steps}"
    plain = _directory(arguments, PLAIN) / f"{seed}-{arguments.steps}"
    kept = directory / "bits.json"
    if not kept.exists():
        if (plain / "bits.json").exists() and not directory.exists():
            with whole_directory(directory) as begun:
                for made in ("tokenizer", "data"):
                    shutil.copytree(plain / made, begun / made)
        run = run_pipeline(Run(directory, configured(arguments, settings, seed, steps)), backend, silent, [FIRST])
        write_whole(kept, json.dumps(read_state(run.store(FIRST).final)["metrics"]["bits_per_byte"]))
    return json.loads(kept.read_text("utf-8"))


def of_its_time(arguments: argparse.Namespace, backend: Backend, name: str, settings: dict[str, Settings]) -> float:
    """How long a step of the option takes, in parts of the plain model's: the median over TURNS, or what is kept."""
    kept = _directory(arguments, name) / "time.json"
    if not kept.exists():
        turns = min(TURNS, arguments.steps)
        with tempfile.TemporaryDirectory() as directory:
            runs = [Run(Path(directory) / str(i), configured(arguments, one, 1, turns))
                    for i, one in enumerate(({}, settings))]  # fmt: skip
            plain, option = by_turns(runs, backend)
        ratios = [b / a for a, b in zip(plain, option, strict=True)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(statistics.median(ratios[FIRST_TURNS:] or ratios)))
    return json.loads(kept.read_text("utf-8"))


def configured(arguments: argparse.Namespace, settings: dict[str, Settings], seed: int, steps: int) -> Config:
    own = {"seed": seed, f"data.{FIRST}": arguments.data, f"{FIRST}.steps": steps}
    own |= {f"{section}.{key}": value for section, some in settings.items() for key, value in some.items()}
    last = [f"{key}={json.dumps(value)}" for key, value in own.items()]  # so that an option differs from --set, too
    return load_config(arguments.preset, None, [*arguments.sets, *last])


def _directory(arguments: argparse.Namespace, name: str) -> Path:
    return arguments.directory / "".join(c if c.isalnum() else "-" for c in name)


def by_turns(runs: list[Run], backend: Backend) -> list[list[float]]:
    """Seconds of each step of two trainings that do a step by turns, each in a thread, so that what else the machine
    does meets both.
    """
    may = [threading.Semaphore(1), threading.Semaphore(0)]
    seconds: list[list[float]] = [[], []]

    def note(one: int, event: Event) -> None:
        if isinstance(event, Step):
            seconds[one].append(event.seconds)
            may[1 - one].release()
            may[one].acquire()

    def train(one: int) -> None:
        may[one].acquire()
        try:
            run_pipeline(runs[one], backend, partial(note, one), [FIRST])
        finally:
            may[1 - one].release()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, (0, 1)))
    return seconds


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half of the 95 % interval) over seeds; infinite for a single one."""
    if len(values) < 2:
        return values[0], math.inf
    return statistics.mean(values), T95.get(len(values), 1.96) * statistics.stdev(values) / len(values) ** 0.5


def verdict(values: list[float]) -> str:
    """What differences from the plain model show."""
    mean, half = interval(values)
    return "noise" if abs(mean) <= half else "helps" if mean < 0 else "hurts"


def line(name: str, part: float, tokens: list[float], times: list[float]) -> str:
    """A row of the table: for the plain model its bits per byte, for an option the differences."""
    if name == PLAIN:
        mean, half = interval(tokens)
        return f"| {name} | {mean:.3f} ± {half:.3f} | | 1 | {mean:.3f} ± {half:.3f} | |"
    cells = []
    for values in (tokens, times):
        mean, half = interval(values)
        cells += [f"{mean:+.3f} ± {half:.3f}", verdict(values)]
    cells.insert(2, f"{part:.2f}")
    return f"| {name} | {' | '.join(cells)} |"


def table(rows: list[tuple[str, float, list[float], list[float]]], arguments: argparse.Namespace) -> str:
    """All rows as Markdown, with the protocol."""
    protocol = (
        f"Preset {arguments.preset} on {', '.join(arguments.data)}, {arguments.steps} steps, {arguments.seeds} seeds, "
        f"{arguments.backend}{', ' + ', '.join(arguments.sets) if arguments.sets else ''}; bits per byte on held-out "
        "text, differences from the model as it is with the same seeds, 95 % intervals over seeds. A step's time is in "
        f"parts of the plain model's: the median of {TURNS} steps of both, by turns."
    )
    head = ["| option | equal tokens | | a step's time | equal time | |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([protocol, "", *head, *(line(*row) for row in rows), ""])


if __name__ == "__main__":
    main()
