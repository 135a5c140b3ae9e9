"""All parity checks in one list, for `minigpt parity`."""

from backends.base import Backend
from minigpt.events import Progress, Report
from minigpt.parity.controls import check_controls
from minigpt.parity.models import compare_losses, compare_models
from minigpt.parity.ops import compare_ops
from minigpt.parity.reference import Row
from minigpt.parity.rl.check import check_rl_faults, compare_rl
from minigpt.parity.trajectories import compare_trajectories


def compare(backends: list[Backend], quick: bool, report: Report) -> list[Row]:
    """Operations, models, losses, reinforcement learning, training trajectories (unless `quick`), and controls that
    must be caught.
    """
    checks = {
        "operations": lambda: compare_ops(backends),
        "models": lambda: compare_models(backends),
        "losses": lambda: compare_losses(backends),
        "reinforcement learning": lambda: compare_rl(backends),
        "mistakes of reinforcement learning": lambda: [r for backend in backends for r in check_rl_faults(backend)],
        "negative controls": lambda: [row for backend in backends for row in check_controls(backend)],
    }
    if not quick:
        checks["training trajectories"] = lambda: compare_trajectories(backends)
    rows: list[Row] = []
    for number, (name, check) in enumerate(checks.items()):
        report(Progress(f"comparing {name}", number, len(checks)))
        rows += check()
        report(Progress(f"comparing {name}", number + 1, len(checks), finished=True))
    return rows
