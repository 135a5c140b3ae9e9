"""How well a model predicts text: nats per token, perplexity, bits per byte."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import Rows, in_order, stacked
from minigpt.model.gpt import GPT
from minigpt.text.tokenizer import Tokenizer
from minigpt.train.losses import sequence_logprobs, token_losses
from minigpt.train.preferences import PreferenceSettings, preference_losses, preference_metrics


def evaluate_language(
    model: GPT, weights: Tree, rows: Rows, tokenizer: Tokenizer, batch_size: int, limit: int | None = None
) -> dict[str, float]:
    """Loss over the rows' weighted tokens (all rows, or `limit` of them spread evenly).

    Returns `loss` (nats per token), `perplexity`, the two that can be compared between tokenizers,
    `bits_per_byte` and `nats_per_character`, and the counts `tokens`, `bytes` and `characters`.
    """
    byte_lengths, character_lengths = tokenizer.byte_lengths, tokenizer.character_lengths
    losses = _compiled_losses(model)

    def sums(numbers: list[int]) -> list[float]:
        batch = stacked([rows.row(0, i) for i in numbers])
        counted = batch.pop("weights").astype(np.float64)  # (B, T) of 0 and 1
        arrays = {key: model.backend.array(x) for key, x in batch.items()}
        nats = float((model.backend.numpy(losses(weights, arrays)) * counted).sum())
        lengths = byte_lengths[batch["targets"]], character_lengths[batch["targets"]]
        return [nats, float(counted.sum()), *(float((x * counted).sum()) for x in lengths)]

    nats, tokens, size, characters = totals(
        model.backend.group.map(sums, in_order(rows, batch_size, limit)), 4
    )
    mean = nats / max(tokens, 1.0)
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "bits_per_byte": nats / math.log(2) / max(size, 1.0),
        "nats_per_character": nats / max(characters, 1.0),
        "tokens": int(tokens),
        "bytes": int(size),
        "characters": int(characters),
    }


def totals(rows: list[list[float]], count: int) -> list[float]:
    """The sums of the `count` columns, added in the order of the rows, whichever process made them."""
    found = [0.0] * count
    for row in rows:  # not sum(), which rounds in another way since Python 3.12
        found = [total + value for total, value in zip(found, row, strict=True)]
    return found


@lru_cache(maxsize=4)
def _compiled_losses(model: GPT) -> Callable:
    """One traced function per model: MLX keeps every trace it ever made."""
    return model.backend.compile(lambda weights, batch: token_losses(model, weights, batch))


def divergence(
    model: GPT, weights: Tree, other: Tree, rows: Rows, batch_size: int, limit: int | None = None
) -> dict[str, float]:
    """How far the predictions of `other` are from those of `weights`, over the rows' weighted tokens.

    `kl_divergence` is the mean of Σ p log(p / q) in nats per token, `same_choice` the share of tokens for which the
    likeliest prediction is the same. Unlike a loss, both notice a change that helps here and harms there.
    """
    backend, nats, same, tokens = model.backend, 0.0, 0.0, 0.0
    for numbers in in_order(rows, batch_size, limit):
        batch = stacked([rows.row(0, i) for i in numbers])
        arrays = {key: backend.array(x) for key, x in batch.items()}
        ids, segments = arrays["ids"], arrays.get("segments")
        a, b = (backend.cast(model(tree, ids, segments=segments), "float32") for tree in (weights, other))  # (B, T, V)
        p, q = (x - backend.logsumexp(x)[..., None] for x in (a, b))
        kl, equal = (backend.exp(p) * (p - q)).sum(axis=-1), backend.argmax(a, -1) == backend.argmax(b, -1)
        counted = batch["weights"].astype(np.float64)  # (B, T) of 0 and 1
        nats += float((backend.numpy(kl) * counted).sum())
        same += float((backend.numpy(equal) * counted).sum())
        tokens += float(counted.sum())
    return {"kl_divergence": nats / max(tokens, 1.0), "same_choice": same / max(tokens, 1.0)}


def evaluate_preferences(
    model: GPT, weights: Tree, rows: Rows, kind: str, settings: PreferenceSettings, batch_size: int,
    limit: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """Mean over pairs of the preference `loss`, the `accuracy` with which chosen beats rejected, and the rewards."""
    backend = model.backend

    def sums(numbers: list[int]) -> dict[str, float]:
        arrays = {key: backend.array(x) for key, x in stacked([rows.row(0, i) for i in numbers]).items()}
        policy = sequence_logprobs(model, weights, arrays)
        losses = preference_losses(backend, policy, arrays["reference"], kind, settings, arrays["spans"])
        found = {"loss": (losses * arrays["weights"]).sum()}
        found |= preference_metrics(backend, policy, arrays["reference"], arrays["weights"], settings.beta)
        return {name: float(value) for name, value in (found | {"pairs": arrays["weights"].sum()}).items()}

    batches = backend.group.map(sums, in_order(rows, batch_size, limit))
    names = list(batches[0]) if batches else ["pairs"]
    whole = dict(zip(names, totals([list(one.values()) for one in batches], len(names)), strict=True))
    pairs = whole.pop("pairs")
    return {name: value / max(pairs, 1.0) for name, value in whole.items()} | {"pairs": int(pairs)}
