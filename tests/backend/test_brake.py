"""The brake on real short runs: the same numbers bit for bit, pauses, checkpoints, stops. The clock is simulated."""

import signal

import pytest
from once import by_turns, once
from test_resume import results

from minigpt.errors import Interrupted, OutOfMemory
from minigpt.events import Continued, Note, Paused, Progress, Saved, Step, Usage, silent
from minigpt.machine.brake import Brake, Surroundings
from minigpt.machine.limits import Limits
from minigpt.machine.now import CRITICAL, Conditions
from minigpt.machine.throttle import LONGEST
from minigpt.runs.control import Control
from minigpt.runs.training import train_stage
from minigpt.stages.table import USUAL
from minigpt.train.hooks import PAUSES
from minigpt.train.stop import Stop

SETTINGS = {"steps": 5, "save_every": 3, "eval_every": 2, "log_every": 1, "warmup_steps": 1}
SHORT, HOT = Conditions(pressure=CRITICAL), Conditions(heat=CRITICAL)


class Simulated(Surroundings):
    """A machine on which 0.01 s on both cores pass at each look at the CPU time, and nobody really sleeps."""

    def __init__(self, stop=None, resident=10**8, **now):
        parts = {"clock": self._clock, "sleep": self._sleep, "own_cpu": self._cpu, "conditions": self._conditions}
        super().__init__(cores=2.0, bound=lambda size: None, **parts)
        self.time, self.cpu, self.naps, self.resident = 1000.0, 0.0, [], resident
        self.stop, self.now = stop, dict(now)  # "at_first", "then": conditions

    def tree(self):
        return 0.0, 0, self.resident

    def _clock(self):
        return self.time

    def _cpu(self):
        self.time += 0.01
        self.cpu += 0.02
        return self.cpu

    def _sleep(self, seconds):
        assert 0 < seconds <= 0.1  # so that a stop is noticed soon
        self.time += seconds
        self.naps.append(seconds)
        if self.stop and len(self.naps) == 3:
            self.stop.signal = signal.SIGINT

    def _conditions(self):
        return self.now.pop("at_first", None) or self.now.get("then", Conditions())


def braked(backend, limits, stop=None, **settings):
    machine = Simulated(stop, **settings)
    return Control(stop or Stop(), brake=Brake(limits, backend, stop or Stop(), machine)), machine


# How a step is divided; naps and pauses stand outside the stages and the backends, which take turns.
CASES = list(zip((*USUAL, "grpo", "ppo"), (1, 2, 2, 1, 1), strict=True))


@by_turns("stage,accumulation", CASES)
def test_a_throttled_run_is_the_unthrottled_one(backend, copied, stage, accumulation):
    """Naps, a pause, cleared caches and an extra checkpoint: losses, weights and moments bit for bit."""
    whole, slow = (copied(stage, name, grad_accumulation=accumulation, **SETTINGS) for name in ("whole", "slow"))
    train_stage(whole, stage, backend, silent)
    control, machine = braked(backend, Limits("balanced", 0.3, 10**8 + 10**7), at_first=SHORT)
    seen = []
    train_stage(slow, stage, backend, seen.append, control)
    assert results(slow, stage) == results(whole, stage)
    for a, b in zip(*(sorted(run.store(stage).final.glob("*")) for run in (whole, slow)), strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    kinds = [type(event) for event in seen]
    assert kinds.count(Paused) == kinds.count(Continued) == 1 and kinds.count(Usage) == 5
    assert len(machine.naps) > 5 and control.brake.rested > 0
    rested = [event.rested for event in seen if isinstance(event, Step)]
    assert 0 < sum(rested) <= control.brake.rested and min(rested) >= 0


@once
@pytest.mark.parametrize(("now", "saved"), [(SHORT, True), (HOT, False)])
def test_a_pause_is_said_and_ends_with_its_reason(backend, copied, now, saved):
    """Short memory: saved first, since the system may end a process that waits. Heat ends no process."""
    run = copied("sft", **SETTINGS)
    control, machine = braked(backend, Limits("balanced"), at_first=now)
    seen = []
    train_stage(run, "sft", backend, seen.append, control)
    assert run.store("sft").finished()
    (pause,) = [event for event in seen if isinstance(event, Paused)]
    (again,) = [event for event in seen if isinstance(event, Continued)]
    assert pause == Paused("sft", 1, PAUSES["pause for memory" if saved else "pause for heat"], saved)
    assert again.step == 1 and again.seconds == pytest.approx(sum(machine.naps), abs=0.1) and again.seconds > 4.9
    before = seen[: seen.index(pause)]
    assert any(isinstance(event, Saved) and event.step == 1 for event in before) == saved


@once
def test_a_reason_that_stays_stops_nothing_for_ever(backend, copied):
    run = copied("sft", **SETTINGS)
    control, machine = braked(backend, Limits("balanced"), then=HOT)
    seen = []
    train_stage(run, "sft", backend, seen.append, control)
    assert run.store("sft").finished()
    assert [LONGEST <= e.seconds < LONGEST + 6 for e in seen if isinstance(e, Continued)] == [True]


@once
@pytest.mark.parametrize("limits", [Limits("balanced", 0.01), Limits("balanced")], ids=["a rest", "a pause"])
def test_a_stop_ends_a_rest_or_a_pause(backend, copied, limits):
    """At once: in the third slice of a long sleep, and saved."""
    run, stop = copied("sft", grad_accumulation=2, **SETTINGS), Stop()
    control, machine = braked(backend, limits, stop, **({} if limits.cpu else {"then": HOT}))
    with pytest.raises(Interrupted) as caught:
        train_stage(run, "sft", backend, silent, control)
    assert caught.value.exit_code == 130 and len(machine.naps) == 3
    assert run.store("sft").steps_kept() == 1


@once
def test_memory_that_stays_near_the_ceiling_ends_the_process_saved(backend, copied):
    run = copied("sft", **SETTINGS)
    control, machine = braked(backend, Limits("full", None, 10**9), resident=980 * 10**6)
    with pytest.raises(OutOfMemory, match="980 MB of the 1.0 GB that --max-memory allows are in use after step 2"):
        train_stage(run, "sft", backend, silent, control)
    assert run.store("sft").steps_kept() == 2  # caches were cleared behind the first


def test_work_outside_of_training_rests_too(backend):
    """Preparing data and measuring say how far they are; what cannot be divided is forgiven beyond a few seconds."""
    control, machine = braked(backend, Limits("full", 0.5))
    machine.cpu += 400.0  # 200 s on both cores
    machine.time += 200.0
    seen = []
    control.resting(seen.append)(Progress("preparing", 1, 2))
    control.resting(seen.append)(Note("nothing"))
    assert len(seen) == 2 and sum(machine.naps) == pytest.approx(3.0, abs=0.05)


@once
def test_without_a_limit_nobody_sleeps(backend, copied):
    run = copied("sft", **SETTINGS)
    control, machine = braked(backend, Limits("full"))
    train_stage(run, "sft", backend, silent, control)
    assert machine.naps == [] and control.brake.rested == 0
