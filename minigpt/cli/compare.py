"""minigpt compare: runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.cli.language import Language, language

Runs = Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Two or more run directories, or names in runs/.")]
HtmlOut = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the curves.")]


@command("minigpt compare runs/a runs/b --html compare.html")
def compare(
    runs: Runs,
    curve: flags.Curve,
    json: flags.AsJson = False,
    html: HtmlOut = None,
    lang: Language = None,
) -> None:
    """Compare runs: settings, results, answers.

    Only settings that differ are shown; curves come with --html or --svg.
    """
    from minigpt.cli import console, tables
    from minigpt.runs.finding import find_run
    from minigpt.store.durable import write_whole
    from minigpt.watch.compare import compare_page, compare_runs, said
    from minigpt.watch.report import figure

    lang = language(lang)
    directories = [find_run(run) for run in runs]
    compared = compare_runs(directories)
    for path in curve.write(directories):
        console.note(f"Curve: {path}")
    if html is not None:
        write_whole(html, compare_page(compared, lang))
        console.note(f"Page: {html}")
    if json:
        console.print_json(compared.as_dict())
        return
    shown = [[key, *("–" if v is None else str(v) for v in values)] for key, values in compared.settings.items()]
    everything = range(len(compared.names) + 1)
    tables.table("Settings that differ", ["", *compared.names], shown or [["none"]], everything)
    rows = [[f"{one}: {name.replace('_', ' ')}", *map(figure, values)] for (one, name), values
            in compared.results.items()]  # fmt: skip
    tables.table("Results on held-out data", ["", *compared.names], rows)
    if compared.tests:
        columns = ["", *(f"{name} − {compared.names[0]}" for name in compared.names[1:])]
        rows = [[f"{one}: {test}", *map(said, found)] for (one, test), found in compared.tests.items()]
        tables.table("Differences on the same rows (exact sign test)", columns, rows, everything)
    answers = [[key, *("–" if t is None else t for t in texts)] for key, texts in compared.answers.items()]
    if answers:
        tables.table("Answers", ["", *compared.names], answers, everything)
