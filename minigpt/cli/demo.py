"""`minigpt demo`: the whole story on built-in data."""

from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.cli.limits import limits_from
from minigpt.cli.planning import fitted
from minigpt.cli.session import supervised, training


@command("minigpt demo", "minigpt demo --preset auto --time 30m --run runs/first")
def demo(
    context: typer.Context,
    given: flags.Settings,
    where: flags.Where,
    taking: flags.Taking,
    watched: flags.Watched,
    follow: flags.Follow,
    word: Annotated[Path | None, typer.Argument(metavar="RUN", help="The same as --run.")] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="The run directory. Default: runs/demo.")
    ] = None,
    json: flags.AsJson = False,
) -> None:
    """The whole story on built-in data, measured.

    Tokenizer → pretrain → SFT → DPO, then conversations and a table: what did each stage change? The same
    command again shows them again.
    """
    run = flags.one_run(word, run) or opening.RUNS / "demo"
    if supervised(context, run, watched, follow):
        return
    from minigpt.cli import console, tables
    from minigpt.demo import STORY, demo_config
    from minigpt.demo import demo as run_demo
    from minigpt.watch.report import latest_report

    limits = limits_from(taking)
    chosen = fitted(given, run, STORY, where, limits, taking)
    settings = demo_config(opening.config_of(run, chosen.given, chosen.steps))
    with training(run, settings, STORY, where, limits, chosen.time, follow) as (opened, framework, report, control):
        result = run_demo(opened, framework, report, control)
    written = latest_report(run)
    if json:
        console.print_json(result)
        return
    tables.show_demo(result)
    console.note(f"Talk to it:  minigpt chat {run}")
    console.note(f"Report:  {written}")
