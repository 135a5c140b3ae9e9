"""What weights say of the rows of a batch, read micro-batch by micro-batch, before a step learns from them."""

from collections.abc import Callable, Iterable

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.data.batches import Batch


class Reader:
    """`reader(weights, batch)`: what `read` finds of each row of a batch (B, …), as one NumPy array (B, …).

    `read(weights, arrays)` gets those of the arrays called `names` that a batch has, `size` rows at a time. Several
    processes share the micro-batches out; all of them get the whole.
    """

    def __init__(
        self, backend: Backend, read: Callable[[Tree, dict[str, Array]], Array], names: Iterable[str], size: int
    ):
        self._backend, self._read, self._names, self._size = backend, backend.compile(read), tuple(names), size

    def __call__(self, weights: Tree, batch: Batch) -> np.ndarray:
        given = {name: batch[name] for name in self._names if name in batch}

        def part(first: int) -> np.ndarray:
            arrays = {name: self._backend.array(x[first : first + self._size]) for name, x in given.items()}
            return np.array(self._backend.numpy(self._read(weights, arrays)))

        rows = len(next(iter(given.values())))
        return np.concatenate(self._backend.group.map(part, range(0, rows, self._size)))
