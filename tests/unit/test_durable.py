"""Whole or not at all: directories and files, what killed processes leave behind, and the lock of a run."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from minigpt.errors import MiniGPTError, ResourceError, out_of_memory
from minigpt.plan.fit import smaller
from minigpt.sections import StageConfig
from minigpt.store.durable import discard, tidy, whole_directory, write_whole
from minigpt.store.lock import locked
from minigpt.train.stop import Stop, Terminated

# ---- files and directories


def fill(directory, text):
    with whole_directory(directory) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a.txt").write_text(text)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_directory_takes_the_place_of_the_old_one(tmp_path):
    for text in ("one", "two"):
        fill(tmp_path / "d", text)
        assert (tmp_path / "d" / "deep" / "a.txt").read_text() == text and names(tmp_path) == ["d"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
def test_a_failure_leaves_the_old_one(tmp_path, monkeypatch, error, call):
    """Also between the two renames that replace it."""
    fill(tmp_path / "d", "old")
    right, calls = os.rename, iter(range(1, 9))

    def rename(*paths):
        if next(calls) == call:
            raise error
        right(*paths)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(type(error)):
        fill(tmp_path / "d", "new")
    assert (tmp_path / "d" / "deep" / "a.txt").read_text() == "old" and names(tmp_path) == ["d"]


def test_a_text_file_is_the_old_one_until_it_is_the_new_one(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", "old")
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, "fsync", lambda descriptor: os.close(10**6))
        write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_tidy_removes_and_puts_back(tmp_path):
    leftovers = [".a.17.tmp", ".b.17.old", ".c.17.old", ".d.17.gone", "deep", "deep/.e.17.tmp"]
    for name in [*leftovers, "c", ".hidden", ".x.tmp"]:
        (tmp_path / name).mkdir()
    (tmp_path / "c" / "new").write_text("")
    (tmp_path / ".f.toml.17.tmp").write_text("half")
    tidy(tmp_path)
    assert names(tmp_path) == [".hidden", ".x.tmp", "b", "c", "deep"] and names(tmp_path / "deep") == []
    assert names(tmp_path / "c") == ["new"]


def test_what_is_discarded_is_never_there_in_part(tmp_path, monkeypatch):
    fill(tmp_path / "d", "x")
    monkeypatch.setattr("shutil.rmtree", lambda *ignored, **settings: None)  # killed at that moment
    discard(tmp_path / "d")
    assert not (tmp_path / "d").exists()
    monkeypatch.undo()
    tidy(tmp_path)
    assert names(tmp_path) == []


# ---- the lock


HOLD = "import sys, time; from minigpt.store.lock import locked; from pathlib import Path\n" \
       "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"  # fmt: skip


def test_one_process_holds_a_directory_and_its_death_frees_it(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    other.stdout.readline()
    message = f"is in use: process {other.pid} on .* since 20"
    with pytest.raises(MiniGPTError, match=message) as caught, locked(tmp_path):
        pass
    assert caught.value.exit_code == 1
    other.kill()
    other.wait()
    with locked(tmp_path) as left:
        assert left == other.pid
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert names(tmp_path) == []


def test_a_lock_is_free_after_use_and_its_file_may_be_anything(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff{[")
    for _ in range(2):
        with locked(tmp_path) as left:
            assert left is None


# ---- signals


def test_signals_are_noted_while_training_listens_and_raise_elsewhere():
    told = []
    with Stop(tell=told.append) as stop:
        with stop.listening():
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested and stop.signal == signal.SIGTERM
            os.kill(os.getpid(), signal.SIGTERM)
        assert told == ["Stopping: this step is finished and saved."]
        with pytest.raises(Terminated) as caught:
            os.kill(os.getpid(), signal.SIGHUP)
        assert caught.value.number == signal.SIGHUP
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_the_first_ctrl_c_the_second_is_the_systems():
    with Stop() as stop, stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT and signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with Stop() as stop, stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_its_parent_a_process_stops():
    assert not Stop(parent=os.getppid()).requested
    assert Stop(parent=1234567).requested


# ---- less memory


def test_a_step_is_divided_more_and_more_finely():
    config, seen = StageConfig(batch_size=12, accumulation=2), []
    with pytest.raises(ResourceError, match="even with one row at a time"):
        while True:
            seen.append((config.grad_accumulation, config.activation_checkpointing))
            config = smaller(config)
    assert seen == [(2, False), (3, False), (4, False), (6, False), (12, False), (12, True)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[malloc] Unable to allocate 123 bytes."),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPU…)"),
    ],
)
def test_errors_that_mean_too_little_memory(error):
    assert out_of_memory(error).exit_code == 4


def test_other_errors_do_not():
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert out_of_memory(ValueError("out of memory")) is None
