"""Reinforcement learning, checked: by definition, on a model whose answers can be listed, and with planted mistakes."""

from backends.base import Backend
from minigpt.parity.reference import Row
from minigpt.parity.rl.advantage_faults import advantage_faults
from minigpt.parity.rl.cases import OURS, Fault, cases, compare
from minigpt.parity.rl.model_faults import model_faults
from minigpt.parity.rl.policy_faults import policy_faults
from minigpt.parity.rl.toy import check_toy


def compare_rl(backends: list[Backend]) -> list[Row]:
    """Every function of RL against its definition, and every estimator's expected gradient against theory."""
    rows = [row for backend in backends for case in cases() for row in compare(case, backend)]
    return rows + [row for backend in backends for row in check_toy(backend)]


def faults() -> list[Fault]:
    """All planted mistakes."""
    return [*advantage_faults(), *policy_faults(), *model_faults()]


def check_rl_faults(backend: Backend) -> list[Row]:
    """One Row per planted mistake with the difference that gave it away; ok says that it was caught."""
    by_name = {case.name: case for case in cases()}
    return [_verdict(backend, fault, compare(by_name[fault.case], backend, OURS | {fault.function: fault.wrong}))
            for fault in faults()]  # fmt: skip


def _verdict(backend: Backend, fault: Fault, rows: list[Row]) -> Row:
    worst = min(rows, key=lambda r: (r.ok, r.bound - r.difference))
    name = f"{fault.name} ({fault.case})"
    return Row("control", name, worst.quantity, worst.pair, worst.difference, worst.bound, not worst.ok)
