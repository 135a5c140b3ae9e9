"""What fine-tuning starts from: where pretraining has shown no conversation, a turn ends as a line does."""

import numpy as np
import pytest

from backends.tree import items
from minigpt.data.shards import ShardWriter
from minigpt.runs.start import starting_weights
from minigpt.sections import ModelConfig
from minigpt.text.tokenizer import IM_END


@pytest.fixture
def looking(copied, monkeypatch):
    """A run whose model looks things up, and pretraining's weights by name."""
    monkeypatch.setattr(ModelConfig, "looks_up", True)
    run = copied("sft")
    return run, dict(items(run.weights("pretrain")[0]))


def changed(run, before, **settings):
    """The leaves in which the start of SFT differs, and the rows of the embeddings."""
    begun = dict(items(starting_weights(run, "sft", run.config.sft.model_copy(update=settings))))
    names = {name for name, leaf in before.items() if not np.array_equal(leaf, begun[name])}
    name = "model.embed_tokens.weight"
    return names, np.flatnonzero((before[name] != begun[name]).any(axis=1)).tolist(), begun[name]


def test_the_end_of_a_turn_begins_as_the_end_of_a_line(looking):
    run, before = looking
    names, rows, table = changed(run, before)
    line = run.tokenizer.encode("\n")[-1]
    assert names == {"model.embed_tokens.weight"} and rows == [IM_END]
    assert np.array_equal(table[IM_END], before["model.embed_tokens.weight"][line])


def test_an_adapter_that_never_learns_embeddings_tells_them_apart(looking):
    assert changed(*looking, lora_rank=2)[1] == []


def test_what_pretraining_has_shown_stays(looking):
    run, before = looking
    with ShardWriter(run.data("pretrain") / "train", run.tokenizer.vocab_size, masked=False) as writer:
        writer.add([40, 41, 42])
        writer.add([40, IM_END, 42])
    assert changed(run, before)[1] == []


def test_a_model_that_does_not_look_up_stays(copied):
    run = copied("sft")
    assert not run.model_config.looks_up
    assert changed(run, dict(items(run.weights("pretrain")[0])))[1] == []
