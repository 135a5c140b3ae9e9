"""Before and after: some held-out questions of a run's own data, answered by the model of each finished stage."""

import hashlib
import json
from itertools import groupby
from typing import Any

import numpy as np

from backends.base import Backend
from minigpt.data.shards import Shard
from minigpt.errors import MiniGPTError
from minigpt.events import Note, Report
from minigpt.generate.sampling import GREEDY
from minigpt.model.heads import WRITES
from minigpt.runs.group import alone
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run
from minigpt.stages.table import STAGES
from minigpt.store.durable import write_whole
from minigpt.text.tokenizer import Tokenizer

FILE = "conversations.json"
QUESTIONS, LENGTH, LEAST = 4, 64, 16  # how many; tokens of an answer, and those that a question must leave room for


def keep_conversations(run: Run, backend: Backend, report: Report) -> None:
    """Write what each stage answers into the run's `conversations.json`. Only a model whose answers are not in it yet
    is loaded.

    Nothing is written without a stage that learned from examples, or when an answer fails, which is reported.
    """
    if backend.group.rank:
        return
    stages = [stage for stage in run.finished_stages() if STAGES[stage].head == WRITES]
    asked = next((stage for stage in stages if not STAGES[stage].form.stream and run.data(stage).exists()), None)
    if asked is None:
        return
    path = run.directory / FILE
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    made = {stage: _digest(run, stage) for stage in [asked, *stages]}
    if before.get("made") == made:
        return
    try:
        shard = run.held_out(asked)
        prompts = questions(shard, STAGES[asked].form.sequences, run.config.model.context)
        rows = [_shown(run.tokenizer, prompt, right) for prompt, right in prompts]
        kept = _kept(before, rows, made)
        for stage in stages if rows else ():
            if stage in kept:
                for row, known in zip(rows, before["conversations"], strict=True):
                    row[stage] = known[stage]
                continue
            with alone(backend):
                answers = load_engine(run, stage, backend).answer([prompt for prompt, _ in prompts], GREEDY, LENGTH)
            for row, answer in zip(rows, answers, strict=True):
                row[stage] = answer.text
    except MiniGPTError as error:
        report(Note(f"The stages' answers to held-out questions are missing in the report: {error}"))
        return
    write_whole(path, json.dumps({"made": made, "conversations": rows}, ensure_ascii=False, indent=1))


def _kept(before: dict[str, Any], rows: list[dict[str, Any]], made: dict[str, str]) -> set[str]:
    """The stages whose answers to these very questions were written before, by the model that they have now."""
    known = before.get("conversations", [])
    if [(row["question"], row["right"]) for row in known] != [(row["question"], row["right"]) for row in rows]:
        return set()
    return {stage for stage, digest in made.items()
            if before.get("made", {}).get(stage) == digest and all(stage in row for row in known)}  # fmt: skip


def questions(shard: Shard, sequences: int, context: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, right answer) of some examples, evenly from all; the first of an example's `sequences` counts.

    A prompt that has no answer in the data has []. Too long ones are omitted.
    """
    found: list[tuple[list[int], list[int]]] = []
    examples = len(shard) // sequences
    for number in dict.fromkeys(n * examples // QUESTIONS for n in range(QUESTIONS if examples else 0)):
        ids, mask = shard.sequence(number * sequences)
        learned = np.flatnonzero(mask) if mask is not None else np.array([], int)
        start = int(learned[0]) if len(learned) else len(ids)
        end = start + int(np.argmin(np.append(mask[start:], 0))) if len(learned) else start
        one = ids[:start].tolist(), ids[start:end].tolist()
        if 0 < start <= context - LEAST and one[0] not in [prompt for prompt, _ in found]:
            found.append(one)
    return found


def _shown(tokenizer: Tokenizer, prompt: list[int], right: list[int]) -> dict[str, Any]:
    """The question as its user wrote it, where the template is ChatML, and the right answer."""
    texts = [tokenizer.decode(ids) for control, ids in groupby(prompt, tokenizer.is_control) if not control]
    asked = [text.removeprefix("user\n") for text in texts if text.startswith("user\n")]
    return {"question": asked[-1] if asked else tokenizer.show(prompt), "right": tokenizer.decode(right) or "–"}


def _digest(run: Run, stage: str) -> str:
    return hashlib.sha256((run.store(stage).final / "manifest.json").read_bytes()).hexdigest()
