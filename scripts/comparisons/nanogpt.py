"""nanoGPT (a checkout given as a path): the time to a loss, and tokens per second at the same shape and batch."""

import argparse
import json
import pickle
import re
import shutil
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, commit, minigpt, run, settings, trained, worker
from comparisons.gpu import on_gpu

from minigpt.model.gpt import flops_per_token
from minigpt.runs.run import open_run

DOCUMENTED = ["--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128"]
STEPS = 2000
CPU = ["--device=cpu", "--compile=False", "--dropout=0.0", "--log_interval=1", "--eval_iters=1"]
RECIPES = Path(__file__).with_name("recipes")  # what `minigpt train pretrain --config` takes, with the reasons
ALONE = ("headline", "ten-minutes", "half-hour")  # those without a peer


def time_to_loss(nanogpt: Path, text: Path, flags: list[str]) -> Duel:
    """nanoGPT's documented CPU run on tinyshakespeare against MiniGPT's quick recipe (and `flags`) on the same text.

    Seconds are those of the whole training command (all set-up counts), evaluation left out; nats per character are
    measured over the whole last tenth, in non-overlapping windows of the model's own context.
    """

    def theirs(directory: Path) -> Figures:
        checkout = copied(nanogpt, text, directory)
        length = [f"--max_iters={STEPS}", f"--lr_decay_iters={STEPS}", f"--eval_interval={STEPS}"]
        config = "config/train_shakespeare_char.py"
        done = run([sys.executable, "train.py", config, *CPU, *DOCUMENTED, *length], checkout)
        return {"seconds": done.seconds} | worker(checkout, "nanogpt", checkout)[0]

    contestants = [_recipe("quick", text, flags), Contestant(f"nanoGPT {commit(nanogpt)}", theirs)]
    figures = {"seconds": False, "nats per character": False}
    return Duel(f"tinyshakespeare, nanoGPT's {STEPS:,} steps on a CPU", contestants, figures)


def alone(recipe: str, text: Path, flags: list[str]) -> Duel:
    """A recipe without a peer: nanoGPT's 1.4697 nats per character were measured on an A100."""
    return Duel(f"tinyshakespeare, recipes/{recipe}.toml", [_recipe(recipe, text, flags)], {})


def _recipe(name: str, text: Path, flags: list[str]) -> Contestant:
    def measure(directory: Path) -> Figures:
        where = ["--run", "run", "--data", text.resolve(), "--backend", "torch"]
        done = minigpt(directory, "train", "pretrain", "--config", RECIPES / f"{name}.toml", *where, *flags)
        measured = minigpt(directory, "evaluate", "run", "--backend", "torch", "--json").out
        score = json.loads(measured[measured.index("{") :])["nats_per_character"]
        return {"seconds": done.seconds, "nats per character": score}

    return Contestant("MiniGPT", measure)


@dataclass(frozen=True)
class Shape:
    """The sizes of a model and its batch. `vocabulary` 0: the characters of the text."""

    layers: int
    width: int
    heads: int
    context: int
    batch: int
    vocabulary: int = 0


SHAPES = {"0.8 M": Shape(4, 128, 4, 64, 12), "26 M": Shape(8, 512, 8, 512, 4)}
GPU_SHAPES = {"medium, 26 M": Shape(8, 512, 8, 512, 32, 6400), "124 M": Shape(12, 768, 12, 1024, 12, 50304)}
# Ours is a llama, with about as many numbers; as a GPT-2 it is nanoGPT's own shape, matrix for matrix.
ARCHITECTURES = {
    "a llama": dict(model__qk_norm=False),
    "the same GPT-2": dict(
        model__qk_norm=False, model__norm="layer", model__feed_forward="gelu", model__positions="learned"
    ),
}


def throughputs(nanogpt: Path, text: Path, device: str, steps: int) -> Iterator[Duel]:
    """Every shape, as a llama and as nanoGPT's own: on a CPU in both number formats, on a GPU in bfloat16, compiled."""
    for name, shape in (SHAPES if device == "cpu" else GPU_SHAPES).items():
        for architecture in ARCHITECTURES:
            for dtype in ("float32", "bfloat16") if device == "cpu" else ("bfloat16",):  # nanoGPT's CPU knows one
                yield throughput(nanogpt, text, name, shape, architecture, device, dtype, steps)


