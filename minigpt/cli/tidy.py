"""minigpt tidy: free the space of what finished stages no longer need."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from minigpt.cli import opening
from minigpt.cli.command import command
from minigpt.errors import UsageError

RunPath = Annotated[Path | None, Argument(metavar="RUN", help="A run. Default: the newest in runs/.")]
Yes = Annotated[bool, Option("--yes", "-y", help="Do not ask.")]


@command("minigpt tidy runs/demo")
def tidy(run: RunPath = None, yes: Yes = False) -> None:
    """Delete checkpoints of finished stages.

    Their optimizer states take two thirds of a run's space, and only serve to train a finished stage further. The
    final weights stay, and a stage that is not finished goes on exactly as it would have.
    """
    from minigpt.cli import console, reading
    from minigpt.runs.tidying import delete, unneeded
    from minigpt.store.lock import locked
    from minigpt.watch.report import size

    opened, _ = opening.open_at(run, None)
    with locked(opened.directory):
        rows = unneeded(opened)
        if not rows:
            console.note(f"{opened.directory} has nothing that it does not need.")
            return
        for row in rows:
            plural = "" if row.count == 1 else "s"
            console.note(f"{row.stage} is finished: {row.count} checkpoint{plural}, {size(row.size)}.")
        total = size(sum(row.size for row in rows))
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError(f"{total} could be freed: there is nobody to ask.", "Say --yes.")
            question = f"Delete them ({total})? These stages cannot be trained further then. [y/N] "
            if (reading.ask(question) or "").strip().lower() not in ("y", "yes"):
                console.note("They stay.")
                return
        delete(rows)
        console.note(f"Freed {total}.")
