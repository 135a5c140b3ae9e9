"""GRPO: answers are sampled, judged and learned from."""

import json
import shutil

import numpy as np
import pytest
from once import by_turns, once
from test_packed import answers_in, log_probabilities

from minigpt.data.prepare import prepare
from minigpt.data.shards import Shard
from minigpt.errors import DataError, UsageError
from minigpt.events import Eval, Note, Step
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import Sampling
from minigpt.model.gpt import GPT
from minigpt.parity.trajectories import losses_of
from minigpt.runs.inputs import reader_of
from minigpt.runs.pipeline import check_possible
from minigpt.runs.training import prepared, train_stage
from minigpt.stages.table import STAGES

SETTINGS = {"steps": 12, "batch_size": 16, "group_size": 8, "updates": 1, "learning_rate": 1e-2, "warmup_steps": 1,
            "max_tokens": 16, "kl_coefficient": 0.0, "eval_every": 12, "eval_rows": 4,
            "rewards": ["length:40"]}  # fmt: skip


def events_of(run, backend):
    events = []
    train_stage(run, "grpo", backend, events.append)
    return [e for e in events if isinstance(e, Step)], [e for e in events if isinstance(e, Eval)], events


def objective_of(run, backend, notes=None):
    weights, objective, *_ = prepared(run, STAGES["grpo"], backend, run.config.grpo, (notes or []).append)
    return weights, objective


VOWELS = {"rewards": ["regex:[aeiou]"], "max_tokens": 4, "steps": 20, "batch_size": 32}
LORA = {"lora_rank": 8, "lora_alpha": 32.0, "learning_rate": 0.05, "steps": 30}


@by_turns("adapter", [LORA, {}], ids=["lora", "all"])
def test_the_reward_rises(backend, copied, adapter):
    steps, evals, events = events_of(copied("grpo", **(SETTINGS | VOWELS | adapter)), backend)
    first, last = (np.mean([step.metrics["reward"] for step in part]) for part in (steps[:4], steps[-4:]))
    assert last > first + 0.1, (first, last)
    assert any("loss begins at about 0" in e.text for e in events if isinstance(e, Note))
    assert abs(steps[0].loss) < 1e-5 and steps[0].norm > 1e-4  # a loss of 0 that has a gradient
    assert steps[0].metrics["ratio"] == pytest.approx(1, abs=1e-6)
    assert evals[0].metrics["loss"] == -evals[0].metrics["reward"]


def test_a_batch_holds_what_was_sampled_and_judged(backend, copied):
    """Against the engine and the rewards themselves: prompts, answers with their end, mask, advantages, weights."""
    run = copied("grpo", **SETTINGS | {"kl_coefficient": 0.1, "temperature": 0.8})
    weights, objective = objective_of(run, backend)
    batch, again = objective.batches(3, weights), objective.batches(3, weights)
    assert all((batch[name] == again[name]).all() for name in batch)
    assert not np.array_equal(batch["targets"], objective.batches(4, weights)["targets"])
    assert batch["weights"].sum() == pytest.approx(1, abs=1e-5)
    answers = list(answers_in(batch))
    groups = {tuple(prompt): [] for prompt, *_ in answers}
    for prompt, answer, row, places in answers:
        assert 0 < len(places) <= 17
        text = run.tokenizer.decode([token for token in answer if token not in run.tokenizer.stops])
        groups[tuple(prompt)].append((max(0.0, 1 - abs(len(text.strip()) - 40) / 40), batch["advantages"][row, places]))
        assert run.tokenizer.show(prompt).endswith("<|im_start|>assistant\n")
    assert [len(group) for group in groups.values()] == [8, 8]
    for group in groups.values():
        rewards = np.array([reward for reward, _ in group])
        expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        assert all(np.allclose(own, one, atol=1e-4) for (_, own), one in zip(group, expected, strict=True))
    mean = np.mean([reward for group in groups.values() for reward, _ in group])
    assert batch["told"].sum(axis=0)[0] == pytest.approx(mean, abs=1e-5)


