#!/usr/bin/env python
"""Proves the promises of a run by breaking it: stops, kills, damage, full disks, races, bad numbers, bad input.

    python scripts/torture.py                    everything, about an hour on two cores
    python scripts/torture.py --only kills,races
    python scripts/torture.py --scale 0.05       a twentieth of each, for a quick look

Prints what was tried, what survived and what was lost, and exits with 1 when something was lost. Run it in the
environment that scripts/test makes.
"""

import argparse
import json
import os
import platform
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ordeals import damage, fuzz, memory, numbers, processes, resume, sampling
from ordeals.ordeal import Outcome, campaign, known, show

from backends import BACKENDS

ORDEALS = {
    "resume": resume.every_cut,
    "sampling": sampling.every_cut,
    "kills": processes.kills,
    "sampling-kills": sampling.kills,
    "signals": processes.signals,
    "races": processes.races,
    "memory": memory.out_of_memory,
    "corruption": damage.corrupted_checkpoints,
    "disk": damage.full_disk,
    "numbers": numbers.bad_numbers,
    "rows": fuzz.rows,
    "configurations": fuzz.configurations,
}


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs and their children
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only wait for each other

    def break_runs(name: str, directory: Path) -> list[Outcome]:
        return ORDEALS[name](directory, arguments.backends.split(","), arguments.scale, arguments.seed)

    outcomes = campaign(arguments.only, break_runs, "torture", "lost")
    if arguments.json:
        print(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    else:
        show(outcomes, "Torture", ["what happened to a run", "tried", "survived", "lost", "of these"], "lost")
        print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    return 1 if any(outcome.lost for outcome in outcomes) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ORDEALS), metavar="NAMES", help=f"of {', '.join(ORDEALS)}")
    parser.add_argument("--backends", default=",".join(BACKENDS), metavar="NAMES")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="share of the full number of tries")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.only = known(arguments.only, ORDEALS, parser)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
