"""The key/value cache: what attention needs of the tokens that were already computed."""

from backends.base import Array, Backend
from minigpt.config import ModelConfig


class KVCache:
    """Keys and values (B, K, capacity, D) per layer, filled up to `length`."""

    def __init__(self, backend: Backend, config: ModelConfig, batch: int, capacity: int, dtype: str):
        shape = (batch, config.n_kv_head, capacity, config.head_dim)
        self.backend, self.capacity, self.length = backend, capacity, 0
        self.keys = [backend.zeros(shape, dtype) for _ in range(config.n_layer)]
        self.values = [backend.zeros(shape, dtype) for _ in range(config.n_layer)]

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Store k, v (B, K, T, D) after what is there; returns all of them (B, K, length + T, D).

        The model moves `length` on after the last layer.
        """
        stop = self.length + k.shape[2]
        assert stop <= self.capacity, (stop, self.capacity)
        self.keys[layer] = self.backend.write(self.keys[layer], self.length, k)
        self.values[layer] = self.backend.write(self.values[layer], self.length, v)
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]
