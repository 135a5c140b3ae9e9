"""What only a terminal shows: line editing, an answer that Ctrl-C stops, lines that break at words, signs of life."""

import json
import os
import re

import pyte
import pytest
from command import QUICK, environment, finished, process, tiny
from terminal import Terminal

if not hasattr(os, "openpty"):
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

LONG = ("--backend", QUICK, "--temperature", 5, "--min-p", 0, "--seed", 3)


def test_a_conversation_is_edited_stopped_and_kept(trained, tmp_path):
    """Arrow keys move the cursor, Ctrl-C stops the answer alone, the commands do what /help says, Ctrl-D leaves."""
    state = {"XDG_STATE_HOME": str(tmp_path)}
    with Terminal("chat", trained, *LONG, "--max-tokens", 50, **state) as terminal:
        place = terminal.until("you>")
        terminal.type("/hlp\r")
        place = terminal.until("There is no /hlp. Did you mean /help?", after=place)
        place = terminal.until("you>", after=place)
        terminal.type("/help\r")
        place = terminal.until("/save FILE", after=place)
        place = terminal.until("you>", after=terminal.until("Ctrl-C stops an answer", after=place))
        terminal.type("/sXt max_tokens 3\x1b[D" + "\x1b[D" * 13 + "\x7f" + "e\r")  # over the X, deleted, e in its place
        place = terminal.until("max_tokens 3", after=terminal.until("seed 3", after=place))
        place = terminal.until("you>", after=place)
        terminal.type("/set temperature hot\r")
        place = terminal.until("temperature cannot be 'hot'", after=place)
        place = terminal.until("you>", after=place)
        terminal.type("/system Be short.\r")
        place = terminal.until("System message: Be short.", after=place)
        place = terminal.until("you>", after=place)
        terminal.type("What\x1b\ris\\\r")  # goes on in the next line, and again
        place = terminal.until("...>", after=place)
        terminal.type("3 plus 1?\r")
        place = terminal.until("you>", after=place)
        terminal.type("/retry\r")
        place = terminal.until("you>", after=terminal.until("/retry", after=place))
        terminal.type(f"/save {tmp_path}/talk.jsonl\r")
        place = terminal.until("Saved in", after=place)
        place = terminal.until("you>", after=place)
        terminal.type("half a message")
        terminal.until("half a message", after=place)
        terminal.type("\x03")
        place = terminal.until("Ctrl-D or /exit ends the conversation", after=place)
        terminal.until("you>", after=place)
        terminal.type("\x04")
        assert terminal.ended() == 0
    saved = json.loads((tmp_path / "talk.jsonl").read_text("utf-8"))["messages"]
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    assert saved[:2] == [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "What\nis\n3 plus 1?"}
    ]  # fmt: skip
    kept = tmp_path / "minigpt" / "chat_history"
    assert "+/system Be short." in kept.read_text("utf-8") and kept.stat().st_mode & 0o077 == 0


def test_the_curve_of_a_training_stands_still(tmp_path):
    """On a screen of 80 columns one bar and one curve, in each frame between the first and the last, never two."""
    screen = pyte.Screen(80, 40)
    stream, frames, fed = pyte.ByteStream(screen), [], 0
    flags = ("--data", "world", "--run", tmp_path / "run", *tiny(pretrain__steps=60, pretrain__eval_every=20))
    with Terminal("train", "pretrain", *flags, "--backend", QUICK, "--no-supervise", columns=80) as terminal:
        while terminal.process.poll() is None or terminal.read():
            terminal.read()
            stream.feed(terminal.raw[fed:])
            fed = len(terminal.raw)
            frames.append("\n".join(screen.display))
        assert terminal.process.returncode == 0, terminal.shown
    bars = [len(re.findall("[━╸╺].* [0-9]+/60 ", frame)) for frame in frames]
    shown = [number for number, count in enumerate(bars) if count]
    between = bars[shown[0] : shown[-1] + 1]
    assert max(between) == 1 and between.count(0) <= len(between) / 20  # a read may end within a frame
    assert re.search("loss [0-9.]+ [▁-█]{3,}", frames[shown[-1]]) and b"\x1b[2J" not in terminal.raw
    assert "/60" not in frames[-1] and "pretrain: finished in" in frames[-1]


