"""Distillation: a student that learns from a finished model."""

import json
import shutil

import numpy as np
import pytest
from once import by_turns, once
from test_packed import answers_in

from minigpt.data.batches import stream
from minigpt.errors import DataError, UsageError
from minigpt.events import Eval, Step, silent
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.model.gpt import GPT
from minigpt.parity.trajectories import losses_of
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.pipeline import check_possible
from minigpt.runs.run import Run
from minigpt.runs.training import prepared, train_stage
from minigpt.stages.answers import with_answers
from minigpt.stages.questions import in_turn
from minigpt.stages.table import STAGES
from minigpt.train import samples

SETTINGS = {"steps": 6, "batch_size": 4, "eval_every": 6, "eval_rows": 64, "learning_rate": 5e-3, "warmup_steps": 1,
            "cross_entropy": 0.0, "distance": "forward_kl", "temperature": 1.0}  # fmt: skip
CHAT = {"messages": [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}]}
ASKED = [{"prompt": f"What is {i} plus 2?"} for i in range(12)]


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


@by_turns("distance", ["forward_kl", "reverse_kl", "jsd"])
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


LORA = {"lora_rank": 4, "learning_rate": 0.05}


@by_turns("bits,adapter", [(0, {}), (0, LORA), (8, LORA), (8, {})], ids=["0-all", "0-lora", "8-lora", "8-all"])
def test_a_student_comes_nearer_to_its_teacher(backend, copied, teacher, bits, adapter):
    run = copied("distill", **(SETTINGS | adapter | {"teacher": str(teacher.directory), "teacher_bits": bits}))
    steps, evals = events_of(run, backend)
    assert evals[-1].metrics["distance"] < 0.9 * evals[0].metrics["distance"]
    assert steps[0].loss == pytest.approx(steps[0].metrics["distance"], rel=1e-5)  # no share of cross-entropy
    assert run.weights()[1] == "distill"


@once
def test_the_starting_model_as_teacher_keeps_its_weights(backend, copied):
    """A distance of 0 at the start, and of more when cross-entropy has moved the student: the teacher stays."""
    run = copied("distill", **(SETTINGS | {"teacher": "start", "cross_entropy": 0.9}))
    _, evals = events_of(run, backend)
    assert evals[0].metrics["distance"] == pytest.approx(0, abs=1e-6) and evals[-1].metrics["distance"] > 1e-4


@once
def test_a_student_may_be_smaller_than_its_teacher(backend, copied, teacher, tmp_path):
    """What it writes while it learns is its own: no layer of the teacher's comes in."""
    run = copied("distill")
    small = Run(tmp_path / "small", run.config.with_section("model", n_layer=1, d_model=16, d_ff=32))
    taught = SETTINGS | {"teacher": str(teacher.directory)}
    small = small.with_section("pretrain", steps=1).with_section("distill", **taught)
    for part in ("tokenizer", "data"):
        shutil.copytree(run.directory / part, small.directory / part)
    train_stage(small, "pretrain", backend, silent)
    assert len(events_of(small, backend)[0]) == 6
    engine = Engine(GPT(small.model_config, backend), small.weights("distill", backend)[0], small.tokenizer)
    rows = [json.loads(line) for line in small.store("distill").samples.read_text("utf-8").splitlines()]
    prompts = samples.prompts_of(small.held_out("distill"), small.config.model.context)
    assert [row["text"] for row in rows] == [answer.text for answer in engine.answer(prompts, GREEDY, samples.LENGTH)]


def test_a_student_may_learn_on_its_own_answers(backend, copied, teacher):
    """Prompts with what the engine samples there; the distance is that of both models' bare logits."""
    run = copied("distill", **(SETTINGS | {"teacher": str(teacher.directory), "own_answers": 1.0, "max_tokens": 8}))
    weights, objective, *_ = prepared(run, STAGES["distill"], backend, run.config.distill, silent)
    batch = objective.batches(3, weights)
    made, context = objective.batches, run.config.model.context
    assert batch["weights"].sum() == pytest.approx(1, abs=1e-6) and len(batch["ids"]) <= 5 and made.size > 4
    assert batch["ids"].shape[1] <= context  # about as much as four given rows
    model, taught = GPT(run.model_config, backend), teacher.weights("sft", backend)[0]
    engine, nats = Engine(model, weights, run.tokenizer), []
    found = {tuple(prompt): answer for prompt, answer, *_ in answers_in(batch | {"mask": batch["weights"]})}
    seeds = stream(run.config.seed, "answers", 3).integers(0, 2**62, made.size)
    for prompt, seed in zip(in_turn(made.prompts, 3 * made.size, made.size, run.config.seed), seeds, strict=True):
        assert run.tokenizer.show(prompt).endswith("<|im_start|>assistant\n")
        answer = engine.answer_each([prompt], [Sampling(1.0, seed=int(seed))], 8)[0].tokens
        assert found.pop(tuple(prompt)) == answer
        ids = backend.array(np.array([prompt + answer[:-1]], np.int32))
        q, p = (log_softmax(backend.numpy(model(tree, ids))[0]) for tree in (weights, taught))
        nats += (np.exp(p) * (p - q)).sum(-1)[len(prompt) - 1 :].tolist()
    assert not found
    value, _ = objective.loss(weights, {name: backend.array(x) for name, x in batch.items()}, objective.base)
    assert float(value) == pytest.approx(np.mean(nats), rel=1e-3)


