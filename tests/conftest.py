"""Fixtures for all tests. The backends under test are those of the code: one that cannot be imported is a failure."""

import os
import signal

import pytest

from backends import BACKENDS, get_backend

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # MLX multiplies float32 matrices with fewer digits on some GPUs


@pytest.fixture(scope="session", autouse=True)
def usual_signals():
    """Signals as in a terminal, however the tests are started: a background job ignores SIGINT, and nohup SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request):
    """Each backend in turn, on the CPU."""
    return get_backend(request.param, "cpu")


@pytest.fixture(scope="session")
def both():
    """All backends in one process, on the CPU."""
    return [get_backend(name, "cpu") for name in BACKENDS]
