"""Everything the user sees: progress and messages on stderr, data and tables on stdout. Computes nothing."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from minigpt import events

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Reporter:
    """Shows events as they come: a live bar on a terminal, plain lines elsewhere.

    Use as `with Reporter() as report`.
    """

    def __init__(self) -> None:
        self._live = err.is_terminal
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._printed = time.monotonic()
        self._window: list[tuple[int, float]] = []  # (tokens, seconds) of the last steps

    def __enter__(self) -> "Reporter":
        if self._live:
            self._bars = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(),
                console=err, transient=True, speed_estimate_period=60,
            )  # fmt: skip
            self._bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: events.Event) -> None:
        getattr(self, f"_{type(event).__name__.lower()}")(event)

    def _note(self, event: events.Note) -> None:
        err.print(Text(event.text))

    def _bar(self, name: str, done: int, total: int | None, status: str, finished: bool = False) -> None:
        if self._bars is None:
            return
        if finished:
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, completed=done, status=status)
        self._bars.update(self._tasks[name], completed=done, total=total, status=status)

    def _stagestarted(self, event: events.StageStarted) -> None:
        went_on = f", going on from step {event.step:,}" if event.step else ""
        err.print(
            f"{event.stage}: {event.parameters:,} parameters, {event.steps:,} steps, "
            f"{event.backend} on {event.device}, {event.dtype}{went_on}."
        )
        self._window.clear()

    def _step(self, event: events.Step) -> None:
        self._window = [*self._window[-49:], (event.tokens, event.seconds)]
        tokens, seconds = (sum(column) for column in zip(*self._window, strict=True))
        status = f"loss {event.loss:.4f}  {tokens / max(seconds, 1e-9):,.0f} tokens/s"
        if "accuracy" in event.metrics:
            status += f"  accuracy {event.metrics['accuracy']:.0%}"
        self._bar(event.stage, event.step, event.steps, status)
        if not self._live and (time.monotonic() - self._printed > 10 or event.step == event.steps):
            self._printed = time.monotonic()
            left = (event.steps - event.step) * seconds / len(self._window)
            err.print(f"{event.stage} step {event.step:,}/{event.steps:,}  {status}  ETA {duration(left)}")

    def _eval(self, event: events.Eval) -> None:
        shown = {k: v for k, v in event.metrics.items() if k in ("loss", "bits_per_byte", "accuracy", "margin")}
        err.print(f"{event.stage} step {event.step:,}  validation " + "  ".join(named(k, v) for k, v in shown.items()))

    def _saved(self, event: events.Saved) -> None:
        pass

    def _stagefinished(self, event: events.StageFinished) -> None:
        self._bar(event.stage, 0, None, "", finished=True)
        if event.skipped:
            err.print(f"{event.stage}: finished before, kept ({event.path}).")
        else:
            err.print(f"{event.stage}: finished in {duration(event.seconds)}, best weights in {event.path}")

    def _progress(self, event: events.Progress) -> None:
        self._bar(event.task, event.done, event.total, "", event.finished)


def named(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:.4f}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], wrap: Sequence[int] = ()) -> None:
    """A table on stdout; columns from the second on are right-aligned unless named in `wrap`."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        left = number == 0 or number in wrap
        shown.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=not (left or wrap))
    for row in rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    out.print(shown, soft_wrap=False)


def print_json(value: Any) -> None:
    """JSON on stdout for scripts."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write(text: str) -> None:
    """Text on stdout as it is, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text: str) -> None:
    """A sentence on stderr."""
    err.print(Text(text))


def ask(prompt: str) -> str | None:
    """One line from the user; None at the end of the input."""
    try:
        return input(prompt if sys.stdin.isatty() else "")
    except EOFError:
        return None


def show_demo(result: dict) -> None:
    """What each stage answered, then what was measured."""
    stages = list(result["measured"])
    columns = ["question", *(f"after {stage}" for stage in stages), "right answer"]
    rows = [[c["question"], *(c[stage] for stage in stages), c["right"]] for c in result["conversations"]]
    table("The same questions after each stage (none of them was seen in training)", columns, rows, range(1, 9))
    names = dict.fromkeys(name for stage in stages for name in result["measured"][stage])
    shown = [[_label(name), *(_share(name, result["measured"][stage].get(name)) for stage in stages)] for name in names]
    table("Measured on held-out data", ["", *stages], shown)


