"""Processes that train one model together: what they add up, tell each other and wait for.

Each process computes its own rows of a batch, and the sums are what one process would have computed. How arrays
travel is the framework's (`backends/torch/group.py`, `backends/mlx/group.py`); the rest is built here on that.
"""

import base64
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from backends.tree import Array, leaves, rebuild

if TYPE_CHECKING:
    from backends.base import Backend
    from backends.tree import Tree

T = TypeVar("T")
BUCKET = 1 << 23  # entries of float32 that are sent together: 32 MB


class PartnerLost(BaseException):
    """An exchange failed: another process of the group has ended, or cannot be reached.

    Like KeyboardInterrupt it is no Exception: it ends this process's part, too, and no handler on the way (that of one
    answer among many, say) may take it for an error of its own.
    """


@dataclass(frozen=True)
class Launched:
    """How a launcher started this process: as number `rank` of `size`, for the backend whose launcher it is."""

    rank: int
    size: int
    backend: str
    launcher: str


def launched(environment: dict[str, str] | None = None) -> Launched | None:
    """What torchrun or mlx.launch says of this process in its environment; None for one that was started alone."""
    found = dict(os.environ if environment is None else environment)
    if "RANK" in found and "WORLD_SIZE" in found and "MASTER_ADDR" in found:
        return Launched(int(found["RANK"]), int(found["WORLD_SIZE"]), "torch", "torchrun")
    if "MLX_RANK" in found:
        return Launched(int(found["MLX_RANK"]), _mlx_size(found), "mlx", "mlx.launch")
    return None


def _mlx_size(found: dict[str, str]) -> int:
    """mlx.launch names the hosts in a file, one entry for each process; NCCL gets their number."""
    for name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES"):
        if found.get(name):
            path = Path(found[name])
            text = path.read_text("utf-8").strip() if path.exists() else ""
            return max(1, len(json.loads(text))) if text else 1
    return int(found.get("MLX_WORLD_SIZE", "1"))


