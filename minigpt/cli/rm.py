"""minigpt rm: delete runs."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli.command import command
from minigpt.errors import UsageError
from minigpt.runs.finding import is_run

Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories, or names in runs/.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@command("minigpt rm runs/old")
def rm(runs: Runs, yes: Yes = False) -> None:
    """Delete runs, after asking.

    With their weights, data and curves.
    """
    from minigpt.cli import console, reading
    from minigpt.runs.finding import RUNS
    from minigpt.watch.read import read_run
    from minigpt.watch.report import size

    found = [read_run(_exactly(path, RUNS)) for path in runs]
    for run in found:
        if run.process:
            message = f"Process {run.process['pid']} trains in {run.directory}."
            raise UsageError(message, "Stop it first: minigpt watch, or Ctrl-C where it runs.")
    for run in found:
        question = f"Delete {run.directory} ({run.state}, {size(run.size)})? [y/N] "
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError(f"{run.directory} was not deleted: there is nobody to ask.", "Say --yes.")
            if (reading.ask(question) or "").strip().lower() not in ("y", "yes"):
                console.note(f"{run.directory} stays.")
                continue
        shutil.rmtree(run.directory)
        console.note(f"Deleted {run.directory}.")


def _exactly(path: Path, root: Path) -> Path:
    """The run directory that was named: never a stage's run, never the newest one. Raises UsageError for others."""
    for place in (path, root / path):
        if is_run(place) and not place.is_symlink():
            return place
    raise UsageError(f"{path} is not a run directory.", "Look at minigpt list.")
