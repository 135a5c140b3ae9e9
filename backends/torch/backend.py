"""PyTorch for CUDA GPUs and for CPUs."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint

from backends import tree
from backends.base import CAUSAL, Array, Backend, BackendUnavailable, Visible, by_group, causal_mask
from backends.group import Group, Launched
from backends.quantized import Quantized
from backends.runtime import Runtime
from backends.torch import rows as torch_rows
from backends.torch import sharded
from backends.torch.attention import Examples, attention_by_example, lengths_of
from backends.torch.autograd import ChunkedNLL, RMSNorm, inverse_size, unshared
from backends.torch.quantized import TorchQuantized
from backends.torch.rope import rotated, traceable
from backends.torch.runtime import TorchRuntime
from backends.torch.updates import InPlace
from backends.updates import Updates

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
    "int32": torch.int32, "uint8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
PINNED = 2**18  # entries of a batch, not of a weight: pinned memory is not given back
SLOW_GRADIENT = 256  # tokens up to which attention's gradient on a CPU takes longer in bfloat16 than in float32
ALIGNED = 16  # bytes, of which rows are multiples in torch's grouped product
NAMES = {dtype: name for name, dtype in DTYPES.items()} | {torch.int64: "int64", torch.float64: "float64"}


def create(device: str = "auto") -> Backend:
    """The torch backend on "gpu" (CUDA), "cpu" or, with "auto", CUDA if there is one.

    Apple's GPU is not used on purpose: torch's MPS device has open bugs with silently wrong gradients.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise BackendUnavailable("torch finds no CUDA GPU here; leave the device out or use cpu.")
    return TorchBackend("gpu" if torch.cuda.is_available() and device != "cpu" else "cpu")


