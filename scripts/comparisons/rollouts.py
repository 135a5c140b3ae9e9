"""GRPO: MiniGPT against TRL's trainer on the same exported model, prompts, longest answers and number of answers."""

import json
import os
import shutil
import sys
import time
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

from comparisons.duel import Contestant, Duel, Figures, given, worker

STEPS, WARM = 10, 2  # steps of a run; so many of them are left out of "completions/s"
ANSWERS, GROUP, LONGEST, WANTED = 64, 8, 48, 40  # answers of a step and of a prompt; tokens; characters
RATE = 1e-6  # so small that all answers come from about the same model
FIGURES = {"completions/s": True, "peak MB": False}
COMMON = {"output_dir": "trl", "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True,
          "logging_strategy": "no", "save_strategy": "no", "learning_rate": RATE, "temperature": 1.0, "beta": 0.0,
          "per_device_train_batch_size": ANSWERS, "num_generations": GROUP, "max_completion_length": LONGEST,
          "loss_type": "dapo", "num_iterations": 1, "steps_per_generation": 1, "seed": 1}  # fmt: skip
FASTER = {"gradient_checkpointing": False}  # which is on by default


def rollouts(source: Path, peer: str, stage: str = "sft", steps: int | None = None) -> Duel:
    """Completions per second of GRPO steps after the first ones, from sampling to the update, with AdamW in float32 on
    one machine's cores; `peer` is the Python in which TRL is installed.

    Rollout's share is what a step takes before its loss: sampling, rewards and advantages. Answers end where the model
    ends them: their mean length is printed of both.
    """

    def prepare(directory: Path) -> None:
        worker(directory, "rollouts", "prepare", source.resolve(), stage, str(steps or STEPS))

    def contestant(name: str, key: str, python: str = sys.executable) -> Contestant:
        def measure(directory: Path) -> Figures:
            made = Path(shutil.copytree(given(directory), directory / "made"))
            figures, done = worker(made, "rollouts", key, stage, str(steps or STEPS), python=python)
            return figures | {"peak MB": done.peak_mb}

        return Contestant(name, measure)

    peer = os.path.abspath(peer)  # not resolved: an environment is known by the link that its Python is
    contestants = [contestant("MiniGPT", "ours"), contestant("TRL, defaults", "theirs", peer),
                   contestant("TRL, no checkpointing", "faster", peer)]  # fmt: skip
    title = f"GRPO, {ANSWERS} answers a step, {source.name}"
    return Duel(title, contestants, FIGURES | {"rollout's share": False, "tokens an answer": False}, prepare)


def prepare(source: str, stage: str, steps: str) -> Figures:
    """The export, a copy of the run, and the prompts, in this directory."""
    from rl.starts import copied

    from minigpt.data.world import rows as world
    from minigpt.exchange.exporting import export_run
    from minigpt.runs.run import open_run

    export_run(open_run(Path(source)), stage, "hf", Path("export"))
    copied(Path(source), Path("run"), [stage], 1)
    rows = islice(world.instructions(77, 10**9, "train"), 4 * int(steps) * ANSWERS // GROUP)
    lines = [json.dumps({"prompt": row["messages"][0]["content"]}) for row in rows]
    Path("prompts.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return {}


def ours(stage: str, steps: str) -> Figures:
    """As `minigpt train grpo` computes it."""
    from minigpt.events import Step
    from minigpt.library import train_stage

    seen: list[Any] = []
    section = {"steps": int(steps), "batch_size": ANSWERS, "group_size": GROUP, "max_tokens": LONGEST, "loss": "dapo",
               "learning_rate": RATE, "kl_coefficient": 0.0, "rewards": [f"length:{WANTED}"], "warmup_steps": 0,
               "eval_every": int(steps), "eval_rows": 1, "save_every": int(steps), "optimizer": "adamw",
               "dtype": "float32"}  # fmt: skip
    train_stage("grpo", "run", data=["prompts.jsonl"], settings={"grpo": section}, report=seen.append,
                backend="torch", device="cpu")  # fmt: skip
    found = [event for event in seen if isinstance(event, Step)]
    lengths = [one.metrics["length"] + 1 - one.metrics["cut_off"] for one in found]  # with the end token, as TRL counts
    return _figures([(one.seconds, one.waited, length) for one, length in zip(found, lengths, strict=True)])


def theirs(stage: str, steps: str, **extra: Any) -> Figures:
    """The same in TRL's trainer: a step is timed from its batch to its update, a rollout where TRL makes it."""
    import datasets
    import transformers
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    rollouts, lengths, ends = [], [], []

    def reward(completions: list, completion_ids: list[list[int]], **more: Any) -> list[float]:
        lengths.append(sum(map(len, completion_ids)) / len(completion_ids))
        texts = [one[0]["content"].strip() for one in completions]
        return [max(0.0, 1 - abs(len(text) - WANTED) / WANTED) for text in texts]

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            began = time.perf_counter()
            made = super()._generate_and_score_completions(inputs)
            rollouts.append(time.perf_counter() - began)
            return made

    class Ends(TrainerCallback):
        def on_train_begin(self, *given: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *given: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

    model = transformers.AutoModelForCausalLM.from_pretrained("export", dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained("export")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = [json.loads(line)["prompt"] for line in Path("prompts.jsonl").read_text("utf-8").splitlines()]
    rows = datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": one}]} for one in prompts])
    trainer = Timed(model=model, reward_funcs=reward, args=GRPOConfig(max_steps=int(steps), **COMMON, **extra),
                    train_dataset=rows, processing_class=tokenizer, callbacks=[Ends()])  # fmt: skip
    trainer.train()
    seconds = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    return _figures(list(zip(seconds, rollouts, lengths, strict=True)))


def _figures(steps: list[tuple[float, float, float]]) -> Figures:
    """From each step's seconds, those of its rollout, and the mean length of its answers."""
    seconds, rollouts, lengths = (sum(column) for column in zip(*steps[WARM:], strict=True))
    counted = len(steps) - WARM
    return {"completions/s": counted * ANSWERS / seconds, "rollout's share": rollouts / seconds,
            "tokens an answer": lengths / counted}  # fmt: skip


if __name__ == "__main__":
    key, *words = sys.argv[1:]
    work = {"prepare": prepare, "ours": ours, "theirs": theirs, "faster": lambda *words: theirs(*words, **FASTER)}[key]
    print(json.dumps(work(*words)))
