"""`minigpt diagnose` on trainings that were really spoilt, each in one way, and on a sound one."""

import json
import random

import pytest
from command import call, write_rows

from minigpt import library
from minigpt.store.stage import StageStore

SETTINGS = {"steps": 64, "batch_size": 4, "eval_every": 8, "save_every": 64, "eval_rows": 8, "log_every": 1,
            "warmup_steps": 4, "optimizer": "adamw"}  # fmt: skip
SHAPE = {"n_layer": 2, "d_model": 32, "n_head": 2, "n_kv_head": 1, "d_ff": 64, "context": 32,
         "first_weights": "random"}  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Many different sentences, a few of them, and the many with pages of noise in between."""
    directory, drawn = tmp_path_factory.mktemp("texts"), random.Random(1)
    names, acts, things = ("Tom", "Anna", "The cat", "A dog"), ("saw", "took", "lost"), ("a ball", "the key", "3 plums")

    def sentence():
        return f"{drawn.choice(names)} {drawn.choice(acts)} {drawn.choice(things)} on day {drawn.randrange(1000)}."

    (directory / "many.txt").write_text("\n".join(sentence() for _ in range(1500)))
    letters = "".join(drawn.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(160))
    other = "".join(drawn.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(300))
    write_rows(directory / "few.jsonl", [{"text": letters}])
    write_rows(directory / "other.jsonl", [{"text": other}])
    return directory


def trained(texts, where, stage_settings=None, data="many.txt", hooks=(), **sources):
    """A small pretraining with the byte tokenizer; the directory of the run."""
    data_section = {name: [str(texts / one) for one in files] for name, files in sources.items()}
    settings = {"model": SHAPE, "tokenizer": {"kind": "byte", "vocab_size": 300}, "data": data_section}
    library.train_stage(
        "pretrain", where, data=[str(texts / data)], settings=settings, hooks=hooks, backend="torch",
        **(SETTINGS | (stage_settings or {})),
    )  # fmt: skip
    return where


def found(run, *flags):
    result = call("diagnose", run, "--backend", "torch", "--json", *flags)
    assert result.code == 0, result.err
    return {one["name"]: one for one in json.loads(result.out)["findings"]}


def test_a_sound_training(texts, tmp_path):
    run = trained(texts, tmp_path / "r", {"learning_rate": 3e-3})
    assert found(run) == {}
    assert "No problems found" in call("diagnose", run, "--backend", "torch").out
    call("diagnose", run, "--stage", "sft").refused(2, "no curve of sft")


def test_a_rate_that_is_too_high(texts, tmp_path):
    names = found(trained(texts, tmp_path / "r", {"learning_rate": 3.0, "spike": 0, "grad_clip": 0}))
    assert "rate too high" in names and "rate too low" not in names


def test_a_rate_that_is_too_low(texts, tmp_path):
    names = found(trained(texts, tmp_path / "r", {"learning_rate": 1e-5}))
    assert "rate too low" in names and "rate too high" not in names


def test_over_fitting_and_since_when(texts, tmp_path):
    """A few random letters are learned by heart, while other ones can only get less likely."""
    run = trained(texts, tmp_path / "r", {"learning_rate": 0.01, "steps": 96}, "few.jsonl",
                  pretrain_validation=["other.jsonl"])  # fmt: skip
    names = found(run)
    best = min((row for row in rows_of(run) if row.get("validation_loss") and row["step"]),
               key=lambda row: row["validation_loss"])  # fmt: skip
    assert f"since step {best['step']}" in names["over-fitting"]["shows"]


def rows_of(run):
    return [json.loads(line) for line in StageStore(run / "pretrain").journal.read_text().splitlines()]


def test_a_leak(texts, tmp_path):
    names = found(trained(texts, tmp_path / "r", {"learning_rate": 3e-3, "steps": 8}, pretrain_validation=["many.txt"]))
    assert "100%" in names["data leak"]["shows"] and names["data leak"]["certain"]


def test_a_layer_that_is_dead(texts, tmp_path):
    """All weights of the second block are 0 after each step, as when a part of a model was cut out."""

    def kill(state, done):
        block = state.weights["model"]["layers"][1]
        for part in block.values():
            for leaf in part.values() if isinstance(next(iter(part.values())), dict) else [part]:
                for name in leaf:
                    leaf[name] = leaf[name] * 0

    names = found(trained(texts, tmp_path / "r", {"learning_rate": 3e-3, "steps": 8}, hooks=[kill]))
    assert names["dead layers"]["shows"].startswith("block 2 of 2 ")


def test_spikes_and_the_rows_that_made_them(texts, tmp_path):
    """A page of one strange letter in the middle of a text that is read in order of the seed."""
    text = (texts / "many.txt").read_text()
    middle = len(text) // 2
    (texts / "noisy.txt").write_text(text[:middle] + "\u00a7\u00b6" * 40 + text[middle:])
    run = trained(texts, tmp_path / "r", {"learning_rate": 3e-3, "steps": 300, "batch_size": 4}, "noisy.txt")
    names = found(run)
    assert "§¶" in names["spikes"]["shows"] and set(names) == {"spikes"}
