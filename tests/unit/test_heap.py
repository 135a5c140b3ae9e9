"""Freed memory that a process keeps for the next step, and what it gives back at once."""

import platform
import subprocess
import sys

import pytest

from backends import get_backend
from backends.torch import heap


@pytest.fixture
def told(monkeypatch):
    found = []
    monkeypatch.setattr(heap, "_set", lambda parameter, value: found.append((parameter, value)))
    monkeypatch.setattr(heap, "_keeps", False)
    return found


@pytest.mark.parametrize(
    ("cache", "kept"), [(None, heap.MOST), (heap.LEAST - 1, None), (heap.LEAST, heap.LEAST), (1 << 40, heap.MOST)]
)
def test_a_process_with_room_keeps_what_it_freed(told, cache, kept):
    get_backend("torch", "cpu").runtime.set_limits(memory=1 << 41, cache=cache)
    expected = [] if kept is None else [(heap.MMAP_THRESHOLD, kept), (heap.TRIM_THRESHOLD, kept)]
    assert told == expected


def test_a_limit_after_a_training_without_one_lets_memory_go_again(told):
    runtime = get_backend("torch", "cpu").runtime
    runtime.set_limits()
    for _ in range(2):
        runtime.set_limits(memory=1 << 30, cache=1 << 27)
    kept = [(heap.MMAP_THRESHOLD, heap.MOST), (heap.TRIM_THRESHOLD, heap.MOST)]
    assert told == [*kept, (heap.MMAP_THRESHOLD, heap.USUAL[0]), (heap.TRIM_THRESHOLD, heap.USUAL[1])]


def test_one_of_several_processes_keeps_nothing(told):
    backend = get_backend("torch", "cpu")
    backend.group = type("Group", (), {"size": 2})()
    backend.runtime.set_limits(cache=1 << 40)
    assert told == []
    heap.return_blocks()
    assert told == [(heap.MMAP_THRESHOLD, heap.SMALL)]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_glibc_takes_the_largest_values():
    """mallopt returns 1 for what it has set; in a process of its own, as nothing can be set back."""
    settings = [(heap.MMAP_THRESHOLD, heap.MOST), (heap.TRIM_THRESHOLD, heap.MOST), (heap.MMAP_THRESHOLD, heap.SMALL)]
    code = f"import ctypes; print([ctypes.CDLL(None).mallopt(*one) for one in {settings}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[1, 1, 1]\n"
