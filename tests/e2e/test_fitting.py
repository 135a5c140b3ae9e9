"""What the machine is and what fits it: doctor and plan."""

import getpass
import json
import os
import platform

import pytest

from backends import BACKENDS
from minigpt.machine import check
from minigpt.machine.check import BackendCheck


@pytest.fixture
def quick_check(monkeypatch):
    """Backends that answer at once: torch works, MLX does not."""
    good = BackendCheck("torch", "", "cpu", {"torch": "2.9.1", "device": "cpu"}, False, 50.0, 9.5e9)
    found = {"torch": good, "mlx": BackendCheck("mlx", "ImportError: no Metal")}
    monkeypatch.setattr(check, "check_backend", lambda name: found[name])


def test_doctor_tells_a_script_everything(minigpt):
    result = minigpt("doctor", "--json")
    assert result.code == 0 and result.err == ""
    found = json.loads(result.out)
    assert found["machine"]["cores"] >= 1 and found["machine"]["disk_free"] > 0 and found["machine"]["memory"] > 1e8
    assert found["python"] == platform.python_version()
    assert {one["name"] for one in found["backends"]} == set(BACKENDS)
    for one in found["backends"]:
        assert one["error"] == "" and one["gflops"] > 1 and one["bandwidth"] > 1e8 and one["versions"][one["name"]]
    assert found["choice"]["backend"] in BACKENDS and found["choice"]["reason"]


def test_doctor_names_a_backend_that_does_not_work(minigpt, quick_check):
    result = minigpt("doctor")
    assert result.code == 0 and "2.9.1" in result.out and "torch (no Apple GPU here)" in result.out
    assert "The mlx backend does not work: ImportError: no Metal." in result.err
    assert max(map(len, result.out.splitlines())) <= 80


def test_what_doctor_shares_is_not_personal(minigpt, quick_check):
    shared = minigpt("doctor", "--share").out
    assert shared.startswith("```\nminigpt: ") and "torch: 2.9.1 on cpu: yes, 50 GFLOP/s, 9.5 GB/s" in shared
    for secret in (getpass.getuser(), platform.node(), os.path.expanduser("~"), os.getcwd(), "free now", "disk"):
        assert secret not in shared, secret
