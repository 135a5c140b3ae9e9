"""One row of a stage's training data as text, with what is learned of it: from the run's shards and its tokenizer."""

import contextlib
from pathlib import Path

import numpy as np

from minigpt.errors import MiniGPTError
from minigpt.watch.read import read_json

LONGEST = 400  # tokens


def example(directory: Path, stage: str) -> list[tuple[str, bool]]:
    """The first row of a stage's data as (text, whether it is learned) pieces; [] when it cannot be read."""
    place = directory / "data" / stage / "train"
    meta = read_json(place / "meta.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, MiniGPTError):
        from minigpt.text.load import load_tokenizer

        end = int(np.fromfile(place / "ends.bin", np.int64, 1)[0])
        count = min(end, LONGEST)
        ids = np.fromfile(place / "ids.bin", np.dtype(meta["dtype"]), count).tolist()
        mask = np.fromfile(place / "mask.bin", np.uint8, count).tolist() if meta["masked"] else [1] * count
        tokenizer = load_tokenizer(directory / "tokenizer")
        return [(tokenizer.show(tokens), learned) for tokens, learned in runs_of(ids, mask)]
    return []


def runs_of(ids: list[int], mask: list[int]) -> list[tuple[list[int], bool]]:
    """Ids and their mask as stretches of equal mask."""
    runs: list[tuple[list[int], bool]] = []
    for token, learned in zip(ids, mask, strict=True):
        if not runs or runs[-1][1] != bool(learned):
            runs.append(([], bool(learned)))
        runs[-1][0].append(token)
    return runs
