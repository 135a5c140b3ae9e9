"""Whole runs: finished stages are kept, interrupted ones resumed, other settings refused, both backends agree."""

import html
import json
import re
import shutil
import signal
import time

import pytest
from command import QUICK, call, contents, environment, finished, journal, process, tiny, weights

from minigpt.cli import reporter
from minigpt.stages.table import USUAL
from minigpt.store.checkpoint import load_checkpoint


def test_what_a_run_has_on_disk(trained):
    names = {path.name for path in trained.iterdir()} - {"stderr"}
    files = {"README.txt", "config.toml", "env.json", "log.txt", "usage.jsonl", "report.html", "conversations.json"}
    assert names == {*files, "tokenizer", "data", *USUAL}
    words = (trained / "README.txt").read_text("utf-8")
    for name in ("config.toml", "env.json", "conversations.json", "log.txt", "usage.jsonl", "tokenizer/", "data/",
                 "final/", "checkpoints/",
                 "metrics.jsonl", "samples.jsonl", *(f"{stage}/" for stage in USUAL)):  # fmt: skip
        assert name in words
    assert max(map(len, words.splitlines())) <= 130
    for stage in USUAL:
        steps = [line["step"] for line in journal(trained, stage) if "loss" in line]
        assert steps == [1, 2, 3, 4]
        assert [line["step"] for line in journal(trained, stage) if "validation_loss" in line] == [0, 2, 4]
        load_checkpoint(trained / stage / "final")  # verifies the checksums


def test_before_and_after_stands_in_the_report(trained, sources):
    """Held-out questions of the conversations, each with the right answer and those of all stages."""
    rows = json.loads((trained / "conversations.json").read_text("utf-8"))["conversations"]
    pairs = [json.loads(line)["messages"] for line in sources.conversations.read_text("utf-8").splitlines()]
    known = {asked["content"]: answered["content"] for asked, answered in pairs}
    assert rows and all(known[row["question"]] == row["right"] for row in rows)
    assert all(isinstance(row[stage], str) for row in rows for stage in USUAL)
    page = (trained / "report.html").read_text("utf-8")
    assert "Before and after" in page and all(html.escape(row["question"]) in page for row in rows)


def test_each_source_goes_to_the_stage_that_its_rows_fit(minigpt, trained, sources):
    settings = (trained / "config.toml").read_text("utf-8")
    for stage, path in zip(USUAL, (sources.text, sources.conversations, sources.pairs), strict=True):
        assert f'{stage} = [\n    "{path}",\n]' in settings


def test_the_same_command_again_keeps_everything(minigpt, copy, sources):
    before = contents(copy)
    result = minigpt("run", *tiny(), *sources.flags, "--run", copy, "--backend", "torch")
    assert result.code == 0
    assert [f"{stage}: finished before, kept" in result.err for stage in USUAL] == [True] * 3
    assert "Settings" not in result.err  # they were shown when the run began
    assert contents(copy) == before


def test_without_settings_a_run_uses_its_own(minigpt, copy):
    before = contents(copy)
    result = minigpt("run", "--run", copy, "--backend", "torch")
    assert result.code == 0 and f"come from {copy / 'config.toml'}" in result.err
    assert contents(copy) == before


def test_interrupted_at_a_checkpoint_and_resumed(minigpt, trained, sources, tmp_path, monkeypatch):
    """Ctrl-C behind the checkpoint of step 2, between a stage that is finished and one that is not begun; the same
    command then gives the uninterrupted run bit for bit.
    """
    stage = "sft"
    run, command = tmp_path / "run", ("run", *tiny(), *sources.flags, "--backend", "torch", "--run")

    def interrupt(reporter, event):
        right(reporter, event)
        if (event.stage, event.step) == (stage, 2):
            raise KeyboardInterrupt

    right = reporter.Reporter._saved
    monkeypatch.setattr(reporter.Reporter, "_saved", interrupt)
    words = f"Interrupted during {stage}.", "The same command goes on from step 2.", "Go on with: minigpt run"
    minigpt(*command, run).refused(130, *words)
    assert not (run / stage / "final").exists()
    monkeypatch.setattr(reporter.Reporter, "_saved", right)
    resumed = minigpt(*command, run)
    assert resumed.code == 0 and f"{stage}: " in resumed.err and "going on from step 2." in resumed.err
    for name in USUAL:
        assert weights(run, name) == weights(trained, name), name
        without_clock = [[{**line, "seconds": 0, "waited": 0} for line in journal(one, name)] for one in (run, trained)]
        assert without_clock[0] == without_clock[1]


