"""What a plan assumes and measures, on each backend."""

import pytest

from backends.tree import leaves
from minigpt.machine.ceiling import give_back
from minigpt.machine.processes import resident
from minigpt.model.gpt import init_weights, to_backend
from minigpt.plan.actual import Peak
from minigpt.plan.costs import checkpoint_bytes, state_of
from minigpt.plan.speed import measure
from minigpt.sections import ModelConfig, StageConfig
from minigpt.stages.table import STAGES, USUAL
from minigpt.train.optim import Optimizer

MODEL = ModelConfig(n_layer=1, n_head=2, n_kv_head=1, d_model=64, d_ff=128, context=32, vocab_size=300)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
def test_state_is_what_the_optimizer_really_keeps(backend, optimizer, tied):
    model, stage = MODEL.model_copy(update={"tie_embeddings": tied}), StageConfig(optimizer=optimizer)
    weights = to_backend(backend, init_weights(model, 0))
    moments = Optimizer(backend, stage, weights).init(weights)
    sizes = [sum(leaf.nbytes for leaf in leaves(tree)) for tree in (weights, moments)]
    state = state_of(model, stage)
    assert [state.weights, state.optimizer] == sizes and state.trained == state.weights
    assert checkpoint_bytes(model, stage) == sum(sizes)


DEPTHS = [(name, layers) for name in STAGES for layers in ((1, 2, 12) if name in USUAL else (12,))]


@pytest.mark.parametrize(("name", "layers"), DEPTHS)
def test_speed_is_measured_for_any_depth(backend, name, layers):
    """A deep model is not measured whole; what it costs is at least what its three layers cost."""
    stage = STAGES[name]
    model = MODEL.model_copy(update={"n_layer": layers})
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
