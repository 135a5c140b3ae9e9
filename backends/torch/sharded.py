"""A model shared out between processes: torch's FSDP2 under a tree of arrays that pure functions read.

`fully_shard` (Zhao et al. 2023) shards the parameters of modules, gathers them before a module's forward and backward
pass, frees them afterwards, and adds the gradients up in parts. Here a module is nothing but the leaves of a layer,
called with the function that is to be computed on them. Saved and read by torch.distributed.checkpoint.

What FSDP2 gathers and adds up is an `exchange` of the group as all others are (see `Group.exchange`), so that a watcher
sees where a process waits.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from backends.torch import heap
from backends.tree import Tree, items, leaves, map_leaves, rebuild

FILE = 1 << 25  # bytes of a process's file, about

Exchange = Callable[[int], contextlib.AbstractContextManager]


class Leaves(nn.Module):
    """The arrays of a tree as parameters, and the `inner` trees, which have modules of their own, in their place."""

    def __init__(self, tree: Tree, inner: Sequence["Shared"] = (), place: Sequence[str] = ()):
        super().__init__()
        self._shape, self._inner, self._place = tree, list(inner), place
        for number, leaf in enumerate(leaves(tree)):
            self.register_parameter(f"leaf{number}", nn.Parameter(torch.tensor(leaf)))
        self._shape = map_leaves(lambda leaf: None, tree)
        self.inner = nn.ModuleList(one.module for one in inner)

    def forward(self, fn: Callable, *args: Any) -> Any:
        return fn(self.tree(), *args)

    def tree(self) -> Tree:
        """The tree with the parameters as they are: each whole while `forward` runs, else this process's part."""
        found = rebuild(self._shape, [getattr(self, f"leaf{i}") for i in range(len(leaves(self._shape)))])
        if self._place:
            *parents, last = self._place
            node = found
            for key in parents:
                node = node[key]
            node[last] = self._inner
        return found


class Shared(dict):
    """A tree of DTensors, of each of which this process has its rows. `module` computes with them."""

    def __init__(self, module: Leaves, outermost: bool):
        super().__init__(module.tree())
        self.module, self.outermost = module, outermost


class Gathering:
    """What gathers a layer's parameters, and marks that as an exchange (see torch's `set_custom_all_gather`)."""

    def __init__(self, exchange: Exchange):
        self.exchange = exchange
        self.compute = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its older name

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, **how: Any) -> dist.Work | None:
        with self.exchange(max(output_tensor.nbytes, input_tensor.nbytes)):
            return self.compute(output_tensor, input_tensor, **how)


class Adding(Gathering):
    """What adds its gradients up, of which each process gets its rows (see `set_custom_reduce_scatter`)."""

    def __init__(self, exchange: Exchange):
        super().__init__(exchange)
        self.compute = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def possible() -> bool:
    """Whether this version of torch has what is needed."""
    try:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint import _consolidate_hf_safetensors  # noqa: F401
        from torch.distributed.fsdp import FSDPModule
    except ImportError:
        return False
    wanted = "set_force_sum_reduction_for_comms", "set_custom_all_gather", "set_custom_reduce_scatter"
    return hasattr(dcp, "HuggingFaceStorageReader") and all(hasattr(FSDPModule, name) for name in wanted)


