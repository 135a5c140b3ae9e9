"""Checkpoints: there whole or not at all, every damage is named, and a stage keeps its last and its best."""

import contextlib
import errno
import json
import math
import os
import re
import resource
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backends import tree
from minigpt.errors import CheckpointError, ResourceError
from minigpt.store import checkpoint
from minigpt.store.checkpoint import load_checkpoint, read_state, save_checkpoint, verify_checkpoint
from minigpt.store.stage import StageStore

FILES = ["manifest.json", "optim.safetensors", "state.json", "weights.safetensors"]
NUMPY = SimpleNamespace(array=np.asarray, numpy=np.asarray)


def trees(seed=0):
    rng = np.random.default_rng(seed)
    layers = [{"w": rng.standard_normal((3, 4), np.float32)} for _ in range(11)]
    weights = {"layers": layers, "norm": np.ones(4, np.float32)}
    return {"weights": weights, "optim": {"first": {"layers.0.w": rng.standard_normal((3, 4), np.float32)}}}


def assert_same(found, expected):
    flat = dict(tree.items(expected))
    assert found.keys() == flat.keys()
    for name, right in flat.items():
        assert found[name].dtype == right.dtype and found[name].tobytes() == right.tobytes(), name


def assert_whole(directory, seed):
    found, state = load_checkpoint(directory)
    assert_same(found["weights"], trees(seed)["weights"])
    assert_same(found["optim"], trees(seed)["optim"])
    assert state == {"step": seed}


# ---- writing and reading


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    save_checkpoint(tmp_path / "deep" / "c", trees(3), {"step": 3})
    assert_whole(tmp_path / "deep" / "c", 3)
    assert sorted(path.name for path in (tmp_path / "deep" / "c").iterdir()) == FILES
    assert read_state(tmp_path / "deep" / "c") == {"step": 3}


@pytest.mark.parametrize("values", [np.array([np.nan, -0.0, np.inf, 1e-45], np.float32), np.arange(6).reshape(2, 3).T,
                                    np.zeros((0, 3), np.float32), np.array([1, -1], np.int32)])  # fmt: skip
def test_odd_arrays_come_back(tmp_path, values):
    save_checkpoint(tmp_path / "c", {"weights": {"x": values}}, {})
    found = load_checkpoint(tmp_path / "c")[0]["weights"]["x"]
    assert found.shape == values.shape and found.tobytes() == np.ascontiguousarray(values).tobytes()


def test_the_arrays_can_be_read_without_us_and_nothing_is_pickled(tmp_path):
    """safetensors: eight bytes of length, a JSON header, then the numbers."""
    save_checkpoint(tmp_path / "c", trees(), {"step": 0})
    data = (tmp_path / "c" / "weights.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    start, stop = header["layers.10.w"]["data_offsets"]
    found = np.frombuffer(data[8 + size + start : 8 + size + stop], np.float32).reshape(header["layers.10.w"]["shape"])
    assert np.array_equal(found, trees()["weights"]["layers"][10]["w"])
    for name in ("state.json", "manifest.json"):
        json.loads((tmp_path / "c" / name).read_text("utf-8"))
    root = Path(__file__).resolve().parents[2]
    sources = [path.read_text("utf-8") for part in ("minigpt", "backends") for path in (root / part).rglob("*.py")]
    assert [text for text in sources if re.search(r"import pickle|allow_pickle=True|torch\.(load|save)\(", text)] == []


def test_saving_again_replaces_the_checkpoint_as_a_whole(tmp_path):
    save_checkpoint(tmp_path / "c", {"more": {"x": np.ones(2)}, **trees(1)}, {"step": 1})
    save_checkpoint(tmp_path / "c", trees(2), {"step": 2})
    assert_whole(tmp_path / "c", 2)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


# ---- damage


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_a_flipped_bit_is_named(tmp_path, name, place):
    save_checkpoint(tmp_path / "c", trees(), {"step": 0})
    path = tmp_path / "c" / name
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "c")
    assert name in str(caught.value) or name == "manifest.json"  # a changed checksum looks like a changed file
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path, name):
    save_checkpoint(tmp_path / "c", trees(), {"step": 0})
    (tmp_path / "c" / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 10, -1])
