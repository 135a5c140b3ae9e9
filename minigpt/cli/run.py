"""`minigpt run`: a whole pipeline into one run directory."""


import typer

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.cli.language import language, spoken
from minigpt.cli.limits import limits_from
from minigpt.cli.planning import fitted
from minigpt.cli.session import supervised, training
from minigpt.errors import UsageError
from minigpt.runs.finding import RUNS, is_run


@command(
    "minigpt run story.txt chats.jsonl --run runs/mine",
    "minigpt run runs/mine",
)
def run(
    context: typer.Context,
    sources: flags.Sources,
    given: flags.Settings,
    where: flags.Where,
    taking: flags.Taking,
    watched: flags.Watched,
    follow: flags.Follow,
) -> None:
    """A whole pipeline into one run directory.

    The same command again goes on where it stopped, and so does the name of the run alone. Data go to the stage that
    their rows fit: texts to pretrain, conversations to sft, preference pairs to dpo. A configuration file can name
    them in [data] instead.
    """
    run, data = sources.placed(RUNS / "default")
    if supervised(context, run, watched, follow, where):
        return
    from minigpt.cli import console, tables
    from minigpt.pages.texts import words
    from minigpt.runs.conversations import keep_conversations
    from minigpt.runs.pipeline import run_pipeline
    from minigpt.runs.placing import by_stage, placed
    from minigpt.stages.table import STAGES, USUAL
    from minigpt.watch.report import latest_report

    rows = placed(data, run / "data" / "downloads", console.note_of)
    if len(rows) > 1:
        tables.show_placed(rows)
    extra = ({"skip_bad": True} if sources.skip_bad else {}) | by_stage(rows)
    limits = limits_from(taking)
    planned = [stage for stage in STAGES if extra.get(stage)] or list(USUAL)
    chosen = fitted(given, run, planned, where, limits, taking)
    settings = opening.config_of(run, chosen.given, {"data": extra} | chosen.steps)
    stages = [stage for stage in STAGES if settings.sources(stage).train]
    if not stages:
        known = chosen.given.preset is not None and is_run(run)
        other = "omit --preset to use the run's own settings" if known else "try minigpt demo"
        raise UsageError("There is no data to train on.", f"Give it with --data FILE, or {other}.")
    with training(run, settings, stages, where, limits, chosen.time, follow) as (opened, framework, report, control):
        run_pipeline(opened, framework, report, stages, control, sources.allow_changes)
        keep_conversations(opened, framework, report)
    say = words(spoken(follow.lang), "demo")
    talk = f"minigpt {'chat' if STAGES[stages[-1]].answers else 'generate'} {run}"
    console.note(say["talk"].format(command=talk))
    console.note(say["report"].format(path=latest_report(run, language(follow.lang))))
