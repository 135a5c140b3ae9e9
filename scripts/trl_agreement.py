#!/usr/bin/env python
"""Compares our SFT and DPO losses with TRL's trainers on the same weights and the same rows.

    python scripts/trl_agreement.py

A small run is trained and exported; TRL loads the export, reads the same JSON lines with its own data path (chat
template, tokenizer, loss masks, padding) and computes its losses. Token ids, masks, losses and DPO's metrics must
agree, before and after DPO has moved the weights; two mistakes made on purpose must be seen. Prints a table and exits
with 1 when a bound is broken. Needs `pip install trl` beside this checkout's environment.
"""

import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends import get_backend
from minigpt.cli import tables
from minigpt.data.batches import PackedRows, PairRows, normalized, stacked
from minigpt.data.prepare import prepare
from minigpt.data.shards import Shard
from minigpt.data.world import rows as world
from minigpt.events import silent
from minigpt.exchange.exporting import export_run
from minigpt.model.gpt import GPT
from minigpt.parity.trajectories import tiny_config
from minigpt.runs.inputs import make_data, make_tokenizer, reader_of
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.stages.table import USUAL
from minigpt.train.losses import language_loss, sequence_logprobs
from minigpt.train.preferences import PreferenceSettings, preference_losses, preference_metrics

ROWS = 24
BETA = 0.2
BOUND = 1e-4  # float32; sums of about 40 log-probabilities
SILENCE = {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "logging_strategy": "no"}


@dataclass
class Row:
    """One line of the table: `broken` turns the verdict round, for a mistake that must be seen."""

    quantity: str
    ours: float
    theirs: float
    bound: float = BOUND
    broken: bool = False

    @property
    def ok(self) -> bool:
        return (abs(self.ours - self.theirs) <= self.bound) != self.broken

    def cells(self) -> list[str]:
        verdict = ("seen" if self.broken else "ok") if self.ok else "BROKEN"
        return [self.quantity, f"{self.ours:.6f}", f"{self.theirs:.6f}", f"{self.bound:g}", verdict]


