"""Readings of the machine from recorded texts: memory pressure, heat, power source, and what processes use."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minigpt.machine import readings
from minigpt.machine.now import (
    CRITICAL,
    NORMAL,
    WARNING,
    conditions,
    linux_battery,
    linux_heat,
    linux_pressure,
    mac_battery,
    mac_heat,
    mac_pressure,
    memory_total,
)
from minigpt.machine.processes import family, parse_ps, parse_stat, resident, total, tree
from minigpt.machine.readings import Process
from minigpt.machine.tools import run as output


@pytest.mark.parametrize(
    ("text", "level"),
    [("1\n", NORMAL), ("2\n", WARNING), ("4\n", CRITICAL), ("", NORMAL), ("sysctl: unknown oid", NORMAL)],
)
def test_memory_pressure_on_macs(text, level):
    assert mac_pressure(text) == level


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("com.apple.system.thermalpressurelevel 0\n", NORMAL),
        ("com.apple.system.thermalpressurelevel 1\n", WARNING),
        ("com.apple.system.thermalpressurelevel 2\n", CRITICAL),
        ("com.apple.system.thermalpressurelevel 4\n", CRITICAL),
        ("notifyutil: command failed\n", NORMAL),
        ("", NORMAL),
    ],
)
def test_heat_on_macs(text, level):
    assert mac_heat(text) == level


AC = """Now drawing from 'AC Power'
 -InternalBattery-0 (id=4653155)\t100%; charged; 0:00 remaining present: true
"""
BATTERY = """Now drawing from 'Battery Power'
 -InternalBattery-0 (id=4653155)\t83%; discharging; 9:12 remaining present: true
"""
DESKTOP = "Now drawing from 'AC Power'\n"


@pytest.mark.parametrize(("text", "battery"), [(AC, False), (BATTERY, True), (DESKTOP, False), ("", False)])
def test_power_source_on_macs(text, battery):
    assert mac_battery(text) == battery


MEMINFO = "MemTotal:       16284512 kB\nMemFree:          312044 kB\nMemAvailable:   {} kB\nBuffers: 2 kB\n"
CALM = "some avg10=0.00 avg60=0.12 avg300=0.05 total=912\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=80\n"
SLOW = "some avg10=18.40 avg60=4.12 avg300=1.05 total=9\nfull avg10=9.80 avg60=2.00 avg300=0.40 total=8\n"
THRASHING = "some avg10=71.02 avg60=40.1 avg300=9.0 total=9\nfull avg10=55.31 avg60=30.2 avg300=7.1 total=8\n"


@pytest.mark.parametrize(
    ("available", "stalled", "level"),
    [
        (9_000_000, CALM, NORMAL), (1_200_000, CALM, WARNING), (400_000, CALM, CRITICAL), (9_000_000, SLOW, WARNING),
        (9_000_000, THRASHING, CRITICAL), (9_000_000, "", NORMAL), (400_000, "", CRITICAL),
    ],
)  # fmt: skip
def test_memory_pressure_on_linux(available, stalled, level):
    assert linux_pressure(MEMINFO.format(available), stalled) == level


def test_what_linux_does_not_say_is_normal(tmp_path):
    assert linux_pressure("", "") == linux_pressure("MemTotal: 5 kB\n", "") == NORMAL
    assert linux_heat(tmp_path) == NORMAL and not linux_battery(tmp_path)


def zone(directory, name, **files):
    (directory / name).mkdir()
    for file, text in files.items():
        (directory / name / file).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("temperature", "level"), [(61000, NORMAL), (91000, WARNING), (96000, CRITICAL), (-274000, NORMAL)]
)
def test_heat_on_linux(tmp_path, temperature, level):
    """Each zone is compared with its own critical point; a zone without one, or a broken one, says nothing."""
    zone(tmp_path, "thermal_zone0", type="acpitz", temp=27800, trip_point_0_type="critical", trip_point_0_temp=119000)
    zone(tmp_path, "thermal_zone1", type="x86_pkg_temp", temp=temperature, trip_point_0_type="passive",
         trip_point_0_temp=0, trip_point_1_type="critical", trip_point_1_temp=100000)  # fmt: skip
    zone(tmp_path, "thermal_zone2", type="iwlwifi_1", temp="")
    zone(tmp_path, "thermal_zone3", type="nvme", temp=99000)
    assert linux_heat(tmp_path) == level


@pytest.mark.parametrize(
    ("mains", "status", "battery"), [("1", "Charging", False), ("0", "Discharging", True), ("0", "Full", False)]
)
def test_power_source_on_linux(tmp_path, mains, status, battery):
    zone(tmp_path, "AC", type="Mains", online=mains)
    zone(tmp_path, "BAT0", type="Battery", status=status)
    zone(tmp_path, "hidpp_battery_0", type="Battery", status="Discharging", scope="Device", online="1")
    assert linux_battery(tmp_path) == battery


def test_this_machine_can_be_asked():
    found = conditions()
    assert found.pressure in (NORMAL, WARNING, CRITICAL) and found.heat in (NORMAL, WARNING, CRITICAL)
    assert memory_total() > 10**8


# ---- processes

PS_MAC = """    1     0  12416   4:03.21
  512     1  98304   0:12.50
 4711   512 412672  83:20.04
 4712  4711   2048   0:00.01
  900     1    ???   0:00.01
