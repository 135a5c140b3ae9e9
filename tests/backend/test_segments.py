"""The attention mask of rows that hold several examples."""

import numpy as np
import pytest

from minigpt.model import segment_mask

ROWS = [[1, 1, 1, 2, 2, 3], [1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6], [2, 2, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_a_token_sees_the_tokens_before_it_in_its_own_example(backend):
    mask = backend.numpy(segment_mask(backend, backend.array(np.array(ROWS, np.int32))))
    assert mask.shape == (5, 1, 6, 6) and mask.dtype == np.bool_
    for b, row in enumerate(ROWS):
        for query in range(6):
            for key in range(6):
                assert mask[b, 0, query, key] == (key <= query and row[key] == row[query]), (row, query, key)


def test_no_row_is_fully_masked(backend):
    """Padding too sees itself: a row without keys is the mean of V in MLX and NaN in torch."""
    segments = np.random.default_rng(0).integers(0, 4, (50, 9)).astype(np.int32)
    mask = backend.numpy(segment_mask(backend, backend.array(segments)))
    assert mask.any(axis=-1).all()
    q = backend.array(np.random.default_rng(1).standard_normal((50, 2, 9, 4)).astype(np.float32))
    assert np.isfinite(backend.numpy(backend.attention(q, q, q, 0.5, backend.array(mask)))).all()


@pytest.mark.parametrize("queries", [1, 3, 6])
def test_no_row_of_the_causal_mask_is_empty(backend, queries):
    mask = backend.numpy(backend.causal_mask(queries, 6))
    assert mask.sum(axis=-1).tolist() == [6 - queries + 1 + i for i in range(queries)]  # lower-right aligned


def test_bool_masks_serve_bfloat16(backend):
    mask = segment_mask(backend, backend.array(np.array(ROWS, np.int32)))
    q = backend.array(np.random.default_rng(1).standard_normal((5, 2, 6, 4)), "bfloat16")
    assert backend.dtype(backend.attention(q, q, q, 0.5, mask)) == "bfloat16"
