"""What the machine is and what fits it: doctor and plan."""

import getpass
import json
import os
import platform

import pytest
from command import finished, journal, process, tiny

from backends import BACKENDS
from minigpt.config import PRESETS
from minigpt.machine import check
from minigpt.machine.check import BackendCheck
from minigpt.machine.description import Machine
from minigpt.plan.choose import SUPERVISOR, guessed_plans, guessed_preset


@pytest.fixture
def quick_check(monkeypatch):
    """Backends that answer at once: torch works, MLX does not."""
    good = BackendCheck("torch", "", "cpu", {"torch": "2.9.1", "device": "cpu"}, False, 50.0, 9.5e9)
    found = {"torch": good, "mlx": BackendCheck("mlx", "ImportError: no Metal")}
    monkeypatch.setattr(check, "check_backend", lambda name: found[name])


def test_doctor_tells_a_script_everything(minigpt):
    result = minigpt("doctor", "--json")
    assert result.code == 0 and {line.split()[0] for line in result.err.splitlines()} <= {"Checking"}
    found = json.loads(result.out)
    presets = found["choice"]["presets"]
    assert tuple(presets) == PRESETS  # the smallest first, in what is printed, too
    assert [*presets.values()] == sorted(presets.values(), key=lambda taken: (taken["seconds"], taken["memory"]))
    assert found["machine"]["cores"] >= 1 and found["machine"]["disk_free"] > 0 and found["machine"]["memory"] > 1e8
    assert found["python"] == platform.python_version()
    assert {one["name"] for one in found["backends"]} == set(BACKENDS)
    for one in found["backends"]:
        assert one["error"] == "" and one["gflops"] > 1 and one["bandwidth"] > 1e8 and one["versions"][one["name"]]
    assert found["choice"]["backend"] in BACKENDS and found["choice"]["reason"]
    assert found["choice"]["preset"] in PRESETS and "roughly" in found["choice"]["preset_reason"]


@pytest.mark.parametrize(
    ("gflops", "gigabytes", "preset"),
    [(50, 8, "tiny"), (4000, 16, "small"), (60_000, 64, "medium"), (60_000, 2, "medium"), (60_000, 0.5, "tiny")],
)  # a step in smaller micro-batches fits medium into 2 GB
def test_the_preset_that_doctor_names_follows_speed_and_memory(gflops, gigabytes, preset):
    check = BackendCheck("mlx", "", "gpu", {}, True, gflops, 4e11)
    machine = Machine("macOS", memory_available=int(gigabytes * 1e9), unified=True)
    assert guessed_preset(guessed_plans(check, machine))[0] == preset


def test_doctor_names_a_backend_that_does_not_work(minigpt, quick_check):
    result = minigpt("doctor")
    assert result.code == 0 and "2.9.1" in result.out and "torch (no Apple GPU here)" in result.out
    assert "The mlx backend does not work: ImportError: no Metal." in result.err
    assert max(map(len, result.out.splitlines())) <= 80


def test_what_doctor_shares_is_not_personal(minigpt, quick_check):
    shared = minigpt("doctor", "--share").out
    assert shared.startswith("```\nminigpt: ") and "torch: 2.9.1 on cpu: yes, 50 GFLOP/s, 9.5 GB/s" in shared
    for secret in (getpass.getuser(), platform.node(), os.path.expanduser("~"), os.getcwd(), "free now", "disk"):
        assert secret not in shared, secret


# ---- plan ----------------------------------------------------------------------------------------------------


def test_plan_tells_a_script_everything(minigpt):
    result = minigpt("plan", *tiny(), "--backend", "torch", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)["presets"]["tiny"]
    assert [stage["stage"] for stage in found["stages"]] == ["pretrain", "sft", "dpo"]
    for stage in found["stages"]:
        parts = stage["memory"]
        assert parts["total"] == sum(size for name, size in parts.items() if name != "total") and stage["fits"]
        assert stage["steps"] == 4 and stage["tokens"] > 0 and stage["flops"] > 0 and stage["seconds"] > 0
    assert found["memory"] == max(stage["memory"]["total"] for stage in found["stages"]) and found["disk"] > 0
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))


def test_plan_shows_one_column_per_stage(minigpt):
    result = minigpt("plan", *tiny(), "--backend", "torch", "--stages", "pretrain,sft")
    assert result.code == 0, result.err
    assert "pretrain" in result.out and "dpo" not in result.out and max(map(len, result.out.splitlines())) <= 80
    for word in ("weights", "gradients", "optimizer", "activations", "logits", "peak memory", "time"):
        assert f"\n {word} " in result.out, word


