"""Training on MLX: `minigpt train pretrain --backend mlx` against `mlx_lm.lora --fine-tune-type full`."""

import argparse
import json
import random
import shutil
import statistics
import sys
import types
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, given, minigpt, trained, worker

STEPS, WARM = 10, 2
SHAPES = {"1 M": ("tiny", 16), "26 M": ("medium", 4)}  # name: (preset, rows of a step)
# mlx-lm trains the layers and leaves the embeddings as they are, which is a little less work than ours.
FULL = {"fine_tune_type": "full", "num_layers": -1, "optimizer": "adamw", "steps_per_report": 1}


def mlx_training(shape: str, steps: int | None) -> Duel:
    """Tokens per second with AdamW in float32, the same shape, as many tokens in a step; rows are equally long."""
    preset, rows = SHAPES[shape]
    count = str(steps or STEPS)

    def prepare(directory: Path) -> None:
        worker(directory, "mlx_training", "prepare", preset, str(rows), count)

    def ours(directory: Path) -> Figures:
        shutil.copytree(given(directory), directory, dirs_exist_ok=True)
        done = minigpt(directory, "train", "pretrain", "--run", "run", "--backend", "mlx")
        return trained(directory / "run") | {"peak MB": done.peak_mb}

    def theirs(directory: Path) -> Figures:
        figures, done = worker(given(directory), "mlx_training", "theirs", preset, str(rows), count)
        return figures | {"peak MB": done.peak_mb}

    contestants = [Contestant("MiniGPT", ours), Contestant("mlx_lm.lora", theirs)]
    return Duel(f"training {shape}, MLX", contestants, {"tokens/s": True, "peak MB": False}, prepare)


def prepare(preset: str, rows: int, steps: int) -> None:
    """Here: a run's configuration and tokenizer, the same model for mlx-lm, and rows of context tokens for both.

    The rows are digits, which are tokens of their own, so that their length is known; mlx-lm closes each with one more.
    """
    from comparisons.start import exported, llama, made_up_tokenizer, started_run

    wanted = {"steps": steps, "batch_size": rows, "accumulation": 1, "optimizer": "adamw", "dtype": "float32",
              "log_every": 1, "eval_every": 100000, "save_every": 100000, "eval_rows": 1}  # fmt: skip
    config = llama(preset, "data.pretrain=['text.txt']", *(f"pretrain.{key}={value}" for key, value in wanted.items()))
    tokenizer, draw = made_up_tokenizer(config.tokenizer.vocab_size), random.Random(1)
    lines = ["".join(draw.choices("0123456789", k=config.model.context - 1)) for _ in range(2 * rows * steps)]
    Path("text.txt").write_text("\n".join(lines), "utf-8")
    Path("train.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), "utf-8")
    run = started_run(Path("run"), config, tokenizer)
    exported(run, "hf", Path("hf"))
    shutil.rmtree(run.store("pretrain").directory)  # this run begins with pretraining
    print("{}")


def theirs(rows: int, steps: int, context: int) -> Figures:
    """mlx_lm.lora's own training of all layers, with the fast BLAS that our backend loads."""
    from backends import get_backend

    get_backend("mlx")
    from mlx_lm import load
    from mlx_lm.lora import CONFIG_DEFAULTS, load_dataset, train_model
    from mlx_lm.tuner.callbacks import TrainingCallback

    rates: list[float] = []

    class Rates(TrainingCallback):
        def on_train_loss_report(self, info):
            assert info["trained_tokens"] == (len(rates) + 1) * rows * context, info
            rates.append(info["tokens_per_second"])

    model, tokenizer = load("hf")
    settings = CONFIG_DEFAULTS | FULL | {"model": "hf", "data": ".", "batch_size": rows, "iters": steps}
    arguments = types.SimpleNamespace(**settings)
    train_model(arguments, model, load_dataset(arguments, tokenizer)[0], [], Rates())
    return {"tokens/s": statistics.median(rates[WARM:])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["prepare", "theirs"])
    parser.add_argument("preset")
    parser.add_argument("rows", type=int)
    parser.add_argument("steps", type=int)
    who, preset, rows, steps = vars(parser.parse_args()).values()
    if who == "prepare":
        prepare(preset, rows, steps)
    else:
        context = json.loads(Path("hf/config.json").read_text("utf-8"))["max_position_embeddings"]
        print("\n" + json.dumps(theirs(rows, steps, context)))
        sys.exit()
