"""What each token of a row may attend to: rows with several examples, windows, rows of different length."""

import itertools

import numpy as np
import pytest

from backends.base import Backend, Visible, causal_mask

ROWS = [[1, 1, 1, 2, 2, 3], [1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6], [2, 2, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
APART = [[1, 1, 2, 2, 1, 1]]  # an example in two pieces


def seen(backend, visible, batch, queries, keys):
    """(B, Tq, Tk) bool: which keys have a part in the answer of a query, by attention with values that name them."""
    zeros = backend.zeros((batch, 1, queries, 8))
    values = np.broadcast_to(np.eye(keys, dtype=np.float32), (batch, 1, keys, keys))
    k = backend.zeros((batch, 1, keys, 8))
    return backend.numpy(backend.attention(zeros, k, backend.array(values), 1.0, visible))[:, 0] > 0


@pytest.mark.parametrize("window", [0, 1, 2, 3, 5, 6, 100])
@pytest.mark.parametrize("rows", [ROWS, APART])
def test_a_token_sees_the_tokens_before_it_in_its_own_example(backend, rows, window):
    visible = backend.visible(6, 6, segments=backend.array(np.array(rows, np.int32)), window=window)
    found = seen(backend, visible, len(rows), 6, 6)
    for (b, row), query, key in itertools.product(enumerate(rows), range(6), range(6)):
        near = not window or key > query - window
        assert found[b, query, key] == (key <= query and near and row[key] == row[query]), (row, query, key)


@pytest.mark.parametrize(("queries", "keys"), [(1, 6), (3, 6), (6, 6)])
@pytest.mark.parametrize("window", [0, 1, 4, 6])
def test_the_last_query_has_the_place_of_the_last_key(backend, queries, keys, window):
    found = seen(backend, backend.visible(queries, keys, window=window), 1, queries, keys)[0]
    for query, key in itertools.product(range(queries), range(keys)):
        place = keys - queries + query
        assert found[query, key] == (key <= place and (not window or key > place - window))


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("window", [0, 3])
def test_a_row_sees_nothing_after_its_own_end(backend, queries, window):
    """Three rows in one cache, the first queries of which stand at places 0, 4 and 2 of six."""
    starts = np.array([0, 4, 2], np.int32)
    visible = backend.visible(queries, 6, positions=backend.array(starts), window=window)
    found = seen(backend, visible, 3, queries, 6)
    for (row, start), query, key in itertools.product(enumerate(starts), range(queries), range(6)):
        place = start + query
        assert found[row, query, key] == (key <= place and (not window or key > place - window))


def test_every_query_sees_one_key_at_least(backend):
    """Padding too sees itself: a row without keys is the mean of V in MLX and NaN in torch."""
    segments = np.random.default_rng(0).integers(0, 4, (50, 9)).astype(np.int32)
    visible = backend.visible(9, 9, segments=backend.array(segments))
    assert seen(backend, visible, 50, 9, 9).any(axis=-1).all()
    q = backend.array(np.random.default_rng(1).standard_normal((50, 2, 9, 4)).astype(np.float32))
    assert np.isfinite(backend.numpy(backend.attention(q, q, q, 0.5, visible))).all()


@pytest.mark.parametrize("queries", [1, 3, 6])
def test_no_row_of_the_causal_mask_is_empty(backend, queries):
    mask = backend.numpy(causal_mask(backend, queries, 6))
    assert mask.sum(axis=-1).tolist() == [6 - queries + 1 + i for i in range(queries)]  # lower-right aligned


def test_the_mask_serves_bfloat16(backend):
    visible = backend.visible(6, 6, segments=backend.array(np.array(ROWS, np.int32)))
    q = backend.array(np.random.default_rng(1).standard_normal((5, 2, 6, 4)), "bfloat16")
    assert backend.dtype(backend.attention(q, q, q, 0.5, visible)) == "bfloat16"


def test_examples_of_a_row_are_attended_as_if_alone(backend):
    """Values and gradients of packed rows, against each example by itself; grouped heads, both number formats."""
    draw = np.random.default_rng(2)
    packed = [[1, 1, 1, 2, 2, 3, -1], [4, 4, 4, 4, 4, 4, 4], [1, 2, 2, 2, 2, 2, 2]]
    q, slope = (draw.standard_normal((3, 4, 7, 8)).astype(np.float32) for _ in range(2))
    k, v = (draw.standard_normal((3, 2, 7, 8)).astype(np.float32) for _ in range(2))

    def attended(visible, *arrays, slope=slope):
        fn = lambda given: ((backend.attention(*given, 0.3, visible) * backend.array(slope)).sum(), {})  # noqa: E731
        given = [backend.array(x) for x in arrays]
        return [backend.attention(*given, 0.3, visible), *backend.value_and_grad(fn)(given)[1]]

    visible = backend.visible(7, 7, segments=backend.array(np.array(packed, np.int32)))
    found = [backend.numpy(x) for x in attended(visible, q, k, v)]
    for row, segments in enumerate(packed):
        for segment in set(segments):
            here = np.flatnonzero(np.array(segments) == segment)
            at = (slice(row, row + 1), slice(None), slice(here[0], here[-1] + 1))
            alone = attended(backend.visible(len(here), len(here)), q[at], k[at], v[at], slope=slope[at])
            for whole, part in zip(found, alone, strict=True):
                assert np.abs(whole[at] - backend.numpy(part)).max() < 1e-5, (row, segment)
    narrow = attended(visible, *(x.astype(np.float32) for x in (q, k, v)))[0]
    low = backend.attention(*(backend.array(x, "bfloat16") for x in (q, k, v)), 0.3, visible)
    assert backend.dtype(low) == "bfloat16"
    assert np.abs(backend.numpy(low) - backend.numpy(narrow)).max() < 0.05


@pytest.mark.parametrize("change", ["a later key", "an own key fewer", "a key of another example"])
def test_any_mask_is_taken_as_it_is(backend, change):
    """One place changed in that of two examples changes the answer of that query alone: softmax over its keys."""
    segments = backend.array(np.array([[1, 1, 1, 2, 2, 2]], np.int32))
    mask = backend.numpy(Backend.visible(backend, 6, 6, segments=segments).mask).copy()
    query, key = {"a later key": (1, 2), "an own key fewer": (5, 4), "a key of another example": (4, 0)}[change]
    mask[0, 0, query, key] = not mask[0, 0, query, key]
    q, k, v = (np.random.default_rng(i).standard_normal((1, 1, 6, 4)).astype(np.float32) for i in range(3))
    visible = Visible(backend.array(mask))
    found = backend.numpy(backend.attention(*(backend.array(x) for x in (q, k, v)), 0.5, visible))
    scores = np.where(mask, 0.5 * q @ k.swapaxes(-1, -2), -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    assert np.abs(found - shares / shares.sum(axis=-1, keepdims=True) @ v).max() < 1e-5
