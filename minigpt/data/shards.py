"""Token shards: sequences of ids on disk, written in a stream and read through a memory map.

A shard is a directory: `ids.bin`, `mask.bin` (loss mask, optional), `ends.bin` (end of each sequence, int64)
and `meta.json`, which names the dtype, the counts and the SHA-256 of the files.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from minigpt.errors import DataError
from minigpt.store.durable import whole_directory


class ShardWriter:
    """Appends sequences; the shard appears under its name when the `with` block ends without an error."""

    def __init__(self, directory: Path, vocab_size: int, masked: bool):
        self.directory = directory
        self._dtype = np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)
        self._meta = {"dtype": self._dtype.name, "vocab_size": vocab_size, "masked": masked}
        self.tokens = self.sequences = 0

    def __enter__(self) -> "ShardWriter":
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(whole_directory(self.directory))
        names = ["ids", "ends"] + (["mask"] if self._meta["masked"] else [])
        self._files = {name: (self._temporary / f"{name}.bin").open("wb") for name in names}
        self._digests = {name: hashlib.sha256() for name in names}
        return self

    def add(self, ids: Sequence[int], mask: Sequence[int] | None = None, ends: bool = True) -> None:
        """Append ids (and their loss mask); without `ends` the sequence goes on with the next call."""
        numbers = np.frombuffer(array("I", ids), np.uint32)  # NumPy takes twice as long to read a list
        if numbers.max(initial=0) > np.iinfo(self._dtype).max:
            raise OverflowError(f"The id {numbers.max()} does not fit {self._dtype}.")
        self._write("ids", numbers.astype(self._dtype).tobytes())
        if mask is not None:
            assert len(mask) == len(ids), (len(mask), len(ids))
            self._write("mask", np.asarray(mask, np.uint8).tobytes())
        self.tokens += len(ids)
        if ends:
            self.sequences += 1
            self._write("ends", np.int64(self.tokens).tobytes())

    def _write(self, name: str, data: bytes) -> None:
        self._files[name].write(data)
        self._digests[name].update(data)

    def __exit__(self, kind, error, trace) -> None:
        with self._stack.pop_all():  # an error in here, ours or the caller's, removes the temporary directory
            for file in self._files.values():
                file.close()
            if error is not None:
                raise error
            counts = {"tokens": self.tokens, "sequences": self.sequences}
            sums = {"sha256": {name: digest.hexdigest() for name, digest in self._digests.items()}}
            (self._temporary / "meta.json").write_text(json.dumps(self._meta | counts | sums, indent=1), "utf-8")


class MemoryShard:
    """Sequences in memory: `ids` (N,), `ends` (sequences,) and `mask` (N,) or None, as a written shard has them."""

    directory = Path("made-up")

    def __init__(self, ids: np.ndarray, ends: np.ndarray, mask: np.ndarray | None = None):
        self.ids, self.ends, self.mask = ids, ends, mask

    def __len__(self) -> int:
        return len(self.ends)

    def sequence(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(ids, mask) of sequence `i`."""
        start, stop = int(self.ends[i - 1]) if i else 0, int(self.ends[i])
        return self.ids[start:stop], None if self.mask is None else self.mask[start:stop]


def joined(shards: Sequence[MemoryShard]) -> MemoryShard:
    """The sequences of several shards, in memory; all have a loss mask, or none."""
    starts = np.cumsum([0, *(len(shard.ids) for shard in shards)])
    ends = np.concatenate([np.asarray(shard.ends) + start for shard, start in zip(shards, starts, strict=False)])
    masks = [shard.mask for shard in shards]
    mask = None if masks[0] is None else np.concatenate(masks)
    return MemoryShard(np.concatenate([shard.ids for shard in shards]), ends, mask)


class Shard(MemoryShard):
    """A written shard: `ids` (N,), `mask` (N,) or None, `ends` (sequences,), as memory maps.

    Raises DataError when a file is missing, cut off or changed, or has an id that is none.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        try:
            self.meta = json.loads((directory / "meta.json").read_text("utf-8"))
            self.ids = self._map("ids", self.meta["dtype"], self.meta["tokens"])
            self.ends = self._map("ends", "int64", self.meta["sequences"])
            self.mask = self._map("mask", "uint8", self.meta["tokens"]) if self.meta["masked"] else None
            self._check()
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

    def holds(self, token: int) -> bool:
        """Whether that id is anywhere in it."""
        return any((np.frombuffer(block, self.ids.dtype) == token).any() for block in self._blocks("ids"))

    def _check(self) -> None:
        """Compare the files with their checksums; and an id outside the vocabulary would make a GPU read elsewhere."""
        for name, expected in self.meta.get("sha256", {"ids": None}).items():
            digest = hashlib.sha256()
            for block in self._blocks(name):
                digest.update(block)
                if name == "ids" and int(np.frombuffer(block, self.ids.dtype).max()) >= self.meta["vocab_size"]:
                    raise ValueError(f"ids.bin has a token outside the vocabulary of {self.meta['vocab_size']}")
            if expected not in (None, digest.hexdigest()):
                raise ValueError(f"{name}.bin was changed after it was written")

    def _blocks(self, name: str) -> Iterator[bytes]:
        """A file in parts, not through the memory map, whose pages would count as this process's memory."""
        with (self.directory / f"{name}.bin").open("rb") as file:
            while block := file.read(1 << 15):
                yield block
