"""What people in the field ran into, tried on the installed program: `python scripts/replay_cases.py [ROW ...]`.

Sixteen small inputs, each made by this script in a temporary directory, each with what must come of it. Prints a table
and exits with 1 when one row is wrong. All is tiny; the whole takes some minutes on two cores.
"""

import argparse
import shlex
import sys
import tempfile
import textwrap
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cases.program import Program, Wrong  # noqa: E402
from cases.rows import ROWS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", type=int, metavar="ROW", help="only these (1 to 16)")
    parser.add_argument(
        "--minigpt", default=shlex.join([sys.executable, "-m", "minigpt"]), help="the program under test"
    )
    asked = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="minigpt-cases-") as directory:
        program = Program(shlex.split(asked.minigpt), Path(directory))
        for number, row in enumerate(ROWS, 1):
            if asked.rows and number not in asked.rows:
                continue
            began = time.monotonic()
            try:
                found, right = row(program.at(f"row-{number}")), True
            except Wrong as error:
                found, right = str(error), False
            wrong += not right
            _show(number, row.__doc__, found, right, time.monotonic() - began)
    print(f"{wrong} wrong." if wrong else "All are right.")
    return 1 if wrong else 0


def _show(number: int, tried: str, found: str, right: bool, seconds: float) -> None:
    """One row of the table: number and verdict, what was tried, what happened."""
    verdict = "right" if right else "WRONG"
    for words, text in ((f"{number:>2}  {verdict}", tried), (" " * 9, f"→ {found} ({seconds:.0f} s)")):
        print(textwrap.fill(" ".join(text.split()), 118, initial_indent=f"{words:<11}", subsequent_indent=" " * 11))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
