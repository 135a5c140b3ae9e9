"""What a ladder found, as charts and as a page: iso-FLOP curves, the loss against operations, the laws' constants."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigpt.experiments.fits import Fitted, Point
from minigpt.experiments.isoflop import budgets, compute_of, frontier, valley, valleys
from minigpt.experiments.ladder import Climbed
from minigpt.experiments.laws import FLOPS, Law
from minigpt.pages.html import Html, page, table, tag
from minigpt.pages.svg import Line, chart
from minigpt.pages.texts import words

POINTS = 60  # of a drawn curve
CONSTANTS = ("E", "A", "alpha", "B", "beta")
KAPLAN_CONSTANTS = ("n_c", "alpha_n", "d_c", "alpha_d")


def isoflop_chart(points: Sequence[Point], law: Law, title: str, alone: bool = False) -> Html:
    """Loss against size: the runs of each budget as points, and the law's curve through them."""
    lines = []
    for color, group in enumerate(budgets(points)):
        compute, sizes = compute_of(group), np.array([p.parameters for p in group])
        wide = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, POINTS)
        name = f"C = {compute:.2g}"
        lines.append(Line(name, wide, np.array([law.loss(n, compute / FLOPS / n) for n in wide]), color))
        lines.append(Line("", sizes, np.array([p.loss for p in group]), color, joined=False))
    return chart(lines, title, log_x=True, alone=alone)


def compute_chart(climbed: Climbed, say: dict[str, str], title: str, alone: bool = False) -> Html:
    """Loss against operations: all runs, the law's best, and the run that tested it."""
    points, law, check = climbed.fitted.points, climbed.fitted.law, climbed.check
    last = FLOPS * check.parameters * check.tokens
    wide = np.geomspace(min(p.compute for p in points), 2 * last, POINTS)
    lines = [
        Line(say["law-line"], wide, np.array([law.lowest(c) for c in wide]), 0),
        Line(say["points"], np.array([p.compute for p in points]), np.array([p.loss for p in points]), 7, joined=False),
        Line(say["predicted"], np.array([last]), np.array([check.predicted]), 1, joined=False),
    ]
    if check.loss is not None:
        lines.append(Line(say["came"], np.array([last]), np.array([check.loss]), 2, joined=False))
    return chart(lines, title, log_x=True, alone=alone)


# ---- tables, for the page and for the terminal -------------------------------------------------------------


def valley_rows(points: Sequence[Point], law: Law) -> list[list[str]]:
    """Of each budget: operations, runs, best size by a parabola ("–": it has no lowest place) and its loss there; best
    size and tokens by the law."""
    rows = []
    for group in budgets(points):
        compute, found = compute_of(group), valley(group)
        size = "–" if found is None else f"{found.parameters:,.0f}" + ("" if found.inside else " (outside)")
        loss = "–" if found is None else f"{found.loss:.3f}"
        best, tokens = law.optimum(compute)
        rows.append([f"{compute:.3g}", f"{len(group)}", size, loss, f"{best:,.0f}", f"{tokens:,.0f}"])
    return rows


def constants(fitted: Fitted[Any], names: Sequence[str]) -> list[list[str]]:
    """Name, value and interval of a law's constants."""
    return [_constant(name, fitted, lambda law, name=name: getattr(law, name)) for name in names]


def exponents(climbed: Climbed) -> list[list[str]]:
    """The power of C with which the best size grows: by the law, and by the lowest places of the iso-FLOP curves."""
    rows = [_constant("best N ~ C^a: a", climbed.fitted, lambda law: law.exponent)]
    inside = [one for one in valleys(climbed.fitted.points) if one.inside]
    if len(inside) >= 2:
        rows.append(["a by the iso-FLOP curves", f"{frontier(inside).exponent:.3f}", ""])
    return rows


def _constant(name: str, fitted: Fitted[Any], figure: Callable[[Any], float]) -> list[str]:
    low, high = fitted.interval(figure)
    known = math.isfinite(low) and math.isfinite(high)
    return [name, f"{figure(fitted.law):.4g}", f"{low:.4g} to {high:.4g}" if known else "–"]


def run_rows(climbed: Climbed) -> list[list[str]]:
    """Of each run: parameters, tokens, loss, and what both laws say of it."""
    law, kaplan = climbed.fitted.law, climbed.kaplan.law
    return [[f"{p.parameters:,.0f}", f"{p.tokens:,.0f}", f"{p.loss:.4f}", f"{law.loss(p.parameters, p.tokens):.4f}",
             f"{kaplan.loss(p.body or p.parameters, p.tokens):.4f}"] for p in climbed.fitted.points]  # fmt: skip


# ---- the page ----------------------------------------------------------------------------------------------


def scaling_page(climbed: Climbed, language: str = "en") -> str:
    """All of it as a page without scripts."""
    say, fitted = words(language, "scaling"), climbed.fitted
    size = [say["parameters"], say["tokens"]]
    valley_columns = [say["budget"], say["runs"], say["best"], say["loss"], f"{say['best']}: {say['best-law']}",
                      say["tokens"]]  # fmt: skip
    both = constants(fitted, CONSTANTS) + exponents(climbed) + constants(climbed.kaplan, KAPLAN_CONSTANTS)
    blocks = [
        tag("p", say["intro"]),
        tag("figure", tag("figcaption", say["isoflop"]), isoflop_chart(fitted.points, fitted.law, say["isoflop"])),
        tag("p", say["isoflop-note"]),
        tag("h2", say["valleys"]), table(valley_columns, valley_rows(fitted.points, fitted.law), say["valleys"]),
        tag("figure", tag("figcaption", say["compute"]), compute_chart(climbed, say, say["compute"])),
        tag("p", say["compute-note"]),
        tag("h2", say["check"]), _check(climbed, say),
        tag("h2", say["laws"]), tag("p", "L = E + A / N^alpha + B / D^beta"),
        tag("p", "L = ((n_c / N)^(alpha_n / alpha_d) + d_c / D)^alpha_d (Kaplan)"),
        table([say["constant"], say["value"], say["interval"]], both, say["laws"]),
        tag("h2", say["runs"]), table([*size, say["loss"], say["law"], "Kaplan"], run_rows(climbed), say["runs"]),
    ]  # fmt: skip
    head = tag("header", tag("h1", say["title"]))
    return page(say["title"], head + tag("main", blocks), language=language)


def _check(climbed: Climbed, say: dict[str, str]) -> list[Html]:
    check = climbed.check
    apart = [("", check.predicted, check.error), (" (Kaplan)", check.kaplan, check.kaplan_error)]
    rows = [[f"{say['predicted']}{name}", f"{value:.4f}", "" if error is None else f"{error:+.2%}"]
            for name, value, error in apart]  # fmt: skip
    rows.append([say["came"], "–" if check.loss is None else f"{check.loss:.4f}", ""])
    rows.append([say["interval"], f"{check.low:.4f} – {check.high:.4f}", ""])
    whose = f"{say['parameters']}: {check.parameters:,.0f} · {say['tokens']}: {check.tokens:,.0f}"
    return [tag("p", whose), table(["", say["loss"], say["error"]], rows, say["check"])]
