"""Fixtures for all tests. The backends under test are those of the code: one that cannot be imported is a failure."""

import os

import pytest

from backends import BACKENDS, get_backend

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # MLX multiplies float32 matrices with fewer digits on some GPUs


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request):
    """Each backend in turn, on the CPU."""
    return get_backend(request.param, "cpu")


@pytest.fixture(scope="session")
def both():
    """All backends in one process, on the CPU."""
    return [get_backend(name, "cpu") for name in BACKENDS]
