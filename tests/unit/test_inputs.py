"""What a run's tokenizer is learned from."""

import json

import pytest

from minigpt.config import load_config
from minigpt.data.world import rows as world
from minigpt.runs.inputs import learn_tokenizer
from minigpt.text.messages import ROLES


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_role_is_one_token_although_the_text_has_no_conversations(tmp_path, kind):
    """The stages after pretraining begin each turn with a role; characters stay characters."""
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in world.texts(1, 1500)), "utf-8")
    settings = load_config("tiny", None, [f"tokenizer.kind={kind}", "tokenizer.vocab_size=900"])
    tokenizer = learn_tokenizer([str(file)], settings)
    assert [len(tokenizer.encode(role)) for role in ROLES] == [1 if kind == "bpe" else len(role) for role in ROLES]


def test_the_roles_of_conversations_are_not_counted_twice(tmp_path, monkeypatch):
    file, learned = tmp_path / "chats.jsonl", []
    file.write_text("".join(json.dumps(row) + "\n" for row in world.conversations(1, 200, "train")), "utf-8")
    monkeypatch.setattr("minigpt.runs.inputs.train_tokenizer", lambda kind, texts, *rest: learned.extend(texts))
    learn_tokenizer([str(file)], load_config("tiny"))
    assert learned.count("user") == learned.count("assistant") > 100 and "system" not in learned