def test_sampled_tokens_are_scored_at_their_temperature(backend, copied):
    """The reference of the first step is the sampling model: log-probabilities from its bare logits."""
    run = copied("grpo", **SETTINGS | {"kl_coefficient": 0.1, "temperature": 0.5})
    weights, objective = objective_of(run, backend)
    batch = objective.batches(0, weights)
    model = GPT(run.model_config, backend)
    for prompt, answer, row, places in answers_in(batch):
        expected = log_probabilities(backend, model, weights, prompt, answer, 0.5)
        assert np.allclose(batch["reference"][row, places], expected, atol=1e-4)
    arrays = {name: backend.array(x) for name, x in batch.items()}
    assert float(objective.loss(weights, arrays)[1]["kl"]) == pytest.approx(0, abs=1e-6)


def test_answers_of_one_prompt_are_those_of_separate_prompts(backend, world_run):
    """One reading for several answers changes none of them."""
    engine = Engine(GPT(world_run.model_config, backend), world_run.weights("sft", backend)[0], world_run.tokenizer)
    prompts = [[5, 6, 7], [9, 300, 12, 40], [5, 6, 7], [5, 6, 7]]
    samplings = [Sampling(1.0, seed=i) for i in range(4)]
    together = engine.answer_each(prompts, samplings, 12)
    alone = [engine.answer_each([prompt], [one], 12)[0] for prompt, one in zip(prompts, samplings, strict=True)]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert len({tuple(answer.ids) for answer in together}) == 4


@once
def test_updates_share_the_answers_of_one_sampling(backend, copied):
    steps, _, _ = events_of(copied("grpo", **SETTINGS | {"updates": 3, "steps": 6}), backend)
    rewards = [step.metrics["reward"] for step in steps]
    assert rewards[0] == rewards[1] == rewards[2] != rewards[3]
    assert steps[0].metrics["moved"] == pytest.approx(0, abs=1e-6) and steps[2].metrics["moved"] > 1e-5
    assert sum(step.metrics["clip_low"] + step.metrics["clip_high"] for step in steps[1:3]) > 0


@once
def test_equal_rewards_are_named_and_drawn_again(backend, copied):
    """An exact answer of a random model: nobody earns anything."""
    steps, _, events = events_of(copied("grpo", **SETTINGS | {"rewards": ["exact"], "redraws": 1, "steps": 2}), backend)
    assert steps[0].metrics["no_variance"] == 1 and steps[0].norm == 0
    assert sum("taught nothing" in e.text for e in events if isinstance(e, Note)) == 1


@once
def test_a_persons_own_reward(backend, copied, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def seen(prompts, answers, rows):\n"
                    "    assert all(row['prompt'] == p and row['answer'] for p, row in zip(prompts, rows))\n"
                    "    return [len(a) % 5 for a in answers]\n", "utf-8")  # fmt: skip
    rewards = {"rewards": [f"{file}:seen", "length:10"], "reward_weights": [2.0, 0.5], "steps": 1}
    run = copied("grpo", **SETTINGS | rewards)
    metrics = events_of(run, backend)[0][0].metrics
    own, length = metrics[f"reward_{file}:seen"], metrics["reward_length:10"]
    assert metrics["reward"] == pytest.approx(2 * own + 0.5 * length, abs=1e-4)
    file.write_text("def seen(prompts, answers, rows): return ['x'] * len(answers)\n", "utf-8")
    with pytest.raises(Exception, match="returned 'x' for row 1"):
        train_stage(copied("grpo", "again", **SETTINGS | rewards), "grpo", backend, lambda event: None)


@once
def test_an_unknown_reward_is_refused_before_anything_is_written(world_run):
    with pytest.raises(UsageError, match="exakt"):
        check_possible(world_run.with_section("grpo", rewards=["exakt"]), ["grpo"])


@once
def test_the_rows_keep_prompt_and_answer(world_run):
    shard = Shard(world_run.data("grpo") / "train")
    for i in range(0, 10, 2):
        row = json.loads(world_run.tokenizer.decode(shard.sequence(i + 1)[0].tolist()))
        ids, mask = shard.sequence(i)
        learned = world_run.tokenizer.decode(ids[np.asarray(mask) != 0].tolist())
        assert learned == row["answer"] and row["prompt"] in world_run.tokenizer.decode(ids.tolist())


# ---- the reference, and what fails in the middle

REFRESHED = {"steps": 8, "kl_coefficient": 0.1, "reference_every": 4, "updates": 2, "save_every": 3, "eval_every": 8,
             "batch_size": 8, "log_every": 1}  # fmt: skip


