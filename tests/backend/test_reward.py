"""Reward models: heads, what they learn from pairs and from steps, and that nothing else moves a score."""

import json
import shutil

import numpy as np
import pytest

from backends.tree import items
from minigpt.cli.evaluation_tables import show_evaluation
from minigpt.data.prepare import prepare
from minigpt.data.scored import PairScores, line_ends
from minigpt.data.shards import MemoryShard, Shard
from minigpt.errors import UsageError
from minigpt.evaluate.report import evaluate_run
from minigpt.events import Eval, Step, silent
from minigpt.exchange.adapters.adapters import export_adapter
from minigpt.exchange.exporting import export_run
from minigpt.exchange.importing import import_directory
from minigpt.model.gpt import GPT, parameter_count
from minigpt.runs.inputs import reader_of
from minigpt.runs.loading import load_engine, load_scorer
from minigpt.runs.run import Run, open_run
from minigpt.runs.training import prepared, train_stage
from minigpt.stages.reward import pair_rows
from minigpt.stages.stage import Subject
from minigpt.stages.table import STAGES
from minigpt.text.learn import train_tokenizer
from minigpt.train.reward_losses import answer_scores

FAST = {"steps": 14, "learning_rate": 5e-3, "warmup_steps": 1, "eval_every": 14, "eval_rows": 8, "save_every": 14,
        "log_every": 1}  # fmt: skip
LORA = {"lora_rank": 4, "lora_alpha": 16.0}


@pytest.fixture(scope="module")
def judging(backend, world_run, tmp_path_factory):
    """A run with a reward model on all weights and a process reward model on an adapter; the events of the first."""
    config = world_run.config.with_section("reward", **FAST).with_section("process_reward", **FAST | LORA)
    run = Run(tmp_path_factory.mktemp("judging") / "run", config)
    shutil.copytree(world_run.directory, run.directory)
    run.save_config()
    events = []
    train_stage(run, "reward", backend, events.append)
    train_stage(run, "process_reward", backend, silent)
    return run, events


def test_pairs_are_learned_from_an_even_start(backend, judging):
    run, events = judging
    steps = [e for e in events if isinstance(e, Step)]
    first, last = [e.metrics for e in events if isinstance(e, Eval)]
    assert steps[0].loss == pytest.approx(np.log(2), abs=1e-6) and first["accuracy"] == 0 and first["margin"] == 0
    assert last["accuracy"] > 0.9 and last["margin"] > 0.5 and last["loss"] < 0.5
    weights = run.weights("reward")[0]
    assert "lm_head" not in weights and weights["score"]["weight"].shape == (1, run.model_config.d_model)
    count = sum(leaf.size for _, leaf in items(weights))
    assert count == parameter_count(run.shape_of("reward")) == parameter_count(run.model_config) + 32


def test_what_is_measured_is_what_the_scores_say(backend, judging, capsys):
    """Against scores of single answers, with NumPy: accuracy, margin, loss and calibration."""
    run, _ = judging
    scorer, shard = load_scorer(run, "reward", backend), run.held_out("reward")
    scores = []
    for i in range(len(shard)):
        if i % 3 < 2:
            ids, mask = shard.sequence(i)
            start, stop = int(np.flatnonzero(mask)[0]), int(np.flatnonzero(mask)[-1]) + 1
            ids = [int(token) for token in ids[:stop]]
            scores.append(scorer.scores([ids[:start]], [ids[start:]])[0].score)
    gap = np.array(scores[::2]) - np.array(scores[1::2])
    found = evaluate_run(run, "reward", backend, [], None, 10)
    assert found["pairs"] == len(gap) and found["accuracy"] == (gap > 0).mean()
    assert found["margin"] == pytest.approx(gap.mean(), abs=1e-4)
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-gap)).mean(), abs=1e-4)
    assert sum(line["count"] for line in found["reliability"]) == len(gap)
    sure = 1 / (1 + np.exp(-np.abs(gap)))
    for line in found["reliability"]:
        inside = (sure > line["low"]) & (sure <= line["high"])
        assert line["observed"] == pytest.approx((gap[inside] > 0).mean())
    show_evaluation(found)
    assert "Reliability" in capsys.readouterr().out


