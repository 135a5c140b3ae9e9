"""What a plan assumes and measures, on each backend."""

import pytest

from backends.tree import leaves
from minigpt.events import silent
from minigpt.machine.ceiling import give_back
from minigpt.machine.processes import resident
from minigpt.model.gpt import init_weights, to_backend
from minigpt.plan.actual import Peak
from minigpt.plan.costs import checkpoint_bytes, state_of
from minigpt.plan.speed import measure
from minigpt.sections import ModelConfig, StageConfig
from minigpt.stages.table import STAGES, USUAL
from minigpt.train.optim import Optimizer
from minigpt.train.outer import OuterSteps

MODEL = ModelConfig(n_layer=1, n_head=2, n_kv_head=1, d_model=64, d_ff=128, context=32, vocab_size=300)


@pytest.mark.parametrize("settings", [{}, {"optimizer": "muon"}, {"ema_decay": 0.9}, {"swa_fraction": 0.25}])
@pytest.mark.parametrize("tied", [True, False])
def test_state_is_what_the_optimizer_really_keeps(backend, settings, tied):
    model, stage = MODEL.model_copy(update={"tie_embeddings": tied}), StageConfig(**settings)
    weights = to_backend(backend, init_weights(model, 0))
    moments = Optimizer(backend, stage, weights).init(weights)
    sizes = [sum(leaf.nbytes for leaf in leaves(tree)) for tree in (weights, moments)]
    state = state_of(model, stage)
    assert [state.weights, state.optimizer] == sizes and state.trained == state.weights
    assert checkpoint_bytes(model, stage) == sum(sizes)
    rounds = stage.model_copy(update={"outer_every": 50})
    outer = OuterSteps(backend, "pretrain", rounds, silent)
    outer.loaded(lambda wanted: (weights, wanted, {"step": 0}), weights, moments)
    kept = sum(leaf.nbytes for leaf in leaves(outer.kept(moments)))
    assert checkpoint_bytes(model, rounds) == sizes[0] + kept
    assert state_of(model, rounds).optimizer == sizes[0] + kept, "the common weights beside the momentum"


DEPTHS = [(name, layers) for name in STAGES for layers in ((1, 2, 12) if name in USUAL else (12,))]


@pytest.mark.parametrize(("name", "layers"), DEPTHS)
def test_speed_is_measured_for_any_depth(backend, name, layers):
    """A deep model is not measured whole; what it costs is at least what its three layers cost."""
    stage = STAGES[name]
    model = MODEL.model_copy(update={"n_layer": layers, "first_weights": "induction" if layers > 1 else "random"})
    speed = measure(backend, model, stage, stage.config(**dict(stage.checked) | {"batch_size": 2}), "float32", 0.05)
    assert min(speed.forward, speed.token, speed.update) > 0


def test_the_peak_begins_again(backend):
    """What was used and given back before does not count."""
    give_back(backend)
    before = resident()
    peak = Peak(backend)
    block = backend.zeros((50_000_000,)) + 1.0  # 200 MB: far more than earlier tests have left in the heap
    backend.sync(block)
    assert 120e6 < peak.bytes() - before < 600e6
    again = Peak(backend)
    del block
    assert again.bytes() >= before
