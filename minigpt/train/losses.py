"""Losses as pure functions of arrays. `weights` of rows, tokens or pairs sum to 1 over a whole step's batch,
so that the micro-batches of a step add up to exactly the loss of the whole.

Shapes: B rows, T tokens, P pairs per row, S = 2 P sequences per row.
"""

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.model.gpt import GPT
from minigpt.model.linear import QUANTIZED, matrix


def token_losses(model: GPT, weights: Tree, batch: dict[str, Array], counted: Array | None = None) -> Array:
    """-log p(target) per token (B, T) in float32; rows with `segments` hold several separate examples.

    Logits are computed only where `counted` (B, T) bool is true, not for prompts and the unused ends of rows; other
    tokens get 0. A backend that cannot tell beforehand which they are computes all of them.
    """
    targets, backend = batch["targets"], model.backend
    hidden = model.hidden(
        weights, batch["ids"], segments=batch.get("segments"), dropout_keys=batch.get("dropout")
    )  # (B, T, d)
    places = None if counted is None else backend.nonzero(counted)  # (n,)
    rows, tokens = targets.shape
    if places is None or not 0 < places.shape[0] < rows * tokens:
        return _losses(model, weights, hidden, targets)
    some = backend.take(hidden.reshape(rows * tokens, -1), places)  # (n, d)
    found = _losses(model, weights, some[None], backend.take(targets.reshape(-1), places)[None])[0]  # (n,)
    counted = backend.cast(counted.reshape(-1), "int32")
    which = backend.cumsum(counted, 0) * counted  # (B·T,): 1 for the first that counts, and so on, 0 for the others
    return backend.take(backend.concat([backend.zeros((1,)), found], 0), which).reshape(rows, tokens)


def _losses(model: GPT, weights: Tree, hidden: Array, targets: Array) -> Array:
    """-log p(target) (B, T) after hidden (B, T, d); with `model.loss_chunk` so many rows of logits exist at once."""
    backend, head = model.backend, model.head(weights)
    if not model.loss_chunk or not set(head) <= {"weight", *QUANTIZED}:
        return backend.token_nll(model.logits(weights, hidden), targets)
    flat = hidden.reshape(-1, hidden.shape[-1])  # (B·T, d)
    losses = backend.chunked_nll(flat, matrix(backend, head, flat.shape[-1]), targets.reshape(-1), model.loss_chunk)
    return losses.reshape(targets.shape)


def language_loss(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    """Weighted mean of the token losses: next-token prediction, on all tokens or on answers only.

    Row by row: MLX's CPU device adds one number after the other, and 16,000 of them lose two digits.
    """
    return (token_losses(model, weights, batch, batch["weights"] != 0) * batch["weights"]).sum(axis=-1).sum()


def sequence_logprobs(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    """log p(answer | prompt), summed over the answer's tokens: (B, P, 2) for chosen and rejected.

    `batch["spans"]` (B, S, T) is 1 where token t belongs to the answer of sequence s.
    """
    logprobs = -token_losses(model, weights, batch, batch["spans"].sum(axis=1) > 0)  # (B, T)
    sums = (batch["spans"] @ logprobs[..., None])[..., 0]  # (B, S)
    return sums.reshape(sums.shape[0], -1, 2)


def preference_losses(
    backend: Backend, policy: Array, reference: Array, beta: float, kind: str, spans: Array
) -> Array:
    """Loss per pair (B, P) from summed log-probabilities (B, P, 2) of chosen and rejected.

    "sigmoid" is DPO: -log σ(β h) with h the margin of policy over reference (Rafailov et al. 2023, eq. 7);
    "ipo" is (h - 1/(2β))² (Azar et al. 2023, eq. 17), with h per token: a sum would make long answers count more, and
    the authors' results are with means (so TRL's documentation, which has it from them). `spans` as in the batch.
    """
    advantage = policy - reference  # (B, P, 2)
    if kind == "ipo":
        lengths = spans.sum(axis=-1).reshape(policy.shape)  # (B, P, 2); 0 where there is no pair
        advantage = advantage / backend.where(lengths > 0, lengths, 0.0 * lengths + 1.0)
    margin = advantage[..., 0] - advantage[..., 1]  # (B, P)
    if kind == "ipo":
        gap = margin - 1.0 / (2.0 * beta)
        return gap * gap
    return -backend.log_sigmoid(beta * margin)


def preference_metrics(
    backend: Backend, policy: Array, reference: Array, pairs: Array, beta: float
) -> dict[str, Array]:
    """Weighted means over the pairs (B, P): both rewards β log(π/π_ref), their margin, and how often it is positive."""
    rewards = beta * (policy - reference)  # (B, P, 2)
    margin = rewards[..., 0] - rewards[..., 1]
    return {
        "reward_chosen": (rewards[..., 0] * pairs).sum(),
        "reward_rejected": (rewards[..., 1] * pairs).sum(),
        "margin": (margin * pairs).sum(),
        "accuracy": (backend.where(margin > 0, pairs, 0.0 * pairs)).sum(),
    }
