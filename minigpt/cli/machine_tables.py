"""What this machine is and what a run would take, as tables and text on stdout. Computes nothing."""

import platform
from collections.abc import Sequence
from typing import Any

from minigpt import __version__
from minigpt.cli.console import note
from minigpt.cli.tables import table
from minigpt.units import bytes_in_words, duration, gigabytes


def show_machine(machine: Any, checks: Sequence[Any], choice: dict, problems: Sequence[str]) -> None:
    """What `minigpt doctor` found."""
    table("This machine", ["", ""], machine_rows(machine), wrap=(0, 1))
    table("Backends", ["backend", "version", "device", "works", "GFLOP/s", "GB/s"], [_check(c) for c in checks])
    table("A run here gets", ["", ""], _choice(choice), wrap=(0, 1))
    if rows := _presets(choice):
        table("What the presets would take, roughly (minigpt plan measures)", ["preset", "time", "memory", ""], rows)
    for sentence in problems:
        note(sentence)
    if not problems:
        note("No problems found.")


def machine_rows(m: Any) -> list[list[str]]:
    """What is known of a machine as (name, value)."""
    kinds = [(m.performance_cores, "performance"), (m.efficiency_cores, "efficiency")]
    split = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
    cores = f"{m.cores or '?'}" + (f" ({split})" if split else "")
    if m.cores and m.usable_cores < m.cores:
        cores += f"; this process may use {m.usable_cores:g} of them"
    memory = _size(m.memory) + (f", limited to {gigabytes(m.memory_limit)} here" if m.memory_limit else "")
    gpu = ", ".join(
        part for part in (m.gpu, f"{m.gpu_cores} cores" * bool(m.gpu_cores),
                          f"up to {_size(m.gpu_memory)}{' of the memory' * m.unified}" * bool(m.gpu_memory)) if part
    )  # fmt: skip
    percent = f", {m.battery_percent} %" if m.battery_percent is not None else ""
    rows = [
        ("system", f"{m.system} {m.version}".strip()), ("chip", m.chip), ("cores", cores), ("memory", memory),
        ("memory free now", _size(m.memory_available)), ("GPU", gpu or "none"), ("disk free", _size(m.disk_free)),
        ("power", (m.power + percent) or "?"), ("Low Power Mode", {True: "on", False: "off", None: ""}[m.low_power]),
        ("heat", m.thermal), ("Python", f"{python_version()}, {m.python_architecture}"),
    ]  # fmt: skip
    return [[name, value] for name, value in rows if value]


def shared_block(machine: Any, checks: Sequence[Any], choice: dict, problems: Sequence[str]) -> str:
    """The same as a block of Markdown without names, paths or how full the machine is just now."""
    personal = ("memory free now", "disk free", "power")
    rows = [["minigpt", __version__], *(row for row in machine_rows(machine) if row[0] not in personal)]
    for check in checks:
        version, device, works, gflops, bandwidth = _check(check)[1:]
        rows.append([check.name, f"{version} on {device}: {works}, {gflops} GFLOP/s, {bandwidth} GB/s"])
    rows += _choice(choice)
    lines = [f"{name}: {value}" for name, value in rows] + [f"problem: {sentence}" for sentence in problems]
    return "\n".join(["```", *lines, "```", ""])


def show_plan(name: str, plan: Any) -> None:
    """The plan of one preset: a column per stage. Of several processes the memory is that of each."""
    where, several = f"{plan.place.backend} on {plan.place.device}, {plan.place.dtype}", plan.place.processes > 1
    title = f"{name}: {parameters(plan)}, {plan.flops_per_token / 1e6:,.0f} MFLOP per token, {where}"
    title += f"; memory of each of {plan.place.processes:,} processes" * several
    rows = [[label, *(value(stage) for stage in plan.stages)] for label, value in ROWS]
    if several:
        rows[-1][0] = "time of one process alone"
    table(title, ["", *(stage.stage for stage in plan.stages)], rows)
    budget = "" if plan.place.budget is None else f" of {gigabytes(plan.place.budget)} that may be used"
    took = "" if plan.seconds is None else f", training{' alone' * several} about {duration(plan.seconds)}"
    note(f"{name}: memory {gigabytes(plan.memory)}{budget}, checkpoints {gigabytes(plan.disk)} of disk{took}.")
    for stage in plan.stages:
        if not stage.fits:
            note(f"{name}: {stage.stage} does not fit even in the smallest micro-batches: take a smaller model.")
        elif stage.divided:
            note(f"{name}: {stage.stage} fits with {divided(stage.division)}; the result stays the same.")


