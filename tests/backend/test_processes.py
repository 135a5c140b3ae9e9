"""Two processes train what one does: every stage, with adapters, Muon, micro-batches, and from N processes to M."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from several import equality

STEPS, HALF = 4, 2
CASES = [case for case in equality.CASES if case.name not in ("adamw", "adamw, checkpointing")]  # a slice
EXACT = 4e-6  # DPO's sums of log-probabilities are near -300, where float32 has steps of 3e-5, times beta


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