def _label(name: str) -> str:
    return name.replace("_", " ").replace("exact match ", "    ")


def _share(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if name == "bits_per_byte" else f"{100 * value:.1f} %"


def show_evaluation(result: dict) -> None:
    """One row per measurement of one stage."""
    rows = [
        [_label(name), f"{value:,.4f}" if isinstance(value, float) else str(value)] for name, value in result.items()
    ]
    table("", ["measurement", "value"], rows)


def show_pieces(tokenizer: Any, ids: Sequence[int], text: str) -> None:
    """The pieces of a text between bars, bytes in angle brackets, then the counts."""
    line = Text()
    for number, token in enumerate(ids):
        piece = tokenizer.token_bytes[token]
        shown = f"<{piece[0]:02X}>" if tokenizer.is_byte(token) else piece.decode("utf-8", "replace")
        style = "bold red" if tokenizer.is_byte(token) else ("cyan", "green")[number % 2]
        line.append("|" if number else "").append(shown, style)
    out.print(line)
    single = sum(tokenizer.is_byte(token) for token in ids)
    per = len(ids) / max(1, len(text))
    out.print(f"{len(ids)} tokens for {len(text)} characters: {per:.3f} tokens per character, {single} single bytes")


def show_data(report: Any, tokenizer: Any, context: int) -> None:
    """What `minigpt data check` found."""
    rows = [["form", ", ".join(f"{form} ({count:,})" for form, count in report.forms.items()) or "nothing usable"]]
    rows += [
        [f"{split} rows", f"{count:,}  ({report.tokens[split]:,} tokens)"] for split, count in report.splits.items()
    ]
    if report.stage != "pretrain":
        rows.append(["learned tokens", f"{report.learned_tokens:,}"])
        rows.append([f"longer than {context} tokens", f"{report.too_long:,} (cut, or left out)"])
    rows.append(["duplicate rows", f"{report.duplicates:,}, across splits: {report.across_splits:,}"])
    rows.append(["bad rows", f"{len(report.bad):,}"])
    rows.append(["tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens"])
    table(f"Data for {report.stage}", ["", ""], rows, wrap=[1])
    histogram = report.histogram()
    most = max((count for _, _, count in histogram), default=1) or 1
    bars = [[f"{a}–{b}", f"{count:,}", "█" * round(30 * count / most)] for a, b, count in histogram]
    table("Tokens per row", ["tokens", "rows", ""], bars, wrap=[2])
    if report.example:
        line = Text("One row as the model sees it; ")
        line.append("coloured text", "bold green").append(" is learned, the rest is context only:\n")
        for piece, learned in report.example:
            line.append(piece, "bold green" if learned else "dim")
        out.print(line, soft_wrap=False)
    for bad in report.bad[:20]:
        err.print(Text(bad))
    if len(report.bad) > 20:
        err.print(f"… and {len(report.bad) - 20:,} more bad rows")


def show_parity(rows: Sequence[Any]) -> None:
    """The largest difference per check and quantity, and every broken bound."""
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault((row.check, row.quantity, row.pair), []).append(row)
    shown = []
    for (check, quantity, pair), members in groups.items():
        worst = max(members, key=lambda row: row.difference / row.bound if row.bound else row.difference)
        good = sum(row.ok for row in members)
        verdict = "ok" if good == len(members) else "BROKEN"
        numbers = [str(len(members)), f"{worst.difference:.1e}", f"{worst.bound:.0e}"]
        shown.append([check, quantity, pair, *numbers, worst.case, verdict])
    columns = ["check", "quantity", "pair", "cases", "largest", "bound", "where", ""]
    table("Parity", columns, shown, wrap=[1, 2, 6, 7])
    for row in rows:
        if not row.ok:
            place = f"{row.check} {row.case} {row.quantity} {row.pair}"
            out.print(Text(f"BROKEN: {place}: {row.difference:.3e} > {row.bound:.0e}"))
    out.print(f"{sum(row.ok for row in rows)} of {len(rows)} comparisons within their bounds")