def show_together(name: str, plan: Any, processes: int, link: Any) -> None:
    """What several processes would make of each stage's step: the same batch shared out, then a growing one."""
    from minigpt.plan.link import COUNTS, advice, shared, together

    for one in plan.stages:
        if one.step is None:
            note(f"{name}: {one.stage} was not measured: it takes seconds only, or more memory than one process has.")
            continue
        facts = (one.tokens // max(1, one.steps), one.step, one.update, one.exchange, link)
        alike = [shared(*facts, count, one.every) for count in sorted({1, processes})]
        speed = f"{link.rate * 8 / 1e6:,.0f} Mbit/s of payload"
        table(f"{name}, {one.stage}: the same batch shared out, {speed}", TOGETHER, [_together(row) for row in alike])
        growing = [together(*facts, count, one.every) for count in COUNTS]
        table(f"{name}, {one.stage}: a batch for each process", TOGETHER, [_together(row) for row in growing])
        if one.every > 1:
            told = f"one exchange in {one.every:,} steps, of whose bytes and time each step has its share"
            note(f"{name}: {one.stage}: {told}.")
        note(f"{name}: {one.stage}: {advice(growing)}")


TOGETHER = ("N", "tokens a step", "computing", "exchanging", "sent by each", "tokens/s", "efficiency")


def _together(row: Any) -> list[str]:
    return [
        f"{row.processes:,}", f"{row.tokens:,}", f"{row.computing * 1000:,.1f} ms", f"{row.exchanging * 1000:,.1f} ms",
        bytes_in_words(row.traffic), f"{row.tokens / row.seconds:,.0f}", f"{row.efficiency:.0%}",
    ]  # fmt: skip


def _time(stage: Any) -> str:
    """What a stage takes; of answers that are sampled nobody knows how soon they end."""
    return ("at most " if stage.longest else "") + duration(stage.seconds)


def plan_lines(plan: Any) -> list[str]:
    """The plan of a run in one or two sentences, for the beginning of its output."""
    where = f"{plan.place.backend} on {plan.place.device}, {plan.place.dtype}"
    budget = "" if plan.place.budget is None else f" of {gigabytes(plan.place.budget)}"
    parts = ", ".join(f"{one.stage} {_time(one)}" for one in plan.stages if one.seconds is not None)
    took = f"about {duration(plan.seconds)} ({parts})" if plan.seconds is not None else (
        "time unknown" if plan.note else "a few seconds"
    )
    lines = [f"Plan: {parameters(plan)}, {where}; memory {gigabytes(plan.memory)}{budget}; {took}."]
    return lines + [
        f"{one.stage}: computed with {divided(one.division)} to fit the memory; the result stays the same."
        for one in plan.stages if one.divided
    ] + [plan.note] * bool(plan.note)  # fmt: skip


def parameters(plan: Any) -> str:
    """How many there are, and how many work for one token where experts are chosen."""
    return f"{plan.parameters:,} parameters{f' ({plan.active:,} of them for a token)' * bool(plan.active)}"


def divided(values: dict) -> str:
    """How a step is divided, in words."""
    count = values["grad_accumulation"]
    parts = [f"{count} micro-batch{'es' * (count != 1)} per step"]
    parts += ["activation checkpointing"] if values["activation_checkpointing"] else []
    parts += [f"a loss in chunks of {values['loss_chunk']} tokens"] if values["loss_chunk"] else []
    return ", ".join(parts)


ROWS = [
    ("steps", lambda s: f"{s.steps:,}"),
    ("tokens", lambda s: f"{s.tokens:,}"),
    ("trainable parameters", lambda s: f"{s.trained:,}"),
    ("arithmetic (TFLOP)", lambda s: f"{s.flops / 1e12:,.1f}"),
    ("Python and framework", lambda s: gigabytes(s.memory.base)),
    ("weights", lambda s: gigabytes(s.memory.weights)),
    ("gradients", lambda s: gigabytes(s.memory.gradients)),
    ("optimizer", lambda s: gigabytes(s.memory.optimizer)),
    ("activations", lambda s: gigabytes(s.memory.activations)),
    ("logits", lambda s: gigabytes(s.memory.logits)),
    ("temporaries and fragmentation", lambda s: gigabytes(s.memory.work)),
    ("peak memory", lambda s: gigabytes(s.memory.total)),
    ("time", lambda s: "?" if s.seconds is None else _time(s)),
]


def python_version() -> str:
    return platform.python_version()


def _check(check: Any) -> list[str]:
    if check.error:
        return [check.name, "?", "?", "no", "–", "–"]
    version = (check.versions or {}).get(check.name, "?")
    return [check.name, version, check.device, "yes", f"{check.gflops:,.0f}", f"{check.bandwidth / 1e9:,.1f}"]


def _choice(choice: dict) -> list[list[str]]:
    rows = [["backend", f"{choice['backend']} ({choice['reason']})"]]
    if "preset" in choice:
        rows.append(["preset", f"{choice['preset']} ({choice['preset_reason']})"])
    return rows


def _presets(choice: dict) -> list[list[str]]:
    """A row per preset, the smallest first."""
    return [
        [name, duration(taken["seconds"]), gigabytes(taken["memory"]), "" if taken["fits"] else "more than is free"]
        for name, taken in choice.get("presets", {}).items()
    ]


def _size(size: int | None) -> str:
    return "?" if size is None else gigabytes(size)
