"""`minigpt sweep`: many runs with different settings, compared."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.runs.finding import RUNS

if TYPE_CHECKING:
    from minigpt.evaluate.intervals import Figure
    from minigpt.experiments.sweep import Row

File = Annotated[Path, Argument(metavar="FILE", help="What to try: a TOML file.")]
Out = Annotated[
    Path | None, Option("--out", metavar="DIR", help="Where results are kept. Default: runs/ and FILE's name.")
]

Svg = Annotated[
    Path | None, Option("--svg", metavar="FILE", help="Draw the results with their intervals; FILE.png is a PNG.")
]


@command("minigpt sweep rates.toml", "minigpt sweep rates.toml --svg rates.svg")
def sweep(file: File, out: Out = None, svg: Svg = None, json: flags.AsJson = False) -> None:
    """Train with different settings and compare the results.

    FILE has data = ["story.txt"], seeds = [1, 2, 3], perhaps budget = "30m", settings of all trials under [base], and
    one of [grid] (every combination), [random] (with trials = N) or [changes] (one at a time, beside the base). The
    same command again goes on where it stopped. A trial that fails is reported; the others go on.
    """
    from minigpt.cli import console, reporter, stopping, tables
    from minigpt.experiments.sweep import read_sweep, run_sweep
    from minigpt.machine.cgroups import usable_cores

    read = read_sweep(file)
    directory = out or RUNS / file.stem
    cores = max(1, int(usable_cores()))
    with stopping.many_runs(directory), reporter.Reporter() as report:
        rows = run_sweep(read, directory, cores, report)
    if svg is not None:
        _draw(rows, f"{file.stem}: {read.measure}", svg)
        console.note(f"Chart: {svg}")
    if json:
        console.print_json([asdict(row) for row in rows])
        return
    columns = ("settings", "runs", read.measure, "± 95 %", "to baseline", "± 95 %", "p (Holm)")
    tables.table("", columns, [_cells(row) for row in rows])
    console.note(f"All runs and results are in {directory}.")


def _draw(rows: "list[Row]", title: str, path: Path) -> None:
    """The table's figures as a picture, the baseline first where there is one."""
    from minigpt.pages.svg import write_curve
    from minigpt.pages.whiskers import Bounded, whiskers

    ordered = sorted(rows, key=lambda row: row.difference is not None)
    shown = [Bounded(row.label, row.figure.value, row.figure.low, row.figure.high) for row in ordered]
    write_curve(whiskers(shown, title), path)


def _cells(row: "Row") -> list[str]:
    figure, difference = row.figure, row.difference
    runs = f"{figure.rows}" + (f" (+{row.failed} failed)" if row.failed else "")
    apart = ["", ""] if difference is None else [f"{difference.value:+.4f}", _half(difference)]
    value = f"{figure.value:.4f}" if figure.rows else "-"
    p = "" if math.isnan(row.p) else f"{row.p:.2g}"
    return [row.label, runs, value, _half(figure), *apart, p]


def _half(figure: "Figure") -> str:
    """Half the t interval, which lies around its mean; a dash where one run alone gives none."""
    half = (figure.high - figure.low) / 2
    return f"{half:.4f}" if math.isfinite(half) else "–"
