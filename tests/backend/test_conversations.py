"""A run's conversations: which models are loaded for them."""

import json

from once import once

from minigpt.events import silent
from minigpt.runs import conversations
from minigpt.runs.conversations import FILE, keep_conversations


@once
def test_only_models_whose_answers_are_missing_are_loaded(backend, copied, monkeypatch):
    run, loaded, load = copied("dpo"), [], conversations.load_engine
    monkeypatch.setattr(conversations, "load_engine", lambda run, stage, backend: loaded.append(stage) or load(
        run, stage, backend))  # fmt: skip

    def kept():
        loaded.clear()
        keep_conversations(run, backend, silent)
        return json.loads((run.directory / FILE).read_text("utf-8"))

    whole = kept()
    assert loaded == ["pretrain", "sft"] == [name for name in whole["conversations"][0] if name in ("pretrain", "sft")]
    kept()
    assert loaded == []
    changes = ({"made": whole["made"] | {"sft": "another model"}}, {"made": {"pretrain": whole["made"]["pretrain"]}},
               {"conversations": whole["conversations"][1:]}, {"conversations": []})  # fmt: skip
    for changed, expected in zip(changes, (["sft"], ["sft"], ["pretrain", "sft"], ["pretrain", "sft"]), strict=True):
        # the third and the fourth: another question came in, and a file that was made before there were any
        made = {"made": whole["made"] | {"new": "stage"}} | changed
        (run.directory / FILE).write_text(json.dumps(whole | made), "utf-8")
        assert kept() == whole and loaded == expected
