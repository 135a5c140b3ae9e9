"""The rate test on a parabola, where the rate at which plain steps diverge is known; nothing of a run is changed."""

import numpy as np

from minigpt.experiments.probing import probe
from minigpt.sections import StageConfig
from minigpt.train.loop import Objective
from minigpt.train.probe import rate_test


def test_a_parabola(backend):
    """AdamW's first steps are as long as the rate: a weight at distance 1 passes it once rates sum to 1."""

    def loss(weights, batch):
        return ((weights["w"] - batch["at"]) ** 2).sum(), {}

    def batches(step, weights):
        return {"ids": np.zeros((1, 1), np.int32), "at": np.ones(1, np.float32), "weights": np.ones((1,), np.float32)}

    config = StageConfig(steps=50, batch_size=1, optimizer="adamw", weight_decay=0.0, grad_clip=0)
    objective, weights = Objective(loss, batches, lambda w: {}), {"w": backend.zeros((1,))}
    found = rate_test(backend, config, objective, weights, 1e-4, 10.0, 50)
    assert len(found.rates) < 50 and 0.02 < found.lowest_at < 2.0 and found.suggested == found.lowest_at / 3
    assert found.losses[0] == 1.0 and np.allclose(np.diff(np.log(found.rates)), np.log(1e5) / 49)


def test_a_run_stays_as_it_is(world_run, backend):
    before = {path: path.stat().st_mtime_ns for path in world_run.directory.rglob("*")}
    found = probe(world_run, "sft", backend, 1e-4, 1.0, 10, 3)
    assert found.rate.losses and found.noise.batches == 3 and found.batch_size == 2
    assert {path: path.stat().st_mtime_ns for path in world_run.directory.rglob("*")} == before
