"""What fits this machine: a plan with speeds measured here, and the presets that memory and time allow."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from backends.base import Backend
from minigpt.config import PRESETS, Config, load_config
from minigpt.errors import ResourceError
from minigpt.machine import busy, ceiling, choose_dtype
from minigpt.machine.busy import Other
from minigpt.machine.ceiling import give_back
from minigpt.machine.cgroups import usable_cores
from minigpt.machine.description import describe
from minigpt.machine.limits import Limits
from minigpt.machine.processes import resident
from minigpt.model.gpt import flops_per_token, parameter_count
from minigpt.plan.costs import row_width
from minigpt.plan.plan import Place, Plan, make_plan
from minigpt.plan.speed import Speed, measure, throttled
from minigpt.sections import ModelConfig, StageConfig
from minigpt.stages.stage import Stage
from minigpt.stages.table import USUAL
from minigpt.units import duration, gigabytes, parse_time

SAMPLE = 1.0  # seconds in which a stage's speed is measured
TRIVIAL = 3e11  # floating-point operations of a run that takes seconds, so that measuring would take longer
SHARE = 0.95  # of the free memory that a run may plan with
MARGIN = 0.85  # of the time that is allowed, for steps that are to fit it: measured times vary
AUTO_TIME = 3600.0  # seconds that --preset auto allows without --time
USUAL_SHARE = 0.4  # of the rate of matrix products that training reaches (measured: 0.3 to 0.6 on CPUs)
USUAL_BASE = 300_000_000  # bytes of Python, a framework and the tokenizer
BESIDE = 45_000_000  # bytes that the tokenizer, its library and the data take in the same process (measured: 40 to 60)
SUPERVISOR = 30_000_000  # bytes of the process that watches the training


@dataclass(frozen=True)
class Choice:
    """A preset, why it was chosen, its plan, and the stages' steps where its own would take too long."""

    preset: str
    reason: str
    plan: Plan
    steps: dict[str, int]


def place_of(framework: Backend, limits: Limits, width: int = 512) -> Place:
    """Where runs of this backend take place: number format, memory before the model, memory that may be used.

    `width` is that of the models, for which a number format may be faster or slower.
    """
    framework.sync(framework.zeros((64, 64)) @ framework.zeros((64, 64)))  # loads what the first product loads
    gc.collect()
    base = resident() + BESIDE if framework.runtime.shares_memory() else 0
    dtype = choose_dtype(framework, "auto", width)
    return Place(framework.name, framework.device, dtype, base, budget_of(framework, limits), limits.cpu)


def budget_of(framework: Backend, limits: Limits) -> int | None:
    """Bytes that this process may have: what is free (or a GPU's own memory) and what --max-memory leaves.

    None where the system does not tell.
    """
    machine = describe()
    if not framework.runtime.shares_memory():
        return None if machine.gpu_memory is None else int(SHARE * machine.gpu_memory)
    free = machine.memory_available
    bounds = [None if free is None else int(SHARE * free) + resident()]
    bounds += [None if limits.memory is None else max(0, limits.memory - SUPERVISOR - ceiling.reserve())]
    if framework.device == "gpu" and machine.gpu_memory is not None:
        bounds.append(machine.gpu_memory)
    return min((bound for bound in bounds if bound is not None), default=None)


def plan_for(
    settings: Config, stages: Mapping[str, int], framework: Backend, place: Place, vocab_size: int = 0,
    rows: Mapping[str, int] | None = None, trivial: float = 0.0,
) -> Plan:  # fmt: skip
    """The plan with speeds measured here; not for what does not fit, or has fewer than `trivial` operations.

    A process measures alone: what fits only when it is shared out between several is not measured.
    """
    unmeasured = make_plan(settings, stages, place, lambda *stage: None, vocab_size, rows)
    if sum(stage.flops for stage in unmeasured.stages) < trivial or not unmeasured.fits:
        return unmeasured
    alone = replace(place, processes=1)
    if alone != place and not make_plan(settings, stages, alone, lambda *stage: None, vocab_size, rows).fits:
        return replace(unmeasured, note="The time was not measured: one process alone cannot hold the model.")
    others: list[Other] = []

    def speed_of(model: ModelConfig, stage: Stage, config: StageConfig) -> Speed:
        quiet, began, cpu = busy.reading(), perf_counter(), process_time()
        speed = measure(framework, model, stage, config, place.dtype_of(config), SAMPLE)
        used = (process_time() - cpu) / (perf_counter() - began) / usable_cores()
        if framework.device == "cpu" and (other := busy.beside(quiet, busy.reading())) is not None:
            others.append(other)
            speed, used = speed.times(1 / other.slower), used * other.slower
        return throttled(speed, 1.0 if framework.device == "gpu" else used, place.cpu)

    plan = make_plan(settings, stages, place, speed_of, vocab_size, rows)
    give_back(framework)
    note = max(others, key=lambda other: other.slower).said() if others else ""
    return replace(plan, note=note)


