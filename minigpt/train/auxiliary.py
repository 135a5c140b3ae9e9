"""What a model's own options add to the loss of any stage: balance of experts, and tokens further ahead."""

from typing import Any

from backends.base import Array
from backends.tree import Tree
from minigpt.model.gpt import GPT
from minigpt.sections import ModelConfig
from minigpt.train.loop import Loss
from minigpt.train.losses import losses_of_hidden

MOST_EXPERTS = 16  # whose loads are metrics of their own


def has_auxiliary(config: ModelConfig) -> bool:
    """Whether training with this model has more to minimize than the stage's own loss."""
    return bool(config.experts or config.predict_ahead)


def with_auxiliary(model: GPT, loss: Loss) -> Loss:
    """`loss` with what the model's layers tell of each row, in the row's share of the batch's loss weights.

    These shares sum to 1 over the whole batch, so that micro-batches add up to exactly the whole.
    """

    def whole(weights: Tree, batch: dict[str, Array], *base: Any) -> tuple[Array, dict[str, Array]]:
        with model.telling() as told:
            value, metrics = loss(weights, batch, *base)
        rows = batch["weights"]
        shares = rows.reshape(rows.shape[0], -1).sum(axis=-1)  # (B,)
        layers = [one for one in told if "auxiliary" in one]
        if layers:
            means = {name: sum(one[name] for one in layers) * (1.0 / len(layers)) for name in layers[0]}
            value = value + (means.pop("auxiliary") * shares).sum()
            load = (means.pop("load") * shares[:, None]).sum(axis=0)  # (E,)
            metrics = metrics | {name: (found * shares).sum() for name, found in means.items()}
            if load.shape[0] <= MOST_EXPERTS:
                metrics |= {f"expert_{e}": load[e] for e in range(load.shape[0])}
        hidden = [one["hidden"] for one in told if "hidden" in one]
        if hidden and "targets" in batch and rows.shape == batch["targets"].shape:  # not of rewards or pairs
            ahead = ahead_loss(model, weights, hidden[0], batch)  # a value model's trunk reads the rows after it
            value, metrics = value + model.config.ahead_weight * ahead, metrics | {"ahead": ahead}
        return value, metrics

    return whole


def ahead_loss(model: GPT, weights: Tree, hidden: Array, batch: dict[str, Array]) -> Array:
    """Mean over the heads of the weighted loss of the tokens 2, 3, … after each (Gloeckle et al. 2024, eq. 2).

    A token counts as much as it does as a next token, where it is of the same example.
    """
    backend, targets, segments = model.backend, batch["targets"], batch.get("segments")
    heads, total = model.ahead(weights["model"]["ahead"], hidden), []
    for k, head in enumerate(heads, 1):
        counts = batch["weights"][:, k:]  # (B, T - k)
        if segments is not None:
            counts = counts * backend.cast(segments[:, k:] == segments[:, :-k], backend.dtype(counts))
        found = losses_of_hidden(model, weights, head[:, :-k], targets[:, k:])
        total.append((found * counts).sum(axis=-1).sum())
    return sum(total[1:], total[0]) * (1.0 / len(total))
