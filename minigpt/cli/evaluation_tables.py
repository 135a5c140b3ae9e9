"""What `minigpt evaluate` prints: a table of the stages, every measure of the last one, groups, and differences."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from minigpt.cli.console import note, write
from minigpt.cli.tables import label, table

if TYPE_CHECKING:
    from minigpt.evaluate.detailed import Asked
    from minigpt.evaluate.details import Details
    from minigpt.evaluate.intervals import Figure
    from minigpt.runs.run import Run

SHARES = ("chosen_is_likelier", "accuracy", "exact_match", "manner")  # of 1, shown as percentages
ROW_GROUPS = ("task", "language", "source")  # what rows may name: figures of answers, not of tokens
HEADS = {
    "bits_per_byte": "bits\nper byte", "chosen_is_likelier": "chosen\nlikelier", "exact_match": "right\nanswers",
    "manner": "short,\npolite", "accuracy": "judged\nright",
}  # fmt: skip


def show_evaluation(result: dict) -> None:
    """All finished stages as one table, where they were measured; then one row per measurement of one stage."""
    if len(stages := result.get("stages", {})) > 1:
        _show_stages(stages)
    figures, rows = result.get("figures", {}), []
    for name, value in result.items():
        if isinstance(value, dict | list | str):  # the names of run and stage, which may be long, stand above
            continue
        shown = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
        rows.append([label(name), shown, *_interval_and_rows(figures.get(name))])
    rows += [_line(label(name), one) for name, one in figures.items() if name not in result]
    whose = f"{result['run']}, stage {result['stage']}"
    table(whose, ["", "", "95 % interval", "rows"] if figures else ["", "", "", ""], rows)
    for name, groups in result.get("by", {}).items():
        if name in ROW_GROUPS and "exact_match" in groups[0]["figures"]:
            lines = [_line(group["label"], group["figures"]["exact_match"]) for group in groups]
            table(f"{label('exact_match')} by {name}", ["", "", "95 % interval", "rows"], lines)
    _show_reliability(result.get("reliability", []))


def _show_stages(stages: dict[str, dict[str, float]]) -> None:
    """A row per stage; a dash stands for what was not measured."""
    names = [
        name for name in ("loss", "perplexity", "bits_per_byte", *SHARES)
        if any(name in found for found in stages.values())
    ]  # fmt: skip
    rows = []
    for stage, found in stages.items():
        cells = []
        for name in names:
            value = found.get(name)
            shown = "–" if value is None else f"{100 * value:.1f} %" if name in SHARES else f"{value:,.3f}"
            cells.append(shown)
        rows.append([stage, *cells])
    table("Each stage on held-out data", ["after", *(HEADS.get(name, name) for name in names)], rows)
    note("Each stage is measured on held-out rows of its own data, dpo's loss on those of the stage before it.")
    if "chosen_is_likelier" in names:
        note("Chosen likelier: in itself. The accuracy that DPO reports while it trains counts what it has changed.")


# ---- with --details, --stride, --samples or --against ------------------------------------------------------


def show_detailed(
    run: "Run", stage: str | None, other: "tuple[Run, str | None] | None", backend: Any, asked: "Asked", json: bool,
    grouped: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Measure a run, or two on the same rows; print figures and differences unless JSON is wanted, which it returns.

    `grouped` also prints the figures of groups.
    """
    from minigpt.evaluate.detailed import against, as_json, compared_as_json, detailed

    def tell(event: Any) -> None:
        note(event.text)

    if other is None:
        found = detailed(run, stage, backend, asked, tell)
        if not json:
            _show_details(found, grouped)
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
    table("", columns, [[label(name), *value_and_interval(a), *value_and_interval(b), f"{a.rows:,}"]
                        for name, a, b in pairs])  # fmt: skip
    for found in compared:
        write(f"{found.sentence}\n")
    if not compared:
        note("The rows of the two are not the same ones, so that their difference cannot be tested.")


def _show_details(found: "Details", grouped: bool) -> None:
    rows = [[label(name), *value_and_interval(one), f"{one.rows:,}"] for name, one in found.figures().items()]
    table("", ("", "value", "95 % interval", "rows"), rows)
    for name, groups in found.groups.items() if grouped else ():
        measure = next(iter(groups[0].figures)) if groups else ""
        lines = [[group.label, f"{group.tokens:,}", *value_and_interval(group.figures[measure])] for group in groups]
        count = "rows" if measure == "exact_match" else "tokens"
        table(f"{label(measure)} by {name}", ("", count, "value", "95 % interval"), lines)
    if grouped:
        _show_reliability([asdict(one) for one in found.reliability])


# ---- cells -------------------------------------------------------------------------------------------------


def value_and_interval(figure: "Figure") -> tuple[str, str]:
    """Both with their first digits; a dash for an interval that one row alone cannot give."""
    return _shown(figure.value), _between(figure.low, figure.high)


def _line(name: str, figure: dict) -> list[str]:
    """A figure of a result as JSON has it, as a row of a table."""
    return [name, _shown(figure["value"]), *_interval_and_rows(figure)]


def _interval_and_rows(figure: dict | None) -> list[str]:
    return [_between(figure["low"], figure["high"]), f"{figure['rows']:,}"] if figure else ["", ""]


def _shown(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else _digits(value)


def _between(low: float | None, high: float | None) -> str:
    known = None not in (low, high) and math.isfinite(low) and math.isfinite(high)
    return f"{_digits(low)} to {_digits(high)}" if known else "–"


def _digits(value: float) -> str:
    """Four decimals of small numbers, fewer of large ones: intervals of two figures stand in 80 columns."""
    return f"{value:,.{max(0, 4 - 2 * (abs(value) >= 10) - (abs(value) >= 100) - (abs(value) >= 1000))}f}"


def _show_reliability(bins: Sequence[dict]) -> None:
    """Of what was said with such a probability, how much was true: as numbers and as bars; nothing for no bins."""
    lines = [[f"{one['low']:.2f} to {one['high']:.2f}", f"{one['count']:,}", f"{one['predicted']:.3f}",
              f"{one['observed']:.3f}", "█" * round(20 * one["observed"])] for one in bins]  # fmt: skip
    if lines:
        columns = ("probability", "count", "mean", "true", "")
        table("Reliability: how much came true of what it gave such a probability", columns, lines, (0, 4))
