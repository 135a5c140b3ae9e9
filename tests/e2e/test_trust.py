"""A run that can be left alone: it survives the death of its process, hears signals, has one process at a time."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import QUICK, call, contents, environment, finished, journal, process, tiny, weights

FAULTS = Path(__file__).with_name("faults")


def pretraining(sources, run, **settings):
    steps = {f"pretrain__{key}": value for key, value in settings.items()}
    return ("train", "pretrain", *tiny(**steps), "--data", sources.text, "--run", run, "--backend", QUICK)


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)


def trains(run):
    """Whether the first step is done."""
    path = run / "pretrain" / "metrics.jsonl"
    return path.exists() and '"step": 1' in path.read_text("utf-8")


def with_fault(kind, step, marker):
    """The environment of a process with a fault (see faults/sitecustomize.py)."""
    path = os.pathsep.join(filter(None, [str(FAULTS), os.environ.get("PYTHONPATH")]))
    return environment(PYTHONPATH=path, MINIGPT_FAULT=f"{kind}:{step}:{marker}")


def saved(run):
    return sorted(path.name for path in (run / "pretrain" / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    """A pretraining of 6 steps without a supervisor."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert call(*pretraining(sources, run, steps=6, batch_size=4)).code == 0
    return run


# ---- the supervisor


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("kill", ["killed by the system or by somebody (SIGKILL)", "from its last checkpoint (restart 1 of 5)"]),
        ("abort", ["aborted inside the framework (SIGABRT)", "Its last words: terminate called after throwing"]),
        ("memory-error", ["The memory ran out during training: [malloc] Unable to allocate", "restart 1 of 5",
                          "a step is computed in 4 micro-batches, since earlier tries with fewer died",
                          "restart 2 of 5"]),
        ("memory-abort", ["(SIGABRT): the memory ran out", "Insufficient Memory", "with more micro-batches per step"]),
    ],
)  # fmt: skip
def test_a_training_process_that_dies_is_started_again(sources, undisturbed, tmp_path, kind, words):
    """It says why, and the result is that of a run that nothing happened to: with the same parts bit for bit."""
    flags = pretraining(sources, tmp_path / "run", steps=6, batch_size=4)
    result = finished(process(*flags, env=with_fault(kind, 4, tmp_path / "marker")))
    assert result.code == 0, result.err
    for word in words:
        assert word in result.err, (word, result.err)
    runs = (tmp_path / "run", undisturbed)
    losses = [[line["loss"] for line in journal(run, "pretrain") if "loss" in line] for run in runs]
    assert len(losses[0]) == 6 and max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-5
    if kind.startswith("memory"):
        kept = json.loads((tmp_path / "run" / "pretrain" / "memory.json").read_text("utf-8"))
        # the next command begins with it
        assert kept == {"grad_accumulation": 4, "activation_checkpointing": False, "loss_chunk": 0}
    else:
        assert weights(tmp_path / "run", "pretrain") == weights(undisturbed, "pretrain")


def test_a_process_that_dies_again_and_again_is_given_up(sources, tmp_path):
    flags = (*pretraining(sources, tmp_path / "run"), "--restarts", 1)
    result = finished(process(*flags, env=with_fault("always", 0, tmp_path / "marker")))
    assert result.code == 1 and result.err.count("The training process was aborted") == 2
    assert "That was the last of 1 restarts." in result.err and "log.txt" in result.err


def test_memory_that_is_never_enough_ends_with_4(sources, tmp_path):
    """Down to one row at a time with gradient checkpointing, then a sentence."""
    result = finished(process(*pretraining(sources, tmp_path / "run"), env=with_fault("never-enough", 0, "-")))
    assert result.code == 4 and "in 2 micro-batches and with activation checkpointing" in result.err
    assert "even with one row at a time and activation checkpointing" in result.err.splitlines()[-1]


def test_a_failure_of_the_childs_own_is_no_reason_to_start_again(sources, tmp_path):
    result = finished(process("run", *tiny(), "--data", "no-such-file.txt", "--run", tmp_path / "run"))
    assert result.code == 3 and "restart" not in result.err and result.err.count("minigpt: ") == 1
    assert not (tmp_path / "run").exists()


