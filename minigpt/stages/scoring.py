"""What the stages whose models score share: batches of whole answers, and the scores of held-out ones."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import in_order, stacked
from minigpt.model.gpt import GPT
from minigpt.train.reward_losses import answer_scores


def held_out_scores(
    model: GPT, weights: Tree, rows: Any, batch_size: int, limit: int | None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(scores (B, S), the batch) of all rows, or of `limit` of them."""
    compiled = _compiled(model)

    def scores(batch: dict[str, np.ndarray]) -> np.ndarray:
        arrays = {name: model.backend.array(batch[name]) for name in ("ids", "segments", "ends")}
        return model.backend.numpy(compiled(weights, arrays)).astype(np.float64)

    batches = [stacked([rows.row(0, i) for i in numbers]) for numbers in in_order(rows, batch_size, limit)]
    return zip(model.backend.group.map(scores, batches), batches, strict=True)


@lru_cache(maxsize=4)
def _compiled(model: GPT) -> Callable:
    """One traced function per model: MLX keeps every trace it ever made."""
    return model.backend.compile(lambda weights, batch: answer_scores(model, weights, batch))
