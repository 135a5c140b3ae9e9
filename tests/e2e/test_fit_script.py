"""A slice of the campaign that compares plans with what happens; whole: scripts/fit.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from fitting import plans


def test_planned_against_actual(tmp_path):
    """Memory within 15 %. Time has no bound here: other tests run on the same cores."""
    rows = plans.planned_and_actual(tmp_path, ["tiny"], ["torch"], 2, {"data.world_pairs": 60})
    assert [row.stage for row in rows] == ["pretrain", "sft", "dpo"]
    for row in rows:
        assert abs(row.memory_error) <= plans.MEMORY, row
        assert row.seconds > 0 and 0.05 < row.planned_seconds / row.seconds < 20, row


@pytest.mark.parametrize(
    ("memory", "seconds", "good"), [(100, 10.0, True), (116, 10.0, False), (100, 12.6, False), (86, 7.6, True)]
)
def test_a_plan_that_is_off_is_caught(memory, seconds, good):
    assert plans.Planned("tiny", "torch", "sft", memory, 100, seconds, 10.0).good is good