def shared_out(tree: Tree, layers: str, device: str, reduced: torch.dtype | None, exchange: Exchange) -> Shared:
    """A tree of NumPy arrays, alike in all processes, shared out between them. The items of the list at the path
    `layers` ("model.layers") are gathered one by one, all else for a whole pass. Gradients travel as `reduced`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if device == "cpu":
        heap.return_blocks()  # gathered arrays come and go between lasting ones: their holes took half as much again
    mesh, policy = init_device_mesh(device, (dist.get_world_size(),)), MixedPrecisionPolicy(reduce_dtype=reduced)

    def sharded(module: Leaves, outermost: bool = False) -> Shared:
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        module.set_gradient_divide_factor(1.0)  # the rows' loss weights make a sum of it, not a mean
        module.set_force_sum_reduction_for_comms(True)
        module.set_custom_all_gather(Gathering(exchange))
        module.set_custom_reduce_scatter(Adding(exchange))
        return Shared(module, outermost)

    place = layers.split(".")
    node = outside = _copied(tree, place)
    for key in place[:-1]:
        node = node[key]
    inner = [sharded(Leaves(layer)) for layer in node[place[-1]]]
    node[place[-1]] = []
    return sharded(Leaves(outside, inner, place), outermost=True)


def _copied(tree: Tree, place: Sequence[str]) -> Tree:
    """The tree with dicts of its own along a path."""
    return {**tree, place[0]: _copied(tree[place[0]], place[1:])} if place else tree


# ---- computing ---------------------------------------------------------------------------------------------


def opened(fn: Callable) -> Callable:
    """`fn`, for whose first argument what is `Shared` is gathered; that of a whole model without gradients."""

    def called(tree: Tree, *args: Any) -> Any:
        if not isinstance(tree, Shared):
            return fn(tree, *args)
        if not tree.outermost:
            return tree.module(fn, *args)
        with torch.no_grad():
            return tree.module(fn, *args)

    return called


def differentiated(fn: Callable, tree: Shared, *args: Any) -> tuple:
    """As `Backend.value_and_grad` calls it: ((loss, aux), gradients), where each process gets the gradients, summed
    over all, of its own rows.
    """
    loss, aux = tree.module(fn, *args)
    loss.backward()
    grads, params = [], leaves(tree)
    for param in params:
        grads.append(torch.zeros_like(param.detach()) if param.grad is None else param.grad.detach())
        param.grad = None
    return (loss.detach(), map_leaves(lambda x: x.detach(), aux)), rebuild(tree, grads)


def whole(x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
    """An array, gathered from all processes where it is shared out: all ask for it then."""
    if not hasattr(x, "full_tensor"):
        return x
    with exchange(x.nbytes):
        return x.full_tensor()


# ---- on disk -----------------------------------------------------------------------------------------------


def save(tree: Tree, file: Path, exchange: Exchange) -> None:
    """Write a tree of DTensors as one safetensors file: each process its rows, which the first one then joins, without
    ever having them in memory at once. Raises OSError where that fails.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files as join

    beside, flat = file.with_suffix(""), {name: x.detach() for name, x in items(tree)}
    writer = dcp.HuggingFaceStorageWriter(str(beside / "parts"), in_files(flat), save_distributed=True)
    with failing(), exchange(sum(x.nbytes for x in flat.values())):
        dcp.save(flat, storage_writer=writer)
    if dist.get_rank() == 0:
        join(str(beside / "parts"), str(beside), dict.fromkeys(flat, 1))
        [joined] = beside.glob("*.safetensors")
        os.replace(joined, file)
        shutil.rmtree(beside)


def in_files(flat: dict[str, torch.Tensor]) -> dict[str, int]:
    """The number of each array's file: a process has a copy of a whole one in memory while it writes."""
    found, held = {}, 0
    for name, x in flat.items():
        found[name] = 1 + held // FILE
        held += x.nbytes // dist.get_world_size()
    return found


def load(flat: dict[str, torch.Tensor], directory: Path, exchange: Exchange) -> None:
    """Fill DTensors, by their names in the safetensors files of a directory, each process its rows."""
    import torch.distributed.checkpoint as dcp

    with failing(), exchange(sum(x.nbytes for x in flat.values())):
        dcp.load({name: x.detach() for name, x in flat.items()},
                 storage_reader=dcp.HuggingFaceStorageReader(str(directory)))  # fmt: skip


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """Raises OSError, with the first process's reason, for what torch.distributed.checkpoint could not do."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise OSError(str(reason)) from None
