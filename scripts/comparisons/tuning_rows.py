"""What SFT and DPO train on in both tools: a run with its export, and rows of unequal length."""

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from comparisons.start import exported, llama, started_run

from minigpt.config import Config
from minigpt.data.parse.formats import parse_row
from minigpt.data.prepare import prepare as make_shards
from minigpt.data.read.sources import read_rows
from minigpt.data.shards import Shard
from minigpt.data.world import rows as world
from minigpt.runs.inputs import reader_of
from minigpt.stages.table import STAGES
from minigpt.text.learn import train_tokenizer
from minigpt.text.tokenizer import Tokenizer

EXAMPLES = {"sft": 8, "dpo": 4}  # of a step, about: ours are packed into whole rows
SAME = ["optimizer=adamw", "schedule=linear", "learning_rate=1e-5", "warmup_steps=0", "dtype=float32", "eval_rows=1",
        "eval_every=100000", "save_every=100000", "accumulation=1"]  # fmt: skip


def prepare(stage: str, steps: int, file: Path | None) -> None:
    """Here: a run whose pretraining is finished, its export for TRL, the rows, and what makes a step on each side.

    There are as many rows as the steps need, so that one epoch is trained and DPO's reference reads none in vain.
    """
    talks, few = list(conversations(file)), EXAMPLES[stage]
    tokenizer = train_tokenizer("bpe", [turn["content"] for talk in talks for turn in talk], 6400)
    drawn = random.Random(1).sample(talks, (steps + 1) * few)
    write(Path("rows.jsonl"), rows_for(stage, drawn[few:]))
    write(Path("held_out.jsonl"), rows_for(stage, drawn[:few]))
    files = [f"data.{stage}=['rows.jsonl']", f"data.{stage}_validation=['held_out.jsonl']"]
    config = llama("medium", *files, *(f"{stage}.{setting}" for setting in SAME))
    sizes = [len(row) for row in packed(stage, config, tokenizer)]
    share = sum(sizes) / len(sizes)  # examples of a row
    rows = max(1, round(few / share))
    section = getattr(config, stage).model_copy(update={"batch_size": rows, "steps": len(sizes) // rows})
    exported(started_run(Path("run"), config.model_copy(update={stage: section}), tokenizer), "hf", Path("hf"))
    print(json.dumps({"rows": rows, "examples": max(1, round(rows * share))}))


def packed(stage: str, config: Config, tokenizer: Tokenizer) -> list[list[int]]:
    """Which examples share a row of tokens."""
    where = Path("packed")
    make_shards(reader_of(config, stage, where), tokenizer, where, config.model.context)
    rows = STAGES[stage].form.rows(Shard(where / "train"), config.model.context, config.seed).rows
    shutil.rmtree(where)  # tokenizing is part of everybody's work
    return rows


def conversations(file: Path | None) -> Iterator[list[dict]]:
    """The messages of each row of a file, or of the built-in world's instructions."""
    if file is None:
        yield from (row["messages"] for row in world.instructions(1, 4000, "train"))
    else:
        yield from (parse_row(row).messages for row in read_rows(file))


def rows_for(stage: str, talks: list[list[dict]]) -> Iterator[dict]:
    """Rows of `stage`. A pair's chosen answer is the row's own, its rejected one another row's."""
    for i, talk in enumerate(talks):
        if stage == "sft":
            yield {"messages": talk}
        else:
            yield {"prompt": talk[:-1], "chosen": talk[-1:], "rejected": talks[i - 1][-1:]}


def write(path: Path, rows: Iterator[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=EXAMPLES)
    parser.add_argument("steps", type=int)
    parser.add_argument("file", type=Path, nargs="?")
    prepare(**vars(parser.parse_args()))
