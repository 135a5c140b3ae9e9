"""PPO: answers are sampled, judged and valued, and learned from in several epochs."""

import json
import shutil

import numpy as np
import pytest
from once import by_turns, once
from test_packed import answers_in

from backends.tree import items, unflatten
from minigpt.errors import UsageError
from minigpt.events import Eval, Note, Saved, Step, silent
from minigpt.model.gpt import GPT
from minigpt.parity.rl import definitions as right
from minigpt.parity.trajectories import losses_of
from minigpt.runs.pipeline import check_possible
from minigpt.runs.run import Run
from minigpt.runs.training import prepared, train_stage
from minigpt.stages.table import STAGES
from minigpt.store.checkpoint import load_checkpoint
from minigpt.train.reward_losses import answer_scores

SETTINGS = {"steps": 8, "batch_size": 4, "mini_batches": 2, "epochs": 2, "learning_rate": 1e-2, "warmup_steps": 1,
            "max_tokens": 8, "eval_every": 8, "eval_rows": 4, "save_every": 8, "log_every": 1, "rewards": ["length:20"],
            "missing_eos_penalty": 0.5}  # fmt: skip
LORA = {"lora_rank": 4, "lora_alpha": 16.0}
WAYS = {"own": {}, "shared": {"value_model": "shared"}, "lora": LORA, "shared lora": LORA | {"value_model": "shared"}}


def objective_of(run, backend):
    weights, objective, *_ = prepared(run, STAGES["ppo"], backend, run.config.ppo, silent)
    return weights, objective


def kept_of(run):
    """Step -> what its sampling has."""
    found = {}
    for path in sorted((run.store("ppo").directory / "rollouts").glob("*.npz")):
        with np.load(path) as arrays:
            found[int(path.stem)] = dict(arrays)
    return found


FAST = {"max_tokens": 4, "steps": 14, "batch_size": 64, "mini_batches": 1, "epochs": 1, "gae_lambda": 1.0,
        "kl_coefficient": 0.0, "missing_eos_penalty": 0.0, "eval_every": 14, "save_every": 14}  # fmt: skip
ADAPTED = LORA | {"lora_rank": 8, "lora_alpha": 32.0, "learning_rate": 1.5e-2, "value_model": "shared"}


@by_turns("way", [ADAPTED, {}], ids=["lora shared", "own"])
def test_the_reward_rises_and_only_the_policy_is_kept(backend, copied, way, tmp_path):
    file = tmp_path / "vowels.py"
    file.write_text("def count(prompts, answers, rows): return [sum(c in 'aeiou' for c in x) for x in answers]", "utf8")
    run, events = copied("ppo", **SETTINGS | FAST | {"rewards": [f"{file}:count"]} | way), []
    train_stage(run, "ppo", backend, events.append)
    steps = [e for e in events if isinstance(e, Step)]
    first, last = (np.mean([step.metrics["reward"] for step in part]) for part in (steps[:3], steps[-3:]))
    assert last > first + 0.2, (first, last)
    assert any("the loss says little" in e.text for e in events if isinstance(e, Note))
    evals = [e.metrics for e in events if isinstance(e, Eval)]
    assert evals[0]["loss"] == -evals[0]["reward"]
    final, _ = load_checkpoint(run.store("ppo").final)
    assert not any(name.startswith("value") for tree in final.values() for name in tree)
    saved, _ = load_checkpoint(run.store("ppo").checkpoints()[-1])
    assert np.abs(saved["weights"]["value.score.weight"]).max() > 0  # trained, and saved
    assert ("lora_a" in " ".join(saved["weights"])) == ("lora_rank" in way)