@once
def test_own_answers_come_in_their_share_of_the_steps_and_again_after_a_stop(backend, copied, teacher):
    way = SETTINGS | {"teacher": str(teacher.directory), "own_answers": 0.5, "max_tokens": 4, "save_every": 3}
    whole, parts = (copied("distill", name, **way) for name in ("whole", "parts"))
    weights, objective, *_ = prepared(whole, STAGES["distill"], backend, whole.config.distill, silent)
    batches, given = objective.batches, []
    batches._given = lambda step, made=batches._given: given.append(step) or made(step)
    for step in range(6):
        batches(step, weights)
    assert 0 < len(given) < 6
    losses = losses_of(whole, "distill", backend)
    assert losses_of(parts, "distill", backend, stop_after=3) + losses_of(parts, "distill", backend) == losses
    with pytest.raises(ValueError, match="no right ones"):
        type(whole.config.distill)(own_answers=0.5, cross_entropy=0.1)


def test_the_teacher_may_answer_what_nobody_has_answered(backend, copied, teacher, tmp_path):
    """Prompts with what the engine samples from the teacher's weights there, whatever the student's are."""
    way = {"teacher": str(teacher.directory), "teacher_answers": 1.0, "max_tokens": 8}
    run = _of_rows(copied, tmp_path, [CHAT, *ASKED], **way)
    weights, objective, *_ = prepared(run, STAGES["distill"], backend, run.config.distill, silent)
    batch = objective.batches(3, weights)
    made = objective.batches
    prompts = in_turn(made.prompts, 3 * made.size, made.size, run.config.seed)
    shown = [run.tokenizer.show(one) for one in made.prompts]
    assert sum("plus" in one for one in shown) == len(ASKED) and all(one.endswith("assistant\n") for one in shown)
    engine = Engine(GPT(run.model_config, backend), teacher.weights("sft", backend)[0], run.tokenizer)
    seeds = stream(run.config.seed, "answers", 3).integers(0, 2**62, made.size)
    samplings = [Sampling(1.0, seed=int(seed)) for seed in seeds]
    answers = [answer.tokens for answer in engine.answer_each(prompts, samplings, 8)]
    found = [(list(prompt), answer) for prompt, answer, *_ in answers_in(batch | {"mask": batch["weights"]})]
    assert sorted(found) == sorted(zip(prompts, answers, strict=True))
    assert run.config.distill.samples
    np.testing.assert_array_equal(objective.batches(3, None)["ids"], batch["ids"])


@once
def test_a_prompt_without_an_answer_is_never_a_given_one(backend, copied, teacher, tmp_path):
    """The given batches are those of the answered rows alone; what is not used is told."""
    rows = [CHAT | {"messages": [{"role": "user", "content": f"Number {i}"}, CHAT["messages"][1]]} for i in range(8)]
    notes, whole = [], {}
    for name, more in (("alone", []), ("beside", ASKED)):
        run = _of_rows(copied, tmp_path / name, rows + more, teacher=str(teacher.directory))
        weights, objective, *_ = prepared(run, STAGES["distill"], backend, run.config.distill, notes.append)
        whole[name] = [objective.batches(step, weights) for step in range(4)]
    for alone, beside in zip(*whole.values(), strict=True):
        for key in ("ids", "weights"):
            np.testing.assert_array_equal(alone[key], beside[key])
    told = [note.text for note in notes if "not used" in getattr(note, "text", "")]
    assert len(told) == 1 and "12 prompts without an answer are not used" in told[0]
    refused = _of_rows(copied, tmp_path / "none", ASKED, teacher=str(teacher.directory))
    with pytest.raises(DataError, match="No conversation has an answer"):
        prepared(refused, STAGES["distill"], backend, refused.config.distill, silent)
    blind = _of_rows(copied, tmp_path / "blind", ASKED, ASKED, teacher=str(teacher.directory), teacher_answers=1.0)
    with pytest.raises(DataError, match="No held-out conversation has an answer"):
        prepared(blind, STAGES["distill"], backend, blind.config.distill, silent)
    with pytest.raises(ValueError, match="together at most 1"):
        type(run.config.distill)(own_answers=0.5, teacher_answers=0.6)


def _of_rows(copied, directory, rows, held_out=None, **settings):
    """A run whose distill learns from these rows."""
    directory.mkdir(exist_ok=True)
    files = {"distill": rows, "distill_validation": held_out or [CHAT]}
    for name, some in files.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    run = copied("distill", f"run-{directory.name}", **(SETTINGS | settings))
    run = run.with_section("data", **{name: [str(directory / f"{name}.jsonl")] for name in files})
    shutil.rmtree(run.data("distill"), ignore_errors=True)
    make_data(run, "distill", silent)
    return run


@once
def test_the_world_asks_prompts_beside_its_conversations(copied):
    run = copied("distill").with_section("data", world_instructions=20, world_prompts=30)
    shutil.rmtree(run.data("distill"), ignore_errors=True)
    make_data(run, "distill", silent)
    shard = run.training_data("distill")
    given = with_answers(shard)
    assert 15 < len(given) <= 20 < len(shard) - len(given) <= 30  # without those that are longer than the context
    held_out = run.held_out("distill")
    assert with_answers(held_out) is held_out and with_answers(given) is given


@once
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


@once
def test_no_teacher_is_refused_before_anything_is_written(world_run):
    with pytest.raises(UsageError, match="needs a teacher"):
        check_possible(world_run.with_section("distill", teacher=""), ["distill"])
