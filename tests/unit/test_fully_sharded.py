"""A model shared out between processes: what all must do alike, and what is refused. That together they train what one
does is in tests/backend/test_processes.py.
"""

import numpy as np
import pytest

from backends.group import ALONE, Several
from backends.numpy.backend import NumPyBackend
from minigpt.config import load_config
from minigpt.errors import UsageError
from minigpt.sections import ModelConfig, StageConfig
from minigpt.stages.table import STAGES
from minigpt.store.stage import StageStore
from minigpt.train.fully_sharded import FullySharded, check_shards

FULL = StageConfig(shard="full")


def test_all_processes_have_equally_many_rows_and_each_row_counts_once(tmp_path):
    """Six rows for four processes: two each, of which two are copies."""
    batch = {"ids": np.arange(12).reshape(6, 2), "weights": np.full((6, 2), 1 / 12, np.float32)}
    shares = []
    for rank in range(4):
        backend = NumPyBackend()
        backend.group = Several(backend, rank, 4)
        shares.append(FullySharded(backend, StageStore(tmp_path)).rows(batch))
    assert [len(one["ids"]) for one in shares] == [2, 2, 2, 2]
    counted = [ids.tolist() for one in shares for ids, w in zip(one["ids"], one["weights"], strict=True) if w.any()]
    assert counted == batch["ids"].tolist()
    assert sum(one["weights"].sum() for one in shares) == pytest.approx(1)


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_in_step_each_process_computes_as_often_as_the_others(count):
    items, calls = [10 * i for i in range(count)], []

    class Third(Several):
        in_step = True

        def gather(self, value):
            parts = [[-item for item in items[rank::3]] for rank in range(3)]
            assert value == parts[self.rank]
            return parts

    for rank in range(3):
        done = []
        found = Third(None, rank, 3).map(lambda item, done=done: done.append(item) or -item, items)
        assert found == [-item for item in items]
        calls.append(len(done))
    assert calls == [-(-count // 3)] * 3


def test_a_run_from_before_keeps_its_moments_shared_out():
    for before, now in ((True, "moments"), (False, "none")):
        assert load_config("tiny", None, [f"sft.shard_moments={str(before).lower()}"]).sft.shard == now
        saved = load_config("tiny").model_dump()
        saved["sft"] = {k: v for k, v in saved["sft"].items() if k != "shard"} | {"shard_moments": before}
        assert load_config(saved=saved).sft.shard == now


def test_what_cannot_be_shared_out_is_refused_with_the_reason():
    for stage, row in STAGES.items():
        if row.config().needs_weights:
            with pytest.raises(UsageError, match=rf"{stage}.*a batch is made with the whole weights"):
                load_config("tiny", None, [f"{stage}.shard=full"])
    with pytest.raises(UsageError, match=r"distill.*a batch is made with"):
        load_config("tiny", None, ["distill.teacher=runs/big", "distill.shard=full", "distill.own_answers=0.5"])
    with pytest.raises(UsageError, match=r"sft.*shard = 'full' cannot go with lora_rank"):
        load_config("tiny", None, ["sft.shard=full", "sft.lora_rank=4"])
    with pytest.raises(UsageError, match=r"pretrain.*outer_every and shard = 'full' cannot go together"):
        load_config("tiny", None, ["pretrain.shard=full", "pretrain.outer_every=50"])
    two = Several(None, 0, 2)
    with pytest.raises(UsageError, match=r"pretrain.shard = 'full': this mlx has no FSDP2"):
        check_shards("pretrain", FULL, ModelConfig(), "mlx", two)
    two.shards = True
    check_shards("pretrain", FULL, ModelConfig(), "torch", two)
    with pytest.raises(UsageError, match="models without experts"):
        check_shards("pretrain", FULL, ModelConfig(experts=4), "torch", two)
    check_shards("pretrain", FULL, ModelConfig(experts=4), "mlx", ALONE)
