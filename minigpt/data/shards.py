"""Token shards: sequences of ids on disk, written in a stream and read through a memory map.

A shard is a directory: `ids.bin`, `mask.bin` (loss mask, optional), `ends.bin` (end of each sequence, int64)
and `meta.json`, which names the dtype and the counts.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minigpt.errors import DataError


class ShardWriter:
    """Appends sequences; the shard appears under its name when the `with` block ends without an error."""

    def __init__(self, directory: Path, vocab_size: int, masked: bool):
        self.directory = directory
        self._temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
        self._dtype = np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)
        self._meta = {"dtype": self._dtype.name, "vocab_size": vocab_size, "masked": masked}
        self.tokens = self.sequences = 0

    def __enter__(self) -> "ShardWriter":
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        names = ["ids", "ends"] + (["mask"] if self._meta["masked"] else [])
        self._files = {name: (self._temporary / f"{name}.bin").open("wb") for name in names}
        return self

    def add(self, ids: Sequence[int], mask: Sequence[int] | None = None, ends: bool = True) -> None:
        """Append ids (and their loss mask); without `ends` the sequence goes on with the next call."""
        self._files["ids"].write(np.asarray(ids, self._dtype).tobytes())
        if mask is not None:
            assert len(mask) == len(ids), (len(mask), len(ids))
            self._files["mask"].write(np.asarray(mask, np.uint8).tobytes())
        self.tokens += len(ids)
        if ends:
            self.sequences += 1
            self._files["ends"].write(np.int64(self.tokens).tobytes())

    def __exit__(self, kind, error, trace) -> None:
        for file in self._files.values():
            file.close()
        if kind is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            return
        counts = {"tokens": self.tokens, "sequences": self.sequences}
        (self._temporary / "meta.json").write_text(json.dumps(self._meta | counts, indent=1), "utf-8")
        shutil.rmtree(self.directory, ignore_errors=True)
        os.rename(self._temporary, self.directory)


class Shard:
    """A written shard: `ids` (N,), `mask` (N,) or None, `ends` (sequences,), as memory maps.

    Raises DataError when a file is missing, cut off, or has an id that is none.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        try:
            self.meta = json.loads((directory / "meta.json").read_text("utf-8"))
            self.ids = self._map("ids", self.meta["dtype"], self.meta["tokens"])
            self.ends = self._map("ends", "int64", self.meta["sequences"])
            self.mask = self._map("mask", "uint8", self.meta["tokens"]) if self.meta["masked"] else None
            self._check_ids()
        except (OSError, ValueError, KeyError) as error:
            reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
            raise DataError(
                f"The token shard {directory} cannot be read: {reason}.",
                f"Delete {directory.parent} and run again: the data are then prepared again.",
            ) from None

    def _map(self, name: str, dtype: str, count: int) -> np.ndarray:
        path = self.directory / f"{name}.bin"
        expected = count * np.dtype(dtype).itemsize
        if path.stat().st_size != expected:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {expected}")
        return np.memmap(path, dtype, "r") if count else np.zeros(0, dtype)

    def _check_ids(self) -> None:
        """An id outside the vocabulary would be read from somewhere else in memory by a GPU, without an error.

        Read in blocks and not through the memory map, whose pages would count as this process's memory.
        """
        with (self.directory / "ids.bin").open("rb") as file:
            while block := file.read(1 << 15):
                if int(np.frombuffer(block, self.ids.dtype).max()) >= self.meta["vocab_size"]:
                    raise ValueError(f"ids.bin has a token outside the vocabulary of {self.meta['vocab_size']}")

    def __len__(self) -> int:
        return len(self.ends)

    def sequence(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(ids, mask) of sequence `i`."""
        start, stop = int(self.ends[i - 1]) if i else 0, int(self.ends[i])
        return self.ids[start:stop], None if self.mask is None else self.mask[start:stop]
