"""A ladder of small runs that a scaling law is fitted to, and the larger run that tests it.

    sizes 32 48 64 96 … wide, each for several lengths   →   E + A / N^alpha + B / D^beta   →   a run of 4 × the compute

The loss of the last run is predicted, and the prediction written down, before that run is trained.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import DataError
from minigpt.events import Note, Report, silent
from minigpt.experiments.fits import Fitted, Point, fit
from minigpt.experiments.laws import FLOPS, Law
from minigpt.experiments.trials import Setup, Trial, run_trials
from minigpt.model.gpt import parameter_count
from minigpt.store.durable import write_whole

WIDTHS, STEPS = (32, 48, 64, 96), (100, 200, 400)
BATCH, CONTEXT = 8, 128
WIDER, COMPUTE = 4 / 3, 4.2  # the test's width / the widest of the ladder, its compute / the ladder's largest
VOCABULARY = 288  # of the byte tokenizer: the losses of all sizes are of the same tokens


@dataclass(frozen=True)
class Checked:
    """The run that the law did not know: what was predicted, in which interval, and what came."""

    parameters: float
    tokens: float
    predicted: float
    low: float
    high: float
    loss: float | None

    @property
    def error(self) -> float | None:
        """(predicted - came) / came."""
        return None if self.loss is None else self.predicted / self.loss - 1


def shape(width: int) -> dict[str, Any]:
    """The model's settings for a width: heads of 16, about one layer for 24 of the width."""
    return {
        "model.d_model": width, "model.n_layer": max(1, round(width / 24)), "model.n_head": width // 16,
        "model.n_kv_head": width // 16, "model.d_ff": 8 * round(width / 3), "model.context": CONTEXT,
    }  # fmt: skip


def rung(width: int, steps: int) -> Trial:
    """A run of the ladder. The rate falls to its end within the run, so that each is a finished one."""
    settings = shape(width) | {"pretrain.steps": steps, "pretrain.eval_every": steps, "pretrain.save_every": steps}
    return Trial(f"width {width}, {steps} steps", settings, 0)


def size_of(trial: Trial) -> float:
    """The parameters of a trial's model."""
    from minigpt.sections import ModelConfig

    values = {name.removeprefix("model."): value for name, value in trial.settings.items() if name.startswith("model.")}
    return float(parameter_count(ModelConfig(**values, vocab_size=VOCABULARY, qk_norm=True)))


def tokens_of(trial: Trial) -> float:
    return float(trial.settings["pretrain.steps"] * BATCH * CONTEXT)


def climb(
    data: Sequence[str], directory: Path, budget: float, cores: int, backend: str = "auto", device: str = "auto",
    widths: Sequence[int] = WIDTHS, steps: Sequence[int] = STEPS, report: Report = silent,
) -> tuple[Fitted, Checked]:  # fmt: skip
    """Train the ladder, fit the law, predict a larger run, train it, compare. Goes on where it stopped.

    Writes law.json and check.json into `directory`. `budget` are seconds for everything; without the larger run the
    check has no loss. Raises DataError when the budget is too small for six runs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    jobs = cores if device == "cpu" else 1
    setup = Setup(
        data=tuple(data), base=_base(), backend=backend, device=device, pick="last", jobs=jobs,
        threads=max(1, cores // jobs),
    )  # fmt: skip
    ladder = sorted((rung(w, s) for w in widths for s in steps), key=lambda t: size_of(t) * tokens_of(t))
    outcomes = run_trials(directory, setup, ladder, budget, report)
    points = [Point(size_of(t), tokens_of(t), outcomes[t.key(setup)].value) for t in ladder
              if t.key(setup) in outcomes and outcomes[t.key(setup)].value is not None]  # fmt: skip
    if len(points) < 6:
        raise DataError(f"Only {len(points)} runs of the ladder are finished.", "Give more time with --budget.")
    fitted = fit(points)
    write_law(fitted.law, directory / "law.json")
    last, check = _larger(points, widths, fitted)
    write_whole(directory / "check.json", json.dumps(asdict(check), indent=1) + "\n")
    interval = f"{check.low:.4f} to {check.high:.4f}"
    report(Note(f"{last.label}: predicted loss {check.predicted:.4f} ({interval}); now it is trained."))
    found = run_trials(directory, setup, [last], budget, report).get(last.key(setup))
    check = Checked(**asdict(check) | {"loss": None if found is None else found.value})
    write_whole(directory / "check.json", json.dumps(asdict(check), indent=1) + "\n")
    return fitted, check


def _base() -> dict[str, Any]:
    return {
        "tokenizer.kind": "byte", "model.qk_norm": True, "pretrain.batch_size": BATCH, "pretrain.warmup_steps": 10,
        "pretrain.eval_rows": 256,
    }  # fmt: skip


def _larger(points: Sequence[Point], widths: Sequence[int], fitted: Fitted) -> tuple[Trial, Checked]:
    """The run that tests the law, with at least four times the compute of any other."""
    width = 16 * round(max(widths) * WIDER / 16)
    parameters = size_of(rung(width, 1))
    compute = COMPUTE * max(point.compute for point in points)
    last = rung(width, int(np.ceil(compute / FLOPS / parameters / BATCH / CONTEXT)))
    tokens = tokens_of(last)
    low, high = fitted.interval(lambda law: law.loss(parameters, tokens))
    return last, Checked(parameters, tokens, fitted.law.loss(parameters, tokens), low, high, None)


def write_law(law: Law, path: Path) -> None:
    write_whole(path, json.dumps(asdict(law), indent=1) + "\n")


def read_law(path: Path) -> Law:
    """A law that a ladder has written. Raises DataError for another file."""
    try:
        return Law(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        hint = "Make one with minigpt scaling --data FILE."
        raise DataError(f"{path} is not a scaling law: {error}.", hint) from None
