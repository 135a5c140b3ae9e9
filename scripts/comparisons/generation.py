"""Greedy generation, one stream, the same 26 M weights everywhere: transformers, llama.cpp, mlx-lm and MiniGPT."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, worker

SHORT, LONG, NEW = 16, 512, 128  # tokens of the two prompts, and of the answers
FIGURES = {"tokens/s": True, "ms to first token": False, "peak MB": False}


def generation() -> list[Duel]:
    """MiniGPT on torch against transformers and llama.cpp, and on MLX against mlx-lm; int8 against float32."""
    names = {"MiniGPT torch": "torch", "MiniGPT mlx": "mlx", "MiniGPT torch int8": "torch-int8"}
    peers = {"transformers": "transformers", "llama.cpp (f32)": "llama", "mlx-lm": "mlx_lm"}
    one = {name: _contestant(name, key) for name, key in (names | peers).items()}
    return [
        Duel("generation, torch", [one["MiniGPT torch"], one["transformers"], one["llama.cpp (f32)"]], FIGURES),
        Duel("generation, int8", [one["MiniGPT torch int8"], one["MiniGPT torch"]], FIGURES),
        Duel("generation, MLX", [one["MiniGPT mlx"], one["mlx-lm"]], FIGURES),
    ]


def _contestant(name: str, key: str) -> Contestant:
    def measure(directory: Path) -> Figures:
        figures, done = worker(directory, "generation", key)
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


def config_and_weights():
    """The medium preset's shape without QK-norm, a llama that all of them know, with seeded random weights."""
    from minigpt.config import load_config
    from minigpt.model import init_weights

    sets = ["model.vocab_size=6400", "model.context=1024", "model.qk_norm=false", "model.tie_embeddings=true"]
    config = load_config("medium", None, sets).model
    return config, init_weights(config, 1)


def ours(name: str) -> Answer:
    from backends import get_backend
    from minigpt.generate.engine import Engine
    from minigpt.generate.sampling import GREEDY
    from minigpt.model import GPT, to_backend
    from minigpt.quantize import quantize_weights
    from minigpt.train.quantized import for_answers

    backend_name, _, bits = name.partition("-int")
    backend = get_backend(backend_name)
    config, weights = config_and_weights()
    if bits:
        arrays, _ = for_answers(backend, quantize_weights(weights, int(bits)), config, int(bits))
    else:
        arrays = to_backend(backend, weights)
    engine = Engine(GPT(config, backend), arrays, _tokenizer(config.vocab_size))
    return lambda prompt, tokens: len(engine.answer([prompt], GREEDY, tokens)[0].ids)


def transformers() -> Answer:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(_exported(), dtype=torch.float32).eval()

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

    model, _ = load(str(_exported()))

    def answer(prompt: list[int], tokens: int) -> int:
        return sum(1 for _ in generate_step(mx.array(prompt), model, max_tokens=tokens))

    return answer


def llama() -> Answer:
    """llama.cpp's own server in this process, with float32 weights and as many threads as there are cores."""
    import urllib.request

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(_gguf())
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


def _tokenizer(size: int):
    from minigpt.tokenizer import CharTokenizer

    tokens = CharTokenizer("".join(chr(0x4E00 + i) for i in range(size - 288)))
    assert tokens.vocab_size == size, tokens.vocab_size
    return tokens


def _exported() -> Path:
    from minigpt.exchange.exporting import export_directory

    config, weights = config_and_weights()
    tokenizer = _tokenizer(config.vocab_size)
    export_directory(config, weights, tokenizer, Path("model"), "float32", None, "hf", lambda _: "")
    return Path("model")


def _gguf() -> Path:
    from backends.tree import items
    from minigpt.exchange.gguf_export import export_gguf

    config, weights = config_and_weights()
    export_gguf(
        config, dict(items(weights)), _bpe_of(config.vocab_size), Path("gguf"), "bench", "float32", None, lambda _: ""
    )
    return next(Path("gguf").glob("*.gguf"))


def _bpe_of(size: int):
    """A BPE tokenizer of exactly `size` pieces, learned from made-up words: llama.cpp takes no character tokenizer."""
    import random

    from minigpt.tokenizer import train_tokenizer

    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [" ".join("".join(draw.choices(letters, k=7)) for _ in range(50)) for _ in range(400)]
    tokenizer = train_tokenizer("bpe", words, size)
    assert tokenizer.vocab_size == size, tokenizer.vocab_size
    return tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("who")
    who = parser.parse_args().who
    peers = {"transformers": transformers, "mlx_lm": mlx_lm, "llama": llama}
    print(json.dumps(timed(peers[who]() if who in peers else ours(who))))
