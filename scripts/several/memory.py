"""What moments that are shared out save: memory that each process takes more for updates of the same weights.

As a program: `memory.py BACKEND FILE shared|whole`, alone or under a launcher.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from backends import get_backend
from backends.group import launched
from minigpt.cli.launching import launch_command
from minigpt.machine.processes import resident
from minigpt.sections import StageConfig
from minigpt.train.sharded import ShardedMoments
from minigpt.train.together import Together

LAYERS, WIDTH = 24, 1024  # 25 million parameters: 101 MB of float32
COLUMNS = ("backend", "processes", "moments", "more in each process", "expected")
HERE = Path(__file__)


def compared(directory: Path, backend: str, counts: list[int]) -> list[list[str]]:
    """A row for each number of processes and way."""
    size, rows, file = 4 * LAYERS * WIDTH**2, [], directory / "memory.json"
    for count in counts:
        for way in ("whole", "shared"):
            path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
            command = launch_command(backend, count, [str(HERE), backend, str(file), way])
            subprocess.run(command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                           stdin=subprocess.PIPE, check=True)  # fmt: skip
            found = json.loads(file.read_text("utf-8"))
            expected = 2 * size / (count if way == "shared" else 1)
            told = ", ".join(f"{bytes_ / 1e6:,.0f} MB" for bytes_ in found)
            rows.append([backend, str(count), way, told, f"{expected / 1e6:,.0f} MB"])
    return rows


def main(name: str, file: Path, way: str) -> None:
    backend = get_backend(name, "cpu")
    backend.group = group = backend.grouped(launched())
    rng = np.random.default_rng(1)

    def matrices() -> dict:
        drawn = (rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(LAYERS))
        return {"model": {"layers": [{"w": backend.array(x)} for x in drawn]}}

    weights, grads = matrices(), matrices()
    backend.sync(weights, grads)
    before = resident()
    config = StageConfig(steps=10, grad_clip=0.0)
    optimizer = (ShardedMoments if way == "shared" else Together)(backend).optimizer(config, weights)
    moments = optimizer.init(weights)
    for step in range(2):
        clipped, _ = optimizer.clip(grads)
        weights, moments = optimizer.update(weights, clipped, moments, step)
        backend.sync(weights, moments)
    gc.collect()
    found = group.gather(resident() - before)
    if group.rank == 0:
        file.write_text(json.dumps(found), "utf-8")
    group.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
