"""Sweeps: which settings are better, by several runs of each, within a budget.

A sweep is a TOML file with what all trials share and one table of changes:

    data = ["story.txt"]            # also: stage, preset, jobs, max_memory, measure, pick, backend, device, …
    seeds = [1, 2, 3]
    budget = "30m"
    [base]                          # settings of all trials
    "pretrain.steps" = 200
    [grid]                          # every combination; or [random], or [changes] (an ablation: one change at a time)
    "pretrain.learning_rate" = [1e-3, 3e-3]

[random] draws `trials` combinations: from lists, or from { low, high, log = true }. [halving] beside [grid] or [random]
begins with `steps` updates and goes on with the best 1/`factor` and `factor` times the steps, `rungs` times.
"""

import itertools
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from minigpt.errors import UsageError
from minigpt.evaluate.intervals import Figure
from minigpt.evaluate.significance import holm
from minigpt.evaluate.student import mean_interval, paired
from minigpt.events import Note, Report, silent
from minigpt.experiments.trials import Outcome, Setup, Trial, run_trials
from minigpt.sections import Section
from minigpt.units import parse_time

BASE = "base"  # the label of a run without changes


class Halving(Section):
    """Successive halving (Jamieson and Talwalkar 2016), with runs that begin anew on each rung."""

    steps: int = Field(ge=1)
    factor: int = Field(3, ge=2)
    rungs: int = Field(3, ge=2)


class Sweep(Section):
    """What a sweep's file says."""

    stage: str = "pretrain"
    preset: str = "tiny"
    data: list[str] = []
    seeds: list[int] = Field([0], min_length=1)
    budget: str = ""
    jobs: int = Field(0, ge=0)
    max_memory: str = ""
    measure: str = "validation_loss"
    pick: str = Field("best", pattern="^(best|last)$")
    backend: str = "auto"
    device: str = "auto"
    base: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    random: dict[str, Any] = {}
    trials: int = Field(12, ge=1)
    seed: int = Field(0, ge=0)  # of the draws
    changes: dict[str, dict[str, Any]] = {}
    halving: Halving | None = None
    baseline: dict[str, Any] = {}


@dataclass(frozen=True)
class Row:
    """One combination of settings: its figure over the seeds, and the difference from the baseline's same seeds.

    `p` is adjusted for the number of comparisons (Holm); NaN for the baseline and for a single seed.
    """

    label: str
    settings: dict[str, Any]
    figure: Figure
    difference: Figure | None
    p: float
    failed: int


