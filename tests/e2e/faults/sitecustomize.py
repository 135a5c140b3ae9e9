"""Python runs this file at its start when its directory is on PYTHONPATH: faults for processes under test.

MINIGPT_FAULT = "KIND:STEP:FILE": in training step STEP (from 0) the process dies or fails in the way of KIND, unless
FILE, which it writes first, is there already.
"""

import os
import sys


def _changed(wanted: str, change) -> None:
    """Call change(module) as soon as the module of that name is imported."""
    import importlib.abc
    import importlib.util

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != wanted:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                change(module)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())


def _at_once(module) -> None:
    """The supervisor starts the next process without a rest."""
    module.REST = 0.0


def _break(module, kind: str, step: int, marker: str) -> None:
    right, steps = module.accumulated, iter(range(10**9))

    def accumulated(backend, gradient, weights, batch, micro_batches, *more):
        rows = len(batch["ids"]) // micro_batches
        if kind == "never-enough" or (kind.startswith("memory") and rows > 1):  # one row fits, two do not
            _die(kind)
        once = next(steps) == step and not kind.startswith("memory") and not os.path.exists(marker)
        if kind == "always" or once:
            with open(marker, "w") as file:
                file.write(kind)
            _die(kind)
        return right(backend, gradient, weights, batch, micro_batches, *more)

    module.accumulated = accumulated


def _die(kind: str) -> None:
    import signal

    if kind == "hang":
        import time

        for _ in range(600):
            time.sleep(0.1)
    if kind in ("memory-error", "never-enough"):
        raise RuntimeError("[malloc] Unable to allocate 123456789 bytes.")
    if kind == "memory-abort":
        os.write(2, b"libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command "
                    b"buffer execution failed: Insufficient Memory (kIOGPUCommandBufferCallbackErrorOutOfMemory)\n")
        os.abort()
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind in ("abort", "always"):
        os.write(2, b"terminate called after throwing an instance of 'std::runtime_error'\n")
        os.abort()


if fault := os.environ.get("MINIGPT_FAULT"):
    _kind, _step, _marker = fault.split(":", 2)
    _changed("minigpt.train.loop", lambda module: _break(module, _kind, int(_step), _marker))
    _changed("minigpt.runs.supervise", _at_once)