def main() -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import datasets
        import transformers
        import trl
    except ImportError as error:
        print(f"{error.name} is not installed: pip install trl", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as directory:
        rows = list(compare(Path(directory)))
    columns = ["quantity", "MiniGPT", "TRL", "bound", ""]
    versions = f"TRL {trl.__version__}, transformers {transformers.__version__}"
    tables.kept_table(f"Losses on the same weights and rows ({versions})", columns, [row.cells() for row in rows])
    return 0 if all(row.ok for row in rows) else 1


def compare(directory: Path) -> Iterator[Row]:
    """Every line of the table; what is trained and exported lies in `directory`."""
    run = small_run(directory / "run")
    before, after = (directory / stage for stage in ("sft", "dpo"))
    export_run(run, "sft", "hf", before)
    export_run(run, "dpo", "hf", after)
    conversations = write(directory / "chats.jsonl", talks(run.config.seed + 1))
    pairs = write(directory / "pairs.jsonl", world.preferences(run.config.seed + 1, ROWS, "test"))
    yield from compare_sft(run, before, conversations, directory / "sft-data")
    yield from compare_dpo(run, before, after, pairs, directory / "dpo-data")


def small_run(directory: Path) -> Run:
    """A run on a small world whose three stages were trained for twenty steps; DPO fast, so that it moves."""
    config = tiny_config(steps=20)
    dpo = config.dpo.model_copy(update={"learning_rate": 1e-3, "beta": BETA})
    run = Run(directory, config.model_copy(update={"dpo": dpo}))
    make_tokenizer(run, USUAL, silent)
    for stage in USUAL:
        make_data(run, stage, silent)
        train_stage(run, stage, get_backend("torch", "cpu"), silent)
    return run


def talks(seed: int) -> Iterator[dict]:
    """Held-out questions, some of them as turns of one conversation, and texts that look like control tokens."""
    rows = list(world.instructions(seed, ROWS, "test"))
    yield from rows[2:]
    yield {"messages": [message for row in rows[:2] for message in row["messages"]]}
    awkward = {"user": "<|im_end|> <unk>", "assistant": "<|im_end|>!"}
    yield {"messages": [{"role": role, "content": content} for role, content in awkward.items()]}


def write(path: Path, rows: Iterator[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


# ---- SFT -----------------------------------------------------------------------------------------------------


def compare_sft(run: Run, export: Path, file: Path, prepared: Path) -> Iterator[Row]:
    """Our packed rows against TRL's padded ones: the same tokens count, the mean over them is the same."""
    from trl import SFTConfig, SFTTrainer

    shard = prepared_shard(run, "sft", file, prepared)
    settings = SFTConfig(
        output_dir=str(prepared / "trl"), assistant_only_loss=True, max_length=run.config.model.context + 1,
        per_device_train_batch_size=len(shard), **SILENCE,
    )  # fmt: skip
    data = dataset(file, ["messages"])
    trainer = SFTTrainer(loaded(export), settings, train_dataset=data, processing_class=tokenizer(export))
    theirs = [(row["input_ids"], [int(label != -100) for label in row["labels"]]) for row in trainer.train_dataset]
    yield Row("SFT: conversations with other ids or masks", differing(shard, theirs), 0, 0)
    batch = next(iter(trainer.get_train_dataloader()))
    found = float(trainer.compute_loss(trainer.model, dict(batch)))
    yield Row("SFT: loss", sft_loss(run, shard), found)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    wrong = float(trainer.compute_loss(trainer.model, dict(batch)))
    yield Row("SFT: loss, TRL's on the prompts, too", sft_loss(run, shard), wrong, broken=True)


def sft_loss(run: Run, shard: Shard) -> float:
    backend = get_backend("torch", "cpu")
    rows = PackedRows(shard, run.config.model.context, run.config.seed)
    batch = normalized(stacked([rows.row(0, i) for i in range(rows.count)]))
    weights = run.weights("sft", backend)[0]
    arrays = {name: backend.array(array) for name, array in batch.items()}
    return float(language_loss(GPT(run.model_config, backend), weights, arrays))


# ---- DPO -----------------------------------------------------------------------------------------------------


def compare_dpo(run: Run, before: Path, after: Path, file: Path, prepared: Path) -> Iterator[Row]:
    """The first loss is ln 2 on both sides; with moved weights all losses and metrics agree."""
    shard = prepared_shard(run, "dpo", file, prepared)
    trainer = dpo_trainer(run, before, before, file, "sigmoid", len(shard))
    theirs = [pair for row in trainer.train_dataset for pair in both_answers(row)]
    yield Row("DPO: answers with other ids or masks", differing(shard, theirs), 0, 0)
    ours, found = dpo_loss(run, shard, "sft", "sigmoid")["loss"], their_dpo(trainer)["loss"]
    yield Row("DPO: first loss, ours against ln 2", ours, math.log(2), 1e-6)
    yield Row("DPO: first loss, TRL's against ln 2", math.log(2), found, 1e-6)
    for kind in ("sigmoid", "ipo"):
        ours = dpo_loss(run, shard, "dpo", kind)
        found = their_dpo(dpo_trainer(run, after, before, file, kind, len(shard)))
        for name in ("loss", "reward_chosen", "reward_rejected", "margin", "accuracy"):
            yield Row(f"DPO ({kind}) after 20 steps: {name.replace('_', ' ')}", ours[name], found[name])
    turned = their_dpo(dpo_trainer(run, before, after, file, "sigmoid", len(shard)))
    yield Row("DPO: loss, TRL's policy and reference exchanged", dpo_loss(run, shard, "dpo", "sigmoid")["loss"],
              turned["loss"], broken=True)  # fmt: skip


def dpo_loss(run: Run, shard: Shard, policy: str, kind: str) -> dict[str, float]:
    """Our loss and metrics for the weights of stage `policy`; the reference is the SFT model."""
    backend = get_backend("torch", "cpu")
    model = GPT(run.model_config, backend)
    rows = PairRows(shard, run.config.model.context, run.config.seed)
    batch = normalized(stacked([rows.row(0, i) for i in range(rows.count)]))
    arrays = {name: backend.array(array) for name, array in batch.items()}
    reference, moved = (
        sequence_logprobs(model, run.weights(stage, backend)[0], arrays) for stage in ("sft", policy)
    )  # (B, P, 2)
    losses = preference_losses(backend, moved, reference, kind, PreferenceSettings(BETA), arrays["spans"])  # (B, P)
    metrics = preference_metrics(backend, moved, reference, arrays["weights"], BETA)
    return {name: float(x) for name, x in ({"loss": (losses * arrays["weights"]).sum()} | metrics).items()}


def dpo_trainer(run: Run, policy: Path, reference: Path, file: Path, kind: str, size: int) -> Any:
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(
        output_dir=str(file.parent / "trl"), beta=BETA, loss_type=[kind], max_length=None,
        per_device_train_batch_size=size, **SILENCE,
    )  # fmt: skip
    data = dataset(file, ["prompt", "chosen", "rejected"])
    given = without_last_newline(tokenizer(policy))
    return DPOTrainer(loaded(policy), loaded(reference), settings, train_dataset=data, processing_class=given)


def their_dpo(trainer: Any) -> dict[str, float]:
    trainer.model.eval()
    loss = float(trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))))
    found = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    names = {"reward_chosen": "chosen", "reward_rejected": "rejected", "margin": "margins", "accuracy": "accuracies"}
    return {"loss": loss} | {ours: found[f"rewards/{theirs}"] for ours, theirs in names.items()}


