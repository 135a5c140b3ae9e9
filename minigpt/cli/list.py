"""minigpt list: the runs that there are."""

import time
from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags
from minigpt.cli.command import command

Root = Annotated[Path, typer.Argument(metavar="DIR", help="The directory that holds the runs.")]


@command("minigpt list", "minigpt list --json")
def list_(root: Root = Path("runs"), json: flags.AsJson = False) -> None:
    """List the runs: state, stages, loss, size.

    The one that was written last comes first.
    """
    from minigpt.cli import console, tables
    from minigpt.errors import UsageError
    from minigpt.runs.finding import run_directories
    from minigpt.watch.read import read_run
    from minigpt.watch.report import size

    if not root.is_dir():
        raise UsageError(f"There is no directory {root}.", "Make a run with minigpt demo, or name another directory.")
    runs = [read_run(directory) for directory in run_directories(root)]
    if json:
        console.print_json([run.summary() for run in runs])
        return
    if not runs:
        console.note(f"There is no run in {root} yet. Make one with minigpt demo.")
        return
    rows = []
    for run in runs:
        stages = ", ".join(f"{stage.name}{_progress(stage)}" for stage in run.stages) or "–"
        loss = run.stage.metrics.get("loss", run.stage.validation_loss) if run.stage else None
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
        shown = "–" if loss is None else f"{loss:.4f}"
        rows.append([run.name, run.state, stages, shown, size(run.size), changed])
    tables.table("", ["run", "state", "stages", "validation loss", "size", "changed"], rows, (0, 1, 2))


def _progress(stage) -> str:
    """Nothing for a finished stage, else how far it is."""
    if stage.finished:
        return ""
    return f" {stage.step:,}" + (f" of {stage.steps:,}" if stage.steps else "")
