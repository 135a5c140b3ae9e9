"""Whether others are busy beside a measurement: decisions on made-up counters, and one busy program for real."""

import subprocess
import sys
import time

import pytest

from minigpt.machine import busy, cgroups
from minigpt.machine.busy import MOST, Other, Reading, beside, competition, most_active


def between(machine, own, container=None, elapsed=10.0):
    """Two readings `elapsed` seconds apart in which so many cores were busy on average."""
    end = None if container is None else 50.0 + container * elapsed
    begin = None if container is None else 50.0
    return Reading(100.0, 7000.0, 3.0, begin), Reading(100.0 + elapsed, 7000.0 + machine * elapsed,
                                                       3.0 + own * elapsed, end)  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "own", "usable", "cores", "taken", "slower"),
    [
        (2.0, 2.0, 2, 2, 0.0, 1.0),  # alone, on all cores
        (2.0, 1.9, 2, 2, 0.1, 1.0),  # what any system does now and then
        (2.0, 0.6, 2, 2, 1.4, 2 / 0.6),  # a browser takes 140 % of 200 %
        (2.0, 1.0, 2, 2, 1.0, 2.0),
        (1.3, 0.9, 2, 2, 0.4, 1.0),  # beside work of one thread, and a core is free
        (2.0, 0.0, 2, 2, 2.0, MOST),  # nothing was left
        (64.0, 1.0, 4, 64, 3.0, 4.0),  # a quarter of what it may: the 60 others are taken as well
        (64.0, 4.0, 4, 64, 0.0, 1.0),  # it got all that it may
        (40.0, 4.0, 4, 64, 0.0, 1.0),  # they have room elsewhere
        (8.4, 4.0, 8, 8, 4.0, 2.0),  # counters run ahead by some ticks: never more than the machine has
    ],
)
def test_what_others_take(machine, own, usable, cores, taken, slower):
    found = competition(*between(machine, own), usable, cores)
    assert found == pytest.approx((taken, slower), abs=1e-6)


@pytest.mark.parametrize(
    ("own", "together", "slower"),
    [(2.0, 2.0, 1.0), (0.5, 2.0, 4.0), (0.5, 1.0, 1.0)],  # alone; neighbours in the container; quota left over
)
def test_a_container_has_neighbours_of_its_own(own, together, slower):
    """Two cores of 64 by a quota, on a machine with plenty of free cores."""
    assert competition(*between(10.0, own, together), 2, 64)[1] == pytest.approx(slower)


def test_without_counters_nothing_is_said():
    began, ended = between(2.0, 0.5)
    unread = Reading(began.time, None, began.own)
    assert competition(unread, ended, 2, 2) == competition(began, began, 2, 2) == (0.0, 1.0)
    assert beside(unread, ended, 2, 2) is None


def test_the_sentence_and_the_corrected_time():
    other = Other(1.4, 2.0, 2 / 0.6, ("chrome",))
    assert other.said() == (
        "Another program (chrome) uses 140 % of the processor's 200 %: the times are those of a quiet machine; beside "
        "it they are up to 3.3× as long."
    )
    assert other.quiet(200.0) == pytest.approx(60.0)
    assert Other(1.0, 2.0, 2.0).said().startswith("Another program uses 100 % of")
    assert Other(1.0, 2.0, 2.0, ("a", "b")).said().startswith("Other programs (a, b) use 100 % of")


def test_the_busiest_programs_are_named_together():
    before = {1: ("chrome", 5.0), 2: ("chrome", 9.0), 3: ("sshd", 1.0), 5: ("gone", 4.0)}
    after = {1: ("chrome", 6.0), 2: ("chrome", 9.5), 3: ("sshd", 1.01), 4: ("new", 8.0), 6: ("", 70.0)}
    assert most_active(before, after, 1.0) == ("chrome",)  # a process that began meanwhile says nothing of the time
    assert most_active(before, after | {3: ("sshd", 9.0)}, 1.0) == ("sshd", "chrome")


def test_the_quota_of_a_container_counts_its_own_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups, "directories", lambda root, controller: [root])
    assert cgroups.cpu_seconds(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\nnr_throttled 4\n")
    assert cgroups.cpu_seconds(tmp_path) == 2.5
    (tmp_path / "cpu.stat").unlink()
    (tmp_path / "cpuacct.usage").write_text("3500000000\n")
    assert cgroups.cpu_seconds(tmp_path) == 3.5


def test_a_program_that_spins_is_seen():
    """A child that works for half a second appears in the machine's counter and not in this process's own."""
    began = busy.reading()
    work = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        ended = busy.reading()
        assert ended.machine - began.machine >= 0.4 and ended.own - began.own < 0.4
        assert 0 < ended.time - began.time <= time.monotonic() - began.time
    finally:
        child.kill()
        child.wait()
