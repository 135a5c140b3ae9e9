"""Training steps of every stage: the same curve on both backends, however a step is divided."""

from dataclasses import replace

import pytest

from minigpt.parity import trajectories
from minigpt.stages.table import STAGES
from minigpt.train import gradients

PLAIN, DIVIDED = (1, False), (4, False)  # accumulation, checkpointing


@pytest.fixture(scope="module")
def rows(both):
    """Five steps, plain and with both divisions, variations plain; `minigpt parity` trains twenty in all ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectories, "STEPS", 5)
        return trajectories.compare_trajectories(both, [PLAIN, (2, True)], [PLAIN])


def two_stages(*variations):
    """Pretraining and SFT, the latter also in these ways."""
    found = {"pretrain": (), "sft": variations}
    return {name: replace(STAGES[name], variations=ways) for name, ways in found.items()}


def test_every_curve_and_the_last_weights_agree(rows):
    broken = [f"{row.case} {row.quantity}: {row.difference:.1e} > {row.bound:.0e}" for row in rows if not row.ok]
    assert not broken, "\n".join(broken)


def test_all_variants_were_compared(rows):
    # stages x backends x (plain, divided and checkpointed) x (loss, weights); variations plain; a handover each way
    variations = sum(len(row.variations) for row in STAGES.values())
    assert len(rows) == (len(STAGES) * 2 + variations) * 2 * 2 + 2


def test_a_mean_of_means_is_caught(both, monkeypatch):
    """Normalizing each part by itself is the usual mistake of gradient accumulation."""
    from minigpt.data import batches

    def wrong(batch, parts):
        return [batches.normalized(part) for part in batches.split(batch, parts)]

    monkeypatch.setattr(gradients, "split", wrong)
    monkeypatch.setattr(trajectories, "STAGES", two_stages())
    monkeypatch.setattr(trajectories, "STEPS", 4)
    found = trajectories.compare_trajectories(both[1:], [PLAIN, DIVIDED], [PLAIN, DIVIDED])
    assert any(not row.ok for row in found if "sft" in row.case and "accumulation 4" in row.case)


def test_a_mask_that_depends_on_the_part_is_caught(both, monkeypatch):
    """Dropout must follow a row into whatever part of the batch it is computed in."""
    from minigpt.stages import adapter

    right = adapter.dropout_leaves
    monkeypatch.setattr(adapter, "dropout_leaves", lambda tree, keys, rate: right(tree, 0 * keys + len(keys), rate))
    monkeypatch.setattr(trajectories, "STAGES", two_stages("LoRA"))
    monkeypatch.setattr(trajectories, "STEPS", 4)
    found = trajectories.compare_trajectories(both[1:], [PLAIN, DIVIDED], [PLAIN, DIVIDED])
    assert any(not row.ok for row in found if "LoRA" in row.case and "accumulation 4" in row.case)
