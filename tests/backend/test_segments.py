"""The attention mask of rows that hold several examples."""

import numpy as np
import pytest

from minigpt.model.gpt import segment_mask

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


def test_examples_of_a_row_are_attended_as_if_alone(backend):
    """Values and gradients of packed rows, against each example by itself; grouped heads, both number formats."""
    draw = np.random.default_rng(2)
    packed = [[1, 1, 1, 2, 2, 3, -1], [4, 4, 4, 4, 4, 4, 4], [1, 2, 2, 2, 2, 2, 2]]
    q, slope = (draw.standard_normal((3, 4, 7, 8)).astype(np.float32) for _ in range(2))
    k, v = (draw.standard_normal((3, 2, 7, 8)).astype(np.float32) for _ in range(2))

    def attended(mask, *arrays, slope=slope):
        fn = lambda given: ((backend.attention(*given, 0.3, mask) * backend.array(slope)).sum(), {})  # noqa: E731
        given = [backend.array(x) for x in arrays]
        return [backend.attention(*given, 0.3, mask), *backend.value_and_grad(fn)(given)[1]]

    mask = segment_mask(backend, backend.array(np.array(packed, np.int32)))
    found = [backend.numpy(x) for x in attended(mask, q, k, v)]
    for row, segments in enumerate(packed):
        for segment in set(segments):
            here = np.flatnonzero(np.array(segments) == segment)
            at = (slice(row, row + 1), slice(None), slice(here[0], here[-1] + 1))
            alone = attended("causal", q[at], k[at], v[at], slope=slope[at])
            for whole, part in zip(found, alone, strict=True):
                assert np.abs(whole[at] - backend.numpy(part)).max() < 1e-5, (row, segment)
    narrow = attended(mask, *(x.astype(np.float32) for x in (q, k, v)))[0]
    low = backend.attention(*(backend.array(x, "bfloat16") for x in (q, k, v)), 0.3, mask)
    assert backend.dtype(low) == "bfloat16"
    assert np.abs(backend.numpy(low) - backend.numpy(narrow)).max() < 0.05


@pytest.mark.parametrize("change", ["a later key", "an own key fewer", "a key of another example"])
def test_a_mask_that_is_not_one_of_examples_is_taken_as_it_is(backend, change):
    """One place changed in such a mask changes the answer of that query alone, as softmax over its keys says."""
    mask = backend.numpy(segment_mask(backend, backend.array(np.array([[1, 1, 1, 2, 2, 2]], np.int32)))).copy()
    query, key = {"a later key": (1, 2), "an own key fewer": (5, 4), "a key of another example": (4, 0)}[change]
    mask[0, 0, query, key] = not mask[0, 0, query, key]
    q, k, v = (np.random.default_rng(i).standard_normal((1, 1, 6, 4)).astype(np.float32) for i in range(3))
    found = backend.numpy(backend.attention(*(backend.array(x) for x in (q, k, v)), 0.5, backend.array(mask)))
    scores = np.where(mask, 0.5 * q @ k.swapaxes(-1, -2), -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    assert np.abs(found - shares / shares.sum(axis=-1, keepdims=True) @ v).max() < 1e-5