# ---- signals


# A supervisor's SIGINT: test_runs.py. It hands each signal on to the training process as SIGTERM.
@pytest.mark.parametrize(
    ("supervise", "number", "code"),
    [(True, signal.SIGTERM, 143), (True, signal.SIGHUP, 129), (False, signal.SIGHUP, 129), (False, signal.SIGINT, 130)],
)
def test_signals_save_the_step(sources, tmp_path, supervise, number, code):
    flags = pretraining(sources, tmp_path / "run", steps=5000, save_every=5000, eval_every=5000, batch_size=1)
    child = process(*flags, *([] if supervise else ["--no-supervise"]))
    wait_for(lambda: trains(tmp_path / "run"))
    time.sleep(0.1)
    child.send_signal(number)
    result = finished(child)
    result.refused(code, "Stopped during pretrain after step", "which is saved. Go on with: minigpt train pretrain")
    (checkpoint,) = saved(tmp_path / "run")
    assert f"step {int(checkpoint[5:])} of 5,000" in result.err.splitlines()[-1]
    assert not (tmp_path / "run" / ".lock").exists()


def test_ctrl_c_in_a_terminal_reaches_both_processes_and_counts_once(sources, tmp_path):
    flags = pretraining(sources, tmp_path / "run", steps=5000, save_every=5000, eval_every=5000, batch_size=1)
    child = process(*flags, start_new_session=True)
    wait_for(lambda: trains(tmp_path / "run"))
    os.killpg(child.pid, signal.SIGINT)
    finished(child).refused(130, "Stopped during pretrain after step")


def test_a_second_ctrl_c_leaves_at_once(sources, tmp_path):
    """While a step hangs: the first is noted, the second does not wait."""
    for supervise in ([], ["--no-supervise"]):
        run = tmp_path / f"run{len(supervise)}"
        marker = tmp_path / f"marker{len(supervise)}"
        child = process(*pretraining(sources, run, steps=4), *supervise, env=with_fault("hang", 2, marker))
        wait_for(marker.exists)
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.wait(20) in (130, -signal.SIGINT)
        child.communicate()
        assert call(*pretraining(sources, run, steps=4)).code == 0


def test_an_orphan_stops(sources, tmp_path):
    """Its supervisor is killed: nobody watches any more, so it saves and ends."""
    flags = pretraining(sources, tmp_path / "run", steps=5000, save_every=5000, eval_every=5000, batch_size=1)
    parent = process(*flags, stderr=subprocess.DEVNULL)
    wait_for(lambda: trains(tmp_path / "run"))
    parent.kill()
    parent.communicate()
    wait_for(lambda: saved(tmp_path / "run") and not (tmp_path / "run" / ".lock").exists())


# ---- one process at a time


def test_a_second_process_is_refused(sources, tmp_path, minigpt):
    flags = pretraining(sources, tmp_path / "run", steps=5000, save_every=5000, eval_every=5000, batch_size=1)
    first = process(*flags)
    wait_for(lambda: trains(tmp_path / "run"))
    owner = json.loads((tmp_path / "run" / ".lock").read_text("utf-8"))
    minigpt(*flags).refused(1, f"{tmp_path / 'run'} is in use: process {owner['pid']} on ", "choose another --run")
    first.send_signal(signal.SIGTERM)
    assert finished(first).code == 143


def test_the_lock_of_a_killed_process_means_nothing(minigpt, copy):
    before = contents(copy)
    (copy / ".lock").write_text(json.dumps({"pid": 4711, "host": "here", "since": "2020-01-01 00:00:00"}))
    result = minigpt("run", "--run", copy, "--backend", "torch")
    assert result.code == 0 and "Process 4711 trained here and ended without a word" in result.err
    assert contents(copy) == before