def refuse(plan: Plan, settings: Config, limits: Limits, time: str | None) -> None:
    """Raises ResourceError that says what would fit, when a plan is over the memory or the time that it may take."""
    allowed = parse_time(time) if time is not None else None
    if not plan.fits:
        worst = max((one for one in plan.stages if not one.fits), key=lambda one: one.memory.total)
        need, have = gigabytes(worst.memory.total), gigabytes(plan.place.budget)
        budget = "--max-memory leaves" if limits.memory is not None else "there are"
        raise ResourceError(
            f"{worst.stage} needs {need} of memory even with the smallest micro-batches, and {budget} {have}.",
            f"{_smaller(settings, plan)} See minigpt plan.",
        )
    if allowed is not None and plan.seconds is not None and plan.seconds > allowed:
        steps = ", ".join(f"{stage}.steps={count}" for stage, count in fewer_steps(plan, allowed).items())
        smaller = parameter_count(settings.model) > parameter_count(load_config(PRESETS[0]).model)
        raise ResourceError(
            f"Training would take about {duration(plan.seconds)}, and --time allows {duration(allowed)}.",
            f"What would fit: {steps} (each with --set){', or a smaller preset' * smaller}.",
        )


def _smaller(settings: Config, plan: Plan) -> str:
    """The presets and contexts that fit the memory, in words."""
    stages = {one.stage: 0 for one in plan.stages}

    def fits(config: Any) -> bool:
        return make_plan(config, stages, plan.place, lambda *stage: None).fits

    def shortened(context: int) -> Any:
        return settings.model_copy(update={"model": settings.model.model_copy(update={"context": context})})

    contexts = [settings.model.context >> n for n in range(1, 5) if settings.model.context >> n >= 32]
    shorter = next((context for context in contexts if fits(shortened(context))), None)
    ways = [f"--preset {name}" for name in reversed(PRESETS) if fits(load_config(name))][:1]
    ways += [f"--set model.context={shorter}"] if shorter else []
    least = min(one.memory.base + one.memory.weights + one.memory.optimizer for one in plan.stages)
    return f"What would fit: {' or '.join(ways)}." if ways else f"Nothing fits that: {gigabytes(least)} is the least."


def largest_preset(
    file: Path | None, sets: Sequence[str] | None, stages: Sequence[str], framework: Backend, limits: Limits,
    time: str | None, processes: int = 1,
) -> Choice:  # fmt: skip
    """The largest preset whose training fits the memory and the time; else the smallest, with the steps that fit.

    Memory is that of each of several `processes`; time is measured by one alone, which must hold the model.
    """
    allowed = parse_time(time) if time is not None else AUTO_TIME
    every = {name: load_config(name, file, sets or []) for name in reversed(PRESETS)}
    place = replace(place_of(framework, limits), processes=processes)
    why: list[str] = []
    for name, settings in every.items():
        plan = plan_for(settings, dict.fromkeys(stages, 0), framework, place)
        if plan.fits and plan.seconds is not None and plan.seconds <= allowed:
            took = f"about {duration(plan.seconds)} and {gigabytes(plan.memory)}"
            return Choice(name, "; ".join([f"{took} for {', '.join(stages)}", *why]), plan, {})
        lack = f"take {duration(plan.seconds)}" if plan.seconds is not None else f"need {gigabytes(plan.memory)}"
        why.append(f"{name} would {lack}")
    steps = fewer_steps(plan, MARGIN * allowed) if plan.seconds is not None else {}
    shown = ", ".join(f"{stage} {count:,}" for stage, count in steps.items())
    fitted = f"with the steps that fit {duration(allowed)} ({shown}), though its own would take"
    reason = f"the smallest, {fitted} {duration(plan.seconds)}" if steps else "the smallest"
    return Choice(PRESETS[0], reason, plan, steps)


def fewer_steps(plan: Plan, seconds: float) -> dict[str, int]:
    """Stage -> about the steps that all stages together take so many seconds with, each its share of them."""
    share = min(1.0, seconds / plan.seconds)
    return {one.stage: max(1, int(one.steps * share)) for one in plan.stages if one.steps}


def guessed_plans(check: Any, machine: Any) -> dict[str, Plan]:
    """The plan of each preset, the smallest first, for a machine where only the speed of matrix products is known.

    `check` is a BackendCheck that works, `machine` a Machine. `minigpt plan` measures instead.
    """

    def speed_of(model: ModelConfig, stage: Stage, config: StageConfig) -> Speed:
        token = flops_per_token(model, row_width(model, stage.form)) / (USUAL_SHARE * check.gflops * 1e9)
        return Speed(token, token / 3, 0.0)

    shared = check.device == "cpu" or machine.unified
    free = machine.memory_available if shared else machine.gpu_memory
    place = Place(check.name, check.device, "float32", USUAL_BASE if shared else 0, free and int(SHARE * free))
    return {name: make_plan(load_config(name), dict.fromkeys(USUAL, 0), place, speed_of) for name in PRESETS}


def guessed_preset(plans: Mapping[str, Plan]) -> tuple[str, str]:
    """(preset, reason): the largest of these plans that fits the memory and AUTO_TIME, else the smallest."""
    fitting = [name for name, plan in plans.items() if plan.fits and plan.seconds <= AUTO_TIME]
    if fitting:
        return fitting[-1], f"the largest that takes at most {duration(AUTO_TIME)}, roughly"
    return next(iter(plans)), f"the smallest, though it takes more than {duration(AUTO_TIME)} or the memory, roughly"
