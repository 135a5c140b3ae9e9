"""What a backend does with functions: gradients, checkpointing, compiling; and its housekeeping."""

from types import SimpleNamespace

import numpy as np
import pytest

from backends import BACKENDS, REFERENCE, get_backend, installed, tree
from backends.base import BackendUnavailable
from backends.tree import count
from minigpt.model.gpt import GPT
from minigpt.parity.models import MODEL_CASES, make_batch, random_weights
from minigpt.train.losses import language_loss


def numbers(backend, *shape, seed=0):
    return backend.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_backend_names():
    assert [get_backend(name, "cpu").name for name in BACKENDS] == list(BACKENDS)
    assert all(get_backend(name, "cpu").device == "cpu" and installed(name) for name in BACKENDS)
    with pytest.raises(BackendUnavailable, match="jax"):
        get_backend("jax")
    assert get_backend(REFERENCE).name == "numpy" not in BACKENDS  # nobody trains with it
    with pytest.raises(BackendUnavailable, match="cpu"):
        get_backend(REFERENCE, "gpu")


def test_gradients_have_the_tree_of_the_weights(backend):
    weights = {"a": numbers(backend, 3), "layers": [{"w": numbers(backend, 2, 3)}, {"w": numbers(backend, 3, 2)}]}
    x = numbers(backend, 3, seed=1)

    def fn(w, x, factor):
        y = w["layers"][0]["w"] @ (w["a"] * x)
        return factor * (w["layers"][1]["w"] @ y).sum(), {"y": y, "parts": [x.sum()]}

    (value, aux), grads = backend.value_and_grad(fn)(weights, x, 2.0)
    a, w0, w1 = (backend.numpy(leaf) for leaf in tree.leaves(weights))
    x = backend.numpy(x)
    assert tree.names(grads) == tree.names(weights) == ["a", "layers.0.w", "layers.1.w"]
    assert np.allclose(backend.numpy(value), 2 * (w1 @ w0 @ (a * x)).sum(), atol=1e-6)
    assert np.allclose(backend.numpy(aux["y"]), w0 @ (a * x), atol=1e-6)
    assert np.allclose(backend.numpy(aux["parts"][0]), x.sum(), atol=1e-6)
    expected = [2 * w0.T @ w1.sum(0) * x, 2 * np.outer(w1.sum(0), a * x), 2 * np.tile(w0 @ (a * x), (3, 1))]
    for found, right in zip(tree.leaves(grads), expected, strict=True):
        assert np.allclose(backend.numpy(found), right, atol=1e-5)


def test_unused_and_integer_leaves_get_zeros(backend):
    def fn(w):
        return (backend.take(w["used"], w["ids"]) * backend.cast(w["factor"], "float32")).sum(), {}

    weights = {"used": numbers(backend, 3), "unused": numbers(backend, 2, 2), "ids": backend.array([2, 0, 2]),
               "factor": backend.array([1, 1, 1])}  # fmt: skip
    grads = backend.value_and_grad(fn)(weights)[1]
    assert backend.numpy(grads["used"]).tolist() == [1, 0, 2]
    assert backend.numpy(grads["unused"]).tolist() == [[0, 0], [0, 0]]
    assert backend.numpy(grads["ids"]).tolist() == [0, 0, 0] == backend.numpy(grads["factor"]).tolist()


def test_a_loss_that_uses_no_leaf_has_zero_gradients(backend):
    gradient = backend.value_and_grad(lambda w, x: (x.sum(), {}))
    (value, _), grads = gradient({"w": numbers(backend, 2)}, backend.array([3.0]))
    assert float(value) == 3
    assert backend.numpy(grads["w"]).tolist() == [0, 0]


def test_gradients_may_be_clipped_and_added_whatever_they_came_from(backend):
    """Leaves that enter as a sum share their gradient, and a plain .sum() has one number spread over all places."""

    def fn(w, x):
        return ((w["a"] + w["b"]) * x).sum() + w["c"].sum(), {}

    weights, x = {key: numbers(backend, 2) for key in "abc"}, backend.array([3.0, 4.0])
    gradient = backend.value_and_grad(fn)
    totals = tree.leaves(gradient(weights, x)[1])
    totals = backend.updates.add(totals, tree.leaves(gradient(weights, x)[1]))
    assert [backend.numpy(g).tolist() for g in totals] == [[6, 8], [6, 8], [2, 2]]
    clipped, norm = backend.updates.clip(totals, 1.0)
    right = np.sqrt(100 + 100 + 8)
    assert float(norm) == pytest.approx(right)
    for found, unclipped in zip(clipped, [[6, 8], [6, 8], [2, 2]], strict=True):
        assert np.allclose(backend.numpy(found), np.array(unclipped) / right)


