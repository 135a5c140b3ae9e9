"""What progress says: tokens per second and the time that is left."""

import time
import unicodedata

import pytest

from minigpt.cli import console, reporter, tables
from minigpt.events import Eval, Progress, Sampled, Skipped, Step


@pytest.fixture
def lines(monkeypatch):
    said = []
    monkeypatch.setattr(console, "note", said.append)
    monkeypatch.setattr(reporter.time, "monotonic", iter(range(0, 10**6, 60)).__next__)  # each line is due
    return said


def step(number, seconds):
    return Step("sft", number, 1000, 1.0, 0.1, 1.0, 256, seconds)


def test_a_pause_does_not_disturb_the_time_that_is_left(lines):
    """Ctrl-Z for an hour, or a laptop that slept: the steps around it say how long the rest takes."""
    with reporter.Reporter() as report:
        for number in range(1, 21):
            report(step(number, 3600.0 if number == 15 else 0.5))
    assert "512 tokens/s  ETA 8 min 10 s" in lines[-1]


def test_steps_that_are_left_out_are_said_but_not_each(lines):
    report = reporter.Reporter()
    for number in range(1, 31):
        report(Skipped("sft", number, "the loss or its gradient is not finite", number))
    assert len(lines) == 6 and lines[-1].endswith("not finite (30 so far).")


def test_a_task_that_reports_nothing_gives_signs_of_life_in_a_pipe(monkeypatch):
    """Such as the learning of a tokenizer: one call of a library."""
    said = []
    monkeypatch.setattr(console, "note", said.append)
    monkeypatch.setattr(reporter, "FIRST_SIGN", 0.02)
    monkeypatch.setattr(reporter, "SILENCE", 0.04)
    with reporter.Reporter() as report:
        report(Progress("training the tokenizer", 0))
        until = time.monotonic() + 30
        while len(said) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        report(Progress("training the tokenizer", 700, finished=True))
        count = len(said)
        time.sleep(0.2)
        assert count >= 3 and len(said) <= count + 1  # one may have been on its way
    assert said[0] == "training the tokenizer … (0 s)"


TEXTS = [
    "a\u3000b", "a\u00a0b", "👩\u200d👩\u200d👧", "می\u200cخواهم", "\u200eabc\u200f", "\ufeffx", "\u2028", "नमस्ते",
    "e\u0301", "\ue000",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_of_any_script_is_written_as_it_is(text):
    assert console.printable(text) == text


def test_only_what_steers_a_terminal_is_replaced():
    """Every control character (Unicode's category Cc) but line ends and tabs, and surrogates, which are no text."""
    for code in range(0x110000):
        replaced = unicodedata.category(chr(code)) in ("Cc", "Cs") and chr(code) not in "\n\t"
        assert (console.printable(chr(code)) == "\ufffd") == (replaced or code == 0xFFFD), hex(code)
    assert console.printable("\x1b[2Jhi\r\x9b31m") == "\ufffd[2Jhi\ufffd\ufffd31m"


def test_a_sample_shows_the_end_of_its_prompt_and_the_answer(lines):
    """Without the names of control tokens, and the answer is never what is cut off first."""
    prompt = f"<|im_start|>user\n{'Read this long text. ' * 8}Who is in the zoo?<|im_end|>\n<|im_start|>assistant\n"
    reporter.Reporter()(Sampled("sft", 20, prompt, "Mike is in the zoo."))
    assert lines[0].startswith("sft step 20  sample: …") and lines[0].endswith("Who is in the zoo?⟶Mike is in the zoo.")
    assert "im_" not in lines[0] and len(lines[0]) < 130


def test_ties_are_a_dash(lines):
    """Before the first step of DPO chosen and rejected answers are equal: 0 % would say that all pairs are wrong."""
    report = reporter.Reporter()
    report(Eval("dpo", 0, {"loss": 0.6931, "accuracy": 0.0, "margin": 0.0}))
    report(Eval("dpo", 5, {"loss": 0.8, "accuracy": 0.0, "margin": -0.5}))
    assert lines[0].endswith("accuracy –  margin 0.0000") and lines[1].endswith("accuracy 0.0000  margin -0.5000")


def test_a_scripts_table_stays_whole_in_a_file(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(console.out, "_width", 80)
    for show, whole in ((tables.table, False), (tables.kept_table, True)):
        show("", ["way", "figures"], [["w" * 70, "1" * 70]])
        assert (f"{'w' * 70}  {'1' * 70}" in capsys.readouterr().out) == whole