def test_a_lost_final_is_made_again(minigpt, copy, trained):
    shutil.rmtree(copy / "sft" / "final")
    assert minigpt("run", "--run", copy, "--backend", "torch").code == 0
    assert weights(copy, "sft") == weights(trained, "sft")


def test_the_seed_decides_and_another_seed_gives_other_weights(minigpt, trained, sources, tmp_path):
    for seed in (1, 2):
        flags = ("--data", sources.text, "--seed", seed, "--run", tmp_path / str(seed), "--backend", "torch")
        assert minigpt("train", "pretrain", *tiny(), *flags).code == 0
    assert weights(tmp_path / "1", "pretrain") != weights(tmp_path / "2", "pretrain")


# ---- other settings


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--set", "sft.steps=8"), ["sft.steps: 4 -> 8"]),
        (("--set", "model.d_ff=96", "--set", "dpo.beta=0.2"), ["model.d_ff: 64 -> 96", "dpo.beta: 0.1 -> 0.2"]),
        (("--set", "tokenizer.vocab_size=800"), ["tokenizer.vocab_size: 700 -> 800"]),
        (("--set", "data.validation_fraction=0.2"), ["data.validation_fraction: 0.05 -> 0.2"]),
        (("--seed", "3"), ["seed: 1 -> 3"]),
    ],
)
def test_a_trained_run_refuses_other_settings(minigpt, copy, flags, words):
    before = contents(copy)
    result = minigpt("run", "--run", copy, *flags, "--backend", "torch")
    result.refused(2, str(copy), *words, "another --run")
    assert contents(copy) == before


def test_a_trained_stage_refuses_other_data(minigpt, copy, sources):
    before = contents(copy)
    result = minigpt("train", "sft", "--run", copy, "--data", sources.pairs, "--backend", "torch")
    result.refused(2, "data.sft", sources.conversations.name, sources.pairs.name)
    assert contents(copy) == before


def test_what_no_model_was_trained_with_is_made_again(minigpt, tmp_path, sources):
    """The hint of the first error is followed in the same directory; nothing of the first attempt is left over."""
    (tmp_path / "short.txt").write_text("Hi there.\n", "utf-8")
    flags = (*tiny(), "--run", "run", "--backend", "torch")
    minigpt("run", *flags, "--data", "short.txt").refused(3, "4 tokens, fewer than one row of 64 + 1")
    result = minigpt("run", *flags, "--data", sources.text)
    assert result.code == 0
    assert "run/tokenizer was made with other settings" in result.err
    assert "run/data/pretrain was made with other settings" in result.err
    assert minigpt("run", *tiny(), "--run", "fresh", "--backend", "torch", "--data", sources.text).code == 0
    assert weights(tmp_path / "run", "pretrain") == weights(tmp_path / "fresh", "pretrain")


# ---- stage by stage


def test_stages_one_by_one_say_what_they_start_from(minigpt, sources, tmp_path):
    run = ("--run", tmp_path / "run", "--backend", "torch")
    assert minigpt("train", "pretrain", *tiny(), "--data", sources.text, *run).code == 0
    result = minigpt("train", "sft", "--data", sources.conversations, "--set", "pretrain.steps=9", *run)
    assert result.code == 0
    assert "Settings that are not given here come from" in result.err
    assert f"sft: starts from the weights of pretrain ({tmp_path / 'run/pretrain/final'})." in result.err
    assert "pretrain is trained already and keeps its settings; not used: pretrain.steps: 4 -> 9." in result.err
    assert "steps = 9" not in (tmp_path / "run" / "config.toml").read_text("utf-8")
    result = minigpt("train", "dpo", "--data", sources.pairs, *run)
    assert result.code == 0 and "dpo: starts from the weights of sft" in result.err
    assert minigpt("run", *run).code == 0  # and all three are finished


def test_dpo_may_start_from_pretraining(minigpt, copy, sources):
    shutil.rmtree(copy / "sft")
    shutil.rmtree(copy / "dpo")
    result = minigpt("train", "dpo", "--run", copy, "--backend", "torch")
    assert result.code == 0 and "dpo: starts from the weights of pretrain" in result.err


@pytest.mark.parametrize("command", [("train", "sft"), ("run",)])
def test_without_a_pretrained_model_nothing_is_begun(minigpt, sources, tmp_path, command):
    result = minigpt(*command, *tiny(), "--run", "run", "--data", sources.conversations)
    result.refused(2, "sft needs a trained model in run", "minigpt train pretrain --run run")
    assert not (tmp_path / "run").exists()


