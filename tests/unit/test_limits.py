"""What --power, --max-cpu and --max-memory mean, and how much of the machine a container leaves."""

import pytest

from minigpt.errors import UsageError
from minigpt.machine.cgroups import cpu_quota, directories, memory_bound
from minigpt.machine.limits import Limits, limits_of

TOTAL = 16 * 10**9


@pytest.mark.parametrize(
    ("power", "cpu", "battery", "limits"),
    [
        (None, None, False, Limits("balanced", None, follows=True)),
        (None, None, True, Limits("quiet", 0.5, follows=True)),
        ("full", None, True, Limits("full", None)),
        ("quiet", "80", False, Limits("quiet", 0.8, cpu_given=True)),
        ("balanced", "100", False, Limits("balanced", None, cpu_given=True)),
        ("quiet", "100%", True, Limits("quiet", None, cpu_given=True)),
    ],
)
def test_the_power_source_decides_what_is_not_said(power, cpu, battery, limits):
    assert limits_of(power, cpu, None, battery, TOTAL) == limits


def test_an_unknown_level_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean quiet"):
        limits_of("quite", None, None, False, TOTAL)


V1 = "4:memory:/docker/5cac\n2:cpu,cpuacct:/docker/5cac\n1:name=systemd:/\n"
V2 = "0::/user.slice/run-7.scope\n"


def test_version_2_limits_hold_with_those_above(tmp_path):
    """A scope without a limit inside a slice that may use a core and a half."""
    scope = tmp_path / "user.slice" / "run-7.scope"
    scope.mkdir(parents=True)
    (scope / "cpu.max").write_text("max 100000\n")
    (scope.parent / "cpu.max").write_text("150000 100000\n")
    (scope / "memory.max").write_text("2147483648\n")
    found = directories(tmp_path, "cpu", V2)
    assert found == [scope, scope.parent, tmp_path]
    assert [cpu_quota(d) for d in found] == [None, 1.5, None]
    assert [memory_bound(d) for d in found] == [2 << 30, None, None]


def test_version_1_limits_are_found_at_the_root_of_a_container(tmp_path):
    for controller, files in {
        "cpu": {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"},
        "memory": {"memory.limit_in_bytes": "4294967296\n"},
    }.items():
        (tmp_path / controller).mkdir()
        for name, text in files.items():
            (tmp_path / controller / name).write_text(text)
    assert [q for d in directories(tmp_path, "cpu", V1) if (q := cpu_quota(d))] == [0.5]
    assert [m for d in directories(tmp_path, "memory", V1) if (m := memory_bound(d))] == [4 << 30]


@pytest.mark.parametrize("text", ["-1\n", "9223372036854771712\n", "max\n", "", "many\n"])
def test_no_limit_is_none(tmp_path, text):
    (tmp_path / "memory.limit_in_bytes").write_text(text)
    (tmp_path / "cpu.cfs_quota_us").write_text(text if len(text) < 9 else "-1")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert memory_bound(tmp_path) is None and cpu_quota(tmp_path) is None