def throughput(
    nanogpt: Path, text: Path, name: str, shape: Shape, architecture: str, device: str, dtype: str, steps: int
) -> Duel:
    """Tokens per second of a training step with AdamW, the same sizes and batch on both sides.

    Memory is the process's on a CPU, that of tensors on a GPU, where the share of its matrix rate is told as well:
    6 N + 12 L q T operations per token (Chowdhery et al. 2022) at the rate of a large bfloat16 product.
    """

    def ours(directory: Path) -> Figures:
        size = {"a llama": 8 * shape.width // 3 // 16 * 16}.get(architecture, 4 * shape.width)
        same = settings(
            tokenizer__kind="char", model__vocab_size=shape.vocabulary, model__n_layer=shape.layers,
            model__d_model=shape.width, model__n_head=shape.heads, model__n_kv_head=shape.heads, model__d_ff=size,
            model__context=shape.context, pretrain__batch_size=shape.batch, pretrain__steps=steps,
            pretrain__optimizer="adamw", pretrain__log_every=1, pretrain__eval_every=100000,
            pretrain__save_every=100000, pretrain__eval_rows=1, pretrain__dtype=dtype, **ARCHITECTURES[architecture],
        )  # fmt: skip
        flags = ["--backend", "torch", "--data", text.resolve(), *same]
        if device == "cpu":
            done = minigpt(directory, "train", "pretrain", "--run", "run", *flags)
            return trained(directory / "run") | {"peak MB": done.peak_mb}
        command = ["train", "pretrain", "--no-supervise", "--run", "run", *flags]
        found, _ = on_gpu(directory, "minigpt.cli.app", *command)
        figures = trained(directory / "run")
        rate = figures["tokens/s"] * flops_per_token(open_run(directory / "run").model_config, shape.context)
        utilisation = {"model FLOPs utilisation": rate / (1e12 * found["TFLOP/s"])}
        return figures | utilisation | {"peak MB": found["peak MB"], "TFLOP/s of a large product": found["TFLOP/s"]}

    def theirs(directory: Path) -> Figures:
        checkout = copied(nanogpt, text, directory)
        if shape.vocabulary:  # without this file nanoGPT takes GPT-2's vocabulary
            (checkout / "data/shakespeare_char/meta.pkl").write_bytes(pickle.dumps({"vocab_size": shape.vocabulary}))
        sizes = [f"--n_layer={shape.layers}", f"--n_embd={shape.width}", f"--n_head={shape.heads}"]
        length = [f"--max_iters={steps}", "--eval_interval=100000", f"--dtype={dtype}"]
        rows = [f"--block_size={shape.context}", f"--batch_size={shape.batch}", "--gradient_accumulation_steps=1"]
        where = CPU if device == "cpu" else [*CPU[2:], f"--device={device}", "--compile=True"]
        command = ["train.py", "config/train_shakespeare_char.py", *where, *sizes, *rows, *length]
        if device == "cpu":
            done = run([sys.executable, *command], checkout)
            printed, peak = done.out, done.peak_mb
        else:
            found, printed = on_gpu(checkout, *command)
            peak = found["peak MB"]
        times = [float(found) / 1000 for found in re.findall(r"iter \d+: .* time ([\d.]+)ms", printed)]
        return {"tokens/s": shape.batch * shape.context / statistics.median(times[1:]), "peak MB": peak}

    contestants = [Contestant("MiniGPT", ours), Contestant(f"nanoGPT {commit(nanogpt)}", theirs)]
    title = f"training {name} as {architecture}, torch, {device}, {dtype}"
    return Duel(title, contestants, {"tokens/s": True, "peak MB": False})


def copied(nanogpt: Path, text: Path, directory: Path) -> Path:
    """A copy of the checkout in `directory` with its character data made from `text`, as its own script does."""
    checkout = Path(shutil.copytree(nanogpt, directory / "nanoGPT", ignore=shutil.ignore_patterns(".git", "assets")))
    shutil.copy(text, checkout / "data/shakespeare_char/input.txt")
    run([sys.executable, "data/shakespeare_char/prepare.py"], checkout)
    return checkout


def score(checkout: Path) -> float:
    """nats per character of nanoGPT's checkpoint over the whole validation text."""
    import numpy as np
    import torch

    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig

    saved = torch.load(checkout / "out-shakespeare-char/ckpt.pt", weights_only=True, map_location="cpu")
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    ids = torch.from_numpy(np.fromfile(checkout / "data/shakespeare_char/val.bin", np.uint16).astype(np.int64))
    length, total = saved["model_args"]["block_size"], 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, length):
            window = ids[start : start + length + 1]
            _, loss = model(window[None, :-1], window[None, 1:])
            total += loss.item() * (len(window) - 1)
    return total / (len(ids) - 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    print(json.dumps({"nats per character": score(parser.parse_args().checkout)}))
