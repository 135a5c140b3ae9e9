"""PyTorch for CUDA GPUs and for CPUs."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch.optim.adamw import adamw

from backends import tree
from backends.base import (
    MUON_GROUP,
    NEWTON_SCHULZ,
    Array,
    Backend,
    BackendUnavailable,
    by_group,
    by_shape,
    rope_frequencies,
)
from backends.torch import int8 as torch_int8
from backends.torch import rows as torch_rows

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
    "int32": torch.int32, "uint8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
PINNED = 2**18  # numbers of a batch, not of a weight: pinned memory is not given back
SLOW_GRADIENT = 256  # tokens up to which attention's gradient on a CPU takes longer in bfloat16 than in float32
NAMES = {dtype: name for name, dtype in DTYPES.items()} | {torch.int64: "int64", torch.float64: "float64"}


def create(device: str = "auto") -> Backend:
    """The torch backend on "gpu" (CUDA), "cpu" or, with "auto", CUDA if there is one.

    Apple's GPU is left out on purpose: torch's MPS device has open bugs with silently wrong gradients.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise BackendUnavailable("torch finds no CUDA GPU here; leave the device out or use cpu.")
    return TorchBackend("gpu" if torch.cuda.is_available() and device != "cpu" else "cpu")


class TorchBackend(Backend):
    """torch on one device. Updates happen in place: gradients, moments and weights are never held twice."""

    name = "torch"

    def __init__(self, device: str):
        self.device = device
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
        x = x.detach()
        return np.array((x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy())

    def zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        return torch.zeros(shape, dtype=DTYPES[dtype], device=self._device)

    def arange(self, start: int, stop: int) -> Array:
        return torch.arange(start, stop, dtype=torch.int32, device=self._device)

    def cast(self, x: Array, dtype: str) -> Array:
        return x.to(DTYPES[dtype])

    def dtype(self, x: Array) -> str:
        return NAMES[x.dtype]

    def concat(self, arrays: list[Array], axis: int) -> Array:
        return torch.cat(arrays, dim=axis)

    def stack(self, arrays: list[Array]) -> Array:
        return torch.stack(arrays)

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

    def abs(self, x: Array) -> Array:
        return torch.abs(x)

    def amax(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        return torch.amax(x, dim=axis, keepdim=keepdims)

    def argmax(self, x: Array, axis: int) -> Array:
        return torch.argmax(x, dim=axis).to(torch.int32)

    def cumsum(self, x: Array, axis: int) -> Array:
        return torch.cumsum(x, dim=axis, dtype=x.dtype)

    def take(self, x: Array, indices: Array) -> Array:
        return F.embedding(indices, x) if x.ndim == 2 else x[indices]

    def gather(self, x: Array, indices: Array) -> Array:
        return torch.gather(x, -1, indices.long())

    def topk(self, x: Array, k: int) -> tuple[Array, Array]:
        values, indices = torch.topk(x, k, dim=-1)
        return values, indices.to(torch.int32)

    def value_and_grad(self, fn: Callable, compiled: bool = False) -> Callable:
        traced = self.compile(fn) if compiled else fn

        def differentiated(weights: Any, *args: Any) -> tuple:
            inputs = [w.detach().requires_grad_(w.is_floating_point()) for w in tree.leaves(weights)]
            loss, aux = traced(tree.rebuild(weights, inputs), *args)
            wanted = [w for w in inputs if w.requires_grad] if loss.requires_grad else []
            found = iter(torch.autograd.grad(loss, wanted, allow_unused=True) if wanted else ())
            grads = [next(found, None) if w.requires_grad else None for w in inputs]
            grads = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, inputs, strict=True)]
            detached = tree.map_leaves(lambda x: x.detach(), aux)
            return (loss.detach(), detached), tree.rebuild(weights, _unshared(grads))

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
        return torch.compile(fn) if self.device == "gpu" else fn

    def compile_update(self, fn: Callable) -> Callable:
        """`fn`: its kernels are fused already, and a trace would be made again for every learning rate."""
        return fn

    def scalar(self, value: float) -> Any:
        return value

    def sync(self, *trees: Any) -> None:
        if self.device == "gpu":
            torch.cuda.synchronize()

    def begin(self, *trees: Any) -> None:
        """Nothing: a GPU computes what was asked of it while the next step is prepared."""

    def nonzero(self, mask: Array) -> Array | None:
        return mask.reshape(-1).nonzero()[:, 0] if self.device == "cpu" else None

    def repeat_exactly(self, wanted: bool) -> None:
        if self.device == "gpu":  # a CPU does anyway
            if wanted:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.utils.deterministic.fill_uninitialized_memory = False
            torch.use_deterministic_algorithms(wanted)

    def memory(self) -> dict[str, int]:
        if self.device == "cpu":
            return {"active": 0, "peak": 0}
        return {"active": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}

    def set_limits(self, memory: int | None = None, cache: int | None = None, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if memory is not None and self.device == "gpu":
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, memory / total))

    def clear_cache(self) -> None:
        if self.device == "gpu":
            torch.cuda.empty_cache()

    def shares_memory(self) -> bool:
        return self.device == "cpu"

    def fast_bfloat16(self) -> bool:
        return self.device == "gpu" and torch.cuda.get_device_capability()[0] >= 8

    def versions(self) -> dict[str, str]:
        device = torch.cuda.get_device_name() if self.device == "gpu" else "cpu"
        return {"torch": torch.__version__, "device": device, "threads": str(torch.get_num_threads())}

    # ---- fused kernels -----------------------------------------------------------------------------------

    def sigmoid(self, x: Array) -> Array:
        return torch.sigmoid(x)

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
                return _RMSNorm.apply(wide, weight, eps).to(x.dtype)
            return (wide * _inverse_size(wide, eps)).mul_(weight).to(x.dtype)  # 512 rows in a seventh of torch's time
        return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return F.layer_norm(x, (x.shape[-1],), weight.to(x.dtype), bias.to(x.dtype), eps)

    def gelu(self, x: Array) -> Array:
        return F.gelu(x)

    def gelu_tanh(self, x: Array) -> Array:
        return F.gelu(x, approximate="tanh")

    def rope(self, x: Array, offset: int, theta: float | tuple[float, ...]) -> Array:
        cos, sin = _rope_rows(self._device.type, x.dtype, x.shape[-1], theta, offset, offset + x.shape[2])
        few = x.shape[2] <= 64 and not torch.is_grad_enabled()  # calls count there more than passes over memory
        if few or torch.compiler.is_compiling():
            return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
        return _Rotation.apply(x, cos, sin)

    def attention(self, q: Array, k: Array, v: Array, scale: float, mask: Array | str | None = "causal") -> Array:
        causal = False
        if isinstance(mask, str):  # torch's is_causal aligns the first query with the first key: only safe if equal
            causal = q.shape[2] == k.shape[2] and q.shape[2] > 1
            mask = None if causal or q.shape[2] == 1 else self.causal_mask(q.shape[2], k.shape[2])
        grouped = q.shape[1] != k.shape[1]
        if q.stride(-1) != 1:  # a product may lie turned, and torch's fused kernel wants rows: a third of the time
            q = q.contiguous()
        if (one := by_group(q, k, mask)) is not None:  # half the time
            return F.scaled_dot_product_attention(one, k, v, mask, scale=scale).reshape(*q.shape[:3], -1)
        dtype, blocks = q.dtype, _blocks(mask) if self.device == "cpu" and q.shape[2] > 1 else None
        if self.device == "cpu" and q.requires_grad and (blocks or q.shape[2] <= SLOW_GRADIENT):
            q, k, v = q.float(), k.float(), v.float()
        if blocks:
            return _attention_in_blocks(q, k, v, scale, blocks).to(dtype)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=grouped)
        return y.to(dtype)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        return self.linears(x, [weight], [bias])[0]

    def linears(self, x: Array, weights: list[Array], biases: list[Array | None]) -> list[Array]:
        """On a GPU as one product with all weights; a CPU computes the single ones as fast, without the copy."""
        weights = [weight.to(x.dtype) for weight in weights]
        biases = [None if bias is None else bias.to(x.dtype) for bias in biases]
        if self.device == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled():
            return torch_rows.products(x, weights, biases)
        alike = all((bias is None) == (biases[0] is None) for bias in biases)
        if self.device == "cpu" or len(weights) == 1 or not alike:
            return [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        bias = None if biases[0] is None else torch.cat(biases)
        return list(F.linear(x, torch.cat(weights), bias).split([len(weight) for weight in weights], dim=-1))

    def dequantize(self, packed: Array, scales: Array, biases: Array, bits: int) -> Array:
        codes = packed.contiguous().view(torch.uint8)  # the bytes of a word, its lowest first
        if bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), dim=-1)
        codes = codes.to(scales.dtype).reshape(*scales.shape, -1)  # (…, groups, group_size)
        return torch.addcmul(biases[..., None], codes, scales[..., None]).reshape(*packed.shape[:-1], -1)

    def quantized_linear(
        self, x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None
    ) -> Array:
        """torch's own int4 and int8 products lose against this on CPUs in float32 (README: Quantization)."""
        bits = 32 * packed.shape[-1] // x.shape[-1]
        y = _QuantizedLinear.apply(x, packed, scales.to(x.dtype), biases.to(x.dtype), bits, self.dequantize)
        return y if bias is None else y + bias.to(x.dtype)

    def int8_matrix(self, weight: np.ndarray) -> Any | None:
        return torch_int8.packed(self.array(weight)) if self.device == "cpu" and torch_int8.available() else None

    def int8_linears(self, x: Array, matrices: list[Any], biases: list[Array | None]) -> list[Array]:
        ys = [y.to(x.dtype) for y in torch_int8.products(x.float(), matrices)]
        return [y if bias is None else y + bias.to(x.dtype) for y, bias in zip(ys, biases, strict=True)]

    def token_nll(self, logits: Array, targets: Array) -> Array:
        rows = logits.reshape(-1, logits.shape[-1]).float()
        return F.cross_entropy(rows, targets.reshape(-1).long(), reduction="none").reshape(targets.shape)

    def chunked_nll(self, hidden: Array, weight: Array, targets: Array, size: int) -> Array:
        return _ChunkedNLL.apply(hidden, weight.to(hidden.dtype), targets.long(), size)

    # ---- updates in place --------------------------------------------------------------------------------

    def add_lists(self, totals: list[Array], terms: list[Array]) -> list[Array]:
        torch._foreach_add_(totals, terms)
        return totals

    def clip_by_global_norm(self, grads: list[Array], max_norm: float) -> tuple[list[Array], Array]:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if max_norm > 0 and (self.device == "gpu" or not float(norm) <= max_norm):  # reading it makes a GPU wait
            torch._foreach_mul_(grads, max_norm / torch.clamp(norm, min=max_norm))
        return grads, norm

    def adamw_update(
        self, params: list, grads: list, first: list, second: list, *, lr, correction1, correction2,
        beta1: float, beta2: float, eps: float, decays: list[float],
    ) -> tuple[list, list, list]:
        """torch's fused update, a quarter of the time of one pass per operation.

        It counts steps itself. Far behind the first its corrections are 1; ours then go into the rate and eps:
        (m / c1) / (√(v / c2) + eps) = √c2 / c1 · m / (√v + √c2 · eps).
        """
        late = torch.full((), 1e12, device=self._device)
        rate = lr * correction2**0.5 / correction1
        for decay in set(decays):
            own = [i for i, other in enumerate(decays) if other == decay]
            adamw(
                *([leaves[i] for i in own] for leaves in (params, grads, first, second)), [], [late] * len(own),
                fused=True, amsgrad=False, maximize=False, beta1=beta1, beta2=beta2, lr=rate,
                weight_decay=decay * lr / rate if rate else 0.0, eps=eps * correction2**0.5,
            )  # fmt: skip
        return params, first, second

    def muon_update(
        self, params: list, grads: list, momentum: list, *, lr, beta: float, decay: float, steps: int = 5,
        dtype: str = "float32",
    ) -> tuple[list, list]:
        torch._foreach_lerp_(momentum, grads, 1 - beta)
        torch._foreach_lerp_(grads, momentum, beta)  # looked ahead
        torch._foreach_mul_(params, 1 - lr * decay)
        for indices in by_shape(grads, MUON_GROUP):
            updates = self.orthogonalize(torch.stack([grads[i] for i in indices]), steps, dtype)  # (n, out, in)
            scale = max(1.0, updates.shape[-2] / updates.shape[-1]) ** 0.5
            torch._foreach_add_([params[i] for i in indices], list(updates.unbind()), alpha=-lr * scale)
        return params, momentum

    def orthogonalize(self, x: Array, steps: int, dtype: str = "float32") -> Array:
        """As in the base, each iteration in three calls without a temporary for every operation."""
        a, b, c = NEWTON_SCHULZ
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)).to(DTYPES[dtype])
        for _ in range(steps):
            square = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return (x.mT if tall else x).float()


