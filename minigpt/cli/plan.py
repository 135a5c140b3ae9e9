"""`minigpt plan`: what a run would take here, before it starts."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.errors import RESOURCES, UsageError, check_name

Preset = Annotated[
    str, typer.Option("--preset", metavar="NAME", help="tiny, small, medium, all, or auto: the largest that fits.")
]
File = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A TOML file with values that replace the preset's.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, such as model.n_layer=8. Repeatable.")
]
Stages = Annotated[
    str | None, typer.Option("--stages", metavar="NAMES", help="Such as pretrain,sft. Default: those of a whole run.")
]
MaxMemory = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="LIMIT", help="Most memory: percent of the machine's, or a size like 4GB."),
]
Processes = Annotated[
    int, typer.Option("--processes", metavar="N", min=1, help="Of so many: what each needs, what they make of a step.")
]
LinkOption = Annotated[
    str, typer.Option("--link", metavar="SPEED", help="With --processes: what joins them, such as 1Gbit or 100Mbit.")
]
Latency = Annotated[
    float, typer.Option("--latency", metavar="MS", min=0, help="With --processes: a message's way, in milliseconds.")
]
Time = Annotated[str | None, typer.Option("--time", metavar="TIME", help="What training may take, such as 1h30m.")]


@command(
    "minigpt plan", "minigpt plan --preset auto --time 30m", "minigpt plan --preset small --processes 4 --link 1Gbit",
    "minigpt plan --preset medium --processes 8 --set pretrain.shard=full",
)
def plan(
    where: flags.Where,
    preset: Preset = "all",
    config: File = None,
    sets: Sets = None,
    stages: Stages = None,
    max_memory: MaxMemory = None,
    time: Time = None,
    processes: Processes = 1,
    link: LinkOption = "1Gbit",
    latency: Latency = 0.1,
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
    from minigpt.cli import console, machine_tables, waiting
    from minigpt.cli.limits import limits_from
    from minigpt.config import PRESETS, load_config
    from minigpt.plan.choose import largest_preset, place_of, plan_for, refuse
    from minigpt.plan.link import parse_link
    from minigpt.stages.table import STAGES, USUAL

    check_name("preset", preset, (*PRESETS, "all", "auto"))
    wanted = _stages(stages, USUAL, tuple(STAGES))
    limits = limits_from(flags.Taking("full", None, max_memory))
    framework = opening.backend_of(where.backend, where.device)
    names, reason = PRESETS if preset == "all" else (preset,), ""
    if preset == "auto":
        with waiting.working("Measuring the presets, the largest first"):
            choice = largest_preset(config, sets, wanted, framework, limits, time, processes)
        preset, reason, time = choice.preset, choice.reason, None if choice.steps else time
        names, found = (preset,), {preset: choice.plan}
    every = {name: load_config(name, config, sets or []) for name in names}
    if not reason:
        place = replace(place_of(framework, limits), processes=processes)
        steps = dict.fromkeys(wanted, 0)
        found = {}
        for name, settings in every.items():
            with waiting.working(f"Measuring {name}"):
                found[name] = plan_for(settings, steps, framework, place)
    if json:
        shown: Any = {name: one.as_dict() for name, one in found.items()}
        console.print_json({"presets": shown} | ({"chosen": preset, "reason": reason} if reason else {}))
    else:
        for name, one in found.items():
            machine_tables.show_plan(name, one)
        if processes > 1:
            for name, one in found.items():
                machine_tables.show_together(name, one, processes, parse_link(link, latency / 1000))
        if reason:
            console.note(f"Preset {preset}: {reason}.")
    if len(names) == 1:
        refuse(found[names[0]], every[names[0]], limits, time)
    elif not any(one.fits for one in found.values()):
        console.note("No preset fits this memory.")
        raise typer.Exit(RESOURCES)


def _stages(text: str | None, usual: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    """The stages that --stages names, in the order of a run."""
    named = [name.strip() for name in text.split(",")] if text is not None else list(usual)
    for name in named:
        check_name("stage", name, known)
    if not named:
        raise UsageError("--stages names no stage.", f"Choose of {', '.join(known)}.")
    return [stage for stage in known if stage in named]
