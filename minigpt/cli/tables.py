"""The results of the commands as tables and text on stdout. Computes nothing."""

import math
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from minigpt.cli.console import err, note, out, printable
from minigpt.pages.texts import words
from minigpt.units import shortened

KEPT = 170  # columns of a script's table


def show_settings(config: Any, stages: Sequence[str], where: Path) -> None:
    """The settings of a new run that its preset, file and flags give; the others are as documented."""
    note(f"Settings (all of them, with the defaults, are saved in {where}):")
    width = min(err.width, 100) if err.is_terminal else 80
    for name in ("model", "tokenizer", *stages):
        given = getattr(config, name).model_dump(exclude_unset=True)
        values = ", ".join(f"{key} {str(x).lower() if isinstance(x, bool) else x}" for key, x in given.items())
        note(textwrap.fill(values, width, initial_indent=f"  {name:<11}", subsequent_indent=" " * 13))


def show_keys(section: str, rows: Sequence[tuple[Any, Any]], preset: str | None) -> None:
    """The keys of one section, each with a value: its default, or that of the preset."""
    title = f"[{section}]" if section else "Outside the sections"
    shown = [[key.name, _toml(value), key.allowed, key.meaning] for key, value in rows]
    table(title, ["key", preset or "default", "may be", "meaning"], shown, wrap=(0, 1, 2, 3))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else '""' if value == "" else str(value)


def show_demo(result: dict, language: str = "en") -> None:
    """What each stage answered, then what was measured."""
    stages, say = list(result["measured"]), words(language, "demo")
    rows = []
    for shown in result["conversations"]:
        answers = (_one_line(shown[stage], nothing=say["nothing"]) for stage in stages if stage in shown)
        rows.append([_one_line(shown["question"], 200), *answers, shown["right"]])
    after = [say["after"].format(stage=stage) for stage in stages]
    writing = [name for name, stage in zip(after, stages, strict=True) if stage in result["conversations"][0]]
    columns = [say["question"], *writing, say["right"]]
    table(say["conversations"], columns, _spaced(rows), range(len(columns)))
    names = dict.fromkeys(name for stage in stages for name in result["measured"][stage])
    shown = [[label(name, language), *(_share(name, result["measured"][stage].get(name)) for stage in stages)]
             for name in names]  # fmt: skip
    table(say["measured"], ["", *after], shown)


