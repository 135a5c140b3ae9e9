"""SFT and DPO of the 26 M model: MiniGPT's packed rows against TRL's trainers, on the same weights and rows."""

import argparse
import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

from comparisons.duel import Contestant, Duel, Figures, given, worker

STEPS, WARM = 10, 2  # steps of a run; so many of them are left out of "samples/s"
FIGURES = {"samples/s": True, "samples/s, start included": True, "peak MB": False}
COMMON = {"output_dir": "trl", "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True,
          "logging_strategy": "no", "save_strategy": "no", "learning_rate": 1e-5, "max_length": 513}  # fmt: skip
FASTER = {"sft": {"packing": True, "max_length": 512}, "dpo": {"precompute_ref_log_probs": True}}


def tuning(stage: str, rows: Path | None, steps: int | None) -> Duel:
    """Samples per second of `stage` with AdamW in float32 on rows of unequal length: those of a file, or our world's.

    DPO's includes the reference model's share. The second TRL has settings for speed: no gradient checkpointing
    (which is on by default), packed rows, and reference log-probabilities computed beforehand.
    """

    def prepare(directory: Path) -> None:
        file = [rows.resolve()] if rows else []
        per_step, _ = worker(directory, "tuning_rows", stage, str(steps or STEPS), *file)
        (directory / "step.json").write_text(json.dumps(per_step), "utf-8")

    def contestant(name: str, key: str) -> Contestant:
        def measure(directory: Path) -> Figures:
            made = Path(shutil.copytree(given(directory), directory / "made"))
            figures, done = worker(made, "tuning", key, stage)
            trained = figures.pop("examples")
            return figures | {"samples/s, start included": trained / done.seconds, "peak MB": done.peak_mb}

        return Contestant(name, measure)

    contestants = [("MiniGPT", "ours"), ("TRL, defaults", "theirs"), ("TRL, faster settings", "faster")]
    title = f"{stage.upper()} 26 M, {rows.name if rows else 'the built-in world'}"
    return Duel(title, [contestant(*one) for one in contestants], FIGURES, prepare)


def ours(stage: str) -> Figures:
    """One epoch of the prepared run, as `minigpt train` computes it.

    A step's batch is a pure function of its number, so the examples that it had are counted afterwards.
    """
    from backends import get_backend
    from minigpt.data.batches import Batches
    from minigpt.events import Eval, StageStarted, Step
    from minigpt.runs.pipeline import run_pipeline
    from minigpt.runs.run import open_run
    from minigpt.stages.table import STAGES

    run, seen = open_run(Path("run")), []
    run_pipeline(run, get_backend("torch"), lambda event: seen.append((time.perf_counter(), event)), [stage])
    shard, held_out, config = run.training_data(stage), run.held_out(stage), run.config.of(stage)
    kind = STAGES[stage].form.rows
    batches = Batches(kind(shard, run.config.model.context, run.config.seed), config.batch_size, run.config.seed)
    counts = [examples(batches(step)["segments"], stage) for step in range(config.steps)]
    seconds = [event.seconds for _, event in seen if isinstance(event, Step)]
    first = {kind: next(at for at, event in seen if isinstance(event, kind)) for kind in (StageStarted, Eval)}
    read = (len(shard) + len(held_out)) // 2  # pairs that the reference model reads before the first evaluation ends
    reference = (first[Eval] - first[StageStarted]) / read if stage == "dpo" else 0.0
    trained = sum(counts[WARM:])
    return {"samples/s": trained / (sum(seconds[WARM:]) + trained * reference), "examples": sum(counts)}


def examples(segments: Any, stage: str) -> int:
    """Conversations or pairs in rows whose tokens say which sequence they are of; -1 is of none."""
    sequences = int((segments.max(axis=1) + 1).sum())
    return sequences // 2 if stage == "dpo" else sequences


def theirs(stage: str, extra: dict[str, Any]) -> Figures:
    """One epoch in TRL's trainer; a batch's examples are counted where it is put together."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    per_step = json.loads(Path("step.json").read_text("utf-8"))
    size = per_step["rows"] if extra.get("packing") else per_step["examples"]
    settings = (
        COMMON | {"per_device_train_batch_size": size, "num_train_epochs": 1, "dataloader_drop_last": True} | extra
    )
    began = time.perf_counter()
    if stage == "sft":
        trainer = SFTTrainer(args=SFTConfig(assistant_only_loss=True, **settings), **loaded())
    else:
        trainer = DPOTrainer(args=DPOConfig(beta=0.1, **settings), **loaded())
    reference = time.perf_counter() - began if extra.get("precompute_ref_log_probs") else 0.0
    counts, ends = counted(trainer)
    trainer.train()
    trained = sum(counts[WARM : len(ends)])
    share = reference * trained / len(trainer.train_dataset)
    return {"samples/s": trained / (ends[-1] - ends[WARM - 1] + share), "examples": sum(counts[: len(ends)])}


def counted(trainer: Any) -> tuple[list[int], list[float]]:
    """The number of examples of each batch and the end of each step, which training fills in."""
    from transformers import TrainerCallback

    counts: list[int] = []
    ends: list[float] = []
    collate = trainer.data_collator

    class Ends(TrainerCallback):
        def on_step_end(self, *arguments, **named):
            ends.append(time.perf_counter())

    def counting(rows):
        counts.append(sum(len(row.get("seq_lengths", [0])) for row in rows))  # a packed row has several
        return collate(rows)

    trainer.data_collator = counting
    trainer.add_callback(Ends())
    return counts, ends


def loaded() -> dict[str, Any]:
    """The export and the rows, as TRL's trainers take them."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [json.loads(line) for line in Path("rows.jsonl").read_text("utf-8").splitlines()]
    return {
        "model": AutoModelForCausalLM.from_pretrained("hf", dtype=torch.float32),
        "processing_class": AutoTokenizer.from_pretrained("hf"),
        "train_dataset": Dataset.from_list(rows),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["ours", "theirs", "faster"])
    parser.add_argument("stage", choices=FASTER)
    who, stage = vars(parser.parse_args()).values()
    faster = {"gradient_checkpointing": False} | FASTER[stage] if who == "faster" else {}
    print(json.dumps(ours(stage) if who == "ours" else theirs(stage, faster)))
