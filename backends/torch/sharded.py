"""A model shared out between processes: torch's FSDP2 under a tree of arrays that pure functions read.

`fully_shard` (Zhao et al. 2023) shards the parameters of modules, gathers them before a module's forward and backward
pass, frees them afterwards, and adds the gradients up in parts. Here a module is nothing but the leaves of a layer,
called with the function that is to be computed on them. Saved and read by torch.distributed.checkpoint.
"""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from backends.group import PartnerLost
from backends.tree import Tree, items, leaves, map_leaves, rebuild

KEPT, LARGE = -3, 1 << 18  # glibc's M_MMAP_THRESHOLD; bytes of a block that goes back to the system when it is freed
FILE = 1 << 25  # bytes of a process's file, about
BROKEN = ("gloo", "nccl", "connection", "socket")  # words of an exchange that failed, in any letters


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


def possible() -> bool:
    """Whether this version of torch has what is needed."""
    try:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint import _consolidate_hf_safetensors  # noqa: F401
        from torch.distributed.fsdp import FSDPModule
    except ImportError:
        return False
    return hasattr(dcp, "HuggingFaceStorageReader") and hasattr(FSDPModule, "set_force_sum_reduction_for_comms")


def shared_out(tree: Tree, layers: str, device: str, reduced: torch.dtype | None) -> Shared:
    """A tree of NumPy arrays, alike in all processes, shared out between them. The items of the list at the path
    `layers` ("model.layers") are gathered one by one, all else for a whole pass. Gradients travel as `reduced`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if device == "cpu":
        _give_back_at_once()
    mesh, policy = init_device_mesh(device, (dist.get_world_size(),)), MixedPrecisionPolicy(reduce_dtype=reduced)

    def sharded(module: Leaves, outermost: bool = False) -> Shared:
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        module.set_gradient_divide_factor(1.0)  # the rows' loss weights make a sum of it, not a mean
        module.set_force_sum_reduction_for_comms(True)
        return Shared(module, outermost)

    place = layers.split(".")
    node = outside = _copied(tree, place)
    for key in place[:-1]:
        node = node[key]
    inner = [sharded(Leaves(layer)) for layer in node[place[-1]]]
    node[place[-1]] = []
    return sharded(Leaves(outside, inner, place), outermost=True)


def _give_back_at_once() -> None:
    """Let glibc return large blocks as soon as they are freed: gathered arrays come and go between lasting ones, and
    the holes that they leave took half as much memory again.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system
        ctypes.CDLL(None).mallopt(KEPT, LARGE)


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
        with torch.no_grad(), partners():
            return tree.module(fn, *args)

    return called


def differentiated(fn: Callable, tree: Shared, *args: Any) -> tuple:
    """As `Backend.value_and_grad` calls it: ((loss, aux), gradients), where each process gets the gradients, summed
    over all, of its own rows.
    """
    with partners():
        loss, aux = tree.module(fn, *args)
        loss.backward()
    grads, params = [], leaves(tree)
    for param in params:
        grads.append(torch.zeros_like(param.detach()) if param.grad is None else param.grad.detach())
        param.grad = None
    return (loss.detach(), map_leaves(lambda x: x.detach(), aux)), rebuild(tree, grads)


@contextlib.contextmanager
def partners() -> Iterator[None]:
    """Raises PartnerLost for an exchange within the block that failed."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error).lower() for word in BROKEN):
            raise PartnerLost(str(error)) from None
        raise


def whole(x: torch.Tensor) -> torch.Tensor:
    """An array, gathered from all processes where it is shared out: all ask for it then."""
    if not hasattr(x, "full_tensor"):
        return x
    with partners():
        return x.full_tensor()


# ---- on disk -----------------------------------------------------------------------------------------------


def save(tree: Tree, file: Path) -> None:
    """Write a tree of DTensors as one safetensors file: each process its rows, which the first one then joins, without
    ever having them in memory at once. Raises OSError where that fails.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files as join

    beside, flat = file.with_suffix(""), {name: x.detach() for name, x in items(tree)}
    writer = dcp.HuggingFaceStorageWriter(str(beside / "parts"), in_files(flat), save_distributed=True)
    with failing():
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


def load(flat: dict[str, torch.Tensor], directory: Path) -> None:
    """Fill DTensors, by their names in the safetensors files of a directory, each process its rows."""
    import torch.distributed.checkpoint as dcp

    with failing():
        dcp.load({name: x.detach() for name, x in flat.items()},
                 storage_reader=dcp.HuggingFaceStorageReader(str(directory)))  # fmt: skip


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """Raises OSError, with the first process's reason, for what torch.distributed.checkpoint could not do."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with partners():
            yield
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise OSError(str(reason)) from None
