"""Operations whose backward pass is written by hand: torch's own takes longer, or keeps more."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

Array = torch.Tensor


class RMSNorm(torch.autograd.Function):
    """RMSNorm in float32 on a CPU: torch's own takes apart its backward pass and is four times slower there.

    LayerNorm's kernel with a mean of 0 computes all of the gradient but for one term, which is added.
    """

    @staticmethod
    def forward(ctx: Any, x: Array, weight: Array, eps: float) -> Array:
        scale = inverse_size(x, eps)  # (…, 1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Array) -> tuple:
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, [width], torch.zeros_like(scale), scale, weight, None, [True, ctx.needs_input_grad[1], False]
        )
        return dx.add_(scale * (grad @ weight).unsqueeze(-1).div_(width)), dweight, None


def inverse_size(x: Array, eps: float) -> Array:
    """1 / sqrt(mean(x²) + eps) over the last axis: (…, 1)."""
    norm = torch.linalg.vector_norm(x, 2, -1, True)
    return torch.addcmul(_constant(eps), norm, norm, value=1 / x.shape[-1]).rsqrt_()


@cache
def _constant(value: float) -> Array:
    with torch.inference_mode(False):  # also a training step may use it later
        return torch.tensor([value])


class ChunkedNLL(torch.autograd.Function):
    """-log softmax(x wᵀ)[target] with one buffer of logits: autograd with checkpoints held three, in fragmented memory.

    Backwards: ∂/∂logits = (softmax − one-hot) · upstream, and the sum of the rows' logits is never kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Array, w: Array, targets: Array, size: int) -> Array:
        logits = torch.empty(min(size, len(x)), len(w), dtype=x.dtype, device=x.device)
        sums = torch.empty(len(x), dtype=torch.float32, device=x.device)
        nll = torch.empty_like(sums)
        for i in range(0, len(x), size):
            here = slice(i, i + size)
            rows = torch.mm(x[here], w.T, out=logits[: len(x[here])]).float()
            sums[here] = torch.logsumexp(rows, dim=-1)
            nll[here] = sums[here] - rows.gather(-1, targets[here, None])[:, 0]
        ctx.save_for_backward(x, w, targets, sums)
        ctx.size = size
        return nll

    @staticmethod
    def backward(ctx: Any, upstream: Array) -> tuple:
        x, w, targets, sums = ctx.saved_tensors
        logits = torch.empty(min(ctx.size, len(x)), len(w), dtype=x.dtype, device=x.device)
        dx, dw = torch.empty_like(x), torch.zeros_like(w, dtype=torch.float32)
        for i in range(0, len(x), ctx.size):
            here = slice(i, i + ctx.size)
            rows = torch.mm(x[here], w.T, out=logits[: len(x[here])]).float()
            rows.sub_(sums[here, None]).exp_()
            rows.scatter_add_(-1, targets[here, None], -torch.ones_like(rows[:, :1]))
            dlogits = rows.mul_(upstream[here, None]).to(x.dtype)
            torch.mm(dlogits, w, out=dx[here])
            dw.add_(dlogits.T @ x[here]) if x.dtype != torch.float32 else dw.addmm_(dlogits.T, x[here])
        return dx, dw.to(w.dtype), None, None


class QuantizedLinear(torch.autograd.Function):
    """A product with a quantized weight that keeps the packed weight, not its floats, for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Array, packed: Array, scales: Array, biases: Array, bits: int, unpack: Callable) -> Array:
        ctx.save_for_backward(packed, scales, biases)
        ctx.bits, ctx.unpack = bits, unpack
        return F.linear(x, unpack(packed, scales, biases, bits))

    @staticmethod
    def backward(ctx: Any, grad: Array) -> tuple:
        return grad @ ctx.unpack(*ctx.saved_tensors, ctx.bits), None, None, None, None, None


def unshared(grads: list[Array]) -> list[Array]:
    """Each gradient in memory of its own, so that in-place sums and clipping touch it once.

    autograd gives both leaves of `a + b` the same tensor, and a leaf of `.sum()` one number seen at all places.
    """
    owned, seen = [], set()
    for g in grads:
        address = g.untyped_storage().data_ptr()
        owned.append(g.clone(memory_format=torch.contiguous_format) if address in seen or 0 in g.stride() else g)
        seen.add(address)
    return owned