def test_a_score_never_depends_on_its_neighbours(backend, judging):
    """Other tokens in the same row, in its padding and in the other rows change no bit of a score."""
    run, _ = judging
    model, weights = GPT(run.shape_of("reward"), backend), run.weights("reward", backend)[0]
    rows = PairScores(run.held_out("reward"), run.config.model.context, 1)
    batch = {name: x[None].repeat(2, 0) for name, x in rows.row(0, 0).items()}
    others = (batch["segments"] != 1) & (batch["segments"] >= -1)
    changed = batch | {"ids": np.where(others, (batch["ids"] * 7 + 3) % 700, batch["ids"])}

    def scored(batch):
        return backend.numpy(answer_scores(model, weights, {name: backend.array(x) for name, x in batch.items()}))

    before, after = scored(batch), scored(changed)
    assert (before[:, 1] == after[:, 1]).all() and (before[:, 0] != after[:, 0]).any()
    own = batch["segments"][0] == 1
    alone = model.hidden(weights, backend.array(batch["ids"][:1, own]))
    assert backend.numpy(model.scores(weights, alone))[0, -1] == pytest.approx(before[0, 1], abs=1e-5)


def test_margins_of_rows_and_centering(backend, world_run, tmp_path):
    """Two pairs, one with a margin, by hand; without `margins` it is not asked for."""
    row = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row | more) for more in ({"margin": 1.5}, {"prompt": "Ho"})), "utf-8")
    for margins, expected in ((True, [0.0, 1.5]), (False, [0.0, 0.0])):
        run = world_run.with_section("reward", **FAST | {"margins": margins, "centering": 0.5, "batch_size": 1})
        reader = reader_of(run.config, "reward", tmp_path, train=[str(file)], validation=[str(file)])
        prepare(reader, run.tokenizer, tmp_path / str(margins), 80)
        shard = Shard(tmp_path / str(margins) / "train")
        job = Subject(GPT(run.shape_of("reward"), backend), None, run.tokenizer, shard, 1)
        owner = type("Owner", (), vars(job) | {"config": run.config.reward, "made_up": False})()
        rows = pair_rows(owner, shard)
        assert sorted(rows.margins) == expected
    weights, objective, *_ = prepared(run, STAGES["reward"], backend, run.config.reward, silent)
    batch = rows.row(0, 0) | {"margins": np.array([1.5, 0], np.float32)}
    batch = {name: backend.array(x[None]) for name, x in batch.items()}
    assert float(objective.loss(weights, batch)[0]) == pytest.approx(np.log1p(np.exp(1.5)) + np.log(2), abs=1e-5)


def test_steps_are_judged_at_their_ends(backend, judging):
    run, _ = judging
    found = evaluate_run(run, "process_reward", backend, [], None, 10)
    assert 0.4 < found["accuracy"] <= 1 and found["steps"] > 2 and found["loss"] < 0.8
    of_files = evaluate_run(run, "process_reward", backend, ["world"], 20, 10)
    assert 0.4 < of_files["accuracy"] <= 1 and of_files["figures"] == {}
    shard, tokenizer = run.held_out("process_reward"), run.tokenizer
    ids, mask = shard.sequence(0)
    text = tokenizer.decode(int(i) for i in ids)
    lines = text.split("assistant\n", 1)[1].strip().split("\n")
    ends = np.flatnonzero(mask)
    assert len(lines) == len(ends) > 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    said = [tokenizer.decode(int(i) for i in ids[a : b + 1]) for a, b in zip(starts, ends, strict=True)]
    assert [part.split("\n")[-1] for part in said] == lines
    scorer = load_scorer(run, "process_reward", backend)
    opening = next(i for i in range(len(ids)) if tokenizer.decode(int(t) for t in ids[: i + 1]).endswith("assistant\n"))
    answer = [int(i) for i in ids[opening + 1 : ends[-1] + 2]]  # with the token that ends it
    scored = scorer.scores([[int(i) for i in ids[: opening + 1]]], [answer])[0]
    assert len(scored.steps) == len(lines) and scored.score == min(scored.steps)


