"""Rotary positions from a table of cosines and sines that is made once."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from backends.base import rope_frequencies

Array = torch.Tensor
Theta = float | tuple[float, ...]
FEW = 64  # tokens up to which an answer's calls count more than its passes over memory


def rotated(x: Array, positions: int | Array, theta: Theta) -> Array:
    """`Backend.rope` of x (B, H, T, D)."""
    if isinstance(positions, int):
        cos, sin = _rows(x.device.type, x.dtype, x.shape[-1], theta, positions, positions + x.shape[2])
    elif torch.compiler.is_compiling():
        cos, sin = _computed(x, _places(positions, x.shape[2]), theta)
    else:
        cos, sin = _MADE.rows(x, positions, theta)
    if (x.shape[2] <= FEW and not torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return _turned(x, cos, sin)
    return _Rotation.apply(x, cos, sin)


class _Rotation(torch.autograd.Function):
    """x * cos + (x with its halves swapped) * sin, and backwards the same with the other sign.

    Half the time of what autograd makes of that line on a CPU: it would keep and add up six pieces.
    """

    @staticmethod
    def forward(ctx: Any, x: Array, cos: Array, sin: Array) -> Array:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Array) -> tuple:
        return _rotated(grad, *ctx.saved_tensors, -1.0), None, None


def _rotated(x: Array, cos: Array, sin: Array, sign: float) -> Array:
    if x.dtype != torch.float32:  # in place on halves takes twice as long there
        return _turned(x, cos, sin, sign)
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=sign)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return y


def _turned(x: Array, cos: Array, sin: Array, sign: float = 1.0) -> Array:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin, value=sign)


def traceable() -> None:
    """A trace takes the rows as they are. Said where something is traced: torch's compiler takes a second to import."""
    torch.compiler.assume_constant_result(_rows)
    torch.compiler.assume_constant_result(_frequencies)


def _rows(
    device: str, dtype: torch.dtype, width: int, theta: Theta, start: int, stop: int
) -> tuple[Array, Array]:
    """cos and signed sin (T, width) of the positions from `start` to `stop`."""
    return _found_rows(device, dtype, width, theta, start, stop)


@lru_cache(maxsize=8)  # all layers of a step ask for the same rows
def _found_rows(
    device: str, dtype: torch.dtype, width: int, theta: Theta, start: int, stop: int
) -> tuple[Array, Array]:
    count = max(256, 1 << (stop - 1).bit_length())
    with torch.inference_mode(False):  # also a training step may use them later
        cos, sin = _table(device, dtype, width, theta, count)[:, start:stop]
    return cos, sin


@lru_cache(maxsize=64)
def _table(device: str, dtype: torch.dtype, width: int, theta: Theta, count: int) -> Array:
    """cos and signed sin of `count` positions: (2, count, width)."""
    frequencies = rope_frequencies(theta, width // 2)
    angles = np.arange(count, dtype=np.float32)[:, None] * frequencies[None, :]
    cos = np.concatenate([np.cos(angles), np.cos(angles)], axis=-1)
    sin = np.concatenate([-np.sin(angles), np.sin(angles)], axis=-1)
    with torch.inference_mode(False):  # also a training step may use it later
        return torch.tensor(np.stack([cos, sin]), device=device).to(dtype)


def _places(positions: Array, tokens: int) -> Array:
    """(B, T): each token's position, from those of the rows' first tokens (B,); (B, T) is returned as it is."""
    return positions if positions.ndim == 2 else positions[:, None] + torch.arange(tokens, device=positions.device)


def _computed(x: Array, places: Array, theta: Theta) -> tuple[Array, Array]:
    """cos and signed sin (B, 1, T, width) of positions (B, T) that a trace cannot look into to make a table."""
    frequencies = torch.tensor(_frequencies(x.shape[-1], theta), device=x.device)  # (width / 2,)
    angles = places.float()[:, None, :, None] * frequencies  # (B, 1, T, width / 2)
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.cat([cos, cos], -1).to(x.dtype), torch.cat([-sin, sin], -1).to(x.dtype)


def _frequencies(width: int, theta: Theta) -> tuple[float, ...]:
    """Radians per position, width / 2 of them."""
    return tuple(rope_frequencies(theta, width // 2).tolist())


class _Made:
    """The rows of the positions that were asked for last: all layers of a step ask with the same array."""

    def __init__(self) -> None:
        self._key: tuple = ()
        self._found: tuple[Array, Array] | None = None

    def rows(self, x: Array, positions: Array, theta: Theta) -> tuple[Array, Array]:
        """cos and signed sin (B, 1, T, width) of each row's own positions, given as in `Backend.rope`."""
        key = (positions, x.shape[2], x.dtype, x.shape[-1], theta)
        if self._found is None or self._key[0] is not positions or self._key[1:] != key[1:]:
            places = _places(positions, x.shape[2])
            self._key, self._found = key, _gathered(x.device.type, x.dtype, x.shape[-1], theta, places.long())
        return self._found


_MADE = _Made()


def _gathered(device: str, dtype: torch.dtype, width: int, theta: Theta, places: Array) -> tuple[Array, Array]:
    count = max(256, 1 << int(places.max()).bit_length())
    with torch.inference_mode(False):
        cos, sin = _table(device, dtype, width, theta, count)[:, places.clone()][:, :, None]
    return cos, sin
