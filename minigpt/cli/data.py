"""`minigpt data check`: mistakes in training data, found before they cost time."""

from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.errors import DATA, DataError
from minigpt.runs.finding import RUNS

Stage = Annotated[
    str | None, typer.Option("--stage", metavar="STAGE", help="As in minigpt train. Default: what the rows fit.")
]
Run = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="A run whose tokenizer and settings are used.")
]


@command("minigpt data check chats.jsonl", "minigpt data check chats.jsonl --run runs/mine --json")
def data_check(
    data: flags.Files,
    given: flags.Settings,
    stage: Stage = None,
    run: Run = None,
    json: flags.AsJson = False,
) -> None:
    """Find mistakes in training data before using it.

    Shows form, rows, lengths, truncation, duplicates, bad rows as file:line, and an example with its loss mask.
    Exits with 3 when there is a bad row, at which training would stop, or no row.
    """
    from minigpt.cli import console, tables, waiting

    downloads = RUNS / "downloads"
    with waiting.working("Reading the data"):
        groups, rows = _groups(data, stage, downloads)
    reports = [_checked(name, sources, run, given, downloads) for name, sources in groups.items()]
    if json:
        found = [report.as_dict() for report, _, _ in reports]
        console.print_json(found[0] if len(found) == 1 else {"stages": found})
    else:
        if len(groups) > 1:
            tables.show_placed(rows)
        for report, tokenizer, context in reports:
            tables.show_data(report, tokenizer, context)
    bad = any(report.bad for report, _, _ in reports)
    empty = [", ".join(groups[report.stage]) for report, _, _ in reports if not report.splits]
    if bad:
        console.note("Training stops at the first bad row; with --skip-bad it omits them.")
    elif empty:
        console.note(f"There is no text and no row in {', '.join(empty)}.")
    if bad or empty:
        raise typer.Exit(DATA)


def _groups(data: list[str], stage: str | None, downloads: Path) -> tuple[dict[str, list[str]], list]:
    """(stage -> its sources, as `minigpt run` would have them; the table of what went where)."""
    from minigpt.runs.placing import NothingUsable, by_stage, placed
    from minigpt.stages.table import FIRST, stage_of

    if stage is not None:
        return {stage_of(stage).name: data}, []
    try:
        rows = placed(data, downloads)
        return by_stage(rows), rows
    except NothingUsable:
        return {FIRST: data}, []  # no row is any good: each is reported


def _checked(stage: str, sources: list[str], run: Path | None, given: flags.Settings, downloads: Path) -> tuple:
    """(report, tokenizer, context) of a stage's sources."""
    from minigpt.cli import console, waiting
    from minigpt.data.check import check
    from minigpt.runs.inputs import learn_tokenizer, reader_of
    from minigpt.text.learn import train_tokenizer
    from minigpt.text.load import load_tokenizer

    settings = opening.config_of(run, given, {"data": {stage: sources}})
    with waiting.working("Reading the data"):
        reader = reader_of(settings, stage, downloads, console.note_of)
        if run is not None:
            tokenizer = load_tokenizer(run / "tokenizer")
        else:
            try:
                tokenizer = learn_tokenizer(sources, settings, stage)
            except DataError:  # without a usable row any tokenizer will do; other faults come again in check
                tokenizer = train_tokenizer("byte", [], 0)
        return check(reader, tokenizer, settings.model.context), tokenizer, settings.model.context
