"""The demo and the parity table, end to end and small."""

import json
import shutil

import pytest
from command import tiny

from backends import BACKENDS, get_backend
from minigpt.parity import controls, models
from minigpt.parity.controls import broken
from minigpt.parity.ops import CASES, compare_ops
from minigpt.parity.reference import Row
from minigpt.parity.rl import check
from minigpt.stages.table import STAGES, USUAL


@pytest.mark.parametrize("backend", BACKENDS)
def test_demo(minigpt, tmp_path, monkeypatch, backend):
    monkeypatch.setattr("minigpt.demo.TEST_ROWS", 12)
    command = ("demo", *tiny(model__context=128), "--run", "demo", "--backend", backend, "--device", "cpu")
    first = minigpt(*command)
    assert first.code == 0, first.err
    for words in ("question", "after pretrain", "after sft", "after dpo", "right answer", "I am MiniGPT.",
                  "bits per byte", "right answers (exact match)", "short and polite", "pairs ranked"):  # fmt: skip
        assert words in first.out, words
    assert max(map(len, first.out.splitlines())) <= 80
    assert "Talk to it:  minigpt chat demo" in first.err and f"{backend} on cpu" in first.err
    said = " ".join(first.err.split())
    for stage in (STAGES[name] for name in USUAL):
        assert said.count(f"{stage.name}: {stage.summary}") == 1  # what it does and what to watch, once
        assert said.index(stage.summary) < said.index(f"{stage.name} step 1/")
    assert "Settings (all of them" not in said  # only when asked for
    for words in ("report demo", "evaluate demo", "export demo --to gguf", "run --run runs/mine --data FILE"):
        assert f"minigpt {words} " in said
    line = next(line for line in first.err.splitlines() if "dpo step 0 validation" in " ".join(line.split()))
    assert "accuracy –" in line and "margin 0.0000" in line  # all are ties: no 0 %
    again = minigpt(*command)  # shows it again, without measuring anything
    assert again.code == 0 and again.out == first.out and "finished before, kept" in again.err
    assert "validation" not in again.err
    found = json.loads(minigpt(*command, "--json").out)
    assert list(found["measured"]) == list(USUAL) and len(found["conversations"]) == 7
    for stage, values in found["measured"].items():
        assert values["bits_per_byte"] > 0 and 0 <= values["exact_match"] <= 1 and 0 <= values["manner"] <= 1
        assert all(isinstance(shown[stage], str) for shown in found["conversations"])
    assert 0 <= found["measured"]["dpo"]["preference_accuracy"] <= 1
    if backend == "torch":
        further = ("--rl", "--set", "reward.steps=4", "--set", "grpo.steps=2")
        more = minigpt(*command, *further, "--json")
        assert more.code == 0 and "pretrain: finished before" in more.err, more.err
        measured = json.loads(more.out)["measured"]
        assert list(measured) == [*USUAL, "reward", "grpo"] and list(measured["reward"]) == ["preference_accuracy"]
        assert {name: measured[name] for name in USUAL} == found["measured"] and measured["grpo"]["bits_per_byte"] > 0
        assert "after grpo" in minigpt(*command, *further).out
        shutil.rmtree("demo/reward")
        shutil.rmtree("demo/grpo")
    evaluated = json.loads(minigpt("evaluate", "demo", "--tests", 5, "--backend", backend, "--json").out)
    assert list(evaluated["stages"]) == list(USUAL) and "exact_match" not in evaluated["stages"]["pretrain"]
    assert {name: evaluated[name] for name in evaluated["stages"]["dpo"]} == evaluated["stages"]["dpo"]
    assert evaluated["stage"] == "dpo" and {"pairs", "exact_match", "exact_match_read", "manner"} <= evaluated.keys()


def test_questions_that_do_not_fit_the_context_are_not_answered(minigpt, monkeypatch):
    """A context of 64 is too short for some questions: the demo measures the others, and these count as wrong."""
    monkeypatch.setattr("minigpt.demo.TEST_ROWS", 12)
    result = minigpt("demo", *tiny(), "--run", "demo", "--backend", "torch")
    assert result.code == 0 and "longer than the context of 64 tokens and cut" in result.err


# ---- parity


def test_parity_quick(minigpt, monkeypatch):
    """What it prints; tests/parity has all models and mistakes, here are some of them."""
    right, planted = controls.broken, check.faults()
    monkeypatch.setattr(models, "MODEL_CASES", models.MODEL_CASES[:2])
    monkeypatch.setattr(controls, "broken", lambda backend: dict(list(right(backend).items())[::8]))
    monkeypatch.setattr(controls, "check_models", lambda backend: [])
    monkeypatch.setattr(check, "faults", lambda: planted[::8])
    result = minigpt("parity", "--quick")
    assert result.code == 0, result.out
    for words in ("Largest differences: operation", "Largest differences: model", "mlx vs torch", "torch vs numpy",
                  "logits", "gradient", "comparisons are within their bounds.", "mistake were caught."):  # fmt: skip
        assert words in result.out, words
    assert "BROKEN" not in result.out and max(map(len, result.out.splitlines())) <= 80
    good, _, total = result.out.splitlines()[-2].split()[:3]
    assert good == total and int(total.replace(",", "")) > 1000


def test_parity_names_what_is_broken_and_exits_with_1(minigpt, monkeypatch):
    """The table of a backend that turns the first token of a cached step as if it were the first of the text."""
    wrong = broken(get_backend("torch", "cpu"))["rope offset dropped"]
    cases = [case for case in CASES if case.op == "rope"]
    monkeypatch.setattr("minigpt.parity.report.compare", lambda *ignored: compare_ops([wrong], cases))
    result = minigpt("parity", "--quick", "--backends", "torch")
    assert result.code == 1 and "BROKEN: operation rope: offset 7" in result.out
    assert "  BROKEN  rope: " in result.out  # in the table, too
    values = json.loads(minigpt("parity", "--quick", "--backends", "torch", "--json").out)
    assert {row["ok"] for row in values} == {True, False}


def test_parity_exits_with_1_when_a_known_mistake_slips_through(minigpt, monkeypatch):
    rows = [Row("operation", "silu", "value", "torch vs numpy", float("nan"), 1e-5, True),
            Row("control", "loss mask shifted by one", "loss", "torch vs numpy", 0.0, 1e-5, False)]  # fmt: skip
    monkeypatch.setattr("minigpt.parity.report.compare", lambda *ignored: rows)
    result = minigpt("parity", "--backends", "torch")
    assert result.code == 1 and "0 of 1 backends and losses with a known mistake were caught." in result.out
    assert json.loads(minigpt("parity", "--backends", "torch", "--json").out)[0]["difference"] is None  # NaN is no JSON


@pytest.mark.parametrize("names", ["torch,jax", "", "torch;mlx"])
def test_parity_of_unknown_backends(minigpt, names):
    minigpt("parity", "--backends", names).refused(2, "There is no backend")
