"""Fixtures for all tests. The backends under test are those of the code: one that cannot be imported is a failure."""

import gc
import os
import signal

import pytest

from backends import BACKENDS, get_backend

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # MLX multiplies float32 matrices with fewer digits on some GPUs
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the package is compiled once, not in each of a hundred processes


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", choices=["cpu", "auto"], help="auto: on a GPU where there is one")


@pytest.fixture(scope="session", autouse=True)
def short_samples():
    """Each training in a test's own process continues a few prompts when it ends: by few tokens, which costs little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minigpt.train.samples.LENGTH", 6)
        patch.setattr("minigpt.runs.conversations.LENGTH", 8)
        yield


def pytest_collection_finish(session):
    """What was imported and collected stays: no later search for garbage, which plans begin with, goes through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def device(request):
    """Where backends compute in tests that take one from here."""
    return request.config.getoption("--device")


@pytest.fixture(scope="session", autouse=True)
def usual_signals():
    """Signals as in a terminal, however the tests are started: a background job ignores SIGINT, and nohup SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request, device):
    """Each backend in turn."""
    return get_backend(request.param, device)


@pytest.fixture(scope="session")
def both(device):
    """All backends in one process."""
    return [get_backend(name, device) for name in BACKENDS]
