"""The commands that say what fits this machine: doctor and plan."""

from pathlib import Path

from minigpt import flags
from minigpt.commands import common


def doctor(
    json: flags.AsJson = False,
    share: flags.Share = False,
) -> None:
    """Say what this machine is and what it can train.

    Chip, memory, disk, power and heat; each backend with one operation and its speed; which backend a run gets and
    why; and what stands in the way, in words.
    """
    from dataclasses import asdict

    from backends import BACKENDS, installed
    from minigpt import console, machine_tables
    from minigpt.machine import choose
    from minigpt.machine.check import check_backend
    from minigpt.machine.description import describe
    from minigpt.machine.problems import problems

    found = describe(common.RUNS if common.RUNS.exists() else Path())
    checks = [check_backend(name) for name in BACKENDS if installed(name)]
    working = [check.name for check in checks if check.works]
    backend, reason = choose(found.apple, working)
    sentences = problems(found, working)
    sentences += [f"The {check.name} backend does not work: {check.error}." for check in checks if check.error]
    report = {
        "machine": asdict(found), "python": machine_tables.python_version(),
        "backends": [asdict(check) for check in checks],
        "choice": {"backend": backend, "reason": reason}, "problems": sentences,
    }  # fmt: skip
    if json:
        console.print_json(report)
    elif share:
        console.write(machine_tables.shared_block(found, checks, report["choice"], sentences))
    else:
        machine_tables.show_machine(found, checks, report["choice"], sentences)