def _spaced(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows with an empty one between two."""
    return [line for row in rows for line in (row, [""] * len(row))][:-1]


def label(name: str, language: str = "en") -> str:
    """A measure's name for people; a kind of exact match stands below the whole, further to the right."""
    known, part = words(language, "measures"), name.removeprefix("exact_match_")
    indent = "    " if part != name else ""
    return indent + known.get(part, part.replace("_", " "))


def _share(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if name == "bits_per_byte" else f"{100 * value:.1f} %"


def show_export(exported: Any) -> None:
    """What other tools found in an export, and where it is."""
    _show_checks("What other tools read from it", exported.checks)
    out.print(f"{exported.path} ({exported.size / 1e6:,.1f} MB, {exported.stage}, {exported.dtype})", highlight=False)


def show_import(imported: Any) -> None:
    """What transformers found to be the same in an imported model, and where the run is."""
    _show_checks("The imported model and the original", imported.checks)
    facts = f"{imported.architecture}, {imported.parameters:,} parameters, context {imported.context:,}"
    out.print(f"{imported.path} ({facts})", highlight=False)


def show_adapter(imported: Any) -> None:
    """What the tool that an imported adapter is from found to be the same, and where it is now."""
    _show_checks("The imported adapter and the original", imported.checks)
    ranks = ", ".join(map(str, imported.ranks))
    facts = f"rank {ranks} in {imported.layers} layers, {imported.parameters:,} parameters, on {imported.before}"
    out.print(f"{imported.path}, stage {imported.stage} ({facts})", highlight=False)


def _show_checks(title: str, checks: Sequence[Any]) -> None:
    rows = []
    for check in checks:
        verdict = check.reason or ("not installed" if check.found is None else "ok" if check.ok else "DIFFERS")
        found = "–" if check.found is None else f"{check.found:.1e}" if check.found % 1 else f"{check.found:g}"
        bound = "–" if check.found is None else f"{check.bound:g}"
        rows.append([check.reader, check.quantity, verdict, found, bound])
    if rows:
        table(title, ["reader", "difference in", "", "found", "bound"], rows, wrap=(0, 1, 2))


def show_quantized(made: Any, measured: dict) -> None:
    """The error of each matrix, then the sizes and measures before and after."""
    rows = []
    for row in made.layers:
        bits = "float" if row["bits"] == 32 else str(row["bits"])
        errors = [f"{100 * x:.2f} %" if x is not None else "–" for x in (row["weight_error"], row["output_error"])]
        rows.append([row["name"].removesuffix(".weight"), "×".join(map(str, row["shape"])), bits, *errors])
    table(f"Relative errors, {made.method} rounding", ["matrix", "shape", "bits", "of weights", "of outputs"], rows)
    rows = [["size", *(f"{size / 1e6:,.2f} MB" for size in (made.bytes_before, made.bytes_after)), ""]]
    for name, (before, after) in measured.items():
        change = f"{100 * (after / before - 1):+.3f} %" if before else ""
        rows.append([label(name), f"{before:.5f}", f"{after:.5f}", change])
    table("Before and after", ["", "before", "after", "change"], rows)
    out.print(str(made.directory), highlight=False)


def show_pieces(pieces: Sequence[tuple[str, bool]], characters: int) -> None:
    """The pieces of a text, each with whether it is a single byte, between bars; then the counts."""
    line = Text()
    for number, (shown, single) in enumerate(pieces):
        style = "bold red" if single else ("cyan", "green")[number % 2]
        line.append("|" if number else "").append(printable(shown), style)
    out.print(line)
    single = sum(single for _, single in pieces)
    per = len(pieces) / max(1, characters)
    counts = f"{characters:,} characters, {len(pieces):,} tokens ({per:.3f} per character)"
    out.print(f"{counts}, {single:,} single bytes, shown as <..>")


def show_data(report: Any, tokenizer: Any, context: int) -> None:
    """What `minigpt data check` found."""
    rows = [["form", ", ".join(f"{form} ({count:,})" for form, count in report.forms.items()) or "nothing usable"]]
    rows += [
        [f"{split} rows", f"{count:,} ({report.tokens[split]:,} tokens)"] for split, count in report.splits.items()
    ]
    if not report.stream:
        rows.append(["learned tokens", f"{report.learned_tokens:,}"])
        fate = "omitted" if report.omits else "cut, or omitted when no answer is left"
        rows.append([f"longer than {context} tokens", f"{report.too_long:,}" + f" ({fate})" * bool(report.too_long)])
    rows.append(["duplicate rows", f"{report.duplicates:,} (in both splits: {report.across_splits:,})"])
    lines = f" ({report.lost_lines:,} lines)" if report.lost_lines > len(report.bad) else ""
    rows.append(["bad rows", f"{len(report.bad):,}{lines}"])
    rows.append(["tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens"])
    table(f"Data for {report.stage}", ["", ""], rows, wrap=(0, 1))
    histogram = report.histogram()
    most = max((count for _, _, count in histogram), default=1) or 1
    bars = [
        [f"{a:,}–{b:,}" if a < b else f"{a:,}", f"{count:,}", "█" * math.ceil(30 * count / most)]
        for a, b, count in histogram
    ]
    if bars:
        table("Tokens per row", ["tokens", "rows", ""], bars, wrap=(2,))
    if report.example:
        show_example(report.example)
    show_bad(report.bad)


def show_placed(rows: Sequence[Any]) -> None:
    """Which stage each source or file goes to; on stderr, as it comes before the work."""
    for row in rows:
        note(f"  {row.stage:<10} {row.source}  ({row.why})")


def show_bad(rows: Sequence[str], most: int = 20) -> None:
    """The first bad row of each kind, and how many more there are of it."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        kinds.setdefault(re.sub(r"\d+", "", row), []).append(row)
    for alike in list(kinds.values())[:most]:
        note(alike[0] + f" ({len(alike) - 1:,} more rows have the same fault.)" * (len(alike) > 1))
    if len(kinds) > most:
        note(f"… and {sum(map(len, list(kinds.values())[most:])):,} more bad rows.")


def show_example(runs: Sequence[tuple[str, bool]], longest: int = 1500) -> None:
    """The beginning of one row; what is learned in colour, or between ⟦ and ⟧ where there are no colours."""
    colours = out.is_terminal and not out.no_color
    line = Text("One row as the model sees it; ")
    line.append("coloured text" if colours else "text in ⟦ ⟧", "bold green").append(" is learned, the rest is not:\n")
    for piece, learned in runs:
        shown = printable(piece)[: max(0, longest - len(line))]
        style = "bold green" if learned else "dim"
        line.append(f"⟦{shown}⟧" if learned and not colours and shown else shown, style)
    out.print(line.append("…") if len(line) >= longest else line, soft_wrap=False)


def show_parity(rows: Sequence[Any]) -> None:
    """The difference nearest to its bound per check, quantity and pair; whether each known mistake was caught."""
    controls = [row for row in rows if row.check == "control"]
    groups: dict[tuple, list] = {}
    for row in rows:
        if row.check != "control":
            half = " 16-bit" if row.bound > 9e-4 else ""  # as different from float32 as its bounds are
            groups.setdefault((row.check, row.quantity + half, row.pair), []).append(row)
    for check in dict.fromkeys(check for check, *_ in groups):
        shown = []
        for (_, quantity, pair), members in (item for item in groups.items() if item[0][0] == check):
            worst = max(members, key=lambda row: (not row.ok, row.difference / (row.bound or 1.0)))
            verdict = "ok" if all(row.ok for row in members) else "BROKEN"
            largest, bound = (f"{x:.1e}" if x else "0" for x in (worst.difference, worst.bound))
            where = worst.case if worst.difference else "–"
            shown.append([quantity, pair, str(len(members)), largest, bound, verdict, where])
        columns = ["quantity", "pair", "cases", "largest", "bound", "", "in"]
        room = out.width - sum(max(map(len, column)) + 2 for column in list(zip(columns, *shown, strict=True))[:-1])
        shown = [[*row, _one_line(where, max(room - 2, 12))] for *row, where in shown]
        table(f"Largest differences: {check}", columns, shown, wrap=(0, 1, 6))
    for row in rows:
        if not row.ok:
            place = f"{row.check} {row.case} {row.quantity} {row.pair}"
            out.print(f"BROKEN: {place}: {row.difference:.3e}, bound {row.bound:.0e}")
    if any(quantity == "gradient along a direction" for _, quantity, _ in groups):
        out.print("Gradients along a direction are compared with central differences.")
    good = sum(row.ok for row in rows if row.check != "control")
    out.print(f"{good:,} of {len(rows) - len(controls):,} comparisons are within their bounds.")
    if controls:
        caught = sum(row.ok for row in controls)
        out.print(f"{caught:,} of {len(controls):,} backends and losses with a known mistake were caught.")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], wrap: Sequence[int] = (0,)) -> None:
    """A table on stdout, never wider than it: the columns in `wrap` are on the left and break their lines.

    The others are on the right and stay whole; where there is little room, their headings have several lines.
    """
    head = any(columns)
    lines, gap = (box.SIMPLE_HEAD, 1) if head else (None, 2)
    cells = [[Text(str(cell)) for cell in [*row, *[""] * (len(columns) - len(row))]] for row in rows]
    widths = [max((row[number].cell_len for row in cells), default=0) for number in range(len(columns))]
    room = out.width - (gap + 1) * len(columns)
    wanted = [max(width, *map(cell_len, column.split("\n"))) for column, width in zip(columns, widths, strict=True)]
    if sum(wanted) > room:
        folded = [_folded(column, width) for column, width in zip(columns, widths, strict=True)]
        columns = [column if number in wrap else folded[number] for number, column in enumerate(columns)]
    shown = Table(box=lines, show_header=head, pad_edge=False, padding=(0, gap, 0, 0))
    for number, column in enumerate(columns):
        left = number in wrap
        shown.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in cells:
        shown.add_row(*row)
    if title:
        out.print(Text(title, "bold"), soft_wrap=False)
    out.print(shown, soft_wrap=False)
    out.print()


def kept_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], wrap: Sequence[int] = (0,)) -> None:
    """The same of a script, whose results are kept: in a file, which is taken for 80 columns, it is as wide as KEPT."""
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = KEPT
    table(title, columns, rows, wrap)


def _folded(heading: str, width: int) -> str:
    """A heading in lines as long as the widest cell, or its longest word; words end at spaces and after underscores."""
    lines: list[str] = []
    for word in re.findall(r"_*[^\s_]+_*|_+", heading):
        joint = "" if lines and lines[-1].endswith("_") else " "
        if lines and cell_len(lines[-1] + joint + word) <= width:
            lines[-1] += joint + word
        else:
            lines.append(word)
    return "\n".join(lines)


def _one_line(text: str, longest: int = 120, nothing: str = "(nothing)") -> str:
    return shortened(printable(" ".join(text.split())) or nothing, longest)
