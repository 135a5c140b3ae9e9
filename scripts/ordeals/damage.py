"""Damaged checkpoints and full disks: what is damaged is named and not used, and what was whole before stays whole."""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from backends import get_backend
from minigpt.errors import CheckpointError, ResourceError
from minigpt.events import Note, silent
from minigpt.runs.training import train_stage
from minigpt.store.checkpoint import load_checkpoint, save_checkpoint
from minigpt.store.stage import StageStore

from .ordeal import Outcome, count, difference, prepared, small_config

NUMPY = SimpleNamespace(array=np.asarray, numpy=np.asarray)


# ---- damage


def corrupted_checkpoints(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """One file of the last checkpoint is damaged: it must be named, and the checkpoint before it used."""
    store = _two_checkpoints(directory / "right")
    right = load_checkpoint(store.checkpoints()[0])[0]
    kinds = [truncated, flipped, swapped, reshaped, renamed, removed]
    outcomes = []
    for kind in kinds:
        outcome = Outcome(f"a checkpoint {kind.__doc__}")
        for number in range(count(300 // len(kinds), scale)):
            rng = random.Random(f"{seed} {kind.__name__} {number}")
            copy = StageStore(Path(shutil.copytree(store.directory, directory / "damaged")))
            what = kind(copy, rng)
            outcome.check(*_detected(copy, right, what))
            shutil.rmtree(copy.directory)
        outcomes.append(outcome)
    return outcomes


def _two_checkpoints(directory: Path) -> StageStore:
    store = StageStore(directory)
    for step in (5, 10):
        rng = np.random.default_rng(step)
        weights = {"a": rng.standard_normal((16, 8), np.float32), "b": rng.standard_normal(8, np.float32)}
        optim = {"first": {"a": weights["a"] * 2, "b": weights["b"] * 2}}
        store.save(NUMPY, weights, optim, {"step": step, "metrics": {"loss": 1.0}}, keep=2)
    return store


def _detected(store: StageStore, right: dict, what: str) -> tuple[bool, str]:
    weights = {"a": np.zeros((16, 8), np.float32), "b": np.zeros(8, np.float32)}
    optim = {"first": {"a": weights["a"], "b": weights["b"]}}
    notes = []
    try:
        found, _, state = store.resume(NUMPY, weights, optim, notes.append)
    except CheckpointError as error:
        return False, f"{what}: refused altogether: {error}"
    named = len(notes) == 1 and isinstance(notes[0], Note) and "step-000010" in notes[0].text
    same = all((found[key] == right["weights"][key]).all() for key in found)
    return named and same and state["step"] == 5, f"{what}: went on from step {state['step']}, notes {notes}"


def _any_file(store: StageStore, rng: random.Random) -> Path:
    return rng.choice(sorted(store.checkpoints()[-1].iterdir()))


def truncated(store: StageStore, rng: random.Random) -> str:
    """with a truncated file"""
    path = _any_file(store, rng)
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])
    return f"{path.name} cut off"


def flipped(store: StageStore, rng: random.Random) -> str:
    """with one flipped bit"""
    path = _any_file(store, rng)
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"bit of byte {place} of {path.name}"


def swapped(store: StageStore, rng: random.Random) -> str:
    """with a file of another checkpoint"""
    old, new = store.checkpoints()
    name = rng.choice(["weights.safetensors", "optim.safetensors", "state.json", "manifest.json"])
    shutil.copy(old / name, new / name)
    return f"{name} of the step before"


def reshaped(store: StageStore, rng: random.Random) -> str:
    """with other shapes or names, and right checksums"""
    path = store.checkpoints()[-1]
    trees, state = load_checkpoint(path)
    tree = rng.choice(["weights", "optim"])
    name = rng.choice(sorted(trees[tree]))
    array = trees[tree].pop(name)
    change = rng.choice(["shape", "name", "missing", "more"])
    if change == "shape":
        trees[tree][name] = array[: rng.randrange(1, len(array))]
    elif change == "name":
        trees[tree][name + "x"] = array
    elif change == "more":
        trees[tree] |= {name: array, "x": array}
    save_checkpoint(path, trees, state)
    return f"{change} of {tree} {name}"


def renamed(store: StageStore, rng: random.Random) -> str:
    """under another's name"""
    path = store.checkpoints()[-1]
    trees, state = load_checkpoint(path)
    save_checkpoint(path, trees, state | {"step": rng.choice([5, 9, 11, 100])})
    return "a checkpoint of another step"


def removed(store: StageStore, rng: random.Random) -> str:
    """without one of its files"""
    path = _any_file(store, rng)
    path.unlink()
    return f"{path.name} removed"


# ---- full disks


def full_disk(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """The disk is full at the n-th write of a training, then has room again; and file systems that are too small."""
    backend = get_backend(backends[0], "cpu")
    base = prepared(directory / "base", small_config(steps=8))
    right = _copy(base.directory, directory / "right")
    train_stage(base.__class__(right, base.config), "pretrain", backend, silent)
    injected = Outcome("the disk is full at one write (injected)")
    points = [(owner, what, n) for owner, what in WRITES for n in (1, 2, 5)][: count(10, scale)]
    for owner, what, number in points:
        run = base.__class__(_copy(base.directory, directory / "run"), base.config)
        lost = _at_write(owner, what, number, lambda run=run: train_stage(run, "pretrain", backend, silent))
        whole = [path for path in run.store("pretrain").checkpoints() if load_checkpoint(path)]
        if not lost:
            train_stage(run, "pretrain", backend, silent)
            lost = difference(run.directory, right, ("pretrain",))
        injected.check(not lost, f"{what} {number}, {len(whole)} checkpoints: {lost}")
        shutil.rmtree(run.directory)
    real = Outcome("a file system of 1 to 4 MB fills up")
    for size in range(10)[: count(10, scale)]:
        _small_disk(directory / "disk", 1000 + 300 * size, base, right, backend, real)
    real.note = real.note or "mounted as tmpfs"
    return [injected, real]


WRITES: list[tuple[object, str]] = [(Path, "mkdir"), (Path, "write_text"), (os, "fsync"), (os, "rename")]


def _at_write(owner: object, what: str, number: int, work: Callable[[], object]) -> str:
    """Run `work` with the n-th call of a function failing as on a full disk; what is wrong with its answer."""
    real, calls = getattr(owner, what), iter(range(1, 10_000))

    def failing(*arguments, **settings):
        if next(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **settings)

    setattr(owner, what, failing)
    try:
        work()
    except ResourceError as error:
        return "" if error.exit_code == 4 else f"exit code {error.exit_code}"
    except OSError as error:
        return "" if error.errno == errno.ENOSPC else str(error)  # the command line turns this into exit code 4
    finally:
        setattr(owner, what, real)
    return ""  # fewer calls than that


def _small_disk(place: Path, kilobytes: int, base, right: Path, backend, outcome: Outcome) -> None:
    """Train on a file system of that size; where it does not fit, what was saved must be whole."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        outcome.note = "left out: only root may mount a file system"
        place.rmdir()
        return
    try:
        run = base.__class__(_copy(base.directory, place / "run"), base.config)
        try:
            train_stage(run, "pretrain", backend, silent)
            lost = difference(run.directory, right, ("pretrain",))
        except ResourceError:
            lost = "".join(_broken(path) for path in run.store("pretrain").checkpoints())
        except OSError as error:
            lost = "" if error.errno == errno.ENOSPC else str(error)
        outcome.check(not lost, f"{kilobytes} kB: {lost}")
    except shutil.Error:
        outcome.check(True, "")  # not even the data fit
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def _broken(checkpoint: Path) -> str:
    try:
        load_checkpoint(checkpoint)
        return ""
    except CheckpointError as error:
        return str(error)


def _copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))
