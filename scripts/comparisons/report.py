"""What bench.py measured, as tables: on the terminal, and on pages between two comments."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")  # the JSON files that the tables are made from
BEGIN, END = "<!-- bench.py writes from here -->", "<!-- to here -->"
PAGES = {"minigpt/handbook/speed.md": ["results"], "scripts/comparisons/speed.md": ["profiles", "growth"]}
PROFILE = ["work", "ms", "share"]
DUELS = ["work", "figure", "MiniGPT", "peer", "peer's", "ratio", "of the rounds"]


def write_pages(root: Path = ROOT, results: Path = RESULTS) -> None:
    """Put the tables of all JSON files in `results` between the two comments of each page below `root`."""
    for page, kinds in PAGES.items():
        text = (root / page).read_text("utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        (root / page).write_text(before + section(kinds, results) + after, "utf-8")


def section(kinds: Sequence[str], results: Path = RESULTS) -> str:
    """A page from one comment to the other, both included."""
    files = [json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))]
    return f"{BEGIN}\n{markdown(kinds, files)}{END}"


def markdown(kinds: Sequence[str], files: Sequence[dict[str, Any]]) -> str:
    """Tables for each machine and set of versions that results are from."""
    parts = []
    for machine, measured in by_machine([file for file in files if any(file.get(kind) for kind in kinds)]).items():
        parts += [f"{machine}; measured at {', '.join(dict.fromkeys(measured['commit']))}.\n"]
        for kind in kinds:
            parts += TABLES[kind](measured[kind])
    return "\n".join(parts)


def by_machine(files: Iterable[dict[str, Any]]) -> dict[str, dict[str, list]]:
    """The results and curves of several files, put together where machine and versions are the same.

    A package that was not installed for one of them does not set it apart.
    """
    groups: list[tuple[dict[str, str], dict[str, list]]] = []
    for file in files:
        known = {key: value for key, value in file["machine"].items() if value != "not installed"}
        alike = (group for group in groups if all(group[0].get(key, value) == value for key, value in known.items()))
        machine, here = next(alike, ({}, {"commit": []} | {kind: [] for kind in TABLES}))
        if not machine:
            groups.append((machine, here))
        machine |= known
        for kind in TABLES:
            here[kind] += file.get(kind, [])
        here["commit"] += [file["commit"]]
    return {", ".join(f"{key} {value}" for key, value in machine.items()): here for machine, here in groups}


def duel_rows(results: Iterable[dict[str, Any]]) -> list[list[str]]:
    """One row per figure and peer; figures that only we have come without a ratio."""
    rows = []
    for one in results:
        ratios = sorted(one["ratios"])
        rows.append([
            one["work"], one["figure"], number(one["ours"]), one["peer"] or "–",
            number(one["theirs"]) if one["peer"] else "", f"{middle(ratios):.2f}×" if ratios else "",
            f"{ratios[0]:.2f} – {ratios[-1]:.2f} ({len(ratios)})" if ratios else "",
        ])  # fmt: skip
    return rows


def growth_table(curve: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a curve: each figure with the exponent since the point before; the last row is the fit."""
    columns = [curve["axis"]]
    for name in curve["figures"]:
        columns += [name, "exponent"]
    rows = []
    for i, point in enumerate(curve["points"]):
        row = [number(point["x"])]
        for name, figure in curve["figures"].items():
            row += [number(point[name]), f"{figure['exponents'][i - 1]:.2f}" if i else ""]
        rows.append(row)
    last = ["upper half"]
    for figure in curve["figures"].values():
        last += ["", f"**{figure['fit']:.2f}**"]
    return columns, [*rows, last] if len(rows) > 1 else rows


def profile_rows(profile: dict[str, Any]) -> list[list[str]]:
    """A row per kind of work; then the whole step, and the machine's limit for it."""
    rows = [[what, f"{ms:.2f}", f"{share:.0%}"] for what, ms, share in profile["rows"]]
    limit = f"the limit of this machine (the step takes {profile['distance']:.1f} times as long)"
    return [*rows, ["the whole step", f"{profile['ms']:.2f}", "100%"], [limit, f"{profile['limit ms']:.2f}", ""]]


def middle(values: Sequence[float]) -> float:
    """The median of sorted values."""
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def number(value: float) -> str:
    """Four digits that matter, or whole hundreds and thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: dict[str, Callable[[list], list[str]]] = {  # what a JSON file holds: its tables in Markdown
    "results": lambda found: [_table(DUELS, duel_rows(found))] if found else [],
    "profiles": lambda found: [f"**{one['what']}**\n\n{_table(PROFILE, profile_rows(one))}" for one in found],
    "growth": lambda found: [f"**{one['what']}**\n\n{_table(*growth_table(one))}" for one in found],
}