def test_a_truncated_file_is_named(tmp_path, name, left):
    save_checkpoint(tmp_path / "c", trees(), {"step": 0})
    path = tmp_path / "c" / name
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(tmp_path / "c")


def test_what_is_no_checkpoint(tmp_path):
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="no readable manifest.json"):
            verify_checkpoint(directory)
        with pytest.raises(CheckpointError, match="no readable state.json"):
            read_state(directory)


# ---- writes that fail


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def on_call(number, real):
    """`real`, but call `number` fails."""
    calls = iter(range(1, 1000))
    return lambda *args, **settings: full_disk() if next(calls) == number else real(*args, **settings)


@pytest.mark.parametrize("name", ["earlier", "later"])  # the checkpoint is replaced, or a new one is written beside it
@pytest.mark.parametrize(
    ("owner", "what", "call"),
    [(Path, "mkdir", 1), (Path, "write_text", 1), (Path, "write_text", 2), (os, "fsync", 1), (os, "fsync", 5),
     (os, "rename", 1), (os, "rename", 2)],
    ids=str,
)  # fmt: skip
def test_on_a_full_disk_the_earlier_checkpoint_stays(tmp_path, monkeypatch, owner, what, call, name):
    if (what, call, name) == ("rename", 2, "later"):
        return  # what replaces nothing is renamed once
    save_checkpoint(tmp_path / "earlier", trees(1), {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(owner, what, on_call(call, getattr(owner, what)))
        with pytest.raises(ResourceError, match="could not be written: No space left.*Free some space") as caught:
            save_checkpoint(tmp_path / name, trees(2), {"step": 2})
    assert caught.value.exit_code == 4
    assert_whole(tmp_path / "earlier", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


def test_a_disk_that_really_refuses(tmp_path):
    """The kernel ends files at 64 kB for a moment: the arrays' own writer fails, with an error of its own class."""
    large = {"weights": {"x": np.ones(100_000, np.float32)}}
    save_checkpoint(tmp_path / "c", trees(1), {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises(ResourceError, match="could not be written"):
            save_checkpoint(tmp_path / "c", large, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_whole(tmp_path / "c", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


# ---- what a stage keeps


def save(store, step, loss, keep=1, **state):
    state = {"step": step, "metrics": {"loss": loss}} | state
    return store.save(NUMPY, trees(step)["weights"], {"m": np.full(2, step, np.float32)}, state, keep)


def kept(store):
    return [int(path.name.removeprefix("step-")) for path in store.checkpoints()]


def test_the_last_and_the_best_are_kept(tmp_path):
    store = StageStore(tmp_path / "sft")
    history = []
    for step, loss in enumerate([3.0, 1.0, 2.0, 1.0, 4.0], start=1):
        save(store, step, loss)
        history.append(kept(store))
    assert history == [[1], [2], [2, 3], [4], [4, 5]]  # of two equally good ones the later
    assert not store.finished()
    assert store.finish("sft") == store.final and store.finished()
    found, state = load_checkpoint(store.final)
    assert_same(found["weights"], trees(4)["weights"])
    assert (found.keys(), state["step"], state["stage"]) == ({"weights"}, 4, "sft")


def test_as_many_as_asked_for_are_kept_beside_the_best(tmp_path):
    store = StageStore(tmp_path / "sft")
    for step, loss in enumerate([1.0, 3.0, 2.0, 4.0, 5.0], start=1):
        save(store, step, loss, keep=3)
    assert kept(store) == [1, 3, 4, 5]


def test_the_last_one_saved_in_good_health_is_kept(tmp_path):
    """However many ill ones follow: it is what training can go back to."""
    store = StageStore(tmp_path / "sft")
    save(store, 1, 1.0)
    save(store, 2, 2.0, health={"high": 0, "streak": 0})
    for step in (3, 4, 5):
        save(store, step, math.inf, health={"high": 1, "streak": 0})
    assert kept(store) == [1, 2, 5] and store.last_good().name == "step-000002"


def test_nothing_is_dropped_for_a_checkpoint_that_does_not_read_back(tmp_path, monkeypatch):
    store = StageStore(tmp_path / "sft")
    save(store, 1, 1.0)
    save(store, 2, 2.0)
    right = checkpoint.whole_directory

    @contextlib.contextmanager
    def damaging(directory):
        with right(directory) as temporary:
            yield temporary
        path = directory / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"!")

    monkeypatch.setattr(checkpoint, "whole_directory", damaging)
    with pytest.raises(CheckpointError, match="was changed"):
        save(store, 3, 0.5)
    assert kept(store) == [1, 2, 3]  # the third is damaged, and the next start says so
    assert store.resume(NUMPY, trees()["weights"], {"m": np.zeros(2)})[2]["step"] == 2


def test_a_disk_with_too_little_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(ResourceError, match="needs 1.0 MB and the disk has 1.0 MB left") as caught:
        save_checkpoint(tmp_path / "c", trees(), {"step": 1})
    assert caught.value.exit_code == 4 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_run_that_diverges_keeps_its_best(tmp_path, loss):
    store = StageStore(tmp_path / "sft")
    for step, value in enumerate([2.0, 1.0, loss, loss], start=1):
        save(store, step, value)
    assert kept(store) == [2, 4]
    assert store.by_loss()[0].name == "step-000002"


def test_more_than_a_million_steps_are_still_in_order(tmp_path):
    store = StageStore(tmp_path / "sft")
    for step in (999_999, 1_000_000):
        save(store, step, 1.0)
    assert kept(store)[-1] == 1_000_000


def test_a_write_that_fails_drops_no_checkpoint(tmp_path, monkeypatch):
    store = StageStore(tmp_path / "sft")
    save(store, 1, 1.0)
    save(store, 2, 2.0)
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ResourceError):
        save(store, 3, 0.5)
    assert kept(store) == [1, 2]


# ---- resuming


def test_resuming_gives_the_last_checkpoint_in_the_order_of_the_model(tmp_path):
    """The file is sorted by name (layers.10 before layers.2); the update walks over the leaves in the model's order."""
    store = StageStore(tmp_path / "sft")
    save(store, 1, 1.0)
    save(store, 2, 2.0)
    zeros = tree.map_leaves(np.zeros_like, trees()["weights"])
    weights, optim, state = store.resume(NUMPY, zeros, {"m": np.zeros(2, np.float32)})
    assert (state["step"], optim["m"].tolist()) == (2, [2, 2])
    assert tree.names(weights) == tree.names(zeros) != sorted(tree.names(zeros))
    assert_same(dict(tree.items(weights)), trees(2)["weights"])


def test_without_a_checkpoint_a_stage_starts_anew(tmp_path):
    store = StageStore(tmp_path / "sft")
    store.log({"step": 0, "loss": 9.0})
    weights = trees()["weights"]
    assert store.resume(NUMPY, weights, {}) == (weights, {}, {"step": 0})
    assert not store.journal.exists()


def test_the_journal_is_cut_back_to_the_checkpoint(tmp_path):
    """Also after a crash in the middle of a line."""
    store = StageStore(tmp_path / "sft")
    for step in range(4):
        store.log({"step": step, "loss": 1.0 / (step + 1)})
        if step == 2:
            save(store, 2, 1.0)
    with store.journal.open("a", encoding="utf-8") as file:
        file.write('{"step": 1, "lo')
    store.resume(NUMPY, trees()["weights"], {"m": np.zeros(2)})
    assert [json.loads(line)["step"] for line in store.journal.read_text("utf-8").splitlines()] == [0, 1, 2]
    store.log({"step": 3})
    assert len(store.journal.read_text("utf-8").splitlines()) == 4


def test_resuming_from_a_damaged_checkpoint_is_refused(tmp_path):
    store = StageStore(tmp_path / "sft")
    path = save(store, 1, 1.0) / "optim.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="optim.safetensors was changed"):
        store.resume(NUMPY, trees()["weights"], {"m": np.zeros(2)})
