"""Curves as SVG: text that prints sharply, needs no script and can be edited; as PNG, where a tool is there."""

import math
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigpt.errors import UsageError
from minigpt.pages.html import Html, tag
from minigpt.units import shortened

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 30
TITLE = 24  # above a picture that stands alone
COLORS = ("#0b62b8", "#c2410c", "#137a3c", "#9333b5", "#8a6100", "#0f766e", "#be185d", "#4b5563")
DASHES = ("", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """A named curve: steps (N,), values (N,). `color` 0 … 7; measured points are shown as `dots`, or as nothing else
    where they are not `joined`."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    color: int = 0
    dots: bool = False
    joined: bool = True


def chart(lines: Sequence[Line], title: str, log_x: bool = False, log_y: bool = False, alone: bool = False) -> Html:
    """An <svg> with axes, curves and a legend; `alone` is for a file of its own, which has no page's style around it.

    Curves without a name are not in the legend. Values that a log axis cannot show or that are not finite are gaps.
    """
    shown = [_shown(line, log_x, log_y) for line in lines]
    xs, ys = limits([line.steps for line in shown], log_x), limits([line.values for line in shown], log_y)
    x = scale(xs, LEFT, WIDTH - RIGHT, log_x)
    y = scale(ys, HEIGHT - BOTTOM, TOP, log_y)
    parts: list[Html] = []
    for value in ticks(*ys, 5, log_y):
        p = f"{y(value):.1f}"
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=p, y2=p, class_="grid", stroke="#d0d7de"))
        parts.append(tag("text", short(value), x=LEFT - 6, y=f"{y(value) + 4:.1f}", text_anchor="end"))
    for value in ticks(*xs, 7, log_x):
        p = f"{x(value):.1f}"
        parts.append(tag("line", x1=p, x2=p, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid", stroke="#d0d7de"))
        parts.append(tag("text", short(value), x=p, y=HEIGHT - BOTTOM + 17, text_anchor="middle"))
    for line in shown:
        parts += _curve(line, x, y, alone)
    named = [line for line in lines if line.name]
    rows = math.ceil(len(named) / 3)
    for number, line in enumerate(named):
        parts += _key(line, LEFT + number % 3 * 190, HEIGHT + 14 + number // 3 * 18, alone)
    above = TITLE if alone else 0
    box = f"0 {-above} {WIDTH} {HEIGHT + 18 * rows + 4 + above}"
    style = {"xmlns": "http://www.w3.org/2000/svg", "font_family": "sans-serif", "font_size": 12} if alone else {}
    paper = [tag("rect", y=-above, width="100%", height="100%", fill="#ffffff"),
             tag("text", title, x=LEFT, y=-6, font_size=14, font_weight="bold")]  # fmt: skip
    body = [tag("title", title), paper if alone else None, parts]
    return tag("svg", body, viewBox=box, role="img", aria_label=title, **style)


def _shown(line: Line, log_x: bool, log_y: bool) -> Line:
    steps, values = np.asarray(line.steps, float), np.array(line.values, float)
    values[~np.isfinite(values) | ((values <= 0) if log_y else False)] = np.nan
    if log_x:
        steps, values = steps[steps > 0], values[steps > 0]
    return Line(line.name, *thinned(steps, values, WIDTH * 2), line.color, line.dots, line.joined)


def limits(columns: Sequence[np.ndarray], log: bool) -> tuple[float, float]:
    """The lowest and the highest number, apart from each other."""
    found = [column[np.isfinite(column)] for column in columns]
    numbers = np.concatenate(found) if found else np.zeros(0)
    if not len(numbers):
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        return (low / 2, high * 2) if log else (low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10)
    return low, high


def scale(ends: tuple[float, float], start: float, end: float, log: bool) -> Callable[[float], float]:
    """The place on paper of a number: of `ends` at `start` and `end`."""
    low, high = (math.log10(value) for value in ends) if log else ends
    return lambda value: start + ((math.log10(value) if log else value) - low) / (high - low) * (end - start)


def _curve(line: Line, x, y, alone: bool) -> list[Html]:
    pieces, parts = [[]], []
    for step, value in zip(line.steps.tolist(), line.values.tolist(), strict=True):
        if math.isnan(value):
            pieces.append([])
        else:
            pieces[-1].append((x(step), y(value)))
    for piece in pieces:
        if piece and line.joined:
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in piece)
            parts.append(tag("polyline", points=points, **_look(line, alone)))
        parts += _dots(line, piece, alone, single=len(piece) == 1)
    return parts


def _dots(line: Line, points: Sequence[tuple[float, float]], alone: bool, single: bool = False) -> list[Html]:
    """The measured points of a line that shows them; a `single` one is always shown, as no line goes through it."""
    if not (line.dots or single or not line.joined):
        return []
    color = {"fill": COLORS[line.color % 8]} if alone else {"fill": "currentColor", "class_": f"c{line.color % 8}"}
    return [tag("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r=2.4, **color) for a, b in points]


def _key(line: Line, x: float, y: float, alone: bool) -> list[Html]:
    mark = [tag("line", x1=x, x2=x + 22, y1=y - 4, y2=y - 4, **_look(line, alone))] if line.joined else []
    return [*mark, *_dots(line, [(x + 11, y - 4)], alone), tag("text", shortened(line.name, 24), x=x + 28, y=y)]


def _look(line: Line, alone: bool) -> dict[str, object]:
    """Colour and dashes: runs can be told apart without colours, too."""
    dash = DASHES[line.color // 2 % 4] or None
    if alone:
        return {"fill": "none", "stroke": COLORS[line.color % 8], "stroke_width": 1.6, "stroke_dasharray": dash}
    return {"class_": f"curve c{line.color % 8}", "stroke_dasharray": dash}


def thinned(steps: np.ndarray, values: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `points` of the points (N,), (N,): the lowest and the highest one of each stretch, and both ends.

    A line through them covers the same pixels as one through all of them, when a stretch is not wider than a pixel.
    """
    count, buckets = len(steps), max(1, points // 2)
    if count <= max(points, 4):
        return steps, values
    width = math.ceil(count / buckets)
    padded = np.full(math.ceil(count / width) * width, np.nan)
    padded[:count] = values
    rows = padded.reshape(-1, width)
    starts = np.arange(len(rows)) * width
    low = starts + np.where(np.isnan(rows), np.inf, rows).argmin(axis=1)
    high = starts + np.where(np.isnan(rows), -np.inf, rows).argmax(axis=1)
    kept = np.unique(np.concatenate([[0], np.minimum(low, count - 1), np.minimum(high, count - 1), [count - 1]]))
    return steps[kept], values[kept]


def ticks(low: float, high: float, count: int, log: bool = False) -> list[float]:
    """Round numbers within the limits: 1, 2 or 5 times a power of ten apart; on a log axis powers of ten.

    A log axis with fewer than three of these has twice and five times each as well.
    """
    if log and high / low >= 10:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        if last - first < 2:  # one or two powers alone say little
            found = [factor * 10.0**n for n in range(first - 1, last + 1) for factor in (1, 2, 5)]
            return [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        return [10.0**n for n in range(first, last + 1, max(1, math.ceil((last - first) / count)))]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * (1 - 1e-9))
    found, number = [], math.ceil(low / step - 1e-9)
    while number * step <= high + step * 1e-9 and len(found) < 50:
        found.append(number * step)
        number += 1
    return found


def short(value: float) -> str:
    """A number for an axis: 0.25, 12k, 3M, 1e-05."""
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-3:
        return f"{value:.0e}"
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if size >= 1e4 else f"{value:.4g}"


def write_curve(text: str, path: Path) -> None:
    """Write an SVG, or a PNG where the file is called so. Raises UsageError when nothing here can make a PNG."""
    if path.suffix.lower() == ".png":
        _png(text, path)
    else:
        path.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n', "utf-8")


def _png(text: str, path: Path) -> None:
    """Twice as many pixels as the SVG has units, by resvg (the package resvg-py) or by rsvg-convert."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        tool = shutil.which("rsvg-convert")
        if tool is None:
            message = f"{path} needs a program that turns SVG into PNG, and there is none."
            raise UsageError(message, "Install one (pip install resvg-py), or use --svg.") from None
        subprocess.run([tool, "--zoom", "2", "--output", str(path)], input=text.encode(), check=True)
        return
    path.write_bytes(svg_to_bytes(svg_string=text, zoom=2))
