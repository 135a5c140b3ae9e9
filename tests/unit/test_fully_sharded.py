"""A model shared out between processes: what all must do alike, and what is refused. That together they train what one
does is in tests/backend/test_processes.py.
"""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from backends.group import ALONE, PartnerLost, Several
from backends.numpy.backend import NumPyBackend
from backends.tree import map_leaves
from minigpt.config import load_config
from minigpt.errors import UsageError
from minigpt.events import silent
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.sections import ModelConfig, StageConfig
from minigpt.stages.assemble import asks_for_weights
from minigpt.stages.table import STAGES
from minigpt.store.stage import StageStore
from minigpt.text.characters import CharTokenizer
from minigpt.train.fully_sharded import FullySharded, check_shards
from minigpt.train.samples import Samples
from minigpt.train.together import check_weights_are_whole

FULL = StageConfig(shard="full")


@pytest.mark.parametrize(("rows", "each"), [(6, 2), (2, 1), (1, 1)])
def test_all_processes_have_equally_many_rows_and_each_row_counts_once(rows, each, tmp_path):
    """Six rows for four processes: two each, of which two are empty. Fewer than four: one each."""
    batch = {"ids": np.arange(2 * rows).reshape(rows, 2), "weights": np.full((rows, 2), 0.5 / rows, np.float32)}
    shares = []
    for rank in range(4):
        backend = NumPyBackend()
        backend.group = Several(backend, rank, 4)
        shares.append(FullySharded(backend, StageStore(tmp_path)).rows(batch))
    assert [len(one["ids"]) for one in shares] == [each] * 4
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


class Pair(Several):
    """One of two processes, which are threads here; what the other sends is on the `board`."""

    in_step = True

    def __init__(self, backend, rank, barrier, board):
        super().__init__(backend, rank, 2)
        self.barrier, self.board = barrier, board

    def _sum(self, flat):
        self.board[self.rank] = flat
        self.barrier.wait(30)
        total = self.board[0] + self.board[1]
        self.barrier.wait(30)
        return total


class Broken(Pair):
    def _sum(self, flat):
        raise RuntimeError("Connection reset by peer")


def test_all_processes_go_on_by_the_first_ones_choices(tmp_path):
    """As unlike processors would, the second one computes other logits, and alone writes another text."""
    config = ModelConfig(n_layer=1, n_head=2, n_kv_head=2, d_model=16, d_ff=16, vocab_size=288, context=60)
    texts, barrier, board = {}, threading.Barrier(2), [None, None]

    def written(name, rank, group=None):
        backend = NumPyBackend()
        if group is not None:
            backend.group = group(backend, rank, barrier, board)
        weights = to_backend(backend, init_weights(config, seed=1))
        if rank:
            weights["model"]["norm"] = map_leaves(lambda w: -w, weights["model"]["norm"])
        store = StageStore(tmp_path / name)
        store.directory.mkdir()
        prompts = [list(b"abc"), list(b"defgh")]
        Samples("pretrain", StageConfig(), GPT(config, backend), CharTokenizer(""), prompts, None, store, silent).take(
            1, weights
        )
        texts[name] = [json.loads(line)["text"] for line in store.samples.read_text("utf-8").splitlines()]

    for rank in (0, 1):
        written(f"alone {rank}", rank)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: written(f"together {rank}", rank, Pair), (0, 1)))
    assert texts["alone 0"] != texts["alone 1"]
    assert texts["together 0"] == texts["together 1"] == texts["alone 0"]
    with pytest.raises(PartnerLost, match="Connection reset"):  # and no answer that failed
        written("left", 0, Broken)


def test_given_batches_that_ask_for_weights_are_known_by_their_arguments():
    class Given:
        def __call__(self, step, weights):
            return {}

    assert asks_for_weights(lambda step, weights: {}) and asks_for_weights(Given())
    assert not asks_for_weights(lambda step: {}) and not asks_for_weights(lambda step, weights=None: {})
    for config, setting in ((FULL, "pretrain.shard = 'full'"), (StageConfig(outer_every=50), "outer_every = 50")):
        with pytest.raises(UsageError, match=f"given batches.*{setting}"):
            check_weights_are_whole(config, "pretrain", True, 2)
        check_weights_are_whole(config, "pretrain", False, 2)
        check_weights_are_whole(config, "pretrain", True, 1)
    check_weights_are_whole(StageConfig(), "pretrain", True, 2)


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
