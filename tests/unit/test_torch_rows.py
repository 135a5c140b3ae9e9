"""Products of rows on CPUs: whichever kernel a processor gets, the numbers are those of the plain product."""

import numpy as np
import pytest
import torch

from backends import processor
from backends.torch import rows as torch_rows
from backends.torch.rows import LARGE, NEAR, products

WIDE = [(512, 512), (1408, 512), (96, 1408), (512, 1600), (6, 40)]  # large and small ones, near and far


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch without oneDNN")
@pytest.mark.parametrize("amd", [True, False])
@pytest.mark.parametrize("shape", WIDE)
@pytest.mark.parametrize("rows", [(1,), (1, 1), (2,), (2, 2), (7,), (1, 24), (3, 40)])
def test_every_kernel_gives_the_plain_product(monkeypatch, amd, shape, rows):
    monkeypatch.setattr(torch_rows, "on_amd", lambda: amd)
    draw = np.random.default_rng(1)
    x, first, second, bias = (draw.standard_normal(s) for s in ((*rows, shape[1]), shape, (3, shape[1]), shape[:1]))
    given = [torch.tensor(a, dtype=torch.float32) for a in (x, first, second, bias)]
    with torch.inference_mode():
        one, other = products(given[0], given[1:3], [given[3], None])
    for y, wanted in ((one, x @ first.T + bias), (other, x @ second.T)):
        assert tuple(y.shape) == wanted.shape
        assert np.abs(y.numpy() - wanted).max() < 1e-6 * shape[1]


def test_the_shapes_reach_every_kernel():
    sizes = {(out * width >= LARGE, 2 * width <= NEAR) for out, width in WIDE}
    assert sizes == {(True, True), (True, False), (False, True)}


@pytest.mark.parametrize(("says", "amd"), [("vendor_id : AuthenticAMD", True), ("vendor_id : GenuineIntel", False)])
def test_the_maker_is_asked(monkeypatch, says, amd):
    monkeypatch.setattr(processor, "_described", lambda: says)
    assert processor.made_by_amd.__wrapped__() == amd