class Group:
    """One process alone: nothing is sent, and results are what they are. Subclasses have several.

    All processes must call the same methods in the same order. `exchanges` counts those that began, `waiting` says
    whether one is going on, and `sending` how many bytes it has: so a watcher tells who works from who waits for ever.
    """

    rank = 0
    size = 1
    exchanges = 0
    waiting = False
    sending = 0
    sent = 0  # bytes given to exchanges so far
    shards = False  # whether `shared_out` is there
    in_step = False  # whether all must compute the model's passes together, as each has a part of the weights only

    def exchange(self, size: int) -> AbstractContextManager:
        """Marks that within the block this process waits for the others, with `size` bytes to be sent. Raises
        PartnerLost for a framework's own errors.
        """
        return nullcontext()

    # ---- arrays ------------------------------------------------------------------------------------------

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        """Each float array's sum over the processes, the same bits on all of them. The old arrays must not be used."""
        return list(arrays)

    def share(self, tree: "Tree", rank: int = 0) -> "Tree":
        """One process's values of a tree of float arrays; the others' trees say what shape it has."""
        return tree

    def spread(self, arrays: Sequence[Array], owners: Sequence[int]) -> list[Array]:
        """Each float array as the process has it that owns it. The old arrays must not be used."""
        return list(arrays)

    # ---- a model of which each process has a part -----------------------------------------------------------

    def shared_out(self, tree: "Tree", layers: str, transfer: str) -> "Tree":
        """A tree of NumPy arrays, alike in all processes, of which each keeps a part: arrays with the shapes of the
        whole. `Backend.value_and_grad` and `opened` gather it, the items of the list at the path `layers` one by one;
        gradients travel as the dtype `transfer`.
        """
        raise NotImplementedError

    def opened(self, fn: Callable) -> Callable:
        """`fn(tree, …)` for a tree that may be shared out: its arrays are whole while `fn` computes."""
        return fn

    def save(self, tree: "Tree", file: Path) -> None:
        """Write a tree that is shared out as a safetensors file. Raises OSError where that fails."""
        raise NotImplementedError

    def load(self, flat: dict[str, Array], directory: Path) -> None:
        """Fill arrays that are shared out, by their names in the safetensors files of a directory."""
        raise NotImplementedError

    # ---- values ------------------------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in their order: what JSON holds, and NumPy arrays."""
        return [value]

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first process, which alone calls it; the others wait. The value as in `gather`."""
        return work()

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """[work(item) for item in items], shared out between the processes; the results as in `gather`."""
        return [work(item) for item in items]

    def close(self) -> None:
        """Leave the group: what comes now is done alone."""


ALONE = Group()


class Several(Group):
    """A group of two and more. A framework's own class has `_sum` and `_gather` and may raise RuntimeError there."""

    def __init__(self, backend: "Backend", rank: int, size: int):
        self.backend, self.rank, self.size = backend, rank, size

    # ---- what a framework writes -------------------------------------------------------------------------

    def _sum(self, flat: Array) -> Array:
        """The sum of a flat float array (n,) over the processes, computed when it is returned."""
        raise NotImplementedError

    def _gather(self, flat: np.ndarray) -> list[np.ndarray]:
        """The uint8 arrays (n,) of all processes; n is the same for all."""
        raise NotImplementedError

    # ---- what is built from it ---------------------------------------------------------------------------

    def sum(self, arrays: Sequence[Array]) -> list[Array]:
        """In buckets: what is small travels together, and no more than a bucket and one array are copied at once."""
        totals: list[Array] = []
        with self.exchange(sum(x.nbytes for x in arrays)):
            for bucket in buckets(arrays):
                flat = self._sum(self.backend.concat([x.reshape(-1) for x in bucket], 0))
                place = 0
                for x in bucket:
                    count = int(np.prod(x.shape))
                    totals.append(flat[place : place + count].reshape(*x.shape) if x.shape else flat[place])
                    place += count
        return totals

    def share(self, tree: "Tree", rank: int = 0) -> "Tree":
        given = leaves(tree)
        if self.rank != rank:
            given = [self.backend.zeros(tuple(x.shape), self.backend.dtype(x)) for x in given]
        return rebuild(tree, self.sum(given))

    def spread(self, arrays: Sequence[Array], owners: Sequence[int]) -> list[Array]:
        return self.sum([x if owner == self.rank else self.backend.zeros(tuple(x.shape), self.backend.dtype(x))
                         for x, owner in zip(arrays, owners, strict=True)])  # fmt: skip

    def gather(self, value: Any) -> list[Any]:
        message = np.frombuffer(json.dumps(value, default=_packed).encode(), np.uint8)
        with self.exchange(len(message)):
            sizes = [int(x.view(np.int64)[0]) for x in self._gather(np.array([len(message)], np.int64).view(np.uint8))]
            padded = np.zeros(max(sizes), np.uint8)
            padded[: len(message)] = message
            found = self._gather(padded)
        texts = [bytes(one[:size]).decode() for one, size in zip(found, sizes, strict=True)]
        return [json.loads(text, object_hook=_unpacked) for text in texts]

    def first(self, work: Callable[[], T]) -> T:
        return self.gather(work() if self.rank == 0 else None)[0]

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        own = [work(item) for item in items[self.rank :: self.size]]
        if self.in_step and self.rank >= len(items) % self.size > 0:
            work(items[-1])  # for those who have one more
        parts = self.gather(own)
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    @contextmanager
    def exchange(self, size: int) -> Iterator[None]:
        self.exchanges, self.sending, self.waiting = self.exchanges + 1, size, True
        self.sent += size
        try:
            yield
        except RuntimeError as error:
            raise PartnerLost(str(error)) from None
        finally:
            self.waiting = False


def buckets(arrays: Sequence[Array], most: int = BUCKET) -> list[list[Array]]:
    """The arrays in their order in lists of one dtype and at most `most` entries together, or of a single array."""
    found: list[list[Array]] = []
    room = 0
    for x in arrays:
        count = int(np.prod(x.shape))
        if count > room or x.dtype != found[-1][0].dtype:
            found.append([])
            room = most
        found[-1].append(x)
        room -= count
    return found


def _packed(value: Any) -> dict[str, Any]:
    """A NumPy array as JSON; its bits stay."""
    x = np.ascontiguousarray(value)
    return {"dtype": x.dtype.str, "shape": list(np.shape(value)), "base64": base64.b64encode(x.tobytes()).decode()}


def _unpacked(value: dict[str, Any]) -> Any:
    if value.keys() != {"dtype", "shape", "base64"}:
        return value
    return np.frombuffer(base64.b64decode(value["base64"]), value["dtype"]).reshape(value["shape"]).copy()
