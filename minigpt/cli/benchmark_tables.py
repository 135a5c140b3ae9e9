"""`minigpt evaluate --tasks`: what tests there are, and how a model does in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.cli import console, tables, waiting
from minigpt.cli.evaluation_tables import value_and_interval

if TYPE_CHECKING:
    from minigpt.runs.run import Run


def show_known(json: bool) -> None:
    """The bundled tests, then the best known of the harness."""
    from dataclasses import asdict

    from minigpt.evaluate.benchmarks import BUNDLED, KNOWN

    bundled = [benchmark for benchmark, _ in BUNDLED.values()]
    if json:
        console.print_json({"bundled": [asdict(one) for one in bundled], "harness": [asdict(one) for one in KNOWN]})
        return
    for title, rows in (("Bundled: nothing is downloaded", bundled),
                        ("Run by EleutherAI's harness (pip install 'minigpt[bench]')", KNOWN)):  # fmt: skip
        lines = [[one.name, one.asks, "–" if one.chance is None else f"{one.chance:.1%}", one.note] for one in rows]
        tables.table(title, ["test", "asks", "chance", "note"], lines, (0, 1, 3))
    console.note("The harness knows thousands more: lm_eval ls tasks. NAME=FILE takes the rows of a file of your own.")


def show_tests(
    run: "Run", stage: str | None, names: Sequence[str], backend: Any, bits: int, limit: int | None, shots: int | None,
    task_files: Path | None, json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Run the tests, keep their rows in the stage's directory, and print the figures unless JSON is wanted."""
    from minigpt.evaluate.benchmarks import run_tests
    from minigpt.evaluate.detailed import figure_as_json
    from minigpt.evaluate.kept import keep
    from minigpt.runs.loading import load_engine

    chosen = run.chosen(stage)
    with waiting.working("Testing"):
        engine = load_engine(run, chosen, backend, bits, report=console.note_of)
        found = run_tests(engine, names, run.config.seed, limit, shots, task_files, console.note_of)
    if not bits:
        keep(run.store(chosen).directory, [row for one in found for row in one.rows])
    if not json:
        rows = [[one.name, tables.label(name), *value_and_interval(figure), f"{figure.rows:,}", f"{one.chance:.2f}"]
                for one in found for name, figure in one.figures.items()]  # fmt: skip
        tables.table("", ["test", "", "value", "95 % interval", "rows", "chance"], rows, (0, 1))
        for one in found:
            lines = [[name, *value_and_interval(figure), f"{figure.rows:,}"] for name, figure in one.groups.items()]
            if lines:
                tables.table(f"{one.name}, by what is asked", ["", "value", "95 % interval", "rows"], lines)
    tests = {one.name: {"chance": one.chance, "figures": {k: figure_as_json(v) for k, v in one.figures.items()},
                        "by": {k: figure_as_json(v) for k, v in one.groups.items()}} for one in found}  # fmt: skip
    return {"run": str(run.directory), "stage": chosen, "tests": tests}
