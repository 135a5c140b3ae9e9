"""The MLX backend. The BLAS comes first: it has no effect once `mlx.core` is imported."""

from backends.mlx import blas as blas
