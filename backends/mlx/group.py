"""Several processes with mlx.distributed: the ring over TCP, JACCL over Thunderbolt, NCCL or MPI; by mlx.launch."""

import mlx.core as mx
import numpy as np

from backends.base import Backend
from backends.group import Launched, Several


class MLXGroup(Several):
    """The global group of mlx.distributed.

    Each exchange is one array on the CPU's stream and waited for at once: several at a time may be sent in
    different orders by different processes, which then wait for each other for ever (mlx issue 4475).
    """

    def __init__(self, backend: Backend, launched: Launched):
        self._group = mx.distributed.init(strict=True)
        super().__init__(backend, self._group.rank(), self._group.size())

    def _sum(self, flat: mx.array) -> mx.array:
        self.backend.sync(flat)  # what is sent is computed: the streams of its parts have nothing left to do
        total = mx.distributed.all_sum(flat, group=self._group, stream=mx.cpu)
        mx.eval(total)
        return total

    def _gather(self, flat: np.ndarray) -> list[np.ndarray]:
        found = mx.distributed.all_gather(mx.array(flat)[None], group=self._group, stream=mx.cpu)
        mx.eval(found)
        return list(np.array(found))