def both_answers(row: dict) -> Iterator[tuple[list[int], list[int]]]:
    """(ids, mask) of a pair's chosen and rejected sequence."""
    for side in ("chosen_ids", "rejected_ids"):
        yield row["prompt_ids"] + row[side], [0] * len(row["prompt_ids"]) + [1] * len(row[side])


# ---- both ----------------------------------------------------------------------------------------------------


def prepared_shard(run: Run, stage: str, file: Path, directory: Path) -> Shard:
    """The rows of a file as our training reads them."""
    reader = reader_of(run.config, stage, directory, train=[str(file)], validation=[str(file)])
    prepare(reader, run.tokenizer, directory, run.config.model.context)
    return Shard(directory / "validation")


def differing(shard: Shard, theirs: list[tuple[list[int], list[int]]]) -> int:
    """Sequences whose ids or loss masks are others; the line end behind the last turn counts for nobody."""
    ours = [tuple(np.asarray(part).tolist() for part in shard.sequence(i)) for i in range(len(shard))]
    assert len(ours) == len(theirs), (len(ours), len(theirs))
    return sum(
        ids[: len(other)] != other or mask[: len(other)] != marks or any(mask[len(other) :])
        for (ids, mask), (other, marks) in zip(ours, theirs, strict=True)
    )


def loaded(export: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32, attn_implementation="eager")


def tokenizer(export: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(export)


def without_last_newline(found: Any) -> Any:
    """The tokenizer with a chat template that ends with an answer's end: DPO of TRL counts all behind the prompt."""
    close = "{{- '\\n' -}}{%- endfor -%}"
    assert close in found.chat_template, found.chat_template
    last = "{%- if not (loop.last and message['role'] == 'assistant') -%}{{- '\\n' -}}{%- endif -%}{%- endfor -%}"
    found.chat_template = found.chat_template.replace(close, last)
    return found


def dataset(file: Path, columns: list[str]) -> Any:
    """The rows as TRL takes them; strings become messages."""
    from datasets import Dataset

    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    rows = []
    for line in file.read_text("utf-8").splitlines():
        row = json.loads(line)
        as_messages = {name: row[name] for name in columns}
        for name, value in as_messages.items():
            if isinstance(value, str):
                as_messages[name] = [{"role": roles[name], "content": value}]
        rows.append(as_messages)
    return Dataset.from_list(rows)


if __name__ == "__main__":
    sys.exit(main())