def test_lines_end_at_their_last_token():
    class Tokens:
        def bytes_of(self, token):
            return [b"one", b" two", b"\n", b"\n\n", b" ", b"x\ny", b""][token]

    assert line_ends(Tokens(), [0, 1, 2, 0, 4, 3, 5, 6]) == [1, 3, 6, 6]
    assert line_ends(Tokens(), [3, 4]) == [] and line_ends(Tokens(), []) == []


def test_transformers_gives_the_same_scores(backend, judging, tmp_path):
    """Both exports are read back: whole ones, and an adapter with its head; then the first becomes a run again."""
    run, _ = judging
    exported = export_run(run, "reward", "hf", tmp_path / "hf", backend=backend)
    (scores,) = (c for c in exported.checks if c.reader == "transformers" and c.quantity.startswith("scores"))
    assert scores.ok and 0 < scores.found < 1e-4
    card = (tmp_path / "hf/README.md").read_text("utf-8")
    assert "AutoModelForSequenceClassification" in card and "pairs ranked as preferred" in card
    adapter = export_adapter(run, "process_reward", "peft", tmp_path / "peft", backend=backend)
    assert all(check.ok for check in adapter.checks) and any(check.found is not None for check in adapter.checks)
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["modules_to_save"] == ["score"]
    import_directory(tmp_path / "hf", tmp_path / "again", None, backend)
    again = open_run(tmp_path / "again")
    assert again.finished_stages() == ["reward"]
    ours, theirs = run.weights("reward")[0], again.weights("reward")[0]
    assert (ours["score"]["weight"] == theirs["score"]["weight"]).all()
    for target in ("mlx", "gguf"):
        with pytest.raises(UsageError, match="gives scores"):
            export_run(run, "reward", target, tmp_path / target)


def test_no_stage_starts_from_a_reward_model_and_none_answers_with_one(backend, judging):
    run, _ = judging
    heads = {name: stage.head for name, stage in STAGES.items()}
    assert all(heads[before] == "vocabulary" for stage in STAGES.values() for before in stage.starts_from)
    assert run.finished_stages()[-1] == "process_reward" and run.weights()[1] == "sft"
    with pytest.raises(UsageError, match="writes none"):
        load_engine(run, "reward", backend)
    with pytest.raises(UsageError, match="gives no scores"):
        load_scorer(run, "sft", backend)


def test_a_shard_in_memory_serves(backend, world_run):
    """Made-up rows, as the plan times them."""
    shard = MemoryShard(np.arange(60, dtype=np.int32), np.arange(10, 61, 10), np.ones(60, np.uint8))
    rows = STAGES["reward"].form.rows(shard, 40, 0)
    assert rows.count == 1 and rows.row(0, 0)["ends"].sum() == 4


def test_a_reward_model_rewards_answers(backend, judging, tmp_path):
    """GRPO's rewards are the scores of the sampled tokens, with their end; a run with other tokens is refused."""
    run, _ = judging
    run = Run(run.directory, run.config.with_section("grpo", rewards=["run"], batch_size=8, group_size=4,
                                                     max_tokens=12, kl_coefficient=0.0))  # fmt: skip
    weights, objective, *_ = prepared(run, STAGES["grpo"], backend, run.config.grpo, silent)
    assert run.last("score") == "process_reward"
    run = Run(run.directory, run.config.with_section("grpo", rewards=[f"run:{run.directory}/reward"]))
    weights, objective, *_ = prepared(run, STAGES["grpo"], backend, run.config.grpo, silent)
    batch, scorer = objective.batches(0, weights), load_scorer(run, "reward", backend)
    sampled = objective.batches.latest
    pairs = zip(sampled.questions, sampled.answers, strict=True)
    found = [scorer.scores([one.ids], [answer.tokens])[0].score for one, group in pairs for answer in group]
    assert len(found) == 8
    assert batch["told"].sum(axis=0)[0] == pytest.approx(np.mean(found), abs=1e-5)
    scorer.tokenizer = learn_bytes()
    with pytest.raises(UsageError, match="has another tokenizer"):
        scorer.check(run.tokenizer)


def learn_bytes():
    return train_tokenizer("byte", ["a"], 300)
