"""What lines of progress say, and that they fit a narrow terminal."""

import io

import pytest
from rich.console import Console

from minigpt.cli import console, reporter
from minigpt.cli.progress import BLOCKS, KEPT, Curve, Pace, fitted, lines_due, sparkline, training_line
from minigpt.events import Continued, Eval, Paused, StageFinished, StageStarted, Step, Usage

USAGE = Usage(0.583, 0.6, 412_000_000, 4_000_000_000, "quiet")


def step(number=120, seconds=0.5, tokens=256, steps=800, loss=2.31451, **metrics):
    return Step("pretrain", number, steps, loss, 0.1, 1.0, tokens, seconds, metrics)


def paced(*seconds):
    pace = Pace()
    for value in seconds:
        pace.add(step(seconds=value))
    return pace


# ---- speed


def test_speed_counts_the_rests_between_steps():
    """Two steps of 0.2 s and one that rested for 0.6 s as well: the mean, not the median."""
    assert paced(*[0.2, 0.2, 0.8] * 5).tokens_per_second == pytest.approx(256 / 0.4)


def test_speed_leaves_out_what_held_up_a_single_step():
    assert paced(0.5, 0.5, 3600.0, 0.5).tokens_per_second == pytest.approx(512)
    assert paced(0.5, 0.5, 3600.0, 0.5).seconds == pytest.approx(0.5)


def test_speed_is_that_of_the_last_steps():
    assert paced(*[5.0] * 50, *[0.5] * 50).tokens_per_second == pytest.approx(512)


# ---- the curve


def test_a_curve_that_falls():
    assert sparkline([8, 4, 2, 1], 4) == "█▆▃▁"  # logarithmic: equal steps
    assert sparkline([], 9) == "" and sparkline([3.0], 9) == "▁" and sparkline([2, 2, 2], 9) == "▁▁▁"
    assert sparkline([0.0, 1.0], 2) == "▁█"


@pytest.mark.parametrize("count", [1, 7, 100, 255, 256, 5000])
@pytest.mark.parametrize("width", [1, 10, 16])
def test_a_curve_has_its_width_and_both_extremes(count, width):
    curve = Curve()
    for number in range(count):
        curve.add(10.0 / (1 + number))
    line = sparkline(curve.points, width)
    assert len(line) == min(width, len(curve.points)) and len(curve.points) < KEPT
    if len(line) > 1:
        assert line[0] == BLOCKS[-1] and line[-1] == BLOCKS[0]
        assert list(line) == sorted(line, reverse=True)


def test_a_loss_that_is_not_finite_is_no_point():
    curve = Curve()
    for loss in (2.0, float("nan"), float("inf"), 1.0):
        curve.add(loss)
    assert curve.points == [2.0, 1.0]


# ---- lines


def test_a_line_gives_up_its_last_parts_first():
    pace = paced(0.5)
    lines = {width: training_line(step(), pace, "█▅▁", USAGE, width) for width in (80, 55, 40, 20, 5)}
    assert lines[80] == "loss 2.3145 █▅▁  512 tokens/s  CPU 58 of 60 %  412 MB of 4.0 GB"
    assert lines[55] == "loss 2.3145 █▅▁  512 tokens/s  CPU 58 of 60 %"
    assert lines[40] == "loss 2.3145 █▅▁  512 tokens/s"
    assert lines[20] == "loss 2.3145 █▅▁" and lines[5] == "loss "


def test_without_limits_memory_comes_first():
    free = Usage(0.97, None, 412_000_000, None, "balanced")
    line = training_line(step(accuracy=0.75), paced(0.5), "", free, 80)
    assert line == "loss 2.3145  accuracy 75%  512 tokens/s  412 MB  CPU 97 %"
    assert fitted(["a", "b"], 4) == "a  b" and fitted(["abc"], 2) == "ab"


