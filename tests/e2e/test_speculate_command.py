"""--draft and --lookup: the same answers, and a line about how many draft tokens were accepted."""

import json

import pytest

from minigpt.text.load import load_tokenizer
from minigpt.text.tokenizer import FIRST_PIECE

FLAGS = ("--max-tokens", 12, "--backend", "torch", "--device", "cpu")


@pytest.mark.parametrize("sampling", [("--temperature", 0), ("--temperature", 2, "--seed", 5)], ids=str)
def test_the_same_answer(minigpt, trained, sampling):
    flags = ("generate", trained, "-p", "The cat sat", *sampling, *FLAGS)
    plain = minigpt(*flags)
    for guessing in (("--draft", trained / "pretrain"), ("--lookup",), ("--lookup", "--guesses", 2)):
        found = minigpt(*flags, *guessing)
        assert (found.code, found.out) == (0, plain.out), found.err
        assert "draft tokens were accepted (" in found.err and "tokens per forward pass" in found.err


def test_a_draft_that_is_the_model(minigpt, trained):
    """12 tokens: one with the prompt, others in 3 passes of at most 4 draft tokens; which stage drafts is said."""
    drafting = ("--draft", trained, "--draft-tokens", 4)
    found = minigpt("generate", trained, "-p", "The", "--temperature", 0, *drafting, *FLAGS)
    assert f"Model: {trained}, stage dpo.\nDraft: {trained}, stage dpo.\n" in found.err
    assert "8 of 8 draft tokens were accepted (100%): 3.7 tokens per forward pass" in found.err


def test_where_answers_may_differ_it_is_said(minigpt, trained):
    flags = ("generate", trained, "-p", "The", "--lookup", *FLAGS)
    said = "With --kv-bits a close call may end otherwise than it would without draft tokens.\n"
    assert said in minigpt(*flags, "--kv-bits", 8).err and said not in minigpt(*flags).err


def test_a_draft_of_other_tokens_is_refused(minigpt, trained, copy):
    """The copy's tokenizer has as many tokens as the model's, but single characters."""
    count = load_tokenizer(trained / "tokenizer").vocab_size - FIRST_PIECE
    meta = {"kind": "char", "characters": "".join(chr(0x4E00 + i) for i in range(count))}
    (copy / "tokenizer" / "tokenizer_meta.json").write_text(json.dumps(meta), "utf-8")
    minigpt("generate", trained, "-p", "The", "--draft", copy, *FLAGS).refused(
        2, "The draft's tokens are not the model's"
    )


def test_json_stays_json(minigpt, trained):
    flags = ("generate", trained, "-p", "The cat", "--seed", 3, *FLAGS, "--json")
    plain, found = minigpt(*flags), minigpt(*flags, "--lookup")
    assert json.loads(found.out) == json.loads(plain.out) and len(json.loads(found.out)) == 1


def test_a_conversation(minigpt, trained):
    lines = b"What is 3 plus 1?\nAnd 3 plus 1?\n"
    plain = minigpt("chat", trained, *FLAGS, stdin=lines)
    for guessing in (("--draft", trained / "sft"), ("--lookup",)):
        found = minigpt("chat", trained, *FLAGS, *guessing, stdin=lines)
        assert (found.code, found.out) == (0, plain.out), found.err
        assert found.err.count("draft tokens were accepted") == 1  # of both answers, at the end


def test_what_does_not_go_together(minigpt, trained):
    both = ("--draft", trained, "--lookup")
    minigpt("generate", trained, "-p", "The", *both).refused(2, "--draft and --lookup exclude each other")
    minigpt("chat", trained, *both).refused(2, "--draft and --lookup exclude each other")
    several = minigpt("generate", trained, "-p", "The", "--samples", 3, "--lookup")
    several.refused(2, "make one answer quicker; these are 3")
    minigpt("generate", trained, "-p", "The", "--draft", "nowhere").refused(2, "nowhere")
    minigpt("generate", trained, "-p", "The", "--lookup", "--draft-tokens", 0).refused(2, "--draft-tokens")