def read_sweep(path: Path) -> Sweep:
    """Raises UsageError that names what is wrong in the file."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", "Correct it.") from None
    for table in ("base", "baseline"):
        values[table] = flattened(values.get(table, {}))
    for table in ("grid", "random"):
        values[table] = flattened(values.get(table, {}), leaves=("low", "high"))
    values["changes"] = {label: flattened(change) for label, change in values.get("changes", {}).items()}
    try:
        sweep = Sweep(**values)
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}."
        raise UsageError(message, f"Known are: {', '.join(Sweep.model_fields)}.") from None
    if sum(bool(table) for table in (sweep.grid, sweep.random, sweep.changes)) != 1:
        raise UsageError(f"{path} needs one of [grid], [random] and [changes].", "Give the settings to try in one.")
    return sweep


def flattened(table: Mapping[str, Any], leaves: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """`{"pretrain": {"steps": 1}}` as `{"pretrain.steps": 1}`; a table with a key of `leaves` stays a value."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and not any(leaf in value for leaf in leaves):
            found |= flattened(value, leaves, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def combinations(sweep: Sweep) -> list[tuple[str, dict[str, Any]]]:
    """(label, settings) of what is tried; the first is the baseline unless the file names one."""
    if sweep.changes:
        return [(BASE, {}), *sweep.changes.items()]
    if sweep.grid:
        products = itertools.product(*sweep.grid.values())
        chosen = [dict(zip(sweep.grid, values, strict=True)) for values in products]
    else:
        generator = np.random.default_rng(sweep.seed)
        chosen = [{name: _drawn(name, space, generator) for name, space in sweep.random.items()}
                  for _ in range(sweep.trials)]  # fmt: skip
    if sweep.baseline and sweep.baseline not in chosen:
        chosen.insert(0, sweep.baseline)
    return [(label_of(settings), settings) for settings in chosen]


def _drawn(name: str, space: Any, generator: np.random.Generator) -> Any:
    if isinstance(space, list):
        return space[int(generator.integers(len(space)))]
    if not isinstance(space, Mapping) or not {"low", "high"} <= space.keys() <= {"low", "high", "log"}:
        raise UsageError(f"[random] {name} = {space!r} cannot be drawn from.", "Give a list, or { low, high, log }.")
    low, high = space["low"], space["high"]
    if isinstance(low, int) and isinstance(high, int) and not space.get("log"):
        return int(generator.integers(low, high + 1))
    if space.get("log"):
        drawn = math.exp(generator.uniform(math.log(low), math.log(high)))
    else:
        drawn = generator.uniform(low, high)
    return float(f"{drawn:.4g}") if isinstance(low, float) or isinstance(high, float) else round(drawn)


def label_of(settings: Mapping[str, Any]) -> str:
    """Such as "learning_rate=0.003 n_layer=2"."""
    return " ".join(f"{name.split('.')[-1]}={value}" for name, value in settings.items()) or BASE


def run_sweep(sweep: Sweep, directory: Path, cores: int, report: Report = silent) -> list[Row]:
    """The table of the sweep, best first, after all trials or as many as the budget allows. Goes on where it stopped.

    With `jobs` 0 as many trials run at a time as there are cores, one thread each, when the device is the CPU.
    """
    directory.mkdir(parents=True, exist_ok=True)
    setup, budget = _setup(sweep, cores), parse_time(sweep.budget, "budget") if sweep.budget else math.inf
    chosen = combinations(sweep)
    if sweep.halving:
        return _halved(sweep, sweep.halving, setup, chosen, directory, budget, report)
    wanted = [Trial(label, settings, seed) for label, settings in chosen for seed in sweep.seeds]
    outcomes = run_trials(directory, setup, wanted, budget, report)
    _tell_unfinished(len(wanted) - len(outcomes), report)
    return table(sweep, chosen, list(outcomes.values()))


def _setup(sweep: Sweep, cores: int) -> Setup:
    jobs = sweep.jobs or (cores if sweep.device == "cpu" else 1)
    return Setup(
        sweep.stage, tuple(sweep.data), sweep.preset, sweep.base, sweep.backend, sweep.device, sweep.max_memory,
        sweep.measure, sweep.pick, jobs, max(1, cores // jobs),
    )  # fmt: skip


def _halved(
    sweep: Sweep, halving: Halving, setup: Setup, chosen: list[tuple[str, dict[str, Any]]], directory: Path,
    budget: float, report: Report,
) -> list[Row]:  # fmt: skip
    """The table of the last rung that was reached."""
    rows: list[Row] = []
    for rung in range(halving.rungs):
        steps = {f"{sweep.stage}.steps": halving.steps * halving.factor**rung}
        wanted = [Trial(label, settings | steps, seed) for label, settings in chosen for seed in sweep.seeds]
        outcomes = run_trials(directory, setup, wanted, budget, report)
        rows = table(sweep, [(label, settings | steps) for label, settings in chosen], list(outcomes.values()))
        if len(outcomes) < len(wanted):
            _tell_unfinished(len(wanted) - len(outcomes), report)
            return rows
        kept = max(1, len(chosen) // halving.factor)
        best = [row.label for row in rows if row.figure.rows][:kept]
        chosen = [(label, settings) for label, settings in chosen if label in best]
        report(Note(f"After {halving.steps * halving.factor**rung:,} steps: {'; '.join(best)}."))
        if len(chosen) <= 1:
            break
    return rows


def _tell_unfinished(count: int, report: Report) -> None:
    if count:
        report(Note(f"The budget ended before {count} trials did. The same command with a larger one goes on."))


def table(sweep: Sweep, chosen: Sequence[tuple[str, dict[str, Any]]], outcomes: Sequence[Outcome]) -> list[Row]:
    """Rows with the lowest mean first; combinations without any figure are last."""
    values: dict[str, dict[int, float]] = {}
    failures: dict[str, int] = {}
    for outcome in outcomes:
        key = json.dumps(outcome.settings, sort_keys=True)
        if outcome.value is not None:
            values.setdefault(key, {})[outcome.seed] = outcome.value
        failures[key] = failures.get(key, 0) + bool(outcome.failed)
    keys = [json.dumps(settings, sort_keys=True) for _, settings in chosen]
    named = (i for i, (_, settings) in enumerate(chosen) if sweep.baseline.items() <= settings.items())
    base = keys[next(named, 0)]
    rows = [_row(label, settings, values.get(key, {}), None if key == base else values.get(base, {}),
                 failures.get(key, 0))
            for (label, settings), key in zip(chosen, keys, strict=True)]  # fmt: skip
    tested = [i for i, row in enumerate(rows) if not math.isnan(row.p)]
    for i, p in zip(tested, holm([rows[i].p for i in tested]), strict=True):
        rows[i] = replace(rows[i], p=p)
    return sorted(rows, key=lambda row: (row.figure.rows == 0, row.figure.value))


def _row(label: str, settings: dict, values: dict[int, float], base: dict[int, float] | None, failed: int) -> Row:
    seeds = sorted(values.keys() & base.keys()) if base is not None else []
    difference, p = paired([base[s] for s in seeds], [values[s] for s in seeds]) if seeds else (None, math.nan)
    return Row(label, settings, mean_interval([values[s] for s in sorted(values)]), difference, p, failed)