SLOW = """
import time
from minigpt.generate.scheduler import Scheduler
real = Scheduler.step
def slowly(self):
    time.sleep(0.2)
    return real(self)
Scheduler.step = slowly
"""


def test_ctrl_c_stops_the_answer_only(trained, tmp_path):
    """Each token takes 0.2 s here, so that 50 of them take ten."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading, importlib.abc\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'minigpt.cli.conversation':\n"
        "            sys.meta_path.remove(self)\n"
        f"            exec({SLOW!r}, {{}})\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with Terminal("chat", trained, *LONG, "--max-tokens", 50, PYTHONPATH=path) as terminal:
        place = terminal.until("you>")
        terminal.type("hello\r")
        place = terminal.until("hello\n", after=place)
        while len(terminal.shown) < place + 3:  # the answer has begun
            terminal.read()
        terminal.interrupt()
        place = terminal.until("(Stopped. Ctrl-D or /exit ends the conversation.)", after=place)
        place = terminal.until("you>", after=place)
        terminal.type("/save talk.jsonl\r".replace("talk", str(tmp_path / "talk")))
        place = terminal.until("Saved in", after=place)
        terminal.until("you>", after=place)  # before it Ctrl-D would reach nobody
        terminal.type("\x04")
        assert terminal.ended() == 0
    user, assistant = json.loads((tmp_path / "talk.jsonl").read_text("utf-8"))["messages"]
    assert user["content"] == "hello" and 0 < len(assistant["content"].encode()) < 150  # not the whole answer


def test_ctrl_c_without_a_terminal_ends_a_chat(trained):
    import signal

    child = process("chat", trained, "--backend", QUICK, stdin=-1)
    while b"/exit" not in child.stderr.readline():
        pass
    child.send_signal(signal.SIGINT)
    assert finished(child).code == 130


def test_an_answer_breaks_at_words_and_is_whole(trained):
    """The pieces joined again are what a pipe gets; no line is wider than the terminal."""
    prompt = "The cat sat on the warm mat. A dog ran to the river."
    flags = ("generate", trained, "-p", prompt, "--max-tokens", 12, *LONG)
    piped = finished(process(*flags, stdin=-3, env=environment())).out
    with Terminal(*flags, columns=24) as terminal:
        assert terminal.ended() == 0
        lines = [line for line in terminal.shown.splitlines() if "…" not in line and "Model:" not in line]
    shown = "\n".join(lines[lines.index("The cat sat on the warm") :])
    assert lines[lines.index("The cat sat on the warm") + 1].startswith("mat. A dog ran to the")
    characters = [re.sub(r"[\s\x00-\x1f\x7f-\x9f\ufffd]", "", text) for text in (shown, piped)]
    assert characters[0] == characters[1] and len(piped) > 55


ON = ("--backend", QUICK)


@pytest.mark.parametrize(
    "arguments",
    [("generate", "RUN", "-p", "A", *ON), ("evaluate", "RUN", *ON), ("export", "RUN", "--out", "OUT", *ON),
     ("plan", *tiny(), *ON), ("quantize", "RUN", *ON), ("data", "check", "DATA")],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_something_moves_while_nothing_is_said(copy, sources, tmp_path, arguments):
    """A spinner is there before the first result, and gone at the end."""
    places = {"RUN": copy, "OUT": tmp_path / "out", "DATA": sources.text}
    with Terminal(*(places.get(word, word) for word in arguments), columns=100) as terminal:
        assert terminal.ended() == 0, terminal.shown
        raw = terminal.raw.decode("utf-8", "replace")
    moved = re.findall("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] [A-Z][^\r\n…]*…", raw)
    assert moved, raw
    assert raw.rfind("\x1b[2K") > raw.rfind(moved[-1])  # the last one is erased
