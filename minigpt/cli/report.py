"""minigpt report: one HTML file about a run, or one of its curves as a picture."""

import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.cli.language import Language, language
from minigpt.cli.watch import RunArgument
from minigpt.errors import UsageError

ReportOut = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: report.html in the run.")]
Open = Annotated[bool, typer.Option("--open", help="Open it in a browser.")]


@command("minigpt report runs/demo", "minigpt report runs/demo --svg loss.svg --metric loss --log-y")
def report(
    *,
    run: RunArgument = None,
    curve: flags.Curve,
    out: ReportOut = None,
    open: Open = False,
    lang: Language = None,
) -> None:
    """Write what a run did as one HTML file.

    Data, time, curves, results, conversations; it prints well.

    With --svg or --png one curve is written instead.
    """
    from minigpt.cli import console
    from minigpt.runs.finding import find_run
    from minigpt.watch.report import write_report

    lang = language(lang)
    directory = find_run(run)
    if curve.svg is None and curve.png is None:
        written = write_report(directory, out, lang)
        console.write(f"{written}\n")
        if open:
            webbrowser.open(written.resolve().as_uri())
        return
    if out is not None:
        raise UsageError("--out is for the report; --svg and --png name their own files.")
    named = {name: getattr(curve, name) for name in ("svg", "png")}
    named = {name: path.with_suffix(f".{name}") for name, path in named.items() if path is not None and not path.suffix}
    for path in replace(curve, **named).write([directory]):
        console.write(f"{path}\n")
