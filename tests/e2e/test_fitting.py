"""A slice of the campaign that measures whether limits are kept; whole: scripts/fitting/throttle.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from fitting import throttle


def test_the_share_is_measured(tmp_path):
    """No bound here: on a machine where tests run side by side a run may get less than it may take."""
    small = throttle.SHORT | {"model.n_layer": 1, "data.world_texts": 300, "data.world_lessons": 0}
    found = throttle.share_held(tmp_path, "mlx", cores=1, busy=False, share=0.3, seconds=1.0, settings=small)
    assert 0.0 < found.held < 0.9, found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a ceiling for a process's memory")
def test_the_ceiling_is_held_in_every_sample(tmp_path):
    small = throttle.LARGE | {"pretrain.steps": 2, "model.n_layer": 1, "data.world_texts": 300, "data.world_lessons": 0}
    rows = list(throttle.ceilings_held(tmp_path, ["torch"], [0.8], small))
    assert rows and all(row.kept for row in rows), rows
    assert all("finished" in row.note for row in rows), rows  # in smaller micro-batches, after a restart
