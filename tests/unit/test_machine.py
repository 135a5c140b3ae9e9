"""What a machine is, read from what its tools printed on machines of many kinds; and tools that do not answer."""

import os
import sys
import time
from pathlib import Path

import pytest
from recorded import GB, MACHINES, ON_BATTERY

from minigpt.machine import choose, linux, mac, tools
from minigpt.machine.check import BackendCheck, check_backend
from minigpt.machine.description import Machine, describe
from minigpt.machine.problems import problems

NOWHERE = "/nowhere"
UNREAD = {"memory": lambda: None, "battery": lambda: None}  # psutil is missing, or raises


def machine(name, system="darwin", python="arm64", groups=NOWHERE):
    texts = MACHINES[name]

    def run(command):
        words = " ".join(command)
        return next((texts[key] for key in (words, command[0]) if key in texts), "")

    return describe(Path(), system, python, run, lambda path: texts.get(path, ""), Path(groups), **UNREAD)


@pytest.mark.parametrize(
    ("name", "chip", "memory", "cores", "gpu_cores", "budget"),
    [
        ("m1-air-8gb", "Apple M1", 8 * GB, (4, 4), 7, 8 * GB * 2 // 3),
        ("m2-pro", "Apple M2 Pro", 16 * GB, (6, 4), 16, 16 * GB * 2 // 3),
        ("m3-max", "Apple M3 Max", 64 * GB, (12, 4), 40, 48 * GB),
        ("m4-mini", "Apple M4", 16 * GB, (4, 6), 10, 12 * GB),
        ("m5", "Apple M5", 24 * GB, (4, 6), 10, 16 * GB),
    ],
)
def test_apple_chips(name, chip, memory, cores, gpu_cores, budget):
    m = machine(name)
    assert (m.system, m.chip, m.memory, m.architecture) == ("macOS", chip, memory, "arm64")
    assert (m.performance_cores, m.efficiency_cores) == cores and m.cores == m.usable_cores == sum(cores)
    assert (m.gpu, m.gpu_cores, m.gpu_memory) == (chip, gpu_cores, budget)
    assert m.unified and m.apple and m.usable_memory == memory
    assert m.memory_available == (20_000 + 100_000 + 5_000) * 16384
    assert choose(m.apple, ["mlx", "torch"]) == ("mlx", "Apple Silicon")


def test_how_macs_are_just_now():
    air, top, mini = machine("m1-air-8gb"), machine("m3-max"), machine("m4-mini")
    assert (air.power, air.battery_percent, air.low_power, air.thermal) == ("battery", 64, True, "nominal")
    assert (top.power, top.battery_percent, top.low_power, top.thermal) == ("mains", 100, False, "heavy")
    assert (mini.power, mini.battery_percent) == ("mains", None)
    found = problems(air, ["mlx"])
    assert [sentence.split(":")[0] for sentence in found] == ["Low Power Mode is on", "It runs on its battery"]
    assert problems(top, ["mlx"]) == ["The machine is hot (heavy): it slows itself down. Let it cool first."]
    assert problems(mini, ["mlx"]) == []
    assert ["MLX is not installed" in sentence for sentence in problems(mini, ["torch"])] == [True]


def test_a_macos_that_is_too_old():
    found = problems(machine("macos-13"), ["mlx"])
    assert len(found) == 1 and found[0].startswith("macOS 13.6.7 is too old for MLX, which needs macOS 14.")


def test_python_under_rosetta():
    m = machine("rosetta", python="x86_64")
    assert m.apple and m.python_architecture == "x86_64"
    found = problems(m, ["torch"])
    assert len(found) == 1 and "runs under Rosetta" in found[0] and "arm64 Python" in found[0]


def test_an_intel_mac():
    m = machine("intel-mac", python="x86_64")
    assert (m.chip, m.cores, m.memory) == ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", 6, 16 * GB)
    assert not m.apple and not m.unified and m.gpu == "" and m.gpu_memory is None
    assert m.memory_available == (300_000 + 100_000 + 5_000) * 4096
    found = problems(m, ["torch"])
    assert len(found) == 1 and found[0].startswith("This is a Mac with an Intel processor")
    assert choose(m.apple, ["torch"]) == ("torch", "no Apple GPU here")


def test_a_cuda_machine():
    m = machine("cuda", "linux", "x86_64")
    assert (m.gpu, m.gpu_memory, m.unified) == ("NVIDIA GeForce RTX 4090", 24564 << 20, False)
    assert (m.chip, m.cores, m.version) == ("AMD EPYC 7763 64-Core Processor", 8, "Ubuntu 24.04.1 LTS")
    assert (m.memory, m.memory_available) == (131886532 * 1024, 120000000 * 1024)
    assert problems(m, ["torch"]) == []


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "150000 100000\n", "memory.max": "4294967296\n"},
        {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n",
         "memory/memory.limit_in_bytes": "4294967296\n", "cpu/x": "", "memory/x": ""},
    ],
    ids=["v2", "v1"],
)  # fmt: skip
def test_a_container_has_what_its_limits_leave(tmp_path, monkeypatch, files):
    from minigpt.machine import cgroups

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    own = "0::/\n" if "cpu.max" in files else "4:memory:/\n1:cpu:/\n"
    known = cgroups.directories
    monkeypatch.setattr(cgroups, "directories", lambda root, controller: known(root, controller, own))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    m = machine("container", "linux", "x86_64", tmp_path)
    assert m.usable_cores == 1.5 and m.memory_limit == m.usable_memory == m.memory_available == 4 * GB
    assert m.memory == 131886532 * 1024
    told = describe(Path(), "linux", "x86_64", groups=tmp_path, memory=lambda: (128 * GB, 100 * GB))
    assert (told.memory, told.memory_available, told.usable_memory) == (128 * GB, 4 * GB, 4 * GB)