class TorchBackend(Backend):
    """torch on one device. Updates happen in place: gradients, moments and weights are never held twice."""

    name = "torch"

    def __init__(self, device: str):
        self.device = device
        if device == "gpu":  # where steps are traced
            traceable()
        self.gathers = self.gathers_few = device == "gpu"  # a CPU computes one matrix after the other as fast
        self._device = torch.device("cuda" if device == "gpu" else "cpu")

    def array(self, values: Any, dtype: str | None = None) -> Array:
        values = np.asarray(values)
        narrow = {"float64": np.float32, "int64": np.int32, "uint16": np.int32, "uint32": np.int32}
        x = torch.tensor(values.astype(narrow.get(values.dtype.name, values.dtype), copy=False))
        if self._device.type == "cuda":
            pinned = values.size <= PINNED  # from there it is copied without waiting for the GPU's work so far
            x = (x.pin_memory() if pinned else x).to(self._device, non_blocking=pinned)
        return x if dtype is None else x.to(DTYPES[dtype])

    def numpy(self, x: Array) -> np.ndarray:
        x = sharded.whole(x.detach(), self.group.exchange)
        return np.array((x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy())

    def zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        return torch.zeros(shape, dtype=DTYPES[dtype], device=self._device)

    def zeros_like(self, x: Array) -> Array:
        return torch.zeros_like(x.detach(), dtype=torch.float32)

    def arange(self, start: int, stop: int) -> Array:
        return torch.arange(start, stop, dtype=torch.int32, device=self._device)

    def cast(self, x: Array, dtype: str) -> Array:
        return x.to(DTYPES[dtype])

    def dtype(self, x: Array) -> str:
        return NAMES[x.dtype]

    def concat(self, arrays: list[Array], axis: int) -> Array:
        return torch.cat(arrays, dim=axis)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        return torch.where(condition, a, b)

    def stop_gradient(self, x: Array) -> Array:
        return x.detach()

    def exp(self, x: Array) -> Array:
        return torch.exp(x)

    def log(self, x: Array) -> Array:
        return torch.log(x)

    def sqrt(self, x: Array) -> Array:
        return torch.sqrt(x)

    def sin(self, x: Array) -> Array:
        return torch.sin(x)

    def cos(self, x: Array) -> Array:
        return torch.cos(x)

    def tanh(self, x: Array) -> Array:
        return torch.tanh(x)

    def erf(self, x: Array) -> Array:
        return torch.erf(x)

    def amax(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        return torch.amax(x, dim=axis, keepdim=keepdims)

    def argmax(self, x: Array, axis: int) -> Array:
        return torch.argmax(x, dim=axis).to(torch.int32)

    def cumsum(self, x: Array, axis: int) -> Array:
        return torch.cumsum(x, dim=axis, dtype=x.dtype)

    def take(self, x: Array, indices: Array) -> Array:
        return F.embedding(indices, x) if x.ndim == 2 else x[indices]

    def split(self, x: Array, sizes: Sequence[int]) -> list[Array]:
        return list(x.split(list(sizes)))

    def gather(self, x: Array, indices: Array) -> Array:
        return torch.gather(x, -1, indices.long())

    def topk(self, x: Array, k: int) -> tuple[Array, Array]:
        values, indices = torch.topk(x, k, dim=-1)
        return values, indices.to(torch.int32)

    def argsort(self, x: Array) -> Array:
        return torch.argsort(x).to(torch.int32)

    def add_rows(self, values: Array, rows: Array, count: int) -> Array:
        return values.new_zeros(count, values.shape[1]).index_add(0, rows, values)

    def value_and_grad(self, fn: Callable, compiled: bool = False) -> Callable:
        traced = self.compile(fn) if compiled else fn

        def differentiated(weights: Any, *args: Any) -> tuple:
            if self.group.in_step:
                return sharded.differentiated(fn, weights, *args)
            inputs = [w.detach().requires_grad_(w.is_floating_point()) for w in tree.leaves(weights)]
            loss, aux = traced(tree.rebuild(weights, inputs), *args)
            wanted = [w for w in inputs if w.requires_grad] if loss.requires_grad else []
            found = iter(torch.autograd.grad(loss, wanted, allow_unused=True) if wanted else ())
            grads = [next(found, None) if w.requires_grad else None for w in inputs]
            grads = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, inputs, strict=True)]
            detached = tree.map_leaves(lambda x: x.detach(), aux)
            return (loss.detach(), detached), tree.rebuild(weights, unshared(grads))

        return differentiated

    def checkpoint(self, fn: Callable) -> Callable:
        def checkpointed(*args: Any) -> Any:
            if not any(x.requires_grad for x in tree.leaves(args)):  # an answer keeps nothing anyway
                return fn(*args)
            return torch.utils.checkpoint.checkpoint(fn, *args, use_reentrant=False, preserve_rng_state=False)

        return checkpointed

    def inference(self) -> AbstractContextManager:
        return torch.inference_mode()

    def compile(self, fn: Callable) -> Callable:
        return torch.compile(fn) if self.device == "gpu" and not self.group.in_step else fn

    def sync(self, *trees: Any) -> None:
        if self.device == "gpu":
            torch.cuda.synchronize()

    def nonzero(self, mask: Array) -> Array | None:
        return mask.reshape(-1).nonzero()[:, 0] if self.device == "cpu" else None

    # ---- fused kernels -----------------------------------------------------------------------------------

    def relu(self, x: Array) -> Array:
        return F.relu(x)

    def silu(self, x: Array) -> Array:
        return F.silu(x)

    def log_sigmoid(self, x: Array) -> Array:
        return F.logsigmoid(x)

    def softmax(self, x: Array) -> Array:
        return torch.softmax(x, dim=-1)

    def logsumexp(self, x: Array) -> Array:
        return torch.logsumexp(x, dim=-1)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        if self.device == "cpu" and weight.dtype == torch.float32:
            wide = x.float()
            if torch.is_grad_enabled():
                return RMSNorm.apply(wide, weight, eps).to(x.dtype)
            return (wide * inverse_size(wide, eps)).mul_(weight).to(x.dtype)  # 512 rows in a seventh of torch's time
        return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return F.layer_norm(x, (x.shape[-1],), weight.to(x.dtype), bias.to(x.dtype), eps)

    def gelu(self, x: Array, approximate: bool = False) -> Array:
        return F.gelu(x, approximate="tanh" if approximate else "none")

    def rope(self, x: Array, positions: int | Array, theta: float | tuple[float, ...]) -> Array:
        return rotated(x, positions, theta)

    def visible(
        self, queries: int, keys: int, *, segments: Array | None = None, follows: Array | None = None,
        positions: Array | None = None, window: int = 0, sinks: int = 0, slopes: tuple[float, ...] = (),
    ) -> Visible:  # fmt: skip
        if segments is not None and follows is None and self.device == "cpu" and queries > 1 and not slopes:
            lengths = lengths_of(segments)
            if lengths is not None and not 0 < window < max(map(max, lengths)):
                return Examples(lengths=lengths)
        rows = {"segments": segments, "follows": follows, "positions": positions, "window": window, "sinks": sinks}
        found = super().visible(queries, keys, **rows, slopes=slopes)
        if follows is None or slopes or self.device == "gpu":
            return found
        return Visible(bias=torch.where(found.mask, 0.0, -math.inf))  # made once, not in each layer

    def attention(
        self, q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0
    ) -> Array:
        if softcap:
            if isinstance(visible, Examples):
                one = partial(super().attention, scale=scale, visible=CAUSAL, softcap=softcap)
                return attention_by_example(q, k, v, visible, one)
            return super().attention(q, k, v, scale, visible, softcap)
        mask = visible.mask if visible.bias is None else visible.bias
        causal = False
        if visible.causal:  # torch's is_causal aligns the first query with the first key: only safe if equal
            causal = q.shape[2] == k.shape[2] and q.shape[2] > 1
            mask = None if causal or q.shape[2] == 1 else causal_mask(self, q.shape[2], k.shape[2])
        grouped = q.shape[1] != k.shape[1]
        if q.stride(-1) != 1:  # a product may lie turned, and torch's fused kernel wants rows: a third of the time
            q = q.contiguous()
        if (one := by_group(q, k, mask)) is not None:  # half the time
            return F.scaled_dot_product_attention(one, k, v, mask, scale=scale).reshape(*q.shape[:3], -1)
        dtype, by_example = q.dtype, isinstance(visible, Examples)
        if self.device == "cpu" and q.requires_grad and (by_example or q.shape[2] <= SLOW_GRADIENT):
            q, k, v = q.float(), k.float(), v.float()
        if by_example:
            one = partial(F.scaled_dot_product_attention, is_causal=True, scale=scale, enable_gqa=grouped)
            return attention_by_example(q, k, v, visible, one).to(dtype)
        mask = mask if visible.bias is None else mask.to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=grouped)
        return y.to(dtype)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return self.linears(x, [weight], [bias])[0]

    def linears(self, x: Array, weights: list[Array], biases: list[Array | None]) -> list[Array]:
        """On a GPU as one product with all weights; a CPU computes the single ones as fast, without the copy."""
        dtype = x.dtype  # asked for first: `to` takes as long as a small product, also where it does nothing
        weights = [weight if weight.dtype is dtype else weight.to(dtype) for weight in weights]
        biases = [bias if bias is None or bias.dtype is dtype else bias.to(dtype) for bias in biases]
        if self.device == "cpu" and dtype is torch.float32 and not torch.is_grad_enabled():
            return torch_rows.products(x, weights, biases)
        alike = all((bias is None) == (biases[0] is None) for bias in biases)
        if self.device == "cpu" or len(weights) == 1 or not alike:
            return [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        bias = None if biases[0] is None else torch.cat(biases)
        return list(F.linear(x, torch.cat(weights), bias).split([len(weight) for weight in weights], dim=-1))

    def gather_linear(self, x: Array, ids: Array, weights: Array) -> Array:
        weights = weights.to(x.dtype)
        traced = torch.compiler.is_compiling() and x.dtype != torch.bfloat16  # tracing knows of no other dtype
        if traced or any(extent * x.element_size() % ALIGNED for extent in weights.shape[1:]):
            return super().gather_linear(x, ids, weights)
        ends = torch.searchsorted(ids, torch.arange(len(weights), device=ids.device, dtype=ids.dtype), right=True)
        return F.grouped_mm(x, weights.mT, offs=ends.to(torch.int32))

    def token_nll(self, logits: Array, targets: Array) -> Array:
        rows = logits.reshape(-1, logits.shape[-1]).float()
        return F.cross_entropy(rows, targets.reshape(-1).long(), reduction="none").reshape(targets.shape)

    def chunked_nll(self, hidden: Array, weight: Array, targets: Array, size: int) -> Array:
        return ChunkedNLL.apply(hidden, weight.to(hidden.dtype), targets.long(), size)

    # ---- groups ------------------------------------------------------------------------------------------

    @property
    def updates(self) -> Updates:
        return InPlace(self)

    @property
    def quantized(self) -> Quantized:
        return TorchQuantized(self)

    @property
    def runtime(self) -> Runtime:
        return TorchRuntime(self)

    def grouped(self, launched: Launched) -> Group:
        from backends.torch.group import TorchGroup

        return TorchGroup(self, launched)