@once
def test_the_reference_becomes_the_model_of_every_fourth_step(backend, copied):
    """Its divergence is 0 where it is new, and only there; what was refreshed is what a resumed run has."""
    steps, *_ = events_of(copied("grpo", **SETTINGS | REFRESHED), backend)
    divergence = [step.metrics["kl"] for step in steps]
    assert divergence[0] == pytest.approx(0, abs=1e-6) and divergence[4] == pytest.approx(0, abs=1e-6)
    assert min(divergence[i] for i in (2, 3, 6, 7)) > 1e-5


@by_turns("adapter", [{}, {"lora_rank": 2, "learning_rate": 0.05}], ids=["all", "lora"])
def test_resumed_with_a_refreshed_reference_equals_uninterrupted(backend, copied, adapter):
    """Stopped in step 8: the checkpoint of step 6 lies between the refreshment of step 4 and the next one."""
    whole, parts = (copied("grpo", name, **SETTINGS | REFRESHED | adapter) for name in ("whole", "parts"))
    losses = losses_of(whole, "grpo", backend)
    begun = losses_of(parts, "grpo", backend, stop_after=6)
    assert begun + losses_of(parts, "grpo", backend) == losses and len(set(losses[2:])) > 3
    for a, b in zip(*(sorted(run.store("grpo").final.glob("*")) for run in (whole, parts)), strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


OWN = """
def picky(prompts, answers, rows):
    if CALLS.append(1) or len(CALLS) == 6:
        raise RuntimeError("no disk")
    return [len(a) % 3 for a in answers]
CALLS = []
"""


@once
def test_a_reward_that_fails_loses_nothing(backend, copied, tmp_path):
    """Calls 1 and 4 measure, 2, 3 and 5 judge: what was learned is saved, and the answers of the sixth are kept."""
    file, events = tmp_path / "mine.py", []
    file.write_text(OWN, "utf-8")
    settings = SETTINGS | {"rewards": [f"{file}:picky"], "steps": 4, "batch_size": 8, "save_every": 2}
    run, whole = copied("grpo", **settings), copied("grpo", "whole", **settings)
    with pytest.raises(DataError, match="failed for 8 answers together: RuntimeError: no disk") as error:
        train_stage(run, "grpo", backend, events.append)
    store = run.store("grpo")
    assert store.steps_kept() == 3 and f"the answers are in {store.directory / 'unjudged.jsonl'}" in error.value.hint
    rows = [json.loads(line) for line in (store.directory / "unjudged.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 8 and rows[0].keys() == {"step", "prompt", "answer", "row"} and rows[0]["step"] == 3
    file.write_text(OWN.replace("== 6", "== 0"), "utf-8")
    train_stage(run, "grpo", backend, events.append)
    train_stage(whole, "grpo", backend, lambda event: None)
    final = [r.store("grpo").final / "weights.safetensors" for r in (run, whole)]
    assert final[0].read_bytes() == final[1].read_bytes()


@once
def test_prompts_without_answers(backend, copied, tmp_path):
    """They may be sampled and judged by what needs no answer; the others say what is missing. Other keys are told."""
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"Say {word}.", "wanted": word} for word in "abcdefgh"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    own = tmp_path / "own.py"
    own.write_text("def wanted(prompts, answers, rows):\n"
                   "    assert all(p == f\"Say {r['wanted']}.\" and 'answer' not in r for p, r in zip(prompts, rows))\n"
                   "    return [a.count(r['wanted']) for a, r in zip(answers, rows)]\n", "utf-8")  # fmt: skip
    run = copied("grpo", **SETTINGS | {"rewards": [f"{own}:wanted"], "steps": 1, "batch_size": 8, "eval_every": 1})
    for split in ("train", "validation"):
        shutil.rmtree(run.data("grpo") / split)
    notes = []
    reader = reader_of(run.config, "grpo", tmp_path, notes.append, train=[str(file)], validation=[str(file)])
    prepare(reader, run.tokenizer, run.data("grpo"), 80, notes.append)
    assert not any("not used" in note.text for note in notes if isinstance(note, Note))
    assert len(events_of(run, backend)[0]) == 1
    exact = copied("grpo", "exact", **SETTINGS | {"rewards": ["exact"]})
    shutil.rmtree(exact.data("grpo"))
    shutil.copytree(run.data("grpo"), exact.data("grpo"))
    with pytest.raises(DataError, match="no answer to compare with") as error:
        train_stage(exact, "grpo", backend, lambda event: None)
    assert '"answer"' in error.value.hint
