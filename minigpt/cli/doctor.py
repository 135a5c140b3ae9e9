"""`minigpt doctor`: what this machine is and what it can train."""

from pathlib import Path
from typing import Annotated

from typer import Option

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.runs.finding import RUNS

Share = Annotated[bool, Option("--share", help="Print a block to paste, without personal data.")]


@command("minigpt doctor")
def doctor(
    json: flags.AsJson = False,
    share: Share = False,
) -> None:
    """Say what this machine is and what it can train.

    Chip, memory, disk, power and heat; each backend with one operation and its speed; which backend a run gets and
    why; what each preset would take, roughly; and problems, in words.
    """
    from dataclasses import asdict

    from backends import BACKENDS, installed
    from minigpt.cli import console, machine_tables, waiting
    from minigpt.machine import choose
    from minigpt.machine.check import check_backend
    from minigpt.machine.description import describe
    from minigpt.machine.problems import problems
    from minigpt.plan.choose import guessed_plans, guessed_preset

    found = describe(RUNS if RUNS.exists() else Path())
    checks = []
    for name in filter(installed, BACKENDS):
        with waiting.working(f"Checking {name}"):
            checks.append(check_backend(name))
    working = [check.name for check in checks if check.works]
    backend, reason = choose(found.apple, working)
    sentences = problems(found, working)
    sentences += [f"The {check.name} backend does not work: {check.error}." for check in checks if check.error]
    choice = {"backend": backend, "reason": reason}
    check = next((check for check in checks if check.name == backend and check.works), None)
    if check is not None:
        plans = guessed_plans(check, found)
        preset, preset_reason = guessed_preset(plans)
        choice |= {"preset": preset, "preset_reason": preset_reason, "presets": {}}
        for name, plan in plans.items():
            choice["presets"][name] = {"seconds": plan.seconds, "memory": plan.memory, "fits": plan.fits}
    report = {
        "machine": asdict(found), "python": machine_tables.python_version(),
        "backends": [asdict(check) for check in checks],
        "choice": choice, "problems": sentences,
    }  # fmt: skip
    if json:
        console.print_json(report)
    elif share:
        console.write(machine_tables.shared_block(found, checks, report["choice"], sentences))
    else:
        machine_tables.show_machine(found, checks, report["choice"], sentences)
