"""MLX: on Apple's GPUs, on CUDA, and on CPUs."""

import mlx.core as mx

from backends.base import Backend, BackendUnavailable
from backends.mlx.linux_cpu import MLXOnCPU
from backends.mlx.operations import MLXBackend


def create(device: str = "auto") -> Backend:
    """The MLX backend on "gpu", "cpu" or, with "auto", the GPU if there is one."""
    has_gpu = mx.is_available(mx.Device(mx.gpu))
    if device == "gpu" and not has_gpu:
        raise BackendUnavailable("MLX has no GPU here; leave the device out or use cpu.")
    if has_gpu and device != "cpu":
        mx.set_default_device(mx.gpu)
        return MLXBackend("gpu")
    mx.set_default_device(mx.cpu)
    return MLXOnCPU()