def test_preference_pairs_for_sft_are_announced(minigpt, copy, sources):
    for name in ("sft", "dpo"):
        shutil.rmtree(copy / name)
    result = minigpt("train", "sft", "--run", copy, "--data", sources.pairs, "--backend", "torch")
    assert result.code == 0 and "40 rows are preference pairs; of these the chosen answers are learned" in result.err


# ---- backends


def test_both_backends_train_the_same_curve(minigpt, trained, sources, tmp_path):
    result = minigpt("run", *tiny(), *sources.flags, "--run", tmp_path / "run", "--backend", "mlx", "--device", "cpu")
    assert result.code == 0 and "mlx on cpu" in result.err
    for stage in USUAL:
        ours, theirs = (
            [value for line in journal(run, stage) for key, value in sorted(line.items()) if key.endswith("loss")]
            for run in (tmp_path / "run", trained)
        )
        assert len(ours) == 7 and max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-3


def test_a_run_changes_hands(minigpt, copy):
    """Trained with torch, answered with MLX."""
    flags = ("generate", copy, "-p", "The", "--temperature", 0, "--max-tokens", 8)
    ours, theirs = (minigpt(*flags, "--backend", name, "--device", "cpu") for name in ("torch", "mlx"))
    assert ours.code == theirs.code == 0 and ours.out == theirs.out


# ---- Ctrl-C


def test_ctrl_c(sources, tmp_path):
    """A real signal to the supervisor of a process that trains: the step is saved, the command finishes the run."""
    steps = {f"pretrain__{key}": value for key, value in {"steps": 200, "save_every": 40, "eval_every": 200}.items()}
    flags = ("train", "pretrain", *tiny(**steps, pretrain__eval_rows=1, pretrain__batch_size=1))
    flags = (*flags, "--data", sources.text, "--run", tmp_path / "run", "--backend", QUICK)
    child = process(*flags, env=environment())
    saved = tmp_path / "run" / "pretrain" / "checkpoints"
    waited = time.monotonic() + 60
    while not list(saved.glob("step-*")) and time.monotonic() < waited:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    result = finished(child)
    result.refused(130, "Stopped during pretrain after step ", "Go on with: minigpt train pretrain")
    checkpoints = sorted(saved.glob("step-*"))
    assert checkpoints and f"step {int(checkpoints[-1].name[5:])} of 200" in result.err.splitlines()[-1]
    load_checkpoint(checkpoints[-1])
    again = call(*flags)
    assert again.code == 0 and "going on from step" in again.err
    assert (tmp_path / "run" / "pretrain" / "final" / "manifest.json").exists()
    assert [path for path in saved.iterdir() if path.name.startswith(".")] == []  # nothing half-written is left


def test_ctrl_c_elsewhere(minigpt, monkeypatch, trained):
    def interrupt(*ignored):
        raise KeyboardInterrupt

    monkeypatch.setattr("minigpt.train.loop.accumulated", interrupt)
    flags = (*tiny(), "--data", "world", "--run", "begun")
    minigpt("run", *flags).refused(130, "Interrupted during pretrain.", "begins pretrain again: it has no checkpoint")
    monkeypatch.setattr("minigpt.runs.pipeline.make_tokenizer", interrupt)
    flags = ("--data", "world", "--set", "model.context=64", "--run", "new")
    minigpt("run", *flags).refused(130, "Interrupted. What is finished is kept. Go on with: minigpt run ")
    monkeypatch.setattr("minigpt.stages.language.evaluate_language", interrupt)
    minigpt("evaluate", trained, "--stage", "sft").refused(130, "Interrupted.")


@pytest.mark.parametrize("supervise", [True, False])
def test_the_log_has_the_whole_story(sources, tmp_path, supervise):
    """What was said, with and without a supervisor, and the error that ended an earlier try."""
    flags = ("train", "pretrain", *tiny(), "--run", tmp_path / "run", "--backend", QUICK)
    watched = [] if supervise else ["--no-supervise"]
    assert finished(process(*flags, *watched, "--data", sources.text, "--time", "soon")).code == 2
    short = ("--set", "tokenizer.vocab_size=900000")
    result = finished(process(*flags, *watched, "--data", sources.text))
    assert result.code == 0, result.err
    log = (tmp_path / "run" / "log.txt").read_text("utf-8")
    said = [line for line in result.err.splitlines() if line and not line.startswith("Backend: ") and line[-1] != "…"]
    told = {re.sub(r"^--- \S+ \S+ ", "", line) for line in log.splitlines()}
    assert [line for line in said if line not in told] == [] and len(said) > 10
    refused = finished(process(*flags, *watched, *short))
    assert refused.code == 2
    assert refused.err.splitlines()[-1].removeprefix("minigpt: ")[:60] in (tmp_path / "run" / "log.txt").read_text()
