"""The whole story on bundled data: tokenizer → pretrain → SFT → DPO, and what each stage changed, measured."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backends.base import Backend
from minigpt.config import Config
from minigpt.data.batches import PairRows, ValidationText
from minigpt.data.forms import WORLD
from minigpt.data.prepare import prepare
from minigpt.data.shards import Shard
from minigpt.data.world import rows as world
from minigpt.evaluate.world import evaluate_world, greedy_answers
from minigpt.events import Progress, Report
from minigpt.model.heads import WRITES
from minigpt.runs.control import Control
from minigpt.runs.group import alone
from minigpt.runs.inputs import reader_of
from minigpt.runs.loading import load_engine, load_scorer
from minigpt.runs.pipeline import run_pipeline
from minigpt.runs.run import Run
from minigpt.stages.dpo import DPO, reference_logprobs, settings_of
from minigpt.stages.pretrain import PRETRAIN
from minigpt.stages.table import STAGES
from minigpt.store.durable import write_whole
from minigpt.train.measure import evaluate_language, evaluate_preferences

TEST_ROWS = 300
STORY = ("pretrain", "sft", "dpo")  # the stages that the demo tells of
RL = (*STORY, "reward", "grpo")  # and with reinforcement learning


def demo(run: Run, backend: Backend, report: Report, control: Control, stages: Sequence[str] = STORY) -> dict:
    """Train the run's stages and measure each. Returns {"measured": {stage: {...}}, "conversations": [...]}.

    Kept in the run's `demo.json`, so that a second call only shows it again; what it lacks of `stages` is measured. Of
    several processes the first measures; the others return {}.
    """
    run = run_pipeline(run, backend, report, stages, control=control)
    if backend.group.rank:
        return {}
    path = run.directory / "demo.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else {"measured": {}, "conversations": []}
    if missing := [stage for stage in stages if stage not in before["measured"]]:
        with alone(backend):
            found = _joined(before, measure(run, backend, report, missing))
        write_whole(path, json.dumps(found, ensure_ascii=False, indent=1))
    return json.loads(path.read_text("utf-8"))


def _joined(before: dict, found: dict) -> dict:
    rows = before["conversations"] or [{} for _ in found["conversations"]]
    conversations = [row | new for row, new in zip(rows, found["conversations"], strict=True)]
    return {"measured": before["measured"] | found["measured"], "conversations": conversations}


def measure(run: Run, backend: Backend, report: Report, stages: Sequence[str] = STORY) -> dict:
    """The same measurements for every stage, all on texts, questions and pairs that training never saw.

    One that judges is measured on the pairs alone.
    """
    seed = run.config.seed + 1
    rows = shown_rows(seed)
    conversations = [{"question": row["messages"][-2]["content"], "right": right(row)} for row in rows]
    measured = {}
    for number, stage in enumerate(stages):
        report(Progress("measuring each stage", number, len(stages)))
        if STAGES[stage].head != WRITES:
            measured[stage] = {"preference_accuracy": judged_accuracy(run, stage, backend)}
            continue
        engine = load_engine(run, stage, backend)
        text = ValidationText(run.held_out(PRETRAIN.name), run.config.model.context)
        language = evaluate_language(engine.model, engine.weights, text, run.tokenizer, 32, 256)
        measured[stage] = {"bits_per_byte": language["bits_per_byte"]} | evaluate_world(engine, seed, TEST_ROWS)
        for shown, answer in zip(conversations, greedy_answers(engine, rows), strict=True):
            shown[stage] = answer
    if DPO.name in stages:
        measured[DPO.name]["preference_accuracy"] = preference_accuracy(run, backend, report)
    report(Progress("measuring each stage", len(stages), len(stages), finished=True))
    return {"measured": measured, "conversations": conversations}


def preference_accuracy(run: Run, backend: Backend, report: Report) -> float:
    """Share of held-out pairs whose chosen answer DPO made likelier, relative to SFT, than the rejected one."""
    directory, shard = _test_pairs(run)
    context, config = run.config.model.context, run.config.of(DPO.name)
    before, after = (load_engine(run, stage, backend) for stage in (DPO.starts_from[0], DPO.name))
    bare, size = PairRows(shard, context, run.config.seed), config.micro_batch_size
    reference = reference_logprobs(before.model, before.weights, bare, directory / "reference", size, report)
    rows = PairRows(shard, context, run.config.seed, reference)
    return evaluate_preferences(after.model, after.weights, rows, config.loss, settings_of(config), size)["accuracy"]


def judged_accuracy(run: Run, stage: str, backend: Backend) -> float:
    """Share of held-out pairs whose chosen answer the reward model of a stage scores higher than the rejected one."""
    scorer, (_, shard) = load_scorer(run, stage, backend), _test_pairs(run)
    prompts, answers = [], []
    for i in range(len(shard)):
        ids, mask = shard.sequence(i)
        begins, ends = int((mask != 0).argmax()), int(np.flatnonzero(mask)[-1]) + 1
        prompts.append(ids[:begins].tolist())
        answers.append(ids[begins:ends].tolist())
    scores = np.array([one.score for one in scorer.scores(prompts, answers)]).reshape(-1, 2)
    return float((scores[:, 0] > scores[:, 1]).mean())


def _test_pairs(run: Run) -> tuple[Path, Shard]:
    """(directory, shard) of the pairs that no stage was trained on, written when they are first wanted."""
    directory = run.data(DPO.name) / "test"
    if not directory.exists():
        _write_test_pairs(run, directory)
    return directory, Shard(directory / "validation")


def _write_test_pairs(run: Run, directory: Path) -> None:
    pairs = directory.with_suffix(".jsonl")
    with pairs.open("w", encoding="utf-8") as file:
        for row in world.preferences(run.config.seed + 1, TEST_ROWS, "test"):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    quiet = reader_of(run.config, DPO.name, directory, train=[str(pairs)], validation=[str(pairs)])
    prepare(quiet, run.tokenizer, directory, run.config.model.context)


def shown_rows(seed: int) -> list[dict]:
    """One held-out question per task and two everyday requests, in both languages."""
    rows: dict[tuple, dict] = {}
    for row in world.instructions(seed, 200, "test"):
        rows.setdefault((row["task"], row["language"]), row)
    languages = ["en", "zh", "zh", "en", "en"]
    tasks = [rows[task, language] for task, language in zip(world.TASKS, languages, strict=True)]
    requests = {row["language"]: row for row in world.requests(seed, 50, "test")}
    return tasks + [requests["en"], requests["zh"]]


def right(row: dict) -> str:
    """The one right answer, or a dash where any polite one is right."""
    return "–" if row["task"] == "request" else row["messages"][-1]["content"]


def demo_config(config: Config, stages: Sequence[str] = STORY) -> Config:
    """The configuration with the built-in world as the data of every stage."""
    return config.with_section("data", **{stage: [WORLD] for stage in stages})