def _blocks(mask: Array | None) -> list[list[int]] | None:
    """For a mask (B, 1, T, T) of rows that hold several examples: the lengths of each row's examples, else None.

    Found once for a mask, by what it allows, and kept with it: all layers are given the same one.
    """
    if mask is None or mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2] != mask.shape[3]:
        return None
    if not hasattr(mask, "blocks"):
        places = torch.arange(mask.shape[2])
        starts = places - mask[:, 0].sum(dim=-1) + 1  # (B, T), if a query sees all from its example's start to itself
        seen = (places <= places[:, None]) & (places >= starts[..., None])  # (B, T, T)
        begins = starts == places
        follows = begins[:, 1:] | (starts[:, 1:] == starts[:, :-1])
        mask.blocks = None
        if begins[:, 0].all() and follows.all() and torch.equal(seen, mask[:, 0]):
            mask.blocks = [torch.cat([row.nonzero()[:, 0], places[-1:] + 1]).diff().tolist() for row in begins]
    return mask.blocks


def _attention_in_blocks(q: Array, k: Array, v: Array, scale: float, blocks: list[list[int]]) -> Array:
    """Causal attention within each example alone: the arithmetic of what is allowed, not of the whole square."""
    grouped, rows = q.shape[1] != k.shape[1], []
    for row, lengths in zip(zip(q.split(1), k.split(1), v.split(1), strict=True), blocks, strict=True):
        pieces = zip(*(x.split(lengths, dim=2) for x in row), strict=True)  # (1, heads, length, D) each
        one = [F.scaled_dot_product_attention(*x, is_causal=True, scale=scale, enable_gqa=grouped) for x in pieces]
        rows.append(torch.cat(one, dim=2))
    return torch.cat(rows)