def test_psutil_is_asked_first(tmp_path):
    """On Windows, too, whose own readings nobody parses."""
    told = {"memory": lambda: (32 * GB, 12 * GB), "battery": lambda: ("battery", 77)}
    for system in ("win32", "linux", "darwin"):
        m = describe(Path(), system, "AMD64", lambda command: "", lambda path: "", tmp_path, **told)
        assert (m.memory, m.memory_available, m.power, m.battery_percent) == (32 * GB, 12 * GB, "battery", 77)


def test_an_arm_board_names_its_core_by_number():
    m = machine("arm-board", "linux", "aarch64")
    assert m.chip == "Cortex-A76" and m.memory == 8137788 * 1024 and m.memory_available == 6512000 * 1024
    assert linux.processor("Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n") == "Raspberry Pi 5 Model B Rev 1.0"


def test_a_driver_that_fails_is_no_gpu():
    m = machine("broken-driver", "linux", "x86_64")
    assert (m.gpu, m.gpu_memory) == ("", None)


@pytest.mark.parametrize("name", ["broken-tools", "no-tools"])
@pytest.mark.parametrize("system", ["darwin", "linux", "freebsd14"])
def test_tools_that_say_nothing_useful_leave_fields_open(name, system):
    m = machine(name, system, "arm64")
    assert m.memory is None and m.memory_available is None and m.gpu_memory is None and m.thermal == ""
    assert m.usable_cores >= 1 and m.disk_free > 0
    assert any("tells nothing about its memory" in sentence for sentence in problems(m, ["torch", "mlx"]))


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_any_text_cut_anywhere_is_read(name):
    """Reading never fails, whatever is missing."""
    texts = MACHINES[name]
    for cut in (1, 7, 40, 160, 400):
        short = {key: text[:cut] for key, text in texts.items()}
        for system in ("darwin", "linux"):
            describe(system=system, run=lambda c, s=short: s.get(c[0], ""), read=lambda p, s=short: s.get(p, ""),
                     **UNREAD)  # fmt: skip


def test_little_disk_and_memory_are_problems():
    m = Machine("Linux", memory=GB, memory_available=10**8, disk_free=10**9)
    assert problems(m, ["torch"]) == [
        "Only 1.0 GB of disk are free: make room, or choose another --run directory.",
        "Only 100 MB of memory are free: close other programs.",
    ]
    assert problems(m, [])[0].startswith("No backend is installed")


def test_linux_power():
    battery = {"type": "Battery", "status": "Discharging", "capacity": "41", "online": ""}
    mouse = {"type": "Battery", "status": "Discharging", "capacity": "9", "scope": "Device"}
    assert linux.power_source({"BAT0": battery, "AC": {"type": "Mains", "online": "0"}}) == ("battery", 41)
    charging = {"BAT0": battery | {"status": "Charging"}, "AC": {"type": "Mains", "online": "1"}}
    assert linux.power_source(charging) == ("mains", 41)
    assert linux.power_source({"mouse": mouse}) == ("", None) == linux.power_source({})


def test_mac_texts():
    assert mac.power_source(ON_BATTERY) == ("battery", 64) and mac.power_source("No adapter") == ("", None)
    assert mac.low_power_mode(" powermode 1\n") is True and mac.low_power_mode("") is None
    assert mac.thermal_state("com.apple.system.thermalpressurelevel 9") == ""


@pytest.mark.parametrize(
    ("apple", "installed", "choice"),
    [
        (True, ["mlx", "torch"], ("mlx", "Apple Silicon")),
        (True, ["torch"], ("torch", "mlx is not installed")),
        (False, ["mlx", "torch"], ("torch", "no Apple GPU here")),
        (False, ["mlx"], ("mlx", "torch is not installed")),
    ],
)
def test_the_backend_and_the_reason(apple, installed, choice):
    assert choose(apple, installed) == choice


# ---- tools ---------------------------------------------------------------------------------------------------


def test_a_tool_that_is_not_there_says_nothing():
    assert tools.run(["a-tool-that-nobody-has", "-g"]) == "" == tools.read("/nowhere/at/all")


def test_what_a_failing_tool_printed_counts():
    assert tools.run([sys.executable, "-c", "print('a: 1'); raise SystemExit(1)"]) == "a: 1\n"


def test_a_tool_that_hangs_is_ended_with_its_children():
    """The child of the tool holds the pipe open."""
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    began = time.monotonic()
    assert tools.run([sys.executable, "-c", f"{code}; time.sleep(60)"], timeout=0.7) == ""
    assert time.monotonic() - began < 20


def test_a_backend_that_dies_in_its_check_is_named():
    assert not check_backend("torch", lambda command: "").works
    assert "died" in check_backend("torch", lambda command: "Illegal instruction\n").error
    good = '{"device": "cpu", "versions": {}, "bfloat16": false, "gflops": 50.0, "bandwidth": 1e9}'
    found = check_backend("torch", lambda command: f"a warning\n{good}")
    assert found == BackendCheck("torch", "", "cpu", {}, False, 50.0, 1e9) and found.works
