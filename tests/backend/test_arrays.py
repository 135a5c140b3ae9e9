"""Arrays go in and come out unchanged, whatever NumPy they are born from."""

import numpy as np
import pytest

from backends.base import causal_mask

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(backend, dtype):
    values = np.array([[0.0, 1.0, 1.5], [3.0, 0.25, 100.0]])  # exact in all float dtypes
    if dtype not in ("float32", "bfloat16", "float16"):
        values = values.astype(dtype)
    x = backend.array(values, dtype)
    assert backend.dtype(x) == dtype
    assert (backend.numpy(x) == values).all()
    assert backend.numpy(x).dtype == ("float32" if dtype == "bfloat16" else dtype)
    assert tuple(x.shape) == (2, 3)


@pytest.mark.parametrize(
    ("given", "becomes"),
    [("float64", "float32"), ("int64", "int32"), ("uint16", "int32"), ("uint32", "int32"), ("float16", "float16"),
     ("float32", "float32"), ("int32", "int32"), ("uint8", "uint8"), ("bool", "bool")],
)  # fmt: skip
def test_numpy_dtypes(backend, given, becomes):
    x = backend.array(np.array([0, 1, 1], given))
    assert backend.dtype(x) == becomes
    assert backend.numpy(x).dtype == becomes
    assert backend.numpy(x).tolist() == [0, 1, 1]


def test_large_token_ids_survive_uint16(backend):
    assert backend.numpy(backend.array(np.array([65535, 32768], np.uint16))).tolist() == [65535, 32768]


def test_bfloat16_rounds_to_nearest_even(backend):
    # between 1 and 2 the step is 2^-7: 1 + 2^-8 is a tie and goes to the even 1, 1 + 3·2^-8 to the even 1 + 2^-6
    x = backend.array(np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-12]), "bfloat16")
    assert backend.numpy(x).tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


def test_a_slice_of_a_memory_mapped_shard(backend, tmp_path):
    np.arange(20, dtype=np.uint16).tofile(tmp_path / "shard.bin")
    shard = np.memmap(tmp_path / "shard.bin", np.uint16, mode="r")
    ids = backend.array(shard[3:15].reshape(3, 4)[:, 1:])
    assert backend.numpy(ids).tolist() == [[4, 5, 6], [8, 9, 10], [12, 13, 14]]


def test_strided_and_reversed_inputs(backend):
    values = np.arange(12.0).reshape(3, 4)
    assert (backend.numpy(backend.array(values.T[:, ::2])) == values.T[:, ::2]).all()
    assert (backend.numpy(backend.array(values[::-1])) == values[::-1]).all()


def test_lists_numbers_and_scalars(backend):
    assert backend.dtype(backend.array([1, 2])) == "int32"
    assert backend.dtype(backend.array([1.0, 2])) == "float32"
    assert backend.dtype(backend.array([True])) == "bool"
    assert backend.array(2.5).shape in ((), [])
    assert float(backend.array(2.5)) == 2.5


def test_neither_side_shares_memory_with_the_other(backend):
    """Weights are updated in place by some backends: the NumPy array they came from must not move."""
    source = np.ones(3, np.float32)
    x = backend.array(source)
    source[0] = 5
    assert backend.numpy(x).tolist() == [1, 1, 1]
    out = backend.numpy(x)
    out[1] = 7
    assert backend.numpy(x).tolist() == [1, 1, 1]
    before = backend.numpy(x)
    backend.updates.add([x], [backend.array(np.ones(3, np.float32))])
    assert before.tolist() == [1, 1, 1]


def test_write_puts_values_where_they_belong_and_nowhere_else(backend):
    target, values = np.zeros((1, 2, 4, 1), np.float32), np.ones((1, 2, 2, 1), np.float32)
    written = backend.write(backend.array(target), 1, backend.array(values))
    assert backend.numpy(written)[0, :, :, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0]]


def test_each_row_is_written_where_it_ends(backend):
    """Rows of a cache are filled up differently far: two tokens after 0, 3 and 1 others."""
    values = np.random.default_rng(0).standard_normal((3, 2, 2, 4)).astype(np.float32)
    written = backend.numpy(backend.write(backend.zeros((3, 2, 5, 4)), backend.array([0, 3, 1]), backend.array(values)))
    expected = np.zeros((3, 2, 5, 4), np.float32)
    for row, start in enumerate((0, 3, 1)):
        expected[row, :, start : start + 2] = values[row]
    assert (written == expected).all()


@pytest.mark.parametrize("theta", [10000.0, (0.9, 0.11, 0.02, 0.0003)])
def test_rows_at_positions_of_their_own_are_turned_as_if_alone(backend, theta):
    """Whether the first position of each row is given or that of every token."""
    x = backend.array(np.random.default_rng(0).standard_normal((3, 2, 4, 8)).astype(np.float32))
    starts = [7, 0, 300]
    alone = [backend.numpy(backend.rope(x[i : i + 1], start, theta)) for i, start in enumerate(starts)]
    everywhere = np.array(starts)[:, None] + np.arange(4)
    for positions in (starts, everywhere):
        found = backend.numpy(backend.rope(x, backend.array(np.array(positions)), theta))
        assert np.abs(found - np.concatenate(alone)).max() < 1e-4  # an angle of 300 in float32


def test_numbers_and_zero_dimensional_arrays_keep_bfloat16(backend):
    """The rule is that scalars are Python floats: MLX promotes bfloat16 times a 0-d float32 array, torch does not."""
    x = backend.array(np.ones(2, np.float32), "bfloat16")
    assert backend.dtype(2.5 * x + 1) == "bfloat16"
    assert backend.dtype(x * backend.cast(backend.array(2.5), "bfloat16")) == "bfloat16"


def test_the_smallest_sizes(backend):
    """One row, one token, one head, one entry: no operation needs more than one of anything."""
    one = backend.array(np.ones((1, 1, 1, 2), np.float32))
    assert backend.numpy(backend.attention(one, one, one, 1.0)).tolist() == [[[[1, 1]]]]
    assert backend.numpy(causal_mask(backend, 1, 1)).tolist() == [[True]]
    assert np.allclose(backend.numpy(backend.rope(one, 0, 10000.0)), 1)
    values, indices = backend.topk(one[0, 0, :, :1], 1)
    assert (backend.numpy(values).tolist(), backend.numpy(indices).tolist()) == ([[1]], [[0]])
    nll = backend.token_nll(one[0], backend.array(np.zeros((1, 1), np.int32)))
    assert np.allclose(backend.numpy(nll), [[np.log(2)]])
    assert backend.numpy(backend.token_nll(one[0, :, :, :1], backend.array([[0]]))).tolist() == [[0]]


@pytest.mark.parametrize("out", [512, 600])
@pytest.mark.parametrize("rows", [15, 16, 48, 49])
def test_products_with_few_rows_are_those_of_any(backend, rows, out):
    """A batch that decodes has so few; the torch backend multiplies them the other way round."""
    rng = np.random.default_rng(rows)
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, 1, 512), (out, 512), (out,)))
    with backend.inference():
        for given in ((), (bias,)):
            y = backend.numpy(backend.linear(*map(backend.array, (x, w, *given))))
            right = x.astype(np.float64) @ w.T + sum(given)
            assert y.shape == (rows, 1, out) and np.abs(y - right).max() < 1e-3
