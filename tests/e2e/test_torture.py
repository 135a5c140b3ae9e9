"""A slice of scripts/torture.py, and that its comparison of two runs can fail."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import torture
from ordeals.ordeal import Outcome, difference

SLICE = "0.01"  # of all tries: one of each kind
# The campaign has each ordeal on each backend. Processes are those of the one that has opened first.
PLACES = {"kills": ("processes", "mlx"), "signals": ("processes", "mlx"), "resume": ("resume", "mlx"),
          "sampling": ("sampling", "torch"), "numbers": ("numbers", "torch"), "disk": ("disk", "torch")}  # fmt: skip
QUICK = ("corruption", "rows", "configurations")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("torture")


def test_every_ordeal_but_the_longest_is_met():
    assert {*torture.ORDEALS} - {*PLACES, *QUICK} == {"sampling-kills", "races", "memory"}


@pytest.mark.parametrize("name", PLACES)
def test_a_slice_of_an_ordeal(directory, monkeypatch, name):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place, backend = PLACES[name]
    (directory / place).mkdir(exist_ok=True)
    outcomes = torture.ORDEALS[name](directory / place, [backend], float(SLICE), 1)
    assert outcomes and [outcome.lost for outcome in outcomes] == [[]] * len(outcomes)
    assert all(outcome.tried or "file system" in outcome.what for outcome in outcomes)


def test_the_command(monkeypatch, capsys):
    """One line for each kind of ordeal; what is lost is an exit code of 1."""
    monkeypatch.setattr(sys, "argv", ["torture.py", "--scale", SLICE, "--json", "--only", ",".join(QUICK)])
    assert torture.main() == 0
    outcomes = json.loads(capsys.readouterr().out)
    assert len(outcomes) == 8 and all(outcome["tried"] and not outcome["lost"] for outcome in outcomes)
    monkeypatch.setitem(torture.ORDEALS, "rows", lambda *_: [Outcome("rows", 2, ["one of them"])])
    assert torture.main() == 1 and "one of them" in capsys.readouterr().out


def test_a_single_changed_number_is_a_difference(trained, tmp_path):
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    assert difference(copy, trained) == ""
    journal = copy / "sft" / "metrics.jsonl"
    journal.write_text(journal.read_text("utf-8").replace('"loss": 5', '"loss": 6', 1).replace("6.", "7.", 1), "utf-8")
    assert difference(copy, trained) == "sft/metrics.jsonl differs"
    weights = copy / "pretrain" / "final" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    assert difference(copy, trained) == "pretrain/final differs"
