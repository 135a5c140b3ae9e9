"""Figures with their intervals, one below the other: a dot for each, and a line from its lower to its upper bound."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minigpt.pages.html import Html, tag
from minigpt.pages.svg import COLORS, TITLE, WIDTH, limits, scale, short, ticks
from minigpt.units import shortened

LEFT, RIGHT, ROW, LONGEST = 230, 20, 26, 36  # pixels of the labels, beside the picture, of a row; characters of a label


@dataclass(frozen=True)
class Bounded:
    """A named figure; bounds that are not finite are not drawn."""

    label: str
    value: float
    low: float
    high: float


def whiskers(rows: Sequence[Bounded], title: str) -> Html:
    """An <svg> for a file of its own, the rows from top to bottom, and a line at the first one's value through all.

    Rows without a value keep their label.
    """
    numbers = np.array([[row.low, row.value, row.high] for row in rows], float).reshape(-1)
    low, high = limits([numbers], False)
    margin = (high - low) / 20
    x = scale((low - margin, high + margin), LEFT, WIDTH - RIGHT, False)
    bottom = ROW * len(rows) + 8
    parts: list[Html] = []
    for value in ticks(low - margin, high + margin, 5):
        p = f"{x(value):.1f}"
        parts.append(tag("line", x1=p, x2=p, y1=0, y2=bottom, class_="grid", stroke="#d0d7de"))
        parts.append(tag("text", short(value), x=p, y=bottom + 17, text_anchor="middle"))
    if rows and math.isfinite(rows[0].value):
        p = f"{x(rows[0].value):.1f}"
        parts.append(tag("line", x1=p, x2=p, y1=0, y2=bottom, stroke_dasharray="4 4", stroke=COLORS[7]))
    for number, row in enumerate(rows):
        parts += _row(row, ROW * number + ROW / 2 + 4, x)
    box = f"0 {-TITLE} {WIDTH} {bottom + 26 + TITLE}"
    paper = [tag("rect", y=-TITLE, width="100%", height="100%", fill="#ffffff"),
             tag("text", title, x=8, y=-6, font_size=14, font_weight="bold")]  # fmt: skip
    return tag("svg", tag("title", title), paper, parts, viewBox=box, role="img", aria_label=title,
               xmlns="http://www.w3.org/2000/svg", font_family="sans-serif", font_size=12)  # fmt: skip


def _row(row: Bounded, y: float, x: Callable[[float], float]) -> list[Html]:
    parts = [tag("text", shortened(row.label, LONGEST), x=LEFT - 10, y=f"{y + 4:.1f}", text_anchor="end")]
    if math.isfinite(row.low) and math.isfinite(row.high):
        ends = {"x1": f"{x(row.low):.1f}", "x2": f"{x(row.high):.1f}", "y1": y, "y2": y}
        parts.append(tag("line", **ends, stroke_width=2, stroke=COLORS[0]))
    if math.isfinite(row.value):
        parts.append(tag("circle", cx=f"{x(row.value):.1f}", cy=y, r=4, fill=COLORS[0]))
    return parts
