"""Windows over a real model: each token's loss is that of one forward pass over exactly what it saw."""

import numpy as np

from minigpt.evaluate.perplexity import Document, losses_of, score
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.sections import ModelConfig


def test_windows_of_a_model_against_one_pass_per_token(backend):
    config = ModelConfig(n_layer=2, n_head=2, n_kv_head=1, d_model=16, d_ff=24, context=8, vocab_size=20)
    model = GPT(config, backend)
    weights = to_backend(backend, init_weights(config, 3))
    ids = np.random.default_rng(0).integers(0, 20, 21).astype(np.int32)
    for stride in (8, 3):
        scored = score(losses_of(model, weights), [Document(ids)], 8, stride, batch_size=4)
        for place, (nats, seen) in enumerate(zip(scored.nats, scored.seen, strict=True), 1):
            logits = backend.numpy(model(weights, backend.array(ids[None, place - seen : place])))[0, -1].astype(float)
            expected = np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[place]]
            np.testing.assert_allclose(nats, expected, atol=1e-4)
