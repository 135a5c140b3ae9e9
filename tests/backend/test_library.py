"""`import minigpt` for people who write Python: the examples of the README and the handbook, run."""

import subprocess
import sys

import numpy as np
import pytest

import minigpt
from minigpt.errors import UsageError
from minigpt.events import Eval, Step

SMALL = {"model": {"n_layer": 1, "n_head": 2, "n_kv_head": 1, "d_model": 32, "d_ff": 48, "context": 32},
         "tokenizer": {"kind": "byte"}}  # fmt: skip
SHORT = {"steps": 4, "batch_size": 2, "eval_every": 2, "save_every": 2, "warmup_steps": 0}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "story.txt"
    path.write_text("abcdefghijklmnopqrstuvwxyz " * 60, "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def trained(backend, story, tmp_path_factory):
    where = tmp_path_factory.mktemp(backend.name) / "run"
    return minigpt.train_stage(
        "pretrain", where, data=[story], settings=SMALL, backend=backend, **SHORT | {"steps": 60}, learning_rate=1e-2
    )


def test_train_load_generate_stream_and_evaluate(backend, trained):
    model = minigpt.load_model(trained.directory, backend=backend)
    text = model.generate("abc", max_tokens=12, temperature=0)
    assert text == "".join(model.stream("abc", max_tokens=12, temperature=0)) and text.startswith("defgh")
    assert model.stage == "pretrain" and isinstance(model.chat("Hi", max_tokens=3), str)
    assert minigpt.evaluate_run(trained, backend=backend)["loss"] < 2


def test_events_come_one_by_one_and_leaving_stops_with_a_checkpoint(backend, story, tmp_path):
    arguments = {"data": [story], "settings": SMALL, "backend": backend.name, "device": "cpu"} | SHORT
    seen = [event for event in minigpt.training_events("pretrain", tmp_path / "a", **arguments)]
    assert [event.step for event in seen if isinstance(event, Step)] == [1, 2, 3, 4]
    for event in minigpt.training_events("pretrain", tmp_path / "b", **arguments | {"steps": 400}):
        if isinstance(event, Step) and event.step == 3:
            break
    kept = minigpt.open_run(tmp_path / "b").store("pretrain")
    assert 3 <= kept.steps_kept() < 400 and not kept.finished()
    with pytest.raises(UsageError, match="no stage 'pretran'"):
        next(minigpt.training_events("pretran", tmp_path / "c"))


def test_an_own_loss_own_batches_and_an_own_hook(backend, story, trained, tmp_path):
    """Ten lines: the loss of label smoothing on batches of the caller's, watched by a hook."""
    from minigpt.train.losses import language_loss

    seen, ids = [], np.arange(66, dtype=np.int32).reshape(2, 33) % 256 + 32

    def loss(model, weights, batch):
        return 0.5 * language_loss(model, weights, batch)

    def batches(step, weights):
        return {"ids": ids[:, :-1], "targets": ids[:, 1:], "weights": np.full((2, 32), 1 / 64, np.float32)}

    arguments = {"data": [story], "settings": SMALL, "backend": backend} | SHORT
    losses = {}
    for name, own in (("half", {"loss": loss}), ("whole", {})):
        events = []
        minigpt.train_stage("pretrain", tmp_path / name, batches=batches, report=events.append,
                            hooks=[lambda state, done: seen.append(state.step)], **own, **arguments)  # fmt: skip
        losses[name] = [event.loss for event in events if isinstance(event, Step)]
        assert any(isinstance(event, Eval) for event in events)
    assert seen == [1, 2, 3, 4] * 2
    assert losses["half"][0] == pytest.approx(losses["whole"][0] / 2, rel=1e-6)


def test_a_loss_by_name_is_the_stages_setting(trained):
    with pytest.raises(UsageError, match=r"dpo\.loss.*'ipo'"):
        minigpt.train_stage("dpo", trained.directory, loss="focal")
    with pytest.raises(UsageError, match=r"pretrain\.loss"):
        minigpt.train_stage("pretrain", trained.directory, loss="ipo")


def test_export(backend, trained, tmp_path):
    exported = minigpt.export_run(trained, "hf", out=tmp_path / "out", verify=False)
    model = minigpt.load_model(exported.path, backend=backend)
    assert model.generate("abc", max_tokens=5, temperature=0) == minigpt.load_model(trained, backend=backend).generate(
        "abc", max_tokens=5, temperature=0
    )


def test_importing_the_package_is_quick():
    """Its names are loaded when they are used."""
    code = "import sys, minigpt; print('numpy' in sys.modules, 'load_model' in minigpt.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
