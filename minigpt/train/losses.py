"""Losses as pure functions of arrays. `weights` of rows, tokens or pairs sum to 1 over a whole step's batch,
so that the micro-batches of a step add up to exactly the loss of the whole.

Shapes: B rows, T tokens, P pairs per row, S = 2 P sequences per row.
"""

from collections.abc import Callable

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.model.gpt import GPT
from minigpt.model.linear import QUANTIZED, linear, matrix

ALIKE = 128  # counted tokens are filled up to a multiple: some processors' products keep a megabyte for each new shape


def of_rows(batch: dict[str, Array]) -> dict[str, Array]:
    """What `GPT.hidden` is told of a batch's rows."""
    names = {"segments": "segments", "follows": "follows", "positions": "positions", "dropout": "dropout_keys"}
    return {told: batch[name] for name, told in names.items() if name in batch}


def token_losses(
    model: GPT, weights: Tree, batch: dict[str, Array], counted: Array | None = None, temperature: float = 1.0
) -> Array:
    """-log p(target) per token (B, T) in float32; rows with `segments` hold several separate examples.

    p is softmax(logits / temperature): tokens that were sampled at a temperature are scored at the same one.
    Logits are computed only where `counted` (B, T) bool is true, not for prompts and the unused ends of rows; other
    tokens get 0. A backend that cannot tell beforehand which they are computes all of them.
    """
    hidden = model.hidden(weights, batch["ids"], **of_rows(batch))  # (B, T, d)
    return losses_after(model, weights, hidden, batch["targets"], counted, temperature)


def losses_after(
    model: GPT, weights: Tree, hidden: Array, targets: Array, counted: Array | None = None, temperature: float = 1.0
) -> Array:
    """The same from hidden states (B, T, d), for those that need them for something else, too."""

    def losses(hidden: Array, targets: Array) -> list[Array]:
        return [losses_of_hidden(model, weights, hidden, targets, temperature)]

    return where_counted(model.backend, losses, hidden, targets, counted)[0]


def where_counted(
    backend: Backend, compute: Callable[[Array, Array], list[Array]], hidden: Array, targets: Array,
    counted: Array | None,
) -> list[Array]:  # fmt: skip
    """The arrays (B, T) that compute(hidden (B, T, d), targets (B, T)) gives, computed where `counted` is true, else 0.

    A backend that cannot tell beforehand which tokens these are computes all of them.
    """
    places = None if counted is None else backend.nonzero(counted)  # (n,)
    rows, tokens = targets.shape
    more = 0 if places is None else -places.shape[0] % ALIKE
    if places is None or not 0 < places.shape[0] < rows * tokens - more:
        return compute(hidden, targets)
    if more:  # the first token again and again, which nothing below reads
        places = backend.concat([places, backend.take(places, backend.zeros((more,), "int32"))], 0)
    some = backend.take(hidden.reshape(rows * tokens, -1), places)  # (n, d)
    wanted = backend.take(targets.reshape(-1), places)  # (n,)
    counted = backend.cast(counted.reshape(-1), "int32")
    which = backend.cumsum(counted, 0) * counted  # (B·T,): 1 for the first that counts, and so on, 0 for the others
    found = [backend.concat([backend.zeros((1,)), one[0]], 0) for one in compute(some[None], wanted[None])]
    return [backend.take(one, which).reshape(rows, tokens) for one in found]


def losses_of_hidden(model: GPT, weights: Tree, hidden: Array, targets: Array, temperature: float = 1.0) -> Array:
    """-log p(target) (B, T) after hidden (B, T, d); with `model.loss_chunk` so many rows of logits exist at once."""
    backend, head = model.backend, model.head(weights)
    if not model.loss_chunk or not set(head) <= {"weight", "bias", *QUANTIZED}:
        logits = model.logits(weights, hidden)
        return backend.token_nll(logits if temperature == 1.0 else _cooled(backend, logits, temperature), targets)
    flat = hidden.reshape(-1, hidden.shape[-1])  # (B·T, d)
    if model.config.logit_softcap or "bias" in head:
        return _chunk_by_chunk(model, head, flat, targets.reshape(-1), temperature).reshape(targets.shape)
    flat = flat if temperature == 1.0 else _cooled(backend, flat, temperature)  # a head without bias is linear
    losses = backend.chunked_nll(flat, matrix(backend, head, flat.shape[-1]), targets.reshape(-1), model.loss_chunk)
    return losses.reshape(targets.shape)


def _chunk_by_chunk(model: GPT, head: Tree, hidden: Array, targets: Array, temperature: float) -> Array:
    """The same for heads that are no plain product, (N, d) and (N,) -> (N,): each chunk is computed twice."""
    backend, size = model.backend, model.loss_chunk

    def losses(head: Tree, x: Array, targets: Array) -> Array:
        logits = backend.cast(model.embeddings.capped(linear(backend, head, x)), "float32") * (1.0 / temperature)
        return backend.token_nll(logits[None], targets[None])[0]

    chunk, starts = backend.checkpoint(losses), range(0, targets.shape[0], size)
    return backend.concat([chunk(head, hidden[i : i + size], targets[i : i + size]) for i in starts], 0)


def _cooled(backend: Backend, x: Array, temperature: float) -> Array:
    return backend.cast(x, "float32") * (1.0 / temperature)


def language_loss(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    """Weighted mean of the token losses: next-token prediction, on all tokens or on answers only.

    Row by row: MLX's CPU device adds one number after the other, and 16,000 of them lose two digits.
    """
    return (token_losses(model, weights, batch, batch["weights"] != 0) * batch["weights"]).sum(axis=-1).sum()


def answer_logprobs(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    """log p(answer | prompt), summed over the answer's tokens: (B, S).

    `batch["spans"]` (B, S, T) is 1 where token t belongs to the answer of sequence s.
    """
    logprobs = -token_losses(model, weights, batch, batch["spans"].sum(axis=1) > 0)  # (B, T)
    return (batch["spans"] @ logprobs[..., None])[..., 0]


def sequence_logprobs(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    """The same of pairs of answers: (B, P, 2) for chosen and rejected."""
    sums = answer_logprobs(model, weights, batch)  # (B, S)
    return sums.reshape(sums.shape[0], -1, 2)