class _QuantizedLinear(torch.autograd.Function):
    """A product with a quantized weight that keeps the packed weight, not its floats, for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Array, packed: Array, scales: Array, biases: Array, bits: int, unpack: Callable) -> Array:
        ctx.save_for_backward(packed, scales, biases)
        ctx.bits, ctx.unpack = bits, unpack
        return F.linear(x, unpack(packed, scales, biases, bits))

    @staticmethod
    def backward(ctx: Any, grad: Array) -> tuple:
        return grad @ ctx.unpack(*ctx.saved_tensors, ctx.bits), None, None, None, None, None


class _ChunkedNLL(torch.autograd.Function):
    """-log softmax(x wᵀ)[target] with one buffer of logits: autograd with checkpoints held three and left holes.

    Backwards: ∂/∂logits = (softmax − one-hot) · upstream, and the sum of the rows' logits is never kept.
    """

    @staticmethod
    def forward(ctx, x: Array, w: Array, targets: Array, size: int) -> Array:
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
    def backward(ctx, upstream: Array) -> tuple:
        x, w, targets, sums = ctx.saved_tensors
        logits = torch.empty(min(ctx.size, len(x)), len(w), dtype=x.dtype, device=x.device)
        dx, dw = torch.empty_like(x), torch.zeros_like(w, dtype=torch.float32)
        for i in range(0, len(x), ctx.size):
            here = slice(i, i + ctx.size)
            rows = torch.mm(x[here], w.T, out=logits[: len(x[here])]).float()
            rows.sub_(sums[here, None]).exp_()
            rows.scatter_add_(-1, targets[here, None], -torch.ones_like(rows[:, :1]))
            slopes = rows.mul_(upstream[here, None]).to(x.dtype)
            torch.mm(slopes, w, out=dx[here])
            dw.add_(slopes.T @ x[here]) if x.dtype != torch.float32 else dw.addmm_(slopes.T, x[here])
        return dx, dw.to(w.dtype), None, None


def _unshared(grads: list[Array]) -> list[Array]:
    """Each gradient in memory of its own, so that in-place sums and clipping touch it once.

    autograd gives both leaves of `a + b` the same tensor, and a leaf of `.sum()` one number seen at all places.
    """
    owned, seen = [], set()
    for g in grads:
        address = g.untyped_storage().data_ptr()
        owned.append(g.clone(memory_format=torch.contiguous_format) if address in seen or 0 in g.stride() else g)
        seen.add(address)
    return owned


class _Rotation(torch.autograd.Function):
    """x * cos + (x with its halves swapped) * sin, and backwards the same with the other sign.

    Half the time of what autograd makes of that line on a CPU: it would keep and add up six pieces.
    """

    @staticmethod
    def forward(ctx: Any, x: Array, cos: Array, sin: Array) -> Array:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, slope: Array) -> tuple:
        return _rotated(slope, *ctx.saved_tensors, -1.0), None, None


def _rotated(x: Array, cos: Array, sin: Array, sign: float) -> Array:
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=sign)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return y


@torch.compiler.assume_constant_result  # a trace takes the rows as they are
def _rope_rows(
    device: str, dtype: torch.dtype, width: int, theta: float | tuple[float, ...], start: int, stop: int
) -> tuple[Array, Array]:
    """cos and signed sin (T, width) of the positions from `start` to `stop`."""
    return _found_rope_rows(device, dtype, width, theta, start, stop)


@lru_cache(maxsize=8)  # all layers of a step ask for the same rows
def _found_rope_rows(
    device: str, dtype: torch.dtype, width: int, theta: float | tuple[float, ...], start: int, stop: int
) -> tuple[Array, Array]:
    count = max(256, 1 << (stop - 1).bit_length())
    with torch.inference_mode(False):  # also a training step may use them later
        cos, sin = _rope_table(device, dtype, width, theta, count)[:, start:stop]
    return cos, sin


@lru_cache(maxsize=64)
def _rope_table(device: str, dtype: torch.dtype, width: int, theta: float | tuple[float, ...], count: int) -> Array:
    """cos and signed sin of `count` positions: (2, count, width)."""
    frequencies = rope_frequencies(theta, width // 2)
    angles = np.arange(count, dtype=np.float32)[:, None] * frequencies[None, :]
    cos = np.concatenate([np.cos(angles), np.cos(angles)], axis=-1)
    sin = np.concatenate([-np.sin(angles), np.sin(angles)], axis=-1)
    with torch.inference_mode(False):  # also a training step may use it later
        return torch.tensor(np.stack([cos, sin]), device=device).to(dtype)


def _inverse_size(x: Array, eps: float) -> Array:
    """1 / sqrt(mean(x²) + eps) over the last axis: (…, 1)."""
    norm = torch.linalg.vector_norm(x, 2, -1, True)
    return torch.addcmul(_constant(eps), norm, norm, value=1 / x.shape[-1]).rsqrt_()


@cache
def _constant(value: float) -> Array:
    with torch.inference_mode(False):  # also a training step may use it later
        return torch.tensor([value])


class _RMSNorm(torch.autograd.Function):
    """RMSNorm in float32 on a CPU: torch's own takes apart its backward pass and is four times slower there.

    LayerNorm's kernel with a mean of 0 computes all of the gradient but for one term, which is added.
    """

    @staticmethod
    def forward(ctx: Any, x: Array, weight: Array, eps: float) -> Array:
        scale = _inverse_size(x, eps)  # (…, 1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, slope: Array) -> tuple:
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
            slope, x, [width], torch.zeros_like(scale), scale, weight, None, [True, ctx.needs_input_grad[1], False]
        )
        return dx.add_(scale * (slope @ weight).unsqueeze(-1).div_(width)), dweight, None
