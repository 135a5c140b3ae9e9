"""What `minigpt evaluate --details` and `--against` print."""

import math
from typing import TYPE_CHECKING, Any

from minigpt.cli import console, tables

if TYPE_CHECKING:
    from minigpt.evaluate.detailed import Asked
    from minigpt.evaluate.details import Details
    from minigpt.evaluate.intervals import Figure
    from minigpt.runs.run import Run


def show(
    run: "Run", stage: str | None, other: "tuple[Run, str | None] | None", backend: Any, asked: "Asked", json: bool,
    grouped: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Measure a run, or two on the same rows; print figures and differences unless JSON is wanted, which it returns.

    `grouped` also prints the figures of groups.
    """
    from minigpt.evaluate.detailed import against, as_json, compared_as_json, detailed

    def tell(event: Any) -> None:
        console.note(event.text)

    if other is None:
        found = detailed(run, stage, backend, asked, tell)
        if not json:
            _show(found, grouped)
        return {"run": str(run.directory)} | as_json(found)
    first, second, compared = against(run, stage, *other, backend, asked, tell)
    if not json:
        _show_both(first, second, compared)
    runs = {"run": str(run.directory), "against": str(other[0].directory)}
    return runs | {"first": as_json(first), "second": as_json(second), "differences": compared_as_json(compared)}


def _show_both(first: "Details", second: "Details", compared: list) -> None:
    one, two = first.figures(), second.figures()
    columns = ("", "first", "95 % interval", "second", "95 % interval", "rows")
    pairs = [(name, one[name], two[name]) for name in one if name in two]
    rows = [[tables.label(name), *value_and_interval(a), *value_and_interval(b), f"{a.rows:,}"] for name, a, b in pairs]
    tables.table("", columns, rows)
    for found in compared:
        console.write(f"{found.sentence}\n")
    if not compared:
        console.note("The rows of the two are not the same ones, so that their difference cannot be tested.")


def _show(found: "Details", grouped: bool) -> None:
    columns = ("", "value", "95 % interval", "rows")
    rows = [[tables.label(name), *value_and_interval(one), f"{one.rows:,}"] for name, one in found.figures().items()]
    tables.table("", columns, rows)
    for name, groups in found.groups.items() if grouped else ():
        measure = next(iter(groups[0].figures)) if groups else ""
        lines = [[group.label, f"{group.tokens:,}", *value_and_interval(group.figures[measure])] for group in groups]
        count = "rows" if measure == "exact_match" else "tokens"
        tables.table(f"{tables.label(measure)} by {name}", ("", count, "value", "95 % interval"), lines)
    if grouped and found.reliability:
        lines = [[f"{one.low:.2f} to {one.high:.2f}", f"{one.count:,}", f"{one.predicted:.3f}", f"{one.observed:.3f}",
                  "█" * round(20 * one.observed)] for one in found.reliability]  # fmt: skip
        columns = ("probability", "answers", "mean", "right", "")
        tables.table("Does it know what it knows? Answers by the probability it gave them", columns, lines, (0, 4))


def value_and_interval(figure: "Figure") -> tuple[str, str]:
    """Both with four digits; a dash for an interval that one row alone cannot give."""
    known = math.isfinite(figure.low) and math.isfinite(figure.high)
    interval = f"{figure.low:.4f} to {figure.high:.4f}" if known else "–"
    return f"{figure.value:.4f}" if math.isfinite(figure.value) else "–", interval