@pytest.mark.parametrize(
    ("steps", "every"), [(1, 1), (20, 1), (21, 2), (60, 5), (100, 5), (800, 50), (1200, 100), (100_000, 5000)]
)
def test_about_twenty_plain_lines_per_stage(steps, every):
    assert lines_due(steps) == every
    assert 10 <= steps / every <= 20 or steps < 10


# ---- as they appear


def shown(monkeypatch, width, terminal, **environment):
    """What reaches stderr of a stage of 40 steps."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    file = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = Console(file=file, width=width, force_terminal=terminal, highlight=False, soft_wrap=True, markup=False)
    monkeypatch.setattr(console, "err", err)
    with reporter.Reporter() as report:
        report(StageStarted("pretrain", 40, 935_296, "torch", "cpu", "float32"))
        for number in range(1, 41):
            report(step(number, steps=40, loss=10 / number))
            report(USAGE)
            if report._region is not None:
                report._region.refresh()
            if number == 20:
                report(Paused("pretrain", 20, "this machine is too hot", False))
                report(Continued("pretrain", 20, 65.0))
                report(Eval("pretrain", 20, {"loss": 2.5}))
        report(StageFinished("pretrain", "runs/x", 20.0))
    return file.buffer.getvalue().decode()


def test_piped_output_is_whole_lines_without_codes(monkeypatch):
    text = shown(monkeypatch, 80, False)
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert [line.split()[2] for line in lines if "tokens/s" in line] == [f"{n}/40" for n in range(2, 41, 2)]
    assert lines[3].endswith("tokens/s  CPU 58 of 60 %  412 MB of 4.0 GB  ETA 18 s"), lines[3]
    assert "pretrain: paused after step 20: this machine is too hot." in lines
    assert "pretrain: going on after a pause of 1 min 05 s." in lines


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_live_region_fits_the_terminal(monkeypatch, width):
    """Two lines, none wider than the terminal, and gone at the end; messages stay above it."""
    text = shown(monkeypatch, width, True)
    screen = Screen()
    screen.feed(text)
    region = [row for row in screen.ever if "tokens/s" in row or "━" in row]
    assert max(map(len, region)) <= width, region
    assert any(f"CPU 58 of 60 %{'  412 MB of 4.0 GB' * (width > 60)}" in row for row in region)
    assert any(row.startswith("loss ") and "tokens/s" in row for row in screen.ever)
    assert any("40/40 ETA 0 s" in row for row in screen.ever)
    assert not any("tokens/s" in row or "━" in row for row in screen.rows), screen.rows
    assert "pretrain step 20  validation loss 2.5000" in screen.rows


def test_no_colour_is_respected(monkeypatch):
    coloured, plain = shown(monkeypatch, 80, True), shown(monkeypatch, 80, True, NO_COLOR="1")
    assert "\x1b[38" in coloured or "\x1b[3" in coloured
    assert not any(f"\x1b[{code}" in plain for code in (*range(30, 38), *range(90, 98), "38;", "48;"))


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    assert "━" not in shown(monkeypatch, 80, True, TERM="dumb")


class Screen:
    """As much of a terminal as rich uses: lines, carriage returns, cursor up, erase line."""

    def __init__(self):
        self.rows, self.row, self.column = [""], 0, 0
        self.ever = set()

    def feed(self, text):
        place = 0
        while place < len(text):
            character = text[place]
            if text.startswith("\x1b[", place):
                end = next(i for i in range(place + 2, len(text)) if text[i].isalpha())
                self._control(text[end], text[place + 2 : end])
                place = end
            elif character == "\n":
                self.ever.add(self.rows[self.row])
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif character == "\r":
                self.column = 0
            else:
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
                self.column += 1
                self.ever.add(self.rows[self.row])
            place += 1

    def _control(self, kind, argument):
        if kind == "A":
            self.row -= int(argument or 1)
        elif kind == "K":
            self.rows[self.row] = ""
