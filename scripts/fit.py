#!/usr/bin/env python
"""Fits the laptop? Planned against actual memory and time of every stage, then asked against held CPU share.

    python scripts/fit.py                              both campaigns, about an hour on two cores
    python scripts/fit.py --only plan --presets tiny --backends torch --steps 20

Exits with 1 when memory is more than 15 % or time more than 25 % away from the plan, or a limit is not kept.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fitting import plans, throttle

from backends import BACKENDS
from minigpt.config import PRESETS

SHARES, SECONDS = (0.3, 0.6), 60.0  # asked of the CPU, and for how long a share is measured


def main() -> int:
    arguments = _arguments()
    backends, found, held = arguments.backends.split(","), [], []
    with tempfile.TemporaryDirectory(prefix="fit-") as directory:
        if "plan" in arguments.only:
            found = plans.planned_and_actual(Path(directory), arguments.presets.split(","), backends, arguments.steps)
        if "throttle" in arguments.only:
            held = list(throttle.shares_held(Path(directory), backends, SHARES, SECONDS))
            held += throttle.ceilings_held(Path(directory), backends) if sys.platform == "linux" else []
    if arguments.json:
        print(json.dumps({"plan": [vars(row) for row in found], "throttle": [vars(row) for row in held]}, indent=1))
    else:
        if found:
            plans.show(found)
        if held:
            throttle.show([row for row in held if row.asked <= 1], [row for row in held if row.asked > 1])
    return 0 if all(row.good for row in found) and all(row.kept for row in held) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="plan,throttle", metavar="NAMES", help="plan, throttle or both")
    parser.add_argument("--presets", default=",".join(PRESETS), metavar="NAMES")
    parser.add_argument("--backends", default=",".join(BACKENDS), metavar="NAMES")
    parser.add_argument("--steps", type=int, default=0, metavar="N", help="of each stage (default: by preset)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
