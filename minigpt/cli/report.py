"""minigpt report: one HTML file about a run, or one of its curves as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.cli.watch import RunArgument
from minigpt.errors import UsageError, check_name

ReportOut = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: report.html in the run.")]
Language = Annotated[str, typer.Option("--lang", metavar="NAME", help="en or zh.")]
Svg = Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Write a curve as SVG instead of the report.")]
Png = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Write a curve as PNG (needs cairosvg).")]
Metric = Annotated[str, typer.Option("--metric", metavar="NAME", help="Which curve: loss, accuracy, norm, …")]
LogX = Annotated[bool, typer.Option("--log-x", help="The curve's steps on a log axis.")]
LogY = Annotated[bool, typer.Option("--log-y", help="The curve's values on a log axis.")]


@command("minigpt report runs/demo", "minigpt report runs/demo --svg loss.svg --metric loss --log-y")
def report(
    run: RunArgument = None,
    out: ReportOut = None,
    lang: Language = "en",
    stage: flags.Stage = None,
    svg: Svg = None,
    png: Png = None,
    metric: Metric = "loss",
    log_x: LogX = False,
    log_y: LogY = False,
) -> None:
    """Write what a run did as one HTML file.

    Data, time, curves, results, conversations; it prints well.

    With --svg or --png one curve is written instead.
    """
    from minigpt.cli import console
    from minigpt.watch.compare import curve_of
    from minigpt.watch.pages import LANGUAGES
    from minigpt.watch.read import find_run
    from minigpt.watch.report import write_report
    from minigpt.watch.svg import write_curve

    check_name("language", lang, LANGUAGES)
    directory = find_run(run)
    if svg is None and png is None:
        console.write(f"{write_report(directory, out, lang)}\n")
        return
    if out is not None:
        raise UsageError("--out is for the report; --svg and --png name their own files.")
    for path, suffix in ((svg, ".svg"), (png, ".png")):
        if path is not None:
            path = path if path.suffix else path.with_suffix(suffix)
            if path.suffix.lower() != suffix:
                raise UsageError(f"{path} does not end in {suffix}.", f"Name a file such as curve{suffix}.")
            write_curve(curve_of([directory], stage, metric, log_x, log_y), path)
            console.write(f"{path}\n")
