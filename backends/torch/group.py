"""Several processes with torch.distributed: gloo between CPUs, NCCL between GPUs, started by torchrun."""

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from backends.base import Backend
from backends.group import Launched, Several
from backends.torch import sharded
from backends.tree import Tree

LONG = timedelta(days=30)  # a long pause or evaluation is no failure; who is gone is found by heartbeats


class TorchGroup(Several):
    """The default process group of torch.distributed."""

    def __init__(self, backend: Backend, launched: Launched):
        super().__init__(backend, launched.rank, launched.size)
        kind = "nccl" if backend.device == "gpu" else "gloo"
        if kind == "nccl":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        else:
            choose_interface(os.environ["MASTER_ADDR"])
        dist.init_process_group(kind, rank=launched.rank, world_size=launched.size, timeout=LONG)

    def _sum(self, flat: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(flat)
        return flat

    def spread(self, arrays: Sequence[torch.Tensor], owners: Sequence[int]) -> list[torch.Tensor]:
        """In place: nothing is held twice."""
        with self.exchange(sum(x.nbytes for x in arrays)):
            begun = [dist.broadcast(x, owner, async_op=True) for x, owner in zip(arrays, owners, strict=True)]
            for work in begun:
                work.wait()
        return list(arrays)

    def _gather(self, flat: np.ndarray) -> list[np.ndarray]:
        device = "cuda" if self.backend.device == "gpu" else "cpu"
        own = torch.from_numpy(flat.copy()).to(device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return [one.cpu().numpy() for one in found]

    # ---- a model of which each process has a part -----------------------------------------------------------

    @property
    def shards(self) -> bool:
        return sharded.possible()

    def shared_out(self, tree: Tree, layers: str, transfer: str) -> Tree:
        reduced = None if transfer == "float32" else getattr(torch, transfer)
        device = "cuda" if self.backend.device == "gpu" else "cpu"
        return sharded.shared_out(tree, layers, device, reduced, self.exchange)

    def opened(self, fn: Callable) -> Callable:
        return sharded.opened(fn) if self.in_step else fn

    def save(self, tree: Tree, file: Path) -> None:
        sharded.save(tree, file, self.exchange)

    def load(self, flat: dict[str, torch.Tensor], directory: Path) -> None:
        sharded.load(flat, directory, self.exchange)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # a partner may have left already
            dist.destroy_process_group()


def choose_interface(master: str) -> None:
    """Let gloo use the network that reaches the first process: by default it takes what the host's name means.

    That may be an address that nobody reaches, and gloo then waits for ever. A user's own choice stays.
    """
    if "GLOO_SOCKET_IFNAME" not in os.environ and (name := interface_to(master)):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_to(address: str) -> str | None:
    """The name of the network interface with which this machine reaches an address; None where it is not known."""
    import psutil

    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # of a datagram socket: chooses a route and sends nothing
        own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if any(one.address == own for one in addresses):
                return name
    return None
