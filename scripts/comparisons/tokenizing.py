"""Text to token ids: MiniGPT's tokenizer and shards against Hugging Face tokenizers with the same vocabulary."""

import argparse
import json
import time
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, worker

MEGABYTE = 1_000_000


def tokenizing(text: Path, megabytes: int) -> Duel:
    """Tokenize `megabytes` of text (the file again and again) and write the ids as they are used for training."""

    def ours(directory: Path) -> Figures:
        return _measure(directory, "ours")

    def theirs(directory: Path) -> Figures:
        return _measure(directory, "theirs")

    def _measure(directory: Path, who: str) -> Figures:
        figures, done = worker(directory, "tokenizing", who, text.resolve(), str(megabytes))
        return figures | {"peak MB": done.peak_mb}

    contestants = [Contestant("MiniGPT", ours), Contestant("tokenizers", theirs)]
    return Duel(f"tokenizing {megabytes} MB", contestants, {"MB/s": True, "peak MB": False})


def ours(text: Path, megabytes: int) -> float:
    """Seconds of MiniGPT's way: stream the file's blocks, tokenize, write a memory-mapped shard."""
    from minigpt.data.read.text import read_text
    from minigpt.data.shards import ShardWriter

    tokenizer = _tokenizer(text)
    began = time.perf_counter()
    with ShardWriter(Path("shard"), tokenizer.vocab_size, False) as writer:
        for _ in range(_times(text, megabytes)):
            blocks = [block.text for block in read_text(text)]
            for ids in tokenizer.encode_batch(blocks):
                writer.add(ids, ends=False)
    return time.perf_counter() - began


def theirs(text: Path, megabytes: int) -> float:
    """Seconds of tokenizers' way with the same vocabulary: the same blocks as a batch, ids appended to a file."""
    import numpy as np
    from tokenizers import Tokenizer as HuggingFace

    from minigpt.data.read.text import read_text
    from minigpt.exchange.hf.tokenizer_files import tokenizer_json

    own = _tokenizer(text)
    peer = HuggingFace.from_str(json.dumps(tokenizer_json(own)))
    began = time.perf_counter()
    with open("ids.bin", "wb") as file:
        for _ in range(_times(text, megabytes)):
            blocks = [block.text for block in read_text(text)]
            for encoded in peer.encode_batch_fast(blocks, add_special_tokens=False):
                file.write(np.array(encoded.ids, np.uint16).tobytes())
    return time.perf_counter() - began


def _tokenizer(text: Path):
    from minigpt.text.learn import train_tokenizer

    return train_tokenizer("bpe", [text.read_text("utf-8")], 2048)


def _times(text: Path, megabytes: int) -> int:
    return max(1, round(megabytes * MEGABYTE / text.stat().st_size))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["ours", "theirs"])
    parser.add_argument("text", type=Path)
    parser.add_argument("megabytes", type=int)
    given = parser.parse_args()
    seconds = {"ours": ours, "theirs": theirs}[given.who](given.text, given.megabytes)
    print(json.dumps({"MB/s": _times(given.text, given.megabytes) * given.text.stat().st_size / MEGABYTE / seconds}))
