"""`minigpt scaling`: what budgets buy."""

import json

import pytest


def test_money(minigpt):
    found = json.loads(minigpt("scaling", "--money", 100, "--machine", "h100", "--json").out)
    assert found["seconds"] == pytest.approx(144_000) and found["tokens"] / found["parameters"] > 5
    shown = minigpt("scaling", "--money", 100)
    assert shown.code == 0 and "$100.00" in shown.out and "40 h" in shown.out


def test_time_at_a_speed(minigpt):
    flags = ["--time", "8h", "--flops-per-second", 1e11, "--law", "chinchilla", "--json"]
    assert json.loads(minigpt("scaling", *flags).out)["compute"] == pytest.approx(8 * 3600 * 1e11)


def test_the_presets_for_the_same_time(minigpt):
    """The smallest loss is the one that is recommended."""
    found = json.loads(minigpt("scaling", "--time", "8h", "--machine", "m4", "--law", "kaplan", "--json").out)
    assert [one["preset"] for one in found["presets"]] == ["tiny", "small", "medium"]
    assert found["preset"] == min(found["presets"], key=lambda one: one["loss"])["preset"]
    shown = minigpt("scaling", "--time", "8h", "--machine", "m4", "--law", "kaplan").out
    assert f"--preset {found['preset']} --set pretrain.steps=" in shown


@pytest.mark.parametrize("flags, words", [
    ([], ["--compute", "--time", "--money"]), (["--money", 5, "--time", "1h"], ["one of"]),
    (["--money", 5, "--machine", "m4"], ["no price", "h100"]), (["--time", "1h", "--machine", "h10"], ["h100"]),
    (["--time", "1h", "--machine", "m4", "--svg", "x.svg"], ["--data"]),
])  # fmt: skip
def test_open_questions_are_refused(minigpt, flags, words):
    minigpt("scaling", *flags).refused(2, *words)
