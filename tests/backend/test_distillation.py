"""Distillation: a student that learns from a finished model."""

import shutil

import numpy as np
import pytest

from minigpt.errors import UsageError
from minigpt.events import Eval, Step, silent
from minigpt.model.gpt import GPT
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.pipeline import check_possible
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage

SETTINGS = {"steps": 6, "batch_size": 4, "eval_every": 6, "eval_rows": 64, "learning_rate": 5e-3, "warmup_steps": 1,
            "cross_entropy": 0.0, "distance": "forward_kl", "temperature": 1.0}  # fmt: skip


def events_of(run, backend):
    events = []
    train_stage(run, "distill", backend, events.append)
    return [e for e in events if isinstance(e, Step)], [e for e in events if isinstance(e, Eval)]


@pytest.fixture(scope="session")
def teacher(backend, world_run, tmp_path_factory):
    """A run whose SFT model has learned more than the student."""
    settings = {"steps": 20, "batch_size": 4, "learning_rate": 2e-2}
    run = Run(tmp_path_factory.mktemp(f"teacher-{backend.name}") / "run", world_run.config)
    run = run.with_section("sft", **settings)
    shutil.copytree(world_run.directory, run.directory)
    shutil.rmtree(run.store("sft").directory)
    run.save_config()
    train_stage(run, "sft", backend, silent)
    return run


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(
        -1, keepdims=True
    )


def answers_of(run, weights, backend):
    """Logits (n, V) of a model at the held-out answers, one conversation at a time, and the right tokens (n,)."""
    shard, model = run.held_out("distill"), GPT(run.model_config, backend)
    found, targets = [], []
    for i in range(len(shard)):
        ids, mask = shard.sequence(i)
        ids, mask = np.asarray(ids[:81], np.int32), np.asarray(mask[:81])
        logits = backend.numpy(model(weights, backend.array(ids[None, :-1])))[0]
        found.append(logits[mask[1:] != 0])
        targets.append(ids[1:][mask[1:] != 0])
    return np.concatenate(found), np.concatenate(targets)


@pytest.mark.parametrize("distance", ["forward_kl", "reverse_kl", "jsd"])
def test_the_first_measurement_in_plain_sight(backend, copied, teacher, distance):
    """The distances of student and teacher from each answer alone."""
    way = {"distance": distance, "temperature": 2.0, "cross_entropy": 0.25, "mixture": 0.3, "eval_rows": 10_000}
    run = copied("distill", **(SETTINGS | way | {"steps": 1, "teacher": f"{teacher.directory}/sft"}))
    first = events_of(run, backend)[1][0].metrics
    logits, targets = answers_of(run, run.weights("sft", backend)[0], backend)
    q, p = (log_softmax(x / 2) for x in (logits, answers_of(run, teacher.weights("sft", backend)[0], backend)[0]))
    m = np.log(0.3 * np.exp(p) + 0.7 * np.exp(q))
    forward, reverse = ((np.exp(a) * (a - b)).sum(-1).mean() for a, b in ((p, q), (q, p)))
    jsd = (0.3 * np.exp(p) * (p - m) + 0.7 * np.exp(q) * (q - m)).sum(-1).mean()
    expected = {"forward_kl": forward, "reverse_kl": reverse, "jsd": jsd}[distance]
    nll = -log_softmax(logits)[np.arange(len(targets)), targets].mean()
    assert first["tokens"] == len(targets) and expected > 1e-2
    assert first["distance"] == pytest.approx(expected, rel=2e-3)
    assert first["cross_entropy"] == pytest.approx(nll, rel=1e-4)
    assert first["loss"] == pytest.approx(0.75 * expected + 0.25 * nll, rel=1e-4)


@pytest.mark.parametrize("adapter", [{}, {"lora_rank": 4, "learning_rate": 0.05}], ids=["all", "lora"])
@pytest.mark.parametrize("bits", [0, 8])
def test_a_student_comes_nearer_to_its_teacher(backend, copied, teacher, bits, adapter):
    run = copied("distill", **(SETTINGS | adapter | {"teacher": str(teacher.directory), "teacher_bits": bits}))
    steps, evals = events_of(run, backend)
    assert evals[-1].metrics["distance"] < 0.9 * evals[0].metrics["distance"]
    assert steps[0].loss == pytest.approx(steps[0].metrics["distance"], rel=1e-5)  # no share of cross-entropy
    assert run.weights()[1] == "distill"


def test_the_starting_model_as_teacher_keeps_its_weights(backend, copied):
    """A distance of 0 at the start, and of more when cross-entropy has moved the student: the teacher stays."""
    run = copied("distill", **(SETTINGS | {"teacher": "start", "cross_entropy": 0.9}))
    _, evals = events_of(run, backend)
    assert evals[0].metrics["distance"] == pytest.approx(0, abs=1e-6) and evals[-1].metrics["distance"] > 1e-4


def test_a_teacher_with_another_tokenizer_is_refused(backend, copied, tmp_path):
    run = copied("distill", teacher=str(tmp_path / "other"))
    other = Run(tmp_path / "other", run.config.with_section("tokenizer", vocab_size=500))
    other.save_config()
    make_tokenizer(other, ["pretrain"], silent)
    make_data(other, "pretrain", silent)
    other = other.with_section("pretrain", steps=1)
    train_stage(other, "pretrain", backend, silent)
    with pytest.raises(UsageError, match=r"other has another tokenizer \(bpe, 500 tokens\) than this run"):
        train_stage(run, "distill", backend, silent)


def test_no_teacher_is_refused_before_anything_is_written(world_run):
    with pytest.raises(UsageError, match="needs a teacher"):
        check_possible(world_run.with_section("distill", teacher=""), ["distill"])