def test_weights_are_untouched_by_a_gradient(backend):
    weights = {"w": numbers(backend, 3)}
    before = backend.numpy(weights["w"])
    gradient = backend.value_and_grad(lambda w: ((w["w"] * w["w"]).sum(), {}))
    first, second = (backend.numpy(gradient(weights)[1]["w"]) for _ in range(2))
    assert (first == second).all() and np.allclose(first, 2 * before)
    assert (backend.numpy(weights["w"]) == before).all()


def test_a_function_without_gradients_records_nothing(backend):
    """Between steps the model runs on the same weights (validation, generation): no graph may grow."""
    weights = {"w": numbers(backend, 3)}
    backend.value_and_grad(lambda w: (w["w"].sum(), {}))(weights)
    assert not getattr(weights["w"] * 2, "requires_grad", False)


def test_inference_gives_the_same_numbers_and_training_goes_on_afterwards(backend):
    """A table of rotations that grew during inference serves a gradient later."""
    weights = {"w": numbers(backend, 6), "x": numbers(backend, 1, 2, 700, 6, seed=1)}

    def fn(w):
        x = backend.rms_norm(w["x"], w["w"], 1e-6)
        return (backend.rope(x, 11, 1234.5) * w["x"]).sum(), {}

    with backend.inference():
        inside = backend.numpy(backend.rope(backend.rms_norm(weights["x"], weights["w"], 1e-6), 11, 1234.5))
    outside = backend.numpy(backend.rope(backend.rms_norm(weights["x"], weights["w"], 1e-6), 11, 1234.5))
    assert np.abs(inside - outside).max() < 1e-6 * np.abs(outside).max()
    assert np.abs(backend.numpy(backend.value_and_grad(fn)(weights)[1]["w"])).max() > 1


@pytest.mark.parametrize("case", [c for c in MODEL_CASES if not c.checkpointing], ids=lambda case: case.name)
def test_checkpointing_changes_no_gradient(backend, case):
    """For every leaf: MLX gives what a checkpointed function closes over a gradient of 0 without a word."""
    weights = tree.map_leaves(backend.array, random_weights(case.config))
    batch = {key: backend.array(x) for key, x in make_batch(case.config).items()}

    def gradients(checkpointing):
        model = GPT(case.config, backend, checkpointing=checkpointing)
        gradient = backend.value_and_grad(lambda w: (language_loss(model, w, batch), {}))
        return {name: backend.numpy(g) for name, g in tree.items(gradient(weights)[1])}

    plain, checkpointed = gradients(False), gradients(True)
    assert list(plain) == list(checkpointed)
    for name, right in plain.items():
        # without rotary positions a bias of all keys changes no attention: it is the same for every key; how a router's
        # choice is shifted follows the visits, not the loss on language; and an expert may have no visit at all
        same_for_all = name.endswith("k_proj.bias") and case.config.positions == "learned"
        if not (same_for_all or name.endswith("e_score_correction_bias") or ".experts." in name):
            assert np.abs(right).max() > 1e-6, f"{name} has no gradient at all"
        assert np.abs(checkpointed[name] - right).max() <= 1e-6 * np.abs(right).max(), name


def test_compiled_functions_give_the_same_values(backend):
    x = numbers(backend, 4, 3)

    def fn(x):
        return backend.softmax(x @ x.swapaxes(0, 1)), [x.sum()]

    plain, compiled = fn(x), backend.compile(fn)(x)
    for a, b in zip(tree.leaves(plain), tree.leaves(compiled), strict=True):
        assert np.allclose(backend.numpy(a), backend.numpy(b), atol=1e-6)


def test_scalars_are_not_baked_into_compiled_functions(backend):
    step = backend.compile(lambda x, lr: x * lr)
    x = backend.array([1.0, 2.0])
    assert backend.numpy(step(x, backend.updates.scalar(0.5))).tolist() == [0.5, 1]
    assert backend.numpy(step(x, backend.updates.scalar(0.25))).tolist() == [0.25, 0.5]


