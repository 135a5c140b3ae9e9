"""`minigpt data check`: mistakes in training data, found before they cost time."""

from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.errors import DATA, DataError, check_name

Stage = Annotated[
    str | None, typer.Option("--stage", metavar="STAGE", help="pretrain, sft or dpo. Default: what the rows fit.")
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
    from minigpt.cli import console, tables
    from minigpt.data.check import check
    from minigpt.data.parse.fields import RowError
    from minigpt.runs.inputs import learn_tokenizer, reader_of, stage_of_source
    from minigpt.stages.table import FIRST, STAGES
    from minigpt.text.learn import train_tokenizer
    from minigpt.text.load import load_tokenizer

    downloads = opening.RUNS / "downloads"
    with console.working("Reading the data"):
        try:
            stage = stage or stage_of_source(data[0], downloads)
        except RowError:
            stage = FIRST  # no row is any good: each is reported
        check_name("stage", stage, tuple(STAGES))
        settings = opening.config_of(run, given, {"data": {stage: data}})
        reader = reader_of(settings, stage, downloads, console.note_of)
        if run is not None:
            tokenizer = load_tokenizer(run / "tokenizer")
        else:
            try:
                tokenizer = learn_tokenizer(data, settings, stage)
            except DataError:  # without a usable row any tokenizer will do; other faults come again in check
                tokenizer = train_tokenizer("byte", [], 0)
        report = check(reader, tokenizer, settings.model.context)
    if json:
        console.print_json(report.as_dict())
    else:
        tables.show_data(report, tokenizer, settings.model.context)
    if report.bad:
        console.note("Training stops at the first bad row; with --skip-bad it omits them.")
    elif not report.splits:
        console.note(f"There is no text and no row in {', '.join(data)}.")
    if report.bad or not report.splits:
        raise typer.Exit(DATA)
