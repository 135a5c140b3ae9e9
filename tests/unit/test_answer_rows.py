"""Packed rows of sampled answers: each token stands once, and sees what it would see in a row of its own."""

from types import SimpleNamespace

import numpy as np
import pytest

from backends.numpy.backend import NumPyBackend
from minigpt.generate.engine import Answer
from minigpt.sections import ModelConfig
from minigpt.stages.online_dpo import paired
from minigpt.stages.packed import laid_out, packed

DRAW = np.random.default_rng(3)
KINDS = {"shared": {}, "alone": {"convolution": 2}, "experts": {"experts": 4, "expert_width": 8}}


def model_of(context=64, processes=1, **settings):
    backend = NumPyBackend()
    backend.group = SimpleNamespace(size=processes)
    return SimpleNamespace(config=ModelConfig(context=context, vocab_size=300, **settings), backend=backend)


def asked(prompts, together, longest=20):
    """So many prompts of unequal lengths with `together` answers each, every token another one."""
    lengths = DRAW.integers(1, 30, prompts)
    tokens = iter(range(1, 10**6))
    groups = [(prompt, [next(tokens) for _ in range(DRAW.integers(1, longest))])
              for prompt in [[next(tokens) for _ in range(n)] for n in lengths] for _ in range(together)]  # fmt: skip
    return [prompt for prompt, _ in groups], [Answer(ids, "", "stop", 0) for _, ids in groups]


def seen_from(backend, batch):
    """(R, W, W) bool: what each token may attend to."""
    told = {name: batch[name] for name in ("segments", "follows", "positions") if name in batch}
    width = batch["ids"].shape[1]
    return np.broadcast_to(backend.visible(width, width, **told).mask[:, 0], (*batch["ids"].shape, width))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [1, 2, 8])
def test_a_token_sees_the_same_tokens_at_the_same_positions(kind, together):
    model = model_of(**KINDS[kind])
    single = laid_out(*asked(5, together))
    batch = packed(model, single, together).rows(single)
    seen, counted = seen_from(model.backend, batch), batch["mask"] > 0
    found = []
    for row, place in np.argwhere(counted):
        here = np.flatnonzero(seen[row, place])
        order = np.argsort(batch["positions"][row, here]) if "positions" in batch else slice(None)
        found.append((batch["ids"][row, here[order]].tolist(), int(batch["targets"][row, place])))
    expected = [(ids[: t + 1].tolist(), int(targets[t]))
                for ids, targets, mask in zip(*(single[x] for x in ("ids", "targets", "mask")), strict=True)
                for t in np.flatnonzero(mask)]  # fmt: skip
    assert sorted(found) == sorted(expected)
    assert batch["ids"].shape[1] <= 64 and ("follows" in batch) == (kind == "shared" and together > 1)
    tokens = sum(int(np.flatnonzero(mask)[-1]) + 1 for mask in single["mask"])
    stands = int((batch["segments"] >= 0).sum())
    assert stands < 0.7 * tokens if kind == "shared" and together == 8 else stands <= tokens
    assert len(batch["ids"]) == (5 * together if kind == "experts" else len(batch["ids"]))


@pytest.mark.parametrize("together", [1, 4])
def test_what_is_read_of_packed_rows_comes_back(together):
    single = laid_out(*asked(6, together))
    where = packed(model_of(), single, together)
    own = single["mask"] > 0
    values = DRAW.normal(size=own.shape).astype(np.float32)
    back = where.back(where.of(values))
    assert (back[own] == values[own]).all() and back.dtype == np.float32
    two = np.stack([where.of(values), where.of(-values)], axis=-1)  # (R, W, 2)
    assert (where.back(two)[..., 1][own] == -values[own]).all()
    assert where.of(single["mask"]).sum() == single["mask"].sum()


def test_answers_without_a_part_in_the_loss_are_omitted():
    single = laid_out(*asked(3, 4))
    single["mask"][[0, 5, 6]] = 0
    where = packed(model_of(), single, 4)
    assert sorted(n for held in where.held for n in held) == [1, 2, 3, 4, 7, 8, 9, 10, 11]
    single["mask"][:] = 0
    batch = packed(model_of(), single, 4).rows(single)
    assert batch["ids"].shape == (1, 16) and not batch["mask"].any() and (batch["segments"] == -1).all()


def test_a_row_is_no_longer_than_the_context_and_each_process_has_one():
    prompts, answers = [[5] * 40] * 8, [Answer([6] * 20, "", "stop", 0)] * 8
    single = laid_out(prompts, answers)  # 60 tokens each, of which 39 are shared
    where = packed(model_of(context=64), single, 8)
    assert where.source.shape == (8, 64)
    assert packed(model_of(context=103), single, 8).source.shape == (3, 103)  # 39 + 3 · 20 = 99
    short = laid_out([[5]] * 2, [Answer([6], "", "stop", 0)] * 2)
    assert packed(model_of(processes=3), short, 2).source.shape == (3, 16)
    gpu = model_of(context=60)
    gpu.backend.device = "gpu"
    many = laid_out([[5] * 40] * 18, [Answer([6] * 9, "", "stop", 0)] * 18)  # 39 + 2 · 9 tokens
    assert packed(gpu, many, 6).source.shape == (12, 60)  # 9 rows, but few numbers of them
    assert packed(gpu, {name: x[:17] for name, x in many.items()}, 1).source.shape == (17, 60)  # as planned


def test_pairs_stand_in_one_row():
    single = laid_out(*asked(9, 2))
    single["mask"][4:6] = 0  # the third pair teaches nothing
    for model in (model_of(), model_of(token_shift=1)):
        where = packed(model, single, 2, pairs=True)
        batch = paired(where, single)
        assert batch["weights"].sum() == 8 and batch["spans"].shape[1] == 2 * batch["weights"].shape[1]
        pairs = set()
        for row, span in enumerate(batch["spans"]):
            for pair in np.flatnonzero(batch["weights"][row]):
                said = [batch["targets"][row, span[2 * pair + side] > 0].tolist() for side in (0, 1)]
                pairs.add(tuple(map(tuple, said)))
        expected = {tuple(tuple(single["targets"][n, single["mask"][n] > 0].tolist()) for n in (i, i + 1))
                    for i in range(0, 18, 2) if i != 4}  # fmt: skip
        assert pairs == expected
