"""minigpt watch: the live page of a run."""

import time
from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli.command import command
from minigpt.cli.language import Language, language

RunArgument = Annotated[Path | None, typer.Argument(metavar="RUN", help="A run directory. Default: the newest.")]
Port = Annotated[int | None, typer.Option("--port", metavar="N", min=1, max=65535, help="Default: 8321, or any.")]
LAST = 19  # niceness
Wait = Annotated[bool, typer.Option("--wait", hidden=True)]
Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")]


@command("minigpt watch", "minigpt watch runs/demo --port 9000")
def watch(
    run: RunArgument = None, port: Port = None, browser: Browser = True, lang: Language = None, wait: Wait = False
) -> None:
    """Show a run on a live page, while it trains or afterwards.

    The page is on this machine only (127.0.0.1). It reads the run's files and stops with Ctrl-C; training goes on.
    """
    from minigpt.cli.page import show_page
    from minigpt.machine.processes import set_niceness
    from minigpt.runs.finding import RUNS, find_run, is_run
    from minigpt.watch.server import serve

    if wait:
        set_niceness(LAST)  # beside a training, which goes first
    while wait and run is not None and not is_run(run):
        time.sleep(0.3)  # a training that has just been started makes it
    directory = find_run(run)
    server = serve(root_of(directory, RUNS), directory, port, language(lang))
    show_page(server, f"Watching {directory}", ", not the training", browser)


def root_of(directory: Path, runs: Path) -> Path:
    """Where a run's neighbours lie: runs/, or the directory that the run is in."""
    return runs if directory.parent == runs else directory.resolve().parent
