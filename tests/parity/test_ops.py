"""Every backend operation against NumPy and across backends, one test per case so that a failure names it."""

import copy

import numpy as np
import pytest

from backends.base import Backend
from backends.quantized import Quantized
from backends.updates import Updates
from minigpt.parity.ops import CASES, compare_ops
from minigpt.parity.reference import difference, reference, row

# tests/backend has these
LIFE_CYCLE = {"numpy", "dtype", "value_and_grad", "compile", "sync", "async_eval", "inference", "side_by_side",
              "nonzero", "grouped", "updates.compile", "updates.scalar"}  # fmt: skip
GROUPS = {"updates": Updates, "quantized": Quantized}


def methods(kind):
    return {name: fn for name, fn in vars(kind).items() if callable(fn) and not name.startswith("_")}


METHODS = methods(Backend).keys() | {f"{group}.{name}" for group, kind in GROUPS.items() for name in methods(kind)}
COMPOSED = {name: fn for name, fn in methods(Backend).items() if name not in Backend.__abstractmethods__}
FORMULAS = COMPOSED | {group: property(kind) for group, kind in GROUPS.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operation(both, case):
    rows = compare_ops(both, [case])
    assert {r.pair for r in rows} >= {"mlx vs numpy", "torch vs numpy", "mlx vs torch", "mlx vs stated"}
    assert [r for r in rows if not r.ok] == []


@pytest.mark.parametrize("case", [c for c in CASES if c.op.split(".")[0] in FORMULAS], ids=lambda case: case.name)
def test_composed_default_equals_the_fused_kernel(backend, case):
    """The formulas of base.py on this framework's arrays, where NumPy cannot show a wrong dtype."""
    plain = copy.copy(backend)
    plain.__class__ = type("Composed", (type(backend),), dict(FORMULAS))
    assert [r for r in compare_ops([backend, plain], [case]) if not r.ok] == []


def test_every_operation_has_a_case():
    assert METHODS - LIFE_CYCLE - {case.op for case in CASES} == set()


def test_case_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


def test_differences_are_relative_to_the_largest_entry():
    assert difference(np.array([1.0, 100.5]), np.array([1.0, 100.0])) == pytest.approx(0.005)
    assert difference(np.array([3, 4]), np.array([3, 6])) == 2  # integers: absolute
    assert difference(np.zeros(3), np.zeros(3)) == 0


@pytest.mark.parametrize("found", [np.zeros((2, 1)), np.array([0.0, np.nan]), np.array([np.inf, 1.0])])
def test_another_shape_or_nan_is_no_agreement(found):
    assert difference(found, np.array([0.0, 1.0])) == np.inf
    assert not row("operation", "x", "value", "a vs b", np.nan, 1e9).ok


def test_numpy_gradients_are_right_and_know_stop_gradient():
    exact = reference()
    x = np.array([[0.5, -2.0], [3.0, 0.1]])
    weights = {"x": x, "ids": np.array([1, 2], np.int32)}
    grads = exact.value_and_grad(lambda w: ((w["x"] ** 3 * exact.stop_gradient(w["x"])).sum(), {}))(weights)[1]
    assert np.allclose(grads["x"], 3 * x**2 * x, rtol=1e-8)  # 4 x³ if the second factor had a gradient
    assert (grads["ids"] == 0).all()
