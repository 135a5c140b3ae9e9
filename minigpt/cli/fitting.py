"""The commands that say what fits this machine: doctor and plan."""

from pathlib import Path
from typing import Any

import typer

from minigpt.cli import common, flags
from minigpt.errors import RESOURCES, UsageError, check_name


def doctor(
    json: flags.AsJson = False,
    share: flags.Share = False,
) -> None:
    """Say what this machine is and what it can train.

    Chip, memory, disk, power and heat; each backend with one operation and its speed; which backend a run gets and
    why; and what stands in the way, in words.
    """
    from dataclasses import asdict

    from backends import BACKENDS, installed
    from minigpt.cli import console, machine_tables
    from minigpt.machine import choose
    from minigpt.machine.check import check_backend
    from minigpt.machine.description import describe
    from minigpt.machine.problems import problems
    from minigpt.plan.choose import guessed_preset

    found = describe(common.RUNS if common.RUNS.exists() else Path())
    checks = [check_backend(name) for name in BACKENDS if installed(name)]
    working = [check.name for check in checks if check.works]
    backend, reason = choose(found.apple, working)
    sentences = problems(found, working)
    sentences += [f"The {check.name} backend does not work: {check.error}." for check in checks if check.error]
    choice = {"backend": backend, "reason": reason}
    check = next((check for check in checks if check.name == backend and check.works), None)
    if check is not None:
        preset, preset_reason = guessed_preset(check, found)
        choice |= {"preset": preset, "preset_reason": preset_reason}
    report = {
        "machine": asdict(found), "python": machine_tables.python_version(),
        "backends": [asdict(check) for check in checks],
        "choice": choice, "problems": sentences,
    }  # fmt: skip
    if json:
        console.print_json(report)
    elif share:
        console.write(machine_tables.shared_block(found, checks, report["choice"], sentences))
    else:
        machine_tables.show_machine(found, checks, report["choice"], sentences)


def plan(
    preset: flags.PlanPreset = "all",
    config: flags.ConfigFile = None,
    sets: flags.Sets = None,
    stages: flags.PlanStages = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    max_memory: flags.MaxMemory = None,
    time: flags.Time = None,
    json: flags.AsJson = False,
) -> None:
    """Say what a run would take here, before it starts.

    Parameters, tokens, peak memory by part, disk and time of each stage, measured on this machine in seconds; and
    how a step is divided to fit the memory, with the same result. Exits with 4 when the preset does not fit.

    Published shapes, each for `minigpt plan --preset medium`:

    MiniMind 26M: --set model.d_model=512 --set model.n_layer=8 --set model.qk_norm=false

    MiniMind 104M: --set model.d_model=768 --set model.n_layer=16 --set model.d_ff=2048 --set model.qk_norm=false

    nanoGPT characters: --set model.d_model=384 --set model.n_layer=6 --set model.n_head=6 --set model.n_kv_head=6
    --set model.d_ff=1536 --set model.context=256 --set model.feed_forward=gelu --set model.positions=learned
    --set model.norm=layer --set model.qk_norm=false --set model.vocab_size=65

    GPT-2 124M: --set model.d_model=768 --set model.n_layer=12 --set model.n_head=12 --set model.n_kv_head=12
    --set model.d_ff=3072 --set model.context=1024 --set model.feed_forward=gelu_tanh --set model.positions=learned
    --set model.norm=layer --set model.qk_norm=false --set model.qkv_bias=true --set model.output_bias=true
    --set model.mlp_bias=true --set model.vocab_size=50257

    nanochat d20: --set model.d_model=1280 --set model.n_layer=20 --set model.n_head=10 --set model.n_kv_head=10
    --set model.d_ff=3413 --set model.context=2048 --set model.tie_embeddings=false --set model.vocab_size=65536
    """
    from minigpt.cli import console, machine_tables
    from minigpt.cli.limits import limits_from
    from minigpt.config import PRESETS, load_config
    from minigpt.plan.choose import largest_preset, place_of, plan_for, refuse
    from minigpt.stages.table import STAGES

    check_name("preset", preset, (*PRESETS, "all", "auto"))
    wanted = _stages(stages, tuple(STAGES))
    limits = limits_from("full", None, max_memory)
    framework = common.backend_of(backend, device)
    names, reason = PRESETS if preset == "all" else (preset,), ""
    if preset == "auto":
        preset, reason, chosen = largest_preset(config, sets, wanted, framework, limits, time)
        names, found = (preset,), {preset: chosen}
    every = {name: load_config(name, config, sets or []) for name in names}
    if not reason:
        place = place_of(framework, limits)
        steps = dict.fromkeys(wanted, 0)
        found = {name: plan_for(settings, steps, framework, place) for name, settings in every.items()}
    if json:
        shown: Any = {name: one.as_dict() for name, one in found.items()}
        console.print_json({"presets": shown} | ({"chosen": preset, "reason": reason} if reason else {}))
    else:
        for name, one in found.items():
            machine_tables.show_plan(name, one)
        if reason:
            console.note(f"Preset {preset}: {reason}.")
    if len(names) == 1:
        refuse(found[names[0]], every[names[0]], limits, time)
    elif not any(one.fits for one in found.values()):
        console.note("No preset fits this memory.")
        raise typer.Exit(RESOURCES)


def _stages(text: str | None, known: tuple[str, ...]) -> list[str]:
    """The stages that --stages names, in the order of a run."""
    named = [name.strip() for name in text.split(",")] if text is not None else list(known)
    for name in named:
        check_name("stage", name, known)
    if not named:
        raise UsageError("--stages names no stage.", f"Choose of {', '.join(known)}.")
    return [stage for stage in known if stage in named]
