"""Moments shared out between processes: who has which, and that together they do what one does."""

import numpy as np
import pytest

from backends.group import Several
from backends.numpy.backend import NumPyBackend
from backends.tree import items, leaves
from minigpt.config import load_config
from minigpt.errors import UsageError
from minigpt.sections import StageConfig
from minigpt.train.optim import Optimizer
from minigpt.train.sharded import ShardedMoments, ShardedOptimizer, owners


class One(Several):
    """One of several processes, which gets nothing from the others."""

    def spread(self, arrays, owners):
        return list(arrays)


def test_leaves_are_shared_out_evenly():
    sizes = [5, 100, 5, 60, 40, 3, 3]
    for processes in (1, 2, 3, 9):
        found = owners(sizes, processes)
        held = [sum(size for size, rank in zip(sizes, found, strict=True) if rank == one) for one in range(processes)]
        assert sum(held) == sum(sizes) and max(held) <= sum(sizes) / processes + max(sizes)
    assert owners(sizes, 2) == [0, 0, 1, 1, 1, 0, 1], "100, then 60 and 40, then a 5 and a 3 to either"


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_together_they_update_as_one_does(kind):
    """Each leaf's update and moments are those of one process, and each moment is kept once."""
    rng, backend = np.random.default_rng(1), NumPyBackend()
    layer = {"w": rng.standard_normal((4, 3)), "v": rng.standard_normal((4, 3)), "norm": rng.standard_normal(3)}
    tree = {"model": {"embed": rng.standard_normal((6, 3)), "layers": [layer]}}
    grads = [rng.standard_normal(x.shape) for x in leaves(tree)]
    config = StageConfig(steps=10, optimizer=kind, warmup_steps=0)

    def updated(make):
        optimizer = make(backend, config, tree)
        return optimizer.update(tree, [g.copy() for g in grads], optimizer.init(tree), 0)

    weights, moments = updated(Optimizer)
    kept = []
    for rank in range(2):
        backend.group = One(backend, rank, 2)
        own, part = updated(ShardedOptimizer)
        names = [name for name, _ in items(tree)]
        mine = [names[i] for i, one in enumerate(owners([x.size for x in leaves(tree)], 2)) if one == rank]
        assert sorted(part["first"]) == sorted(mine) and set(part["second"]) == set(mine) & set(moments["second"])
        for name, x in items(own):
            expected = dict(items(weights if name in mine else tree))[name]
            assert np.allclose(x, expected, atol=1e-12), name
        for name in mine:
            assert np.allclose(part["first"][name], moments["first"][name], atol=1e-12)
        kept += mine
    assert sorted(kept) == sorted(names)


def test_a_checkpoint_has_all_moments_and_gives_each_process_its_own():
    backend = NumPyBackend()
    tree = {"a": np.ones(4), "b": np.ones((2, 2)), "c": np.ones(3)}
    moments = {kind: {name: np.full(x.shape, number) for name, x in tree.items()}
               for number, kind in enumerate(("first", "second"), 1)}  # fmt: skip
    backend.group = One(backend, 0, 2)
    backend.group.first, backend.group.share = (lambda work: work()), (lambda tree, rank=0: tree)
    together = ShardedMoments(backend)
    own = together.optimizer(StageConfig(), tree).init(tree)
    found = together.loaded(lambda wanted: (tree, moments, {"step": 3}), tree, own)
    assert found[1].keys() == own.keys() and found[1]["second"].keys() == own["second"].keys() == {"a", "c"}
    assert (found[1]["second"]["a"] == 2).all() and found[2] == {"step": 3}
    assert {name for name, _ in items(together.kept(found[1]))} == {name for name, _ in items(moments)}
    fresh = together.loaded(lambda wanted: (tree, wanted, {"step": 0}), tree, own)
    assert fresh[1] is own


def test_outer_steps_have_moments_of_their_own():
    with pytest.raises(UsageError, match="outer_every and shard = 'moments' cannot go together"):
        load_config("tiny", None, ["pretrain.outer_every=50", "pretrain.shard_moments=true"])
