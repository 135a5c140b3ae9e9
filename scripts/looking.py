#!/usr/bin/env python
"""What looking at runs costs, and whether other tools read what runs write.

    python scripts/looking.py many             200 runs of 100,000 points: listed and compared, time and memory
    python scripts/looking.py cost --pairs 130 a step with and without --watch, in turns; wants a quiet machine
    python scripts/looking.py tensorboard --python VENV/bin/python   its reader gives the numbers of metrics.jsonl
    python scripts/looking.py trackers --python VENV/bin/python      wandb and trackio, offline, read back

VENV has the packages tensorboard, wandb and trackio. Exits with 1 when a bound of `BOUNDS` is not kept.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from looking import cost, many, readers

BOUNDS = {"list": 2.0, "compare": 2.0, "memory": 300e6, "slower": 0.01, "difference": 1e-6}  # s, s, bytes, shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["many", "cost", "tensorboard", "trackers"])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=130, help="of stretches, with and without the page")
    parser.add_argument("--stretch", type=float, default=2.0, help="seconds of each")
    parser.add_argument("--python", default=sys.executable, help="a Python with the other tools")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="looking-") as directory:
        place = Path(directory)
        if given.what == "many":
            return many.report(place, given.runs, given.points, BOUNDS)
        if given.what == "cost":
            return cost.report(place, given.pairs, given.stretch, BOUNDS["slower"])
        if given.what == "tensorboard":
            return readers.tensorboard(place, given.python, BOUNDS["difference"])
        return readers.trackers(place, given.python)


if __name__ == "__main__":
    sys.exit(main())
