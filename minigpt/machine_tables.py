"""What this machine is and what a run would take, as tables and text on stdout. Computes nothing."""

import platform
from collections.abc import Sequence
from typing import Any

from minigpt import __version__
from minigpt.console import note
from minigpt.limits import gigabytes
from minigpt.tables import table


def show_machine(machine: Any, checks: Sequence[Any], choice: dict, problems: Sequence[str]) -> None:
    """What `minigpt doctor` found."""
    table("This machine", ["", ""], machine_rows(machine), wrap=(0, 1))
    table("Backends", ["backend", "version", "device", "works", "GFLOP/s", "GB/s"], [_check(c) for c in checks])
    table("A run here gets", ["", ""], _choice(choice), wrap=(0, 1))
    for sentence in problems:
        note(sentence)
    if not problems:
        note("Nothing stands in the way.")


def machine_rows(m: Any) -> list[list[str]]:
    """What is known of a machine as (name, value)."""
    kinds = [(m.performance_cores, "performance"), (m.efficiency_cores, "efficiency")]
    split = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
    cores = f"{m.cores or '?'}" + (f" ({split})" if split else "")
    if m.cores and m.usable_cores < m.cores:
        cores += f", of which this process may use {m.usable_cores:g}"
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


def _size(size: int | None) -> str:
    return "?" if size is None else gigabytes(size)
