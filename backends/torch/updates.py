"""Updates in place: gradients, moments and weights are never held twice."""

from collections.abc import Callable

import torch
from torch.optim.adamw import adamw

from backends.torch.sharded import whole
from backends.updates import MUON_GROUP, NEWTON_SCHULZ, Updates, by_shape

Array = torch.Tensor


class InPlace(Updates):
    """torch's fused kernels, which change what they are given. Of what is shared out (DTensors) each process changes
    its own rows; a norm is that of all of them, and a matrix becomes whole where Muon needs it.
    """

    def compile(self, fn: Callable) -> Callable:
        """`fn`: its kernels are fused already, and a trace would be made again for every learning rate."""
        return fn

    def add(self, totals: list[Array], terms: list[Array]) -> list[Array]:
        torch._foreach_add_(own(totals), own(terms))
        return totals

    def clip(self, grads: list[Array], max_norm: float) -> tuple[list[Array], Array]:
        rows = own(grads)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(rows)))
        if rows[0] is not grads[0]:
            norm = self.backend.group.sum([norm * norm])[0].sqrt()
        reads = self.backend.device == "cpu"  # on a GPU reading the norm would wait for all work so far
        if max_norm > 0 and not (reads and float(norm) <= max_norm):
            torch._foreach_mul_(rows, max_norm / torch.clamp(norm, min=max_norm))
        return grads, norm

    def adamw(
        self, params: list, grads: list, first: list, second: list, *, lr, correction1, correction2,
        beta1: float, beta2: float, eps: float, decays: list[float],
    ) -> tuple[list, list, list]:
        """torch's fused update, a quarter of the time of one pass per operation.

        It counts steps itself. Long after the first its corrections are 1; ours then go into the rate and eps:
        (m / c1) / (√(v / c2) + eps) = √c2 / c1 · m / (√v + √c2 · eps).
        """
        mine = [own(leaves) for leaves in (params, grads, first, second)]
        late = torch.full((), 1e12, device=params[0].device)
        rate = lr * correction2**0.5 / correction1
        for decay in set(decays):
            alike = [i for i, other in enumerate(decays) if other == decay]
            adamw(
                *([leaves[i] for i in alike] for leaves in mine), [], [late] * len(alike),
                fused=True, amsgrad=False, maximize=False, beta1=beta1, beta2=beta2, lr=rate,
                weight_decay=decay * lr / rate if rate else 0.0, eps=eps * correction2**0.5,
            )  # fmt: skip
        return params, first, second

    def muon(
        self, params: list, grads: list, momentum: list, *, lr, beta: float, decay: float, steps: int = 5,
        dtype: str = "float32",
    ) -> tuple[list, list]:
        torch._foreach_lerp_(own(momentum), own(grads), 1 - beta)
        torch._foreach_lerp_(own(grads), own(momentum), beta)  # looked ahead
        torch._foreach_mul_(own(params), 1 - lr * decay)
        exchange = self.backend.group.exchange
        for indices in by_shape(grads, MUON_GROUP):
            matrices = torch.stack([whole(grads[i], exchange) for i in indices])  # (n, out, in)
            updates = self.orthogonalize(matrices, steps, dtype)
            scale = max(1.0, updates.shape[-2] / updates.shape[-1]) ** 0.5
            changed = [params[i] for i in indices]
            rows = [rows_of(update, param) for update, param in zip(updates.unbind(), changed, strict=True)]
            torch._foreach_add_(own(changed), rows, alpha=-lr * scale)
        return params, momentum

    def orthogonalize(self, x: Array, steps: int, dtype: str = "float32") -> Array:
        """As in the base, each iteration in three calls without a temporary for every operation."""
        a, b, c = NEWTON_SCHULZ
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)).to(getattr(torch, dtype))
        for _ in range(steps):
            square = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return (x.mT if tall else x).float()


def own(arrays: list[Array]) -> list[Array]:
    """Of arrays that are shared out this process's rows, in the same memory; others as they are."""
    with torch.no_grad():
        return [x.detach().to_local() if hasattr(x, "to_local") else x for x in arrays]


def rows_of(update: Array, like: Array) -> Array:
    """Those rows of a whole matrix that this process has of `like`."""
    if not hasattr(like, "to_local"):
        return update
    from torch.distributed.tensor import distribute_tensor

    with torch.no_grad():  # each takes its part of what all have
        return distribute_tensor(update, like.device_mesh, like.placements, src_data_rank=None).to_local()
