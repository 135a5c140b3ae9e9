"""The whole story on bundled data: tokenizer → pretrain → SFT → DPO, and what each stage changed, measured."""

import json
from pathlib import Path

from backends.base import Backend
from minigpt.config import Config
from minigpt.data.batches import PairRows, ValidationText
from minigpt.data.forms import WORLD
from minigpt.data.prepare import prepare
from minigpt.data.shards import Shard
from minigpt.data.world import rows as world
from minigpt.evaluate.world import evaluate_world, greedy_answers
from minigpt.events import Progress, Report
from minigpt.runs.control import Control
from minigpt.runs.group import alone
from minigpt.runs.inputs import reader_of
from minigpt.runs.loading import load_engine
from minigpt.runs.pipeline import run_pipeline
from minigpt.runs.run import Run
from minigpt.stages.dpo import DPO, reference_logprobs, settings_of
from minigpt.stages.pretrain import PRETRAIN
from minigpt.store.durable import write_whole
from minigpt.train.measure import evaluate_language, evaluate_preferences

TEST_ROWS = 300
STORY = ("pretrain", "sft", "dpo")  # the stages that the demo tells of


def demo(run: Run, backend: Backend, report: Report, control: Control) -> dict:
    """Train the run's stages and measure each. Returns {"measured": {stage: {...}}, "conversations": [...]}.

    Kept in the run's `demo.json`, so that a second call only shows it again. Of several processes the first measures;
    the others return {}.
    """
    run = run_pipeline(run, backend, report, STORY, control=control)
    if backend.group.rank:
        return {}
    path = run.directory / "demo.json"
    if not path.exists():
        with alone(backend):
            write_whole(path, json.dumps(measure(run, backend, report), ensure_ascii=False, indent=1))
    return json.loads(path.read_text("utf-8"))


def measure(run: Run, backend: Backend, report: Report) -> dict:
    """The same measurements for every stage, all on texts, questions and pairs that training never saw."""
    seed = run.config.seed + 1
    rows = shown_rows(seed)
    conversations = [{"question": row["messages"][-2]["content"], "right": right(row)} for row in rows]
    measured = {}
    for number, stage in enumerate(STORY):
        report(Progress("measuring each stage", number, len(STORY)))
        engine = load_engine(run, stage, backend)
        text = ValidationText(run.held_out(PRETRAIN.name), run.config.model.context)
        language = evaluate_language(engine.model, engine.weights, text, run.tokenizer, 32, 256)
        measured[stage] = {"bits_per_byte": language["bits_per_byte"]} | evaluate_world(engine, seed, TEST_ROWS)
        for shown, answer in zip(conversations, greedy_answers(engine, rows), strict=True):
            shown[stage] = answer
    measured[DPO.name]["preference_accuracy"] = preference_accuracy(run, backend, report)
    report(Progress("measuring each stage", len(STORY), len(STORY), finished=True))
    return {"measured": measured, "conversations": conversations}


def preference_accuracy(run: Run, backend: Backend, report: Report) -> float:
    """Share of held-out pairs whose chosen answer DPO made likelier, relative to SFT, than the rejected one."""
    directory = run.data(DPO.name) / "test"
    if not directory.exists():
        _write_test_pairs(run, directory)
    shard = Shard(directory / "validation")
    context, config = run.config.model.context, run.config.of(DPO.name)
    before, after = (load_engine(run, stage, backend) for stage in (DPO.starts_from[0], DPO.name))
    bare, size = PairRows(shard, context, run.config.seed), config.micro_batch_size
    reference = reference_logprobs(before.model, before.weights, bare, directory / "reference", size, report)
    rows = PairRows(shard, context, run.config.seed, reference)
    return evaluate_preferences(after.model, after.weights, rows, config.loss, settings_of(config), size)["accuracy"]


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


def demo_config(config: Config) -> Config:
    """The configuration with the built-in world as the data of every stage."""
    return config.with_section("data", **{stage: [WORLD] for stage in STORY})
