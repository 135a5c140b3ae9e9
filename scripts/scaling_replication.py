"""Fit the runs of Hoffmann et al. (2022) as Besiroglu et al. (2024) did, and compare with the table of their paper.

    python scripts/scaling_replication.py svg_extracted_data.csv [--draws 4000]

The file is theirs (github.com/epoch-research/analyzing-chinchilla, data/): 245 runs, read off figure 4 of Hoffmann et
al. As they do, the five with the highest losses are omitted. Ends with 1 when a constant is more than a tenth of its
standard error from theirs, or a standard error more than a quarter of theirs from it (and what they rounded).
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from minigpt.experiments.fits import Point, fit
from minigpt.experiments.laws import FLOPS

OMITTED = 5
# Their constants with standard errors, of 4,000 samples; the last one is beta / (alpha + beta).
PAPER = {
    "A": (482.01, 124.58), "B": (2085.43, 1293.23), "E": (1.8172, 0.03), "alpha": (0.3478, 0.02),
    "beta": (0.3658, 0.02), "exponent": (0.5126, 0.02),
}  # fmt: skip


def read(path: Path) -> list[Point]:
    """All runs but those with the highest losses."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(float(row["Model Size"]), float(row["Training FLOP"]), float(row["loss"]))
                for row in csv.DictReader(file) if row["loss"]]  # fmt: skip
    rows.sort(key=lambda row: row[2])
    return [Point(size, compute / FLOPS / size, loss) for size, compute, loss in rows[:-OMITTED]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    given = parser.parse_args()
    points = read(given.file)
    found, failed = fit(points, draws=given.draws), 0
    print(f"{len(points)} runs, {given.draws} samples of the bootstrap")
    print(f"{'':10}{'ours':>10}{'error':>10}{'paper':>10}{'error':>10}")
    for name, (value, error) in PAPER.items():
        ours = getattr(found.law, name)
        spread = float(np.std([getattr(law, name) for law in found.drawn]))
        good = abs(ours - value) <= error / 10 and abs(spread / error - 1) <= 0.25 + 0.005 / error
        failed += not good
        print(f"{name:10}{ours:10.4f}{spread:10.4f}{value:10.4f}{error:10.4f}  {'ok' if good else 'OUTSIDE'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