def test_compiled_gradients_are_the_plain_ones(backend):
    weights, x = {"w": numbers(backend, 3, 3), "unused": numbers(backend, 1)}, numbers(backend, 2, 3, seed=1)

    def fn(w, x):
        return (backend.silu(backend.linear(x, w["w"])) ** 2).mean(), {"n": x.sum()}

    (a, _), plain = backend.value_and_grad(fn)(weights, x)
    (b, _), compiled = backend.value_and_grad(fn, compiled=True)(weights, x)
    assert float(a) == pytest.approx(float(b), abs=1e-7)
    for name in weights:
        assert np.allclose(backend.numpy(plain[name]), backend.numpy(compiled[name]), atol=1e-7)


def test_gradients_flow_through_topk_values_but_not_positions(backend):
    """MLX refuses a gradient through gather's positions when they come from the weights, torch ignores it."""

    def fn(w):
        values, positions = backend.topk(w["x"], 2)
        return (backend.array([10.0, 1.0]) * values).sum() + backend.gather(w["y"], positions).sum(), {}

    weights = {"x": backend.array([[0.0, 3, 1, 2]]), "y": backend.array([[1.0, 2, 3, 4]])}
    grads = backend.value_and_grad(fn)(weights)[1]
    assert backend.numpy(grads["x"]).tolist() == [[0, 10, 0, 1]]
    assert backend.numpy(grads["y"]).tolist() == [[0, 1, 0, 1]]


def test_housekeeping(backend):
    backend.sync({"a": [numbers(backend, 2)], "b": numbers(backend, 1)}, numbers(backend, 1))
    backend.async_eval(numbers(backend, 2))
    runtime = backend.runtime
    runtime.clear_cache()
    runtime.set_limits()
    assert set(runtime.memory()) == {"active", "peak"}
    assert all(isinstance(n, int) and n >= 0 for n in runtime.memory().values())
    assert backend.name in runtime.versions() and all(isinstance(v, str) for v in runtime.versions().values())
    if backend.device == "cpu":
        assert runtime.fast_bfloat16() is backend.quantized.fast is False
        assert runtime.shares_memory() is True
    assert count({"a": numbers(backend, 2, 3), "b": [numbers(backend, 4)]}) == 10


@pytest.mark.parametrize("name", BACKENDS)
def test_a_device_that_is_not_there_is_refused(name):
    import mlx.core as mx
    import torch

    if {"mlx": mx.is_available(mx.Device(mx.gpu)), "torch": torch.cuda.is_available()}[name]:
        assert get_backend(name, "cpu").device == "cpu"
        return
    with pytest.raises(BackendUnavailable, match="cpu"):
        get_backend(name, "gpu")
    assert get_backend(name, "auto").device == "cpu"


def test_pieces_side_by_side_are_what_each_is_alone(backend):
    """Arrays go from one lane to the other and out of it, also when a lane is used again."""
    x, found = numbers(backend, 40, 50), []
    assert backend.lanes == (2 if backend.name == "mlx" and backend.device == "cpu" else 1)

    def piece(factor):
        found.append(factor * backend.exp(x) @ x.swapaxes(0, 1) + (found[-1] if found else 0.0))
        return found[-1]

    results = backend.side_by_side(piece, [1.0, 2.0, 3.0, 4.0])
    alone = backend.numpy(backend.exp(x) @ x.swapaxes(0, 1))
    for result, total in zip(results, (1, 3, 6, 10), strict=True):
        assert np.allclose(backend.numpy(result), total * alone, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("pieces", "chosen"), [(2, [1, 7]), (1, [])])
def test_a_product_in_one_of_several_lanes_has_one_thread(backend, monkeypatch, pieces, chosen):
    if backend.name != "mlx" or backend.device != "cpu":
        pytest.skip("no lanes")
    from backends.mlx import blas

    told = []
    library = SimpleNamespace(MKL_Get_Max_Threads=lambda: 7, mkl_serv_set_num_threads=told.append)
    monkeypatch.setattr(blas, "BLAS", library)
    x = numbers(backend, 4, 5)
    backend.sync(backend.side_by_side(lambda _: backend.exp(x), range(pieces)))
    assert told == chosen
    backend.sync(backend.exp(x))  # no lane is at work any more
    assert told == chosen


def test_places_of_what_is_true(backend):
    mask = np.random.default_rng(0).random((3, 4, 5)) < 0.3
    places = backend.nonzero(backend.array(mask))
    if backend.device == "gpu":
        assert places is None  # a traced step cannot know them
    else:
        assert backend.numpy(places).tolist() == np.flatnonzero(mask).tolist()
