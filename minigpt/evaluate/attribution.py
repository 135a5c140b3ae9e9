"""Which tokens of a prompt an answer hangs on: the gradient of its log-probability × each token's embedding."""

from collections.abc import Sequence

import numpy as np

from minigpt.generate.engine import Engine
from minigpt.model.linear import embed
from minigpt.train.losses import token_losses


def attributions(engine: Engine, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
    """(prompt + answer - 1,): of each token that the answer was predicted from, gradient × input (Shrikumar 2017).

    The sum over the width of embedding × d log p(answer | prompt) / d embedding: by how many nats the answer would get
    likelier if the token's embedding grew, for small changes. A negative one made it less likely.
    """
    backend, model, weights = engine.model.backend, engine.model, engine.weights
    whole = np.array([*prompt, *answer], np.int32)
    ids, targets = backend.array(whole[None, :-1]), backend.array(whole[None, 1:])
    counted = np.zeros((1, len(whole) - 1), np.float32)
    counted[0, len(prompt) - 1 :] = 1
    counted = backend.array(counted)
    inputs = embed(backend, weights["model"]["embed_tokens"], ids, model.config.d_model)  # (1, T, d)

    def logprob(tree, weights, targets, counted):
        losses = token_losses(model, weights, {"ids": tree["inputs"], "targets": targets})
        return -(losses * counted).sum(), {}

    _, grads = backend.value_and_grad(logprob)({"inputs": inputs}, weights, targets, counted)
    product = backend.numpy(backend.cast(grads["inputs"], "float32")) * backend.numpy(backend.cast(inputs, "float32"))
    return product[0].sum(-1)
