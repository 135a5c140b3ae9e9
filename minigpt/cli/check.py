"""`minigpt check`: what holds on this machine, as a block to paste into an issue."""

from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.errors import RUNTIME, check_name

Share = Annotated[bool, typer.Option("--share", help="Only the block to paste, on stdout.")]
Only = Annotated[str | None, typer.Option("--only", metavar="NAMES", help="Such as training,decode. Default: all.")]


@command("minigpt check --share", "minigpt check --only training,decode --backend torch")
def check(
    where: flags.Where,
    only: Only = None,
    share: Share = False,
    json: flags.AsJson = False,
) -> None:
    """Measure what holds on this machine; takes about five minutes.

    Operations and models against NumPy, planted mistakes, steps of every stage compiled and not, bfloat16, 4 bits,
    decoding, the plan against what happened, the memory ceiling and the CPU limit. Each line is ok, failed or
    skipped; none stops the others. The block has no user name, no path and no host name. Exits with 1 when a line
    failed.
    """
    from dataclasses import asdict

    from minigpt.cli import console, reporter
    from minigpt.machine import choose_backend
    from minigpt.machine.description import describe
    from minigpt.parity import selfcheck

    names = selfcheck.NAMES if only is None else tuple(name.strip() for name in only.split(","))
    for name in names:
        check_name("fact", name, selfcheck.NAMES)
    framework, reason = choose_backend(where.backend, where.device)
    name, device = framework.name, framework.device
    if not share:
        console.note(f"Checking {name} on {device} ({reason}); this takes about five minutes.")
    with reporter.Reporter() as report:
        lines = selfcheck.check(name, device, report, names)
    if json:
        console.print_json({"backend": name, "device": device, "lines": [asdict(line) for line in lines]})
    else:
        console.write(selfcheck.block(describe(Path()), name, device, framework.runtime.versions(), lines))
    if not share and not json:
        console.note("To report it, paste this block into an issue: minigpt check --share prints nothing else.")
    if any(line.verdict == "failed" for line in lines):
        raise typer.Exit(RUNTIME)
