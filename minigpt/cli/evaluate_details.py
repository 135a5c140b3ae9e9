"""What `minigpt evaluate --details` and `--against` print."""

from typing import TYPE_CHECKING, Any

from minigpt.cli import console, tables

if TYPE_CHECKING:
    from minigpt.evaluate.detailed import Asked
    from minigpt.evaluate.details import Details
    from minigpt.evaluate.intervals import Figure
    from minigpt.runs.run import Run


def show(
    run: "Run", stage: str | None, other: "tuple[Run, str | None] | None", backend: Any, asked: "Asked", json: bool
) -> None:
    """Measure a run, or two on the same rows, and print figures and differences."""
    from minigpt.evaluate.detailed import against, as_json, compared_as_json, detailed

    def tell(event: Any) -> None:
        console.note(event.text)

    if other is None:
        found = detailed(run, stage, backend, asked, tell)
        console.print_json({"run": str(run.directory)} | as_json(found)) if json else _show(found)
        return
    first, second, compared = against(run, stage, *other, backend, asked, tell)
    if json:
        runs = {"run": str(run.directory), "against": str(other[0].directory)}
        console.print_json(runs | {"first": as_json(first), "second": as_json(second),
                                   "differences": compared_as_json(compared)})  # fmt: skip
        return
    one, two = first.figures(), second.figures()
    columns = ("", "first", "95 % interval", "second", "95 % interval", "rows")
    pairs = [(name, one[name], two[name]) for name in one if name in two]
    tables.table("", columns, [[tables.label(name), *_value(a), *_value(b), f"{a.rows:,}"] for name, a, b in pairs])
    for one in compared:
        console.write(f"{one.sentence}\n")
    if not compared:
        console.note("The rows of the two are not the same ones, so that their difference cannot be tested.")


def _show(found: "Details") -> None:
    columns = ("", "value", "95 % interval", "rows")
    figures = found.figures()
    tables.table("", columns, [[tables.label(name), *_value(one), f"{one.rows:,}"] for name, one in figures.items()])
    for name, groups in found.groups.items():
        measure = next(iter(groups[0].figures)) if groups else ""
        lines = [[group.label, f"{group.tokens:,}", *_value(group.figures[measure])] for group in groups]
        count = "rows" if name == "task" else "tokens"
        tables.table(f"{tables.label(measure)} by {name}", ("", count, "value", "95 % interval"), lines)


def _value(figure: "Figure") -> tuple[str, str]:
    return f"{figure.value:.4f}", f"{figure.low:.4f} to {figure.high:.4f}"