def test_what_a_killed_process_left_half_written_is_removed(minigpt, copy, trained):
    """And what it was about to replace is put back."""
    half = copy / "sft" / "checkpoints" / ".step-000004.4711.tmp"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    (copy / "dpo" / "final").rename(copy / "dpo" / ".final.4711.old")
    (copy / "data" / "sft" / ".train.4711.tmp").mkdir()
    assert minigpt("run", "--run", copy, "--backend", "torch").code == 0
    assert contents(copy) == contents(trained)
    assert not half.exists() and not (copy / "data" / "sft" / ".train.4711.tmp").exists()


# ---- other settings, allowed


def test_more_steps_can_be_allowed(minigpt, copy):
    shutil.rmtree(copy / "dpo")
    flags = ("run", "--run", copy, "--set", "sft.steps=8", "--backend", "torch")
    minigpt(*flags).refused(2, "sft.steps: 4 -> 8", "With --allow-changes training goes on")
    result = minigpt(*flags, "--allow-changes")
    assert result.code == 0 and "sft goes on from step 4; changed settings: sft.steps: 4 -> 8." in result.err
    assert [line["step"] for line in journal(copy, "sft") if "loss" in line] == [*range(1, 9)]
    assert "steps = 8" in (copy / "config.toml").read_text("utf-8")
    assert minigpt("run", "--run", copy, "--backend", "torch").code == 0


def test_steps_that_were_never_trained_are_not_claimed(minigpt, copy):
    """Fewer steps change nothing of a finished stage, and a few more than those, but less than it has, neither."""
    before = contents(copy)
    for steps in (2, 3):
        flags = ("train", "sft", "--run", copy, "--set", f"sft.steps={steps}", "--allow-changes", "--backend", "torch")
        result = minigpt(*flags)
        assert result.code == 0, result.err
        assert f"sft is trained already and keeps its settings; not used: sft.steps: 4 -> {steps}." in result.err
    assert contents(copy) == before
    assert minigpt("export", copy, "--stage", "sft", "--to", "hf", "--no-verify", "--out", "card").code == 0
    line = next(line for line in Path("card/README.md").read_text("utf-8").splitlines() if line.startswith("| sft |"))
    assert "steps 4," in line


def test_an_unfinished_stage_has_at_least_the_steps_that_it_has_trained(minigpt, copy):
    shutil.rmtree(copy / "dpo")
    shutil.rmtree(copy / "sft" / "final")  # as if it had been stopped after step 4 of more
    flags = ("train", "sft", "--run", copy, "--set", "sft.steps=3", "--allow-changes", "--backend", "torch")
    result = minigpt(*flags)
    assert result.code == 0, result.err
    assert "sft has trained 4 steps already: it ends with these, and steps is 4." in result.err
    assert "steps = 4" in (copy / "config.toml").read_text("utf-8").partition("[dpo]")[0].partition("[sft]")[2]


def test_what_trained_weights_depend_on_cannot_be_allowed(minigpt, copy):
    before = contents(copy)
    for setting in ("model.rope_theta=500.0", "seed=3", "tokenizer.vocab_size=800"):
        result = minigpt("run", "--run", copy, "--set", setting, "--allow-changes", "--backend", "torch")
        result.refused(2, setting.partition("=")[0], "--allow-changes is for the training settings of a stage")
    assert contents(copy) == before


# ---- said aloud


def test_a_rate_of_zero_is_said(minigpt, sources, tmp_path):
    flags = pretraining(sources, tmp_path / "run", learning_rate=0)
    result = minigpt(*flags, "--set", "pretrain.matrix_learning_rate=0.0")
    assert "pretrain.learning_rate and pretrain.matrix_learning_rate = 0: nothing is learned." in result.err


def test_rows_in_both_splits_are_said(minigpt, sources, copy):
    for name in ("sft", "dpo"):
        shutil.rmtree(copy / name)
        shutil.rmtree(copy / "data" / name)
    again = f"data.sft_validation=['{sources.conversations}']"
    flags = ("--data", sources.conversations, "--set", again, "--backend", "torch")
    result = minigpt("train", "sft", "--run", copy, *flags)
    assert result.code == 0 and "sft: 60 of the rows held out are training rows, too" in result.err
