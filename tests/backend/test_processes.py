"""Two processes train what one does: every stage, with adapters, Muon, micro-batches, and from N processes to M."""

import sys
from pathlib import Path

import numpy as np
import pytest

from backends.group import Several
from minigpt.train.together import Together

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from several import equality

STEPS, HALF = 4, 2
CASES = [case for case in equality.CASES if case.name not in ("adamw", "adamw, checkpointing")]  # a slice
EXACT = 4e-6  # DPO's sums of log-probabilities are near -300, where float32 has steps of 3e-5, times beta


class Twins(Several):
    """Two processes that compute the same: a sum is twice its own part."""

    def __init__(self, backend):
        super().__init__(backend, 0, 2)
        self.kinds = []

    def _sum(self, flat):
        self.kinds.append(self.backend.dtype(flat))
        return flat + flat


def test_gradients_in_bfloat16_keep_their_digits(backend, monkeypatch):
    """Half the traffic, an error of at most 2^-8 of each number; the loss and the votes travel whole."""
    monkeypatch.setattr(backend, "group", Twins(backend), raising=False)
    together = Together(backend, "bfloat16")
    answer = together.agreed(lambda: "pause", ("stop", "pause"))
    x = np.random.default_rng(1).standard_normal((20, 30)).astype(np.float32)
    loss, metrics, grads = together.summed(
        backend.array(np.float32(0.1)), {"kl": backend.array(np.float32(0.3))}, {"w": backend.array(x)}
    )
    assert backend.group.kinds == ["float32", "bfloat16"] and backend.dtype(grads["w"]) == "float32"
    assert float(loss) == np.float32(0.1) * 2 and float(metrics["kl"]) == np.float32(0.3) * 2
    apart = np.abs(backend.numpy(grads["w"]) / (2 * x) - 1)
    assert 2**-12 < apart.max() <= 2**-8 and answer() == "pause"


@pytest.mark.skipif(sys.platform == "win32", reason="gloo and the ring are for Linux and macOS here")
def test_two_processes_equal_one(backend, tmp_path, monkeypatch):
    """Every second case is handed over to one process in the middle."""
    if backend.device == "gpu":
        pytest.skip("two processes need two GPUs")
    places = [tmp_path / name for name in ("alone", "together")]
    base = equality.prepared(tmp_path, backend.name, STEPS)
    for place, count in zip(places, (1, 2), strict=True):
        place.mkdir()
        jobs = equality.copies(base, place, CASES, STEPS, HALF)
        if count == 2:
            jobs = [job | {"stop_after": HALF} if i % 2 else job for i, job in enumerate(jobs)]
            equality.trained(place, backend.name, 2, jobs)
            jobs = [job | {"stop_after": None} for job in jobs[1::2]]
        equality.trained(place, backend.name, 1, jobs)
    for gap in equality.gaps(CASES, "2 processes", *places):
        assert gap.losses <= (EXACT if gap.case.stage == "dpo" else equality.LOSS), gap
        assert gap.weights <= equality.WEIGHTS, gap
    assert equality.same_bits(CASES, places[0], places[0]) == []
