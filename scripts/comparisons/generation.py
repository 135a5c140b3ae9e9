"""Greedy generation, one stream, the same 26 M weights everywhere: transformers, llama.cpp, mlx-lm and MiniGPT."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, given, worker

SHORT, LONG, NEW = 16, 512, 128  # tokens of the two prompts, and of the answers
FIGURES = {"tokens/s": True, "ms to first token": False, "peak MB": False}


def generation() -> list[Duel]:
    """MiniGPT on torch against transformers and llama.cpp, and on MLX against mlx-lm; int8 against float32."""
    names = {"MiniGPT torch": "torch", "MiniGPT mlx": "mlx", "MiniGPT torch int8": "torch-int8"}
    peers = {"transformers": "transformers", "llama.cpp (f32)": "llama", "mlx-lm": "mlx_lm"}
    one = {name: _contestant(name, key) for name, key in (names | peers).items()}
    pairs = {
        "generation, torch": ["MiniGPT torch", "transformers", "llama.cpp (f32)"],
        "generation, int8": ["MiniGPT torch int8", "MiniGPT torch"],
        "generation, MLX": ["MiniGPT mlx", "mlx-lm"],
    }
    return [
        Duel(work, [one[name] for name in who], FIGURES, lambda directory: worker(directory, "generation", "prepare"))
        for work, who in pairs.items()
    ]


def _contestant(name: str, key: str) -> Contestant:
    def measure(directory: Path) -> Figures:
        figures, done = worker(given(directory), "generation", key)
        return figures | {"peak MB": done.peak_mb}

    return Contestant(name, measure)


Answer = Callable[[list[int], int], int]  # (prompt ids, new tokens) -> how many were generated


def timed(answer: Answer) -> Figures:
    """Tokens per second of decoding, and milliseconds from a long prompt to its first token; medians of five."""
    short, long = [[40 + i % 200 for i in range(length)] for length in (SHORT, LONG)]
    answer(short, 8), answer(long, 1)  # warm
    few, many = _seconds(answer, short, 8), _seconds(answer, short, 8 + NEW)
    return {"tokens/s": NEW / (many - few), "ms to first token": 1000 * _seconds(answer, long, 1)}


def _seconds(answer: Answer, prompt: list[int], tokens: int) -> float:
    found = []
    for _ in range(5):
        began = time.perf_counter()
        count = answer(prompt, tokens)
        found.append(time.perf_counter() - began)
        assert count == tokens, (count, tokens)
    return statistics.median(found)


def prepare() -> None:
    """Here: a run with seeded random weights, in 8 bits as well, and its exports for transformers, mlx-lm, llama.cpp.

    The medium preset's shape without QK-norm, a llama that all of them know.
    """
    from comparisons.start import exported, llama, made_up_tokenizer, started_run

    from backends import get_backend
    from minigpt.runs.quantized import quantize_stage

    config = llama("medium", "model.context=1024")
    run = started_run(Path("run"), config, made_up_tokenizer(config.tokenizer.vocab_size))
    quantize_stage(run, None, get_backend("torch"), 8)
    exported(run, "hf", Path("hf"))
    exported(run, "gguf", Path("gguf"))


def ours(name: str) -> Answer:
    from backends import get_backend
    from minigpt.generate.sampling import GREEDY
    from minigpt.runs.loading import load_engine
    from minigpt.runs.run import open_run

    backend, _, bits = name.partition("-int")
    engine = load_engine(open_run(Path("run")), None, get_backend(backend), int(bits or 0))
    return lambda prompt, tokens: len(engine.answer([prompt], GREEDY, tokens)[0].ids)


def transformers() -> Answer:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("hf", dtype=torch.float32).eval()

    def answer(prompt: list[int], tokens: int) -> int:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
            )
        return out.shape[1] - len(prompt)

    return answer


def mlx_lm() -> Answer:
    from backends import get_backend

    get_backend("mlx")  # loads the fast BLAS, for the peer as well
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    model, _ = load("hf")

    def answer(prompt: list[int], tokens: int) -> int:
        return sum(1 for _ in generate_step(mx.array(prompt), model, max_tokens=tokens))

    return answer


def llama() -> Answer:
    """llama.cpp's own server in this process, with float32 weights and as many threads as there are cores."""
    import urllib.request

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path("gguf").glob("*.gguf")))
    params.n_ctx = 1024
    params.n_gpu_layers = params.cache_ram_mib = params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count()
    params.ui = False
    server = xllamacpp.Server(params)

    def answer(prompt: list[int], tokens: int) -> int:
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "top_k": 1, "cache_prompt": False}
        body |= {"ignore_eos": True, "return_tokens": True}
        request = urllib.request.Request(
            server.listening_address + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)["tokens_predicted"]

    answer.server = server  # lives as long as the function
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("who")
    who = parser.parse_args().who
    peers = {"transformers": transformers, "mlx_lm": mlx_lm, "llama": llama}
    if who == "prepare":
        prepare()
        print("{}")
    else:
        print(json.dumps(timed(peers[who]() if who in peers else ours(who))))
