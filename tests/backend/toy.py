"""A training so small that every number of it can be followed: one weight that is to become 3."""

import numpy as np

from minigpt.data.batches import Batches
from minigpt.events import silent
from minigpt.runs.control import UNSTEERED
from minigpt.sections import StageConfig
from minigpt.store.stage import StageStore
from minigpt.train.fit import fit
from minigpt.train.loop import Objective


class Points:
    """Rows (x, 3 x): a line through the origin, to be found by one weight."""

    count = 6

    def row(self, epoch, i):
        x = np.float32(i + 1)
        return {"ids": np.array([i], np.int32), "x": x, "y": 3 * x, "weights": np.ones((), np.float32)}


def toy_train(backend, tmp_path, validate=None, report=silent, control=UNSTEERED, batches=None, **settings):
    settings = {"steps": 5, "batch_size": 2, "warmup_steps": 0, "learning_rate": 0.5, "weight_decay": 0.0,
                "log_every": 1, "eval_every": 2, "save_every": 3} | settings  # fmt: skip
    store = toy_train.store(tmp_path)

    def loss(weights, batch):
        gap = weights["w"] * batch["x"] - batch["y"]
        return (gap * gap * batch["weights"]).sum(), {"x": (batch["x"] * batch["weights"]).sum()}

    def distance(weights):
        return {"loss": abs(float(weights["w"][0]) - 3)}

    config = StageConfig(**settings)
    batches = batches or Batches(Points(), config.batch_size, seed=1)
    weights = {"w": backend.zeros((1,))}
    objective = Objective(loss, batches, validate or distance)
    steered = {"stop": control.stop, "brake": control.brake}
    return fit(backend, "toy", config, weights, objective, store, report, **steered), store


toy_train.store = lambda tmp_path: StageStore(tmp_path / "toy")
