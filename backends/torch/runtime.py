"""torch's memory, limits and versions."""

import os

import torch

from backends.runtime import Runtime
from backends.torch import heap


class TorchRuntime(Runtime):
    """CUDA has counters and bounds; of a CPU only the number of threads is set, and how much freed memory is kept."""

    def memory(self) -> dict[str, int]:
        if self.backend.device == "cpu":
            return super().memory()
        return {"active": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}

    def set_limits(self, memory: int | None = None, cache: int | None = None, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if self.backend.device == "cpu" and self.backend.group.size == 1:
            heap.keep(heap.MOST if cache is None else cache)
        if memory is not None and self.backend.device == "gpu":
            total = torch.cuda.get_device_properties("cuda").total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, memory / total))

    def clear_cache(self) -> None:
        if self.backend.device == "gpu":
            torch.cuda.empty_cache()

    def shares_memory(self) -> bool:
        return self.backend.device == "cpu"

    def fast_bfloat16(self) -> bool:
        return self.backend.device == "gpu" and torch.cuda.get_device_capability()[0] >= 8

    def repeat_exactly(self, wanted: bool) -> None:
        if self.backend.device == "gpu":  # a CPU does anyway
            if wanted:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.utils.deterministic.fill_uninitialized_memory = False
            torch.use_deterministic_algorithms(wanted)

    def versions(self) -> dict[str, str]:
        device = torch.cuda.get_device_name() if self.backend.device == "gpu" else "cpu"
        return {"torch": torch.__version__, "device": device, "threads": str(torch.get_num_threads())}
