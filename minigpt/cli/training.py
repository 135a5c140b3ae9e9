"""The commands that train: demo, run and train."""

from typing import Any

import typer

from minigpt.cli import common, flags
from minigpt.cli.limits import limits_from
from minigpt.cli.planning import preset_for
from minigpt.errors import UsageError, check_name


def demo(
    context: typer.Context,
    run: flags.RunDirectory = common.RUNS / "demo",
    preset: flags.Preset = None,
    config: flags.ConfigFile = None,
    sets: flags.Sets = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    seed: flags.Seed = None,
    json: flags.AsJson = False,
    power: flags.Power = None,
    max_cpu: flags.MaxCPU = None,
    max_memory: flags.MaxMemory = None,
    time: flags.Time = None,
    supervise: flags.Supervise = True,
    restarts: flags.Restarts = 5,
) -> None:
    """The whole story on built-in data, measured.

    Tokenizer → pretrain → SFT → DPO, then conversations and a table: what did each stage change? The same
    command again shows them again.
    """
    if common.supervised(context, run, supervise, restarts):
        return
    from minigpt.cli import console, tables
    from minigpt.demo import STORY, demo_config
    from minigpt.demo import demo as run_demo

    limits = limits_from(power, max_cpu, max_memory)
    preset = preset_for(preset, run, config, sets, STORY, backend, device, limits, time)
    settings = demo_config(common.config_of(run, preset, config, sets, seed))
    with common.training(run, settings, STORY, backend, device, limits, time) as (opened, framework, report, control):
        result = run_demo(opened, framework, report, control)
    if json:
        console.print_json(result)
        return
    tables.show_demo(result)
    console.note(f"Talk to it:  minigpt chat {run}")


def run(
    context: typer.Context,
    run: flags.RunDirectory = common.RUNS / "default",
    data: flags.Data = None,
    preset: flags.Preset = None,
    config: flags.ConfigFile = None,
    sets: flags.Sets = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    seed: flags.Seed = None,
    skip_bad: flags.SkipBad = False,
    allow_changes: flags.AllowChanges = False,
    power: flags.Power = None,
    max_cpu: flags.MaxCPU = None,
    max_memory: flags.MaxMemory = None,
    time: flags.Time = None,
    supervise: flags.Supervise = True,
    restarts: flags.Restarts = 5,
) -> None:
    """A whole pipeline into one run directory.

    The same command again goes on where it stopped. Each --data goes to the stage that its rows fit: texts to
    pretrain, conversations to sft, preference pairs to dpo. A configuration file can name them in [data] instead.
    """
    if common.supervised(context, run, supervise, restarts):
        return
    from minigpt.cli import console
    from minigpt.runs.inputs import sources_by_stage
    from minigpt.runs.pipeline import run_pipeline
    from minigpt.stages.table import STAGES

    extra = _skip_bad(skip_bad) | sources_by_stage(data or [], run / "data" / "downloads")
    limits = limits_from(power, max_cpu, max_memory)
    planned = [stage for stage in STAGES if extra.get(stage)] or list(STAGES)
    preset = preset_for(preset, run, config, sets, planned, backend, device, limits, time)
    settings = common.config_of(run, preset, config, sets, seed, {"data": extra})
    stages = [stage for stage in STAGES if settings.sources(stage).train]
    if not stages:
        known = preset is not None and (run / "config.toml").exists()
        other = "leave --preset out to use the run's own settings" if known else "try minigpt demo"
        raise UsageError("There is no data to train on.", f"Give it with --data FILE, or {other}.")
    with common.training(run, settings, stages, backend, device, limits, time) as (opened, framework, report, control):
        run_pipeline(opened, framework, report, stages, control, allow_changes)
    console.note(f"Talk to it:  minigpt {'chat' if STAGES[stages[-1]].answers else 'generate'} {run}")


def train(
    context: typer.Context,
    stage: flags.Stage,
    run: flags.RunDirectory = common.RUNS / "default",
    data: flags.Data = None,
    preset: flags.Preset = None,
    config: flags.ConfigFile = None,
    sets: flags.Sets = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    seed: flags.Seed = None,
    skip_bad: flags.SkipBad = False,
    allow_changes: flags.AllowChanges = False,
    power: flags.Power = None,
    max_cpu: flags.MaxCPU = None,
    max_memory: flags.MaxMemory = None,
    time: flags.Time = None,
    supervise: flags.Supervise = True,
    restarts: flags.Restarts = 5,
) -> None:
    """One stage of a run.

    It starts from the model and the settings that the run already has. The same command again goes on where it
    stopped.
    """
    if common.supervised(context, run, supervise, restarts):
        return
    from minigpt.runs.pipeline import run_pipeline
    from minigpt.stages.table import STAGES

    check_name("stage", stage, tuple(STAGES))
    extra = _skip_bad(skip_bad) | ({stage: data} if data else {})
    limits = limits_from(power, max_cpu, max_memory)
    preset = preset_for(preset, run, config, sets, [stage], backend, device, limits, time)
    settings = common.config_of(run, preset, config, sets, seed, {"data": extra})
    with common.training(run, settings, [stage], backend, device, limits, time) as (opened, framework, report, control):
        run_pipeline(opened, framework, report, [stage], control, allow_changes)


def _skip_bad(skip_bad: bool) -> dict[str, Any]:
    return {"skip_bad": True} if skip_bad else {}
