"""What `minigpt scaling` prints."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from minigpt.cli import console, tables
from minigpt.units import duration

if TYPE_CHECKING:
    from minigpt.experiments.budgets import Bought, Offer
    from minigpt.experiments.ladder import Climbed


def show_bought(found: "Bought", law: str, budget: str, offered: list["Offer"], json: bool) -> None:
    """The best size for the budget, then what the presets would reach."""
    from minigpt.experiments.budgets import best

    if json:
        chosen = {"preset": best(offered).preset} if offered else {}
        console.print_json(asdict(found) | {"law": law, "presets": [asdict(one) for one in offered]} | chosen)
        return
    rows = [
        ["operations", f"{found.compute:.3g}"], ["parameters", f"{found.parameters:.3g}"],
        ["tokens", f"{found.tokens:.3g} ({found.tokens / found.parameters:.0f} per parameter)"],
        ["loss (nats per token)", f"{found.loss:.3f}"], ["time", duration(found.seconds)],
    ]  # fmt: skip
    rows += [["price", f"${found.dollars:,.2f}"]] if found.dollars else []
    tables.table(f"The best model for {budget}, by the law {law}", ["", ""], rows)
    console.note("The loss is that of the law's own data and tokenizer; on others it is another one.")
    if not offered:
        return
    lines = [[one.preset, f"{one.parameters:,}", f"{one.tokens:.3g}", f"{one.tokens / one.parameters:.3g}",
              f"{one.steps:,}", f"{one.loss:.3f}"] for one in offered]  # fmt: skip
    columns = ["preset", "parameters", "tokens", "per parameter", "steps", "loss"]
    tables.table("The presets for the same", columns, lines)
    chosen = best(offered)
    if found.parameters > 4 * max(one.parameters for one in offered):
        console.note("The best model is much larger than the presets, which are for laptops: shape it with --set.")
    console.write(f"Of the presets {chosen.preset} reaches the lowest loss: {chosen.tokens:.3g} tokens, "
                  f"--preset {chosen.preset} --set pretrain.steps={chosen.steps}\n")  # fmt: skip


def as_json(found: "Climbed") -> dict[str, Any]:
    """For scripts: both laws with intervals, the runs, the iso-FLOP curves' lowest places, and the check."""
    from minigpt.experiments.isoflop import valleys

    def with_intervals(fitted: Any) -> dict[str, Any]:
        bounds = {name: fitted.interval(lambda law, name=name: getattr(law, name)) for name in asdict(fitted.law)}
        return {name: [low, high] if math.isfinite(low) else None for name, (low, high) in bounds.items()}

    fitted, check = found.fitted, found.check
    return {
        "law": asdict(fitted.law), "intervals": with_intervals(fitted), "kaplan": asdict(found.kaplan.law),
        "kaplan_intervals": with_intervals(found.kaplan), "points": [asdict(point) for point in fitted.points],
        "isoflop": [asdict(one) for one in valleys(fitted.points)],
        "check": {name: value if value is None or math.isfinite(value) else None for name, value
                  in asdict(check).items()} | {"error": check.error, "kaplan_error": check.kaplan_error},
    }  # fmt: skip


def show_climbed(found: "Climbed") -> None:
    """The runs, the iso-FLOP curves, both laws, and whether the larger run came as predicted."""
    from minigpt.experiments.scaling_page import (
        CONSTANTS,
        KAPLAN_CONSTANTS,
        constants,
        exponents,
        run_rows,
        valley_rows,
    )

    fitted, check = found.fitted, found.check
    tables.table("Runs", ["parameters", "tokens", "loss", "law", "Kaplan's"], run_rows(found), ())
    columns = ["operations", "runs", "best size", "its loss", "by the law", "tokens"]
    rows = valley_rows(fitted.points, fitted.law)
    tables.table("Iso-FLOP curves: the best size for each budget", columns, rows, ())
    columns = ["", "value", "95 % interval"]
    tables.table("L = E + A / N^alpha + B / D^beta", columns, constants(fitted, CONSTANTS) + exponents(found))
    title = "Kaplan's L = ((n_c / N)^(alpha_n / alpha_d) + d_c / D)^alpha_d, N without embeddings"
    tables.table(title, columns, constants(found.kaplan, KAPLAN_CONSTANTS))
    console.write(f"The test: {check.parameters:,.0f} parameters, {check.tokens:,.0f} tokens, not part of the fit.\n")
    interval = f" ({check.low:.4f} to {check.high:.4f})" if math.isfinite(check.low) else ""
    console.write(f"Predicted before it was trained: {check.predicted:.4f}{interval}.\n")
    if check.loss is None:
        console.write("It is not trained yet: the budget ended. The same command with a larger --budget goes on.\n")
    else:
        console.write(f"It came to {check.loss:.4f}: the prediction is {check.error:+.2%} off; "
                      f"Kaplan's form, {check.kaplan:.4f}, {check.kaplan_error:+.2%}.\n")  # fmt: skip
