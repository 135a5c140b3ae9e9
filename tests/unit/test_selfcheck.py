"""`minigpt check` without a framework: what becomes of the processes that measure, and of personal data."""

import getpass
import json
import os
import platform
from pathlib import Path

import pytest

from minigpt.events import silent
from minigpt.machine.description import Machine
from minigpt.parity import selfcheck
from minigpt.parity.selfcheck import Line, block, check, impersonal

ABORTED = "libc++abi: terminating due to uncaught exception: [METAL] Command buffer execution failed\n"


def answering(answers):
    """A process per fact that prints one of the `answers`."""
    return lambda command, seconds: next(text for name, text in answers.items() if f"'{name}'" in command[-1])


def test_a_process_that_dies_costs_its_own_line_only():
    answers = {"models": ABORTED, "bfloat16": 'a warning\n["ok", "2.0×"]', "decode": '["skipped", "no such thing"]',
               "plan": ""}  # fmt: skip
    lines = check("mlx", "gpu", silent, answers, answering(answers))
    assert [(line.name, line.verdict) for line in lines] == [
        ("models", "failed"), ("bfloat16", "ok"), ("decode", "skipped"), ("plan", "failed"),
    ]  # fmt: skip
    assert "its process died without an answer: libc++abi: terminating" in lines[0].said
    assert lines[3].said == "its process died without an answer"


def test_the_process_that_is_started_answers():
    """The real command, with a fact that does not exist: an answer in words, whatever happens in there."""
    (line,) = check("torch", "cpu", silent, ["no such fact"])
    assert line.verdict == "failed" and line.said == "KeyError: 'no such fact'"


def test_the_names_are_those_of_the_facts():
    from minigpt.parity.facts import FACTS

    assert tuple(FACTS) == selfcheck.NAMES


@pytest.mark.parametrize(
    "secret",
    [f"{Path.home()}/runs/mine", "/Users/anna/models/x.txt", r"C:\Users\anna\models", ["/home/anna/a", "b.txt"][0],
     r"\\server\share\x", os.getcwd()],
)  # fmt: skip
def test_paths_are_left_out(secret):
    text = impersonal(f"OSError: cannot read {secret}: no such file (12 s)")
    assert secret not in text and "anna" not in text and text.endswith("no such file (12 s)")


def test_what_a_block_says_and_does_not_say():
    machine = Machine("macOS", "15.1", "Apple M3 Max", "arm64", "arm64", 16, 12, 4, 16.0, 64 << 30, gpu="Apple M3 Max",
                      gpu_cores=40, unified=True, disk_free=123_456_789_000, power="battery",
                      battery_percent=41)  # fmt: skip
    lines = [
        Line("training", "ok", "ms compiled/plain: pretrain 12/20", 31.2),
        Line("4 bits", "failed", f"no file {Path.home()}/x/y of {getpass.getuser()} on {platform.node()}", 2.0),
    ]
    text = block(machine, "mlx", "gpu", {"mlx": "0.32.4", "device": "gpu", "platform": platform.node()}, lines)
    assert text.startswith("```\nminigpt: ") and text.endswith("```\n")
    for word in ("chip: Apple M3 Max", "cores: 16 (12 performance, 4 efficiency)", "68.7 GB", "mlx 0.32.4", "40 cores",
                 "ok      training  ms compiled/plain: pretrain 12/20 (31 s)", "failed  4 bits"):  # fmt: skip
        assert word in text, text
    for secret in (str(Path.home()), platform.node(), f" {getpass.getuser()} ", "123", "41"):
        assert secret not in text, secret
    assert json.dumps(text).isascii()
