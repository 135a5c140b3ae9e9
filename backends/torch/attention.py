"""Attention of rows that hold several examples, on CPUs: each example by itself, not the whole square."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from backends.base import Visible

Array = torch.Tensor


@dataclass(frozen=True)
class Examples(Visible):
    """Causal within the examples that share a row, which follow each other in these `lengths`."""

    lengths: tuple[list[int], ...] = ()


def lengths_of(segments: Array) -> tuple[list[int], ...] | None:
    """For segments (B, T): the lengths of each row's examples; None if an example of a row is not in one piece."""
    rows = []
    for row in segments:
        ids, counts = torch.unique_consecutive(row, return_counts=True)
        if len(set(ids.tolist())) < len(ids):
            return None
        rows.append(counts.tolist())
    return tuple(rows)


def attention_by_example(q: Array, k: Array, v: Array, examples: Examples, attend: Callable) -> Array:
    """Causal attention, `attend(q, k, v)`, within each example: the arithmetic of what is allowed, not of all."""
    rows = []
    for row, lengths in zip(zip(q.split(1), k.split(1), v.split(1), strict=True), examples.lengths, strict=True):
        pieces = zip(*(x.split(lengths, dim=2) for x in row), strict=True)  # (1, heads, length, D) each
        one = [attend(*x) for x in pieces]
        rows.append(torch.cat(one, dim=2))
    return torch.cat(rows)
