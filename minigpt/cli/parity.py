"""`minigpt parity`: the backends compared with each other and with NumPy."""

import os
from typing import Annotated

import typer

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.errors import RUNTIME

Backends = Annotated[
    str, typer.Option("--backends", metavar="NAMES", help="Which; each is compared with NumPy, too.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Omit the 20-step training trajectories.")]


@command("minigpt parity --quick", "minigpt parity --backends torch --json")
def parity(backends: Backends = "mlx,torch", quick: Quick = False, json: flags.AsJson = False) -> None:
    """Compare the backends with each other, number by number.

    Operations, models, gradients and training trajectories, and known mistakes that must be caught. Exits with 1
    when a bound is broken.
    """
    from dataclasses import asdict

    os.environ.setdefault("MLX_ENABLE_TF32", "0")  # full float32 products on GPUs, before mlx is imported
    from minigpt.cli import console, reporter, tables
    from minigpt.parity.report import compare

    frameworks = [opening.backend_of(name.strip(), "cpu", quiet=True) for name in backends.split(",")]
    with reporter.Reporter() as report:
        rows = compare(frameworks, quick, report)
    if json:
        console.print_json([asdict(row) for row in rows])
    else:
        tables.show_parity(rows)
    if not all(row.ok for row in rows):
        raise typer.Exit(RUNTIME)