def test_a_sampling_holds_what_its_definitions_say(backend, copied):
    """Rewards at the right tokens, values, GAE and whitening: from bare logits and hidden states, one by one."""
    run = copied("ppo", **SETTINGS | {"temperature": 0.7, "steps": 4, "value_coefficient": 1.0, "kl_coefficient": 0.3})
    train_stage(run, "ppo", backend, silent)  # so that the value model, policy and reference differ
    saved, _ = load_checkpoint(run.store("ppo").checkpoints()[-1])
    fresh = Run(run.directory, run.config.with_section("ppo", steps=9))
    shutil.rmtree(run.store("ppo").final)
    losses_of(fresh, "ppo", backend, stop_after=8)
    found, model = kept_of(run)[4], GPT(run.model_config, backend)
    mask, ids = found["mask"], backend.array(found["ids"])
    policy = from_flat(backend, saved["weights"])

    def logprobs(weights):
        logits = backend.numpy(model(weights, ids)).astype(np.float64) / 0.7
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return np.take_along_axis(logs, found["targets"][..., None].astype(np.int64), -1)[..., 0]

    hidden = backend.numpy(model.hidden(policy["value"], ids)).astype(np.float64)
    values = hidden @ saved["weights"]["value.score.weight"][0]
    own = mask > 0
    assert np.allclose(found["old"][own], logprobs(policy)[own], atol=1e-4)
    assert np.allclose(found["values"][own], values[own], atol=1e-4) and np.abs(values[own]).max() > 0.01
    scores, ended = [], []
    for targets, row in zip(found["targets"], mask, strict=True):
        answer = [int(t) for t in targets[row > 0]]
        ended.append(answer[-1] in run.tokenizer.stops)
        text = run.tokenizer.decode([t for t in answer if t not in run.tokenizer.stops])
        scores.append(max(0.0, 1 - abs(len(text.strip()) - 20) / 20))
    apart = found["old"].astype(np.float64) - logprobs(run.weights("sft", backend)[0])
    rewards = right.token_rewards(np.array(scores), mask, apart, ended, 0.3, 0.5)
    advantages, returns = right.gae(rewards, found["values"], mask, 1.0, 0.95)
    assert np.allclose(found["returns"], returns, atol=2e-4)
    assert np.allclose(found["advantages"], right.whitened(advantages, mask, True), atol=2e-3)
    told = dict(zip(["reward", "reward_spread", "kl"], found["told"][0], strict=False))
    assert told["reward"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert told["kl"] == pytest.approx((apart * mask).sum() / len(mask), abs=1e-3) and abs(told["kl"]) > 1e-3
    assert not all(ended)  # the penalty was asked for


def from_flat(backend, flat):
    return unflatten({name: backend.array(leaf) for name, leaf in flat.items()})


def test_each_epoch_has_every_answer_once(backend, copied):
    run = copied("ppo", **SETTINGS)
    weights, objective = objective_of(run, backend)
    batches = [objective.batches(step, weights) for step in range(4)]
    rows = [sorted((prompt, answer) for batch in pair for prompt, answer, *_ in answers_in(batch))
            for pair in (batches[:2], batches[2:])]  # fmt: skip
    assert rows[0] == rows[1] and len(rows[0]) == 8
    assert not np.array_equal(batches[0]["ids"], batches[2]["ids"])  # in another order
    assert all(batch["weights"].sum() == pytest.approx(1, abs=1e-5) for batch in batches)
    assert not np.array_equal(objective.batches(4, weights)["targets"], batches[0]["targets"])
    arrays = {name: backend.array(x) for name, x in batches[0].items()}
    metrics = objective.loss(weights, arrays)[1]
    assert float(metrics["ratio"]) == pytest.approx(1, abs=1e-5) and float(metrics["moved"]) < 1e-6


CUTS = [("shared", (5,)), ("own", (1, 6)), ("shared lora", (5,)), ("lora", (5,)), ("own", (4,))]  # after which steps


@by_turns("way,cuts", CUTS, ids=[f"{way}-{cuts[0]}" for way, cuts in CUTS])
def test_interrupted_anywhere_it_goes_on_exactly(backend, copied, way, cuts):
    """Stopped at a sampling, within an epoch, between two; with a coefficient that adapts and epochs that may end."""
    settings = SETTINGS | WAYS[way] | {"save_every": 1, "keep_last": 9, "kl_target": 0.05, "kl_horizon": 40,
                                       "target_kl": 0.02, "eval_every": 4}  # fmt: skip
    whole = copied("ppo", "whole", **settings)
    losses = losses_of(whole, "ppo", backend)
    assert len(set(kept["next_coefficient"].item() for kept in kept_of(whole).values())) > 1
    for cut in cuts:
        parts = Run(whole.directory.with_name(f"cut-{cut}"), whole.config)
        shutil.copytree(whole.directory, parts.directory)
        shutil.rmtree(parts.store("ppo").directory)
        assert losses_of(parts, "ppo", backend, stop_after=cut) + losses_of(parts, "ppo", backend) == losses
        one, other = (load_checkpoint(run.store("ppo").checkpoints()[-1])[0] for run in (whole, parts))
        assert all((x == other[tree][name]).all() for tree in one for name, x in one[tree].items())
        # a stop right after a checkpoint comes before that step's samples are written
        for name in ("final/weights.safetensors", *["samples.jsonl"] * bool(cut % 4)):
            assert len({(run.store("ppo").directory / name).read_bytes() for run in (whole, parts)}) == 1, name
    samples = [json.loads(line) for line in whole.store("ppo").samples.read_text("utf-8").splitlines()]
    assert {"step", "prompt", "text", "reward"} == set(samples[-1]) and samples[-1]["step"] == 8


@once
def test_epochs_end_when_the_model_has_moved_too_far(backend, copied):
    run = copied("ppo", **SETTINGS | {"target_kl": 1e-9})
    train_stage(run, "ppo", backend, silent)
    assert [first for first in kept_of(run)] == [0, 2, 4, 6]  # one epoch of two updates each
    told = [json.loads(line) for line in run.store("ppo").journal.read_text().splitlines()]
    rewards = [line["reward"] for line in told if "reward" in line]
    assert rewards[0] == rewards[1] != rewards[2]


@once
def test_a_value_model_may_begin_as_the_reward_model(backend, copied):
    run = copied("ppo", **SETTINGS | {"rewards": ["run"], "value_start": "run", "kl_coefficient": 0.0, "steps": 2})
    with pytest.raises(UsageError, match="minigpt train reward"):
        objective_of(run, backend)
    run = Run(run.directory, run.config.with_section("reward", steps=4, learning_rate=5e-3, warmup_steps=0))
    train_stage(run, "reward", backend, silent)
    weights, objective = objective_of(run, backend)
    judge = run.weights("reward")[0]
    ours = dict(items(weights["value"]))
    assert all(np.array_equal(backend.numpy(ours[name]), leaf) for name, leaf in items(judge))
    objective.batches(0, weights)
    found = kept_of(run)[0]
    last = mask_ends(found["mask"])
    ids = np.pad(found["ids"], ((0, 0), (0, 1)))
    ends = np.zeros((len(last), 1, ids.shape[1]), np.float32)
    for n, place in enumerate(last):  # the reward model reads the end token, too
        ids[n, place + 1] = found["targets"][n, place]
        ends[n, 0, place + 1] = 1.0
    batch = {"ids": ids, "ends": ends, "segments": np.zeros_like(ids)}
    scores = answer_scores(GPT(run.shape_of("reward"), backend), run.weights("reward", backend)[0],
                           {name: backend.array(x) for name, x in batch.items()})  # fmt: skip
    assert found["told"][0, 0] == pytest.approx(float(np.mean(backend.numpy(scores))), abs=1e-4)


def mask_ends(mask):
    return [int(np.flatnonzero(row)[-1]) for row in mask]


@once
def test_settings_that_cannot_work_get_a_sentence(world_run, tmp_path):
    for changes, words in (({"rewards": [f"run:{tmp_path}"]}, "no config.toml"), ({"rewards": ["runn"]}, "runn")):
        with pytest.raises(UsageError, match=words):
            check_possible(world_run.with_section("ppo", **changes), ["ppo"])
    for changes in ({"value_start": "run", "value_model": "shared"}, {"value_start": "elsewhere"}):
        with pytest.raises(ValueError, match="value_start"):
            type(world_run.config.ppo)(**changes)


@once
def test_events_name_the_step_saved(backend, copied):
    """A checkpoint within a sampling says so by its step alone: the answers lie beside it."""
    run, events = copied("ppo", **SETTINGS | {"save_every": 3, "steps": 3, "eval_every": 3}), []
    train_stage(run, "ppo", backend, events.append)
    assert [e.step for e in events if isinstance(e, Saved)] == [3] and list(kept_of(run)) == [0]
