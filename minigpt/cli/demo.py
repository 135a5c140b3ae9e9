"""`minigpt demo`: the whole story on built-in data."""

from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.cli.language import language, spoken
from minigpt.cli.limits import limits_from
from minigpt.cli.planning import fitted
from minigpt.cli.session import supervised, training
from minigpt.runs.finding import RUNS

Verbose = Annotated[bool, typer.Option("--verbose", help="Show the settings, too (minigpt config explains them).")]
Rl = Annotated[
    bool, typer.Option("--rl", help="Go on with a reward model and GRPO, each a column of the table; takes longer.")
]
NEXT = {  # a command, by the word of its reason in the table of texts
    "next_report": "report RUN --open", "next_generate": "generate RUN --stage pretrain -p 'Ann has'",
    "next_evaluate": "evaluate RUN", "next_export": "export RUN --to gguf",
    "next_run": "run --run runs/mine --data FILE",
}  # fmt: skip


@command("minigpt demo", "minigpt demo --rl", "minigpt demo --preset auto --time 30m --run runs/first")
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
    rl: Rl = False,
    verbose: Verbose = False,
    json: flags.AsJson = False,
) -> None:
    """The whole story on built-in data, measured.

    Tokenizer → pretrain → SFT → DPO, then conversations and a table: what did each stage change? The same
    command again shows them again.
    """
    run = flags.one_run(word, run) or RUNS / "demo"
    if supervised(context, run, watched, follow, where):
        return
    from minigpt.cli import console, tables
    from minigpt.demo import RL, STORY, demo_config
    from minigpt.demo import demo as run_demo
    from minigpt.pages.texts import words
    from minigpt.watch.report import latest_report

    limits = limits_from(taking)
    stages = RL if rl else STORY
    chosen = fitted(given, run, stages, where, limits, taking)
    settings = demo_config(opening.config_of(run, chosen.given, chosen.steps), stages)
    with training(run, settings, stages, where, limits, chosen.time, follow, verbose) as started:
        opened, framework, report, control = started
        result = run_demo(opened, framework, report, control, stages)
    written, say = latest_report(run, language(follow.lang)), words(spoken(follow.lang), "demo")
    if json:
        console.print_json(result)
        return
    tables.show_demo(result, spoken(follow.lang))
    console.note(say["talk"].format(command=f"minigpt chat {run}"))
    console.note(say["next"])
    for word, line in NEXT.items():
        console.note(f"  minigpt {line.replace('RUN', str(run)):<55}  {say[word]}")
    console.note(say["report"].format(path=written))