def test_what_plan_refuses(minigpt):
    minigpt("plan", "--preset", "huge").refused(2, "no preset 'huge'")
    minigpt("plan", "--preset", "tiny", "--stages", "sft,dbo").refused(2, "no stage 'dbo'", "dpo")
    minigpt("plan", *tiny(), "--time", "soon").refused(2, "--time 'soon' is not a time")
    result = minigpt("plan", *tiny(), "--backend", "torch", "--max-memory", "150MB", "--json")
    result.refused(4, "even with the smallest micro-batches", "--max-memory leaves", "is the least")
    assert json.loads(result.out)["presets"]["tiny"]["fits"] is False


def test_a_time_that_is_too_short_is_refused_before_anything_is_written(minigpt, sources, tmp_path):
    long = ("--set", "pretrain.steps=100000000")
    result = minigpt("train", "pretrain", *tiny(), *long, "--data", sources.text, "--run", "r", "--time", "20m")
    result.refused(4, "--time allows 20 min 00 s", "What would fit: pretrain.steps=")
    assert not (tmp_path / "r" / "config.toml").exists() and not (tmp_path / "r" / "pretrain").exists()


def test_a_model_that_can_never_fit_is_refused_with_what_would(minigpt, sources, tmp_path):
    wide = ("--set", "model.d_model=8192", "--set", "model.d_ff=32768", "--set", "model.n_layer=64")
    result = minigpt("train", "pretrain", *tiny(), *wide, "--data", sources.text, "--run", "r", "--max-memory", "6GB")
    result.refused(4, "pretrain needs", "--max-memory leaves", "What would fit: --preset")
    assert not (tmp_path / "r" / "config.toml").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_is_divided_and_the_result_stays_the_same(sources, tmp_path, backend):
    """Against a run without a limit: the same losses within 1e-5, in parts that the plan chose.

    In float32, as sums of rounded parts differ by more, and some processors compute in bfloat16 by themselves.
    """
    exact = {"pretrain__dtype": "float32"}
    shape = tiny(pretrain__batch_size=64, model__n_layer=4, model__d_model=128, pretrain__steps=2, **exact)
    flags = ("train", "pretrain", *shape, "--data", sources.text, "--backend", backend, "--no-supervise")
    free = finished(process(*flags, "--run", tmp_path / "free"))
    assert free.code == 0 and "Plan: " in free.err and "pretrain: memory " in free.err, free.err
    kept = json.loads((tmp_path / "free" / "pretrain" / "plan.json").read_text())
    assert kept["steps"] == 2 and kept["actual"]["seconds"] > 0
    assert kept["planned"]["memory"] == pytest.approx(kept["actual"]["memory"], rel=0.25)  # presets: scripts/fit.py
    limit = int(kept["planned"]["memory"] - 30e6 + SUPERVISOR)
    limited = finished(process(*flags, "--run", tmp_path / "limited", "--max-memory", f"{limit // 1000}KB"))
    assert limited.code == 0 and "to fit the memory; the result stays the same" in limited.err, limited.err
    losses = [[line["loss"] for line in journal(tmp_path / run, "pretrain") if "loss" in line]
              for run in ("free", "limited")]  # fmt: skip
    assert len(losses[0]) == 2 and max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-5


@pytest.fixture
def known_speed(monkeypatch):
    """Tokens take a microsecond per million parameters, whatever else runs here."""
    from minigpt.model.gpt import parameter_count
    from minigpt.plan import choose, speed

    def measured(backend, model, *rest):
        return speed.Speed(1e-12 * parameter_count(model), 3e-13 * parameter_count(model), 1e-9)

    monkeypatch.setattr(choose, "measure", measured)
    monkeypatch.setattr(choose.busy, "beside", lambda *readings: None)


def test_the_preset_that_fits_is_chosen(minigpt, known_speed):
    """Memory and time both count. Where no preset fits, the smallest is trained with fewer steps, which is said."""
    flags = ("plan", "--preset", "auto", "--stages", "pretrain", "--backend", "torch", "--json")
    few = [word for preset in ("pretrain",) for word in ("--set", f"{preset}.steps=100")]

    def chosen(*more):
        result = minigpt(*flags, *more)
        found = json.loads(result.out)
        return result.code, found["chosen"], found["reason"]

    assert chosen(*few)[:2] == (0, "medium")
    code, preset, reason = chosen("--time", "10m")
    assert (code, preset) == (0, "small") and "medium would take" in reason
    code, preset, reason = chosen("--time", "1s")
    assert (code, preset) == (0, "tiny") and "with the steps that fit 1 s (pretrain " in reason


def test_the_smallest_preset_is_not_told_to_be_smaller(minigpt, known_speed):
    words = ("plan", "--stages", "pretrain", "--time", "1s", "--backend", "torch", "--set", "pretrain.steps=2000")
    for preset, smaller in (("tiny", False), ("small", True)):
        result = minigpt(*words, "--preset", preset)
        assert result.code == 4 and ("smaller preset" in result.err) == smaller, result.err