"""
PS_LINUX = "   10     1  2048 00:00:07\n   11    10  4096 1-02:03:04\n"


def test_the_table_of_ps():
    table = parse_ps(PS_MAC)
    assert set(table) == {1, 512, 4711, 4712}
    assert table[4711] == Process(512, 83 * 60 + 20.04, 412672 * 1024)
    assert tree(table, 512) == [512, 4711, 4712] and tree(table, 9) == []
    cpu, resident = total(table, tree(table, 4711))
    assert cpu == pytest.approx(5000.05) and resident == (412672 + 2048) * 1024
    assert parse_ps(PS_LINUX)[11].cpu == 86400 + 2 * 3600 + 3 * 60 + 4


def test_a_name_with_brackets_and_spaces():
    text = "77 (a) b (c) S 5 77 77 0 -1 4194560 1 0 0 0 150 50 30 20 20 0 4 0 9 1000000 250 1844 1 1"
    assert parse_stat(text, ticks=100, page=4096) == Process(5, 2.5, 250 * 4096)
    assert parse_stat("77 (gone", 100, 4096) is None


@pytest.fixture(params=["psutil", "own readings"])
def way(request, monkeypatch):
    """Both ways of reading: psutil, and the system's texts where that is missing or raises."""
    if request.param != "psutil":
        monkeypatch.setattr(readings, "asked", lambda question: None)
    return request.param


def test_a_child_that_works_is_counted(way):
    """Half a second of work in a child of a child appears among this process's family."""
    work = "import time\nwhile time.process_time() < 0.5: pass\ninput()"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    before = sum(process.cpu for process in family(os.getpid()).values())
    child = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE)
    try:
        deadline, used = time.monotonic() + 60, 0.0
        while used < 0.5 and time.monotonic() < deadline:
            time.sleep(0.05)
            found = family(os.getpid())
            used = total(found, found)[0] - before
        assert used >= 0.5 and len(found) >= 3 and found[child.pid].parent == os.getpid()
    finally:
        child.communicate(b"\n")


def test_what_this_process_has_resident(way):
    """A block that is touched counts while it is there, and in the peak, in a new process."""
    code = (
        "import os, sys; from minigpt.machine import readings\n"
        "from minigpt.machine.processes import max_resident, resident\n"
        "if sys.argv[1] != 'psutil': readings.asked = lambda question: None\n"
        "before = resident()\n"
        "block = bytearray(os.urandom(1 << 20) * 64)\n"
        "print(before, resident() - before, max_resident(), len(block))\n"
    )
    found = subprocess.run([sys.executable, "-c", code, way], capture_output=True, text=True, check=True).stdout
    before, grown, peak, length = map(int, found.split())
    assert 60e6 < grown < 100e6 and peak >= before + grown and length == 64 << 20


def test_niceness_of_a_process(way):
    """Every thread of a process of its own gets it, and the level is never lowered."""
    code = (
        "import os, threading, time\n"
        "from minigpt.machine import readings; from minigpt.machine.processes import set_niceness\n"
        "threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n"
        "set_niceness(17); set_niceness(13)\n"
        "threads = os.listdir('/proc/self/task') if os.path.isdir('/proc/self/task') else [0]\n"
        "print({os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "{17}\n"


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="compares with Linux's own text")
def test_psutil_says_what_the_system_says():
    total_bytes, available = readings.memory()
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    known = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    assert total_bytes == known["MemTotal"] and abs(available - known["MemAvailable"]) < 1e9
    assert memory_total() <= total_bytes


@pytest.mark.parametrize("error", [RuntimeError("host_statistics64 failed"), AttributeError("sensors_battery")])
def test_a_psutil_that_raises_says_nothing(monkeypatch, error):
    import psutil

    def broken(*arguments):
        raise error

    for name in ("virtual_memory", "sensors_battery", "Process", "cpu_times", "process_iter"):
        monkeypatch.setattr(psutil, name, broken, raising=False)
    every = (readings.memory, readings.battery, readings.resident, readings.processor_seconds, readings.busiest)
    assert [reading() for reading in every] == [None] * 5 and readings.family(os.getpid()) is None
    assert memory_total() > 10**8 and resident() > 10**6 and os.getpid() in family(os.getpid())


def test_a_tool_that_is_missing_fails_or_hangs_says_nothing():
    assert output(["no-such-tool"]) == output(["false"]) == output(["sleep", "9"], 0.1) == ""
    assert output(["echo", "yes"]) == "yes\n"
