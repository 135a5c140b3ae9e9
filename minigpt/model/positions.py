"""Positions without rotation: sines that are added to the embeddings, and ALiBi's slopes in the scores."""

import math

from backends.base import Array, Backend


def sinusoids(backend: Backend, places: Array, width: int) -> Array:
    """(…, width) for integer places (…): sin(p · 10000^(-2i/d)) and its cosine by turns (Vaswani et al. 2017, 3.5)."""
    half = (width + 1) // 2
    steps = backend.cast(backend.arange(0, half), "float32")  # in the framework's own operations: this may be traced
    frequencies = backend.exp(steps * (-2.0 * math.log(10000.0) / width))  # (d/2,)
    angles = backend.cast(places, "float32")[..., None] * frequencies  # (…, d/2)
    pairs = backend.concat([backend.sin(angles)[..., None], backend.cos(angles)[..., None]], axis=-1)  # (…, d/2, 2)
    return pairs.reshape(*angles.shape[:-1], 2 * half)[..., :width]


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """What a key's score loses with each token of distance, per head, the steepest first (Press et al. 2022).

    Powers of 2^(-8/H) for H a power of two; else those of the next smaller one, and every second of the next larger.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8.0 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return tuple((slopes + between)[:heads])
