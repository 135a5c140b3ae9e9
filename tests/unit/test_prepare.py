"""From files to shards: how rows are split, what is omitted and counted, and that memory stays flat."""

import json
import tracemalloc

import numpy as np
import pytest

from minigpt.config import DataConfig
from minigpt.data.examples import Conversation, Text
from minigpt.data.prepare import prepare
from minigpt.data.reader import Reader, split_of
from minigpt.data.shards import Shard
from minigpt.data.world import rows as world
from minigpt.errors import DataError
from minigpt.events import Note
from minigpt.stages.table import STAGES
from minigpt.text.characters import CharTokenizer
from minigpt.text.learn import train_tokenizer
from minigpt.text.tokenizer import END_OF_TEXT

BYTES = CharTokenizer("")


def text_file(path, text):
    path.write_bytes(text.encode())
    return str(path)


def rows_file(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def chat(question, answer):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def prepared(tmp_path, stage, sources, context=64, tokenizer=BYTES, **settings):
    """(counts, train shard, validation shard, notes)"""
    notes = []
    data = DataConfig(**{stage: sources}, **settings)
    reader = Reader(stage, STAGES[stage].form, data.of(STAGES[stage]), 1, tmp_path / "downloads")
    out = tmp_path / "out"
    result = prepare(reader, tokenizer, out, context, lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    return result, Shard(out / "train"), Shard(out / "validation"), notes


def shown(shard):
    return [BYTES.show(shard.sequence(i)[0]) for i in range(len(shard))]


# ---- texts


def test_the_two_parts_of_a_text_are_the_text(tmp_path):
    text = "".join(f"Line {i}, 第{i}行, Zeile\r\n" for i in range(20_000))  # several blocks
    _, train, validation, _ = prepared(tmp_path, "pretrain", [text_file(tmp_path / "a.txt", text)])
    assert BYTES.decode(train.ids) + BYTES.decode(validation.ids) == text
    assert 0.045 < len(validation.ids) / len(train.ids) < 0.06  # 5 % by default, at the end
    assert (len(train), len(validation)) == (1, 1)


def test_each_document_ends_with_the_end_of_text(tmp_path):
    sources = [
        text_file(tmp_path / "a.txt", "one\n<|endoftext|>\ntwo\n" + "." * 40),
        text_file(tmp_path / "b.txt", "three" + "." * 40),
        rows_file(tmp_path / "c.jsonl", [{"text": "four"}, chat("five?", "5")]),
    ]
    _, train, validation, _ = prepared(tmp_path, "pretrain", sources, validation_fraction=0.01)
    documents = shown(train)
    assert documents[0] == "one\n<|endoftext|>"
    assert [document[:5] for document in documents[1:3]] == ["two\n.", "three"]
    assert documents[3:] == [
        "four<|endoftext|>",
        "<|im_start|>user\nfive?<|im_end|>\n<|im_start|>assistant\n5<|im_end|>\n<|endoftext|>",
    ]
    for shard in (train, validation):
        assert (shard.ids[shard.ends - 1] == END_OF_TEXT).all()
        assert (shard.ids == END_OF_TEXT).sum() == len(shard)


@pytest.mark.parametrize("text", ["ab", "中", "a\n<|endoftext|>\n", "\n", "x" * 200])
def test_the_smallest_texts_still_have_something_to_validate_on(tmp_path, text):
    source = text_file(tmp_path / "a.txt", text)
    if text == "\n":
        with pytest.raises(DataError, match="no usable row"):
            prepared(tmp_path, "pretrain", [source])
        return
    _, train, validation, _ = prepared(tmp_path, "pretrain", [source])
    assert len(train.ids) >= 2 and len(validation.ids) >= 2  # a token to predict, besides the end
    assert validation.ends[-1] == len(validation.ids)


def test_copies_of_a_text_are_cut_differently(tmp_path):
    """Only what is trained on, every second copy anew; documents and bad rows are counted once."""
    lines = "".join(row["text"] + "\n" for row in world.texts(1, 200))
    sources = [text_file(tmp_path / "a.txt", lines), rows_file(tmp_path / "b.jsonl", [{"text": "four"}, {"no": 1}])]
    bpe = train_tokenizer("bpe", [lines], 600)
    once, train, validation, _ = prepared(tmp_path, "pretrain", sources, tokenizer=bpe, skip_bad=True)
    plain, held_out = np.array(train.ids), np.array(validation.ids)
    many, train, validation, notes = prepared(
        tmp_path, "pretrain", sources, tokenizer=bpe, skip_bad=True, pretrain_copies=4, bpe_dropout=0.2
    )
    assert (validation.ids == held_out).all() and (train.ids[: len(plain)] == plain).all()
    text = bpe.decode(plain)
    assert bpe.decode(train.ids) == 4 * text
    copies = np.split(train.ids, [train.ends[len(train) // 4 * i - 1] for i in (1, 2, 3)])
    assert [bpe.decode(copy) for copy in copies] == [text] * 4
    assert [len(copy) == len(plain) for copy in copies] == [True, False, True, False]
    assert copies[1].tolist() != copies[3].tolist()
    assert (many.sequences, many.bad) == (once.sequences, once.bad)
    assert many.tokens["train"] == len(train.ids) > 4 * once.tokens["train"]
    assert "pretrain: the text is there 4 times, every second one with BPE-dropout." in notes


def test_a_large_text_needs_little_memory(tmp_path):
    """32 MB: read, tokenized and written in pieces."""
    line = "the quick brown fox jumps over the lazy dog and goes home again to sleep for a while\n"
    source = text_file(tmp_path / "a.txt", line * (32_000_000 // len(line)))
    tokenizer = CharTokenizer("".join(sorted(set(line))))
    tracemalloc.start()
    result, *_ = prepared(tmp_path, "pretrain", [source], tokenizer=tokenizer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(result.tokens.values()) > 31_000_000
    assert peak < 40e6


# ---- rows and their split


def test_equal_rows_are_never_on_both_sides(tmp_path):
    """Whatever file and place they stand in; their number is right too."""
    rows = [{"text": f"Row {i}"} for i in range(400)]
    sources = [rows_file(tmp_path / "a.jsonl", rows), rows_file(tmp_path / "b.jsonl", rows[::-1] + rows[:100])]
    _, train, validation, _ = prepared(tmp_path, "pretrain", sources, validation_fraction=0.2)
    assert set(shown(train)) & set(shown(validation)) == set()
    assert len(train) + len(validation) == 900
    assert 0.14 < len(set(shown(validation))) / 400 < 0.26  # three standard deviations around 0.2


def test_the_split_is_a_function_of_content_and_seed():
    texts = [Text(f"Row {i}") for i in range(2000)]
    splits = {seed: [split_of(text, seed, 0.1) for text in texts] for seed in (1, 2)}
    assert [split_of(text, 1, 0.1) for text in reversed(texts)] == splits[1][::-1]
    assert splits[1] != splits[2]
    assert {split_of(text, 1, 0.0) for text in texts} == {"train"}
    assert {split_of(text, 1, 1.0) for text in texts} == {"validation"}
    smaller = [split_of(text, 1, 0.05) for text in texts]  # a larger fraction only adds
    assert all(b == "validation" for a, b in zip(smaller, splits[1], strict=True) if a == "validation")


def test_own_validation_sources_are_the_validation(tmp_path):
    train_rows, test_rows = ([chat(f"{name} {i}?", "yes") for i in range(50)] for name in ("train", "test"))
    own = [rows_file(tmp_path / "test.jsonl", test_rows)]
    sources = [rows_file(tmp_path / "train.jsonl", train_rows)]
    _, train, validation, _ = prepared(tmp_path, "sft", sources, sft_validation=own, validation_fraction=0.9)
    assert (len(train), len(validation)) == (50, 50)
    assert all("train" in text for text in shown(train)) and all("test" in text for text in shown(validation))


def test_own_validation_texts_are_the_validation(tmp_path):
    sources, own = [text_file(tmp_path / "a.txt", "aaaa" * 50)], [text_file(tmp_path / "b.txt", "bbbb" * 50)]
    _, train, validation, _ = prepared(tmp_path, "pretrain", sources, pretrain_validation=own)
    assert BYTES.decode(train.ids) == "aaaa" * 50 and BYTES.decode(validation.ids) == "bbbb" * 50


@pytest.mark.parametrize("rows", [1, 2])
def test_a_data_set_of_one_row_has_a_validation_row(tmp_path, rows):
    source = rows_file(tmp_path / "a.jsonl", [chat("Hi", f"Yo{i}") for i in range(rows)])
    _, train, validation, notes = prepared(tmp_path, "sft", [source])
    assert len(train) == rows and shown(validation) == shown(train)[-1:]
    assert any("the last one is used for validation as well" in note for note in notes)


def test_a_data_set_of_one_pair_has_a_validation_pair(tmp_path):
    _, train, validation, _ = prepared(tmp_path, "dpo", [rows_file(tmp_path / "a.jsonl", [pair("Hi", "Yo", "No")])])
    assert shown(train) == shown(validation) and len(train) == 2


# ---- the built-in world


@pytest.mark.parametrize(("stage", "per_row"), [("pretrain", 1), ("sft", 1), ("dpo", 2)])
def test_the_world_brings_its_own_split(tmp_path, stage, per_row):
    counts = {"world_texts": 60, "world_instructions": 60, "world_pairs": 60}
    result, train, validation, _ = prepared(tmp_path, stage, ["world"], 512, **counts)
    assert (len(train), len(validation)) == (60 * per_row, (60 // 20 + 1) * per_row)
    assert set(shown(train)) & set(shown(validation)) == set()
    assert (result.bad, result.dropped, result.cut) == (0, 0, 0)


def test_lessons_come_beside_the_worlds_texts(tmp_path):
    """They are added to the training texts when they are asked for, and nothing else changes."""
    few = {"world_texts": 40}
    _, alone, held_out, _ = prepared(tmp_path, "pretrain", ["world"], 512, **few)
    result, train, validation, _ = prepared(tmp_path, "pretrain", ["world"], 512, world_lessons=25, **few)
    assert (len(alone), len(train), result.in_both) == (40, 65, 0)
    assert shown(train)[:40] == shown(alone) and shown(validation) == shown(held_out)


def test_the_world_beside_own_validation_sources(tmp_path):
    """What a user names as validation is the validation, and nothing else is."""
    own = [rows_file(tmp_path / "own.jsonl", [chat("Own?", "Yes")])]
    settings = {"world_instructions": 40}
    _, train, validation, _ = prepared(tmp_path, "sft", ["world"], 256, sft_validation=own, **settings)
    assert (len(train), len(validation)) == (40, 1) and "Own?" in shown(validation)[0]
    _, train, validation, _ = prepared(tmp_path, "sft", own, 256, sft_validation=["world"], **settings)
    assert (len(train), len(validation)) == (1, 3) and "Own?" in shown(train)[0]


# ---- bad rows


BAD = [chat("Good?", "Yes"), {"messages": [{"role": "usr", "content": "x"}]}, {"messages": "no"}, chat("Fine?", "Yes")]


def test_a_bad_row_stops_with_its_place_and_leaves_nothing(tmp_path):
    source = rows_file(tmp_path / "a.jsonl", BAD)
    with pytest.raises(DataError, match="a.jsonl:2: .*usr"):
        prepared(tmp_path, "sft", [source])
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path):
    result, train, validation, notes = prepared(tmp_path, "sft", [rows_file(tmp_path / "a.jsonl", BAD)], skip_bad=True)
    assert (result.bad, len(set(shown(train)) | set(shown(validation)))) == (2, 2)
    assert any("2 bad rows were skipped; the first: " in note and "a.jsonl:2: " in note for note in notes)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("a.jsonl", '{"messages": "no"}\n', "none of 1 rows is usable; the first: .*a.jsonl:1"),
     ("a.jsonl", "", "none of 1 rows is usable; the first: .*a.jsonl:1: the file is empty"),
     ("a.txt", "text", "none of 1 rows is usable; the first: .*a text file cannot train sft")],
)  # fmt: skip
def test_no_usable_row_is_an_error_even_when_bad_rows_are_skipped(tmp_path, name, content, says):
    with pytest.raises(DataError, match=says):
        prepared(tmp_path, "sft", [text_file(tmp_path / name, content)], skip_bad=True)


def test_rows_of_another_stage_are_bad(tmp_path):
    with pytest.raises(DataError, match="a.jsonl:1: this row is a text, but dpo needs preference pairs"):
        prepared(tmp_path, "dpo", [rows_file(tmp_path / "a.jsonl", [{"text": "x"}])])


# ---- lengths and masks


def test_long_conversations_are_cut_and_those_without_an_answer_left_dropped(tmp_path):
    """A row of 64 + 1 tokens: "<s>user⏎" and "<e>⏎" take 8, "<s>assistant⏎" and "<e>⏎" 13."""
    rows = [chat("q" * 20, "a" * 24), chat("q" * 20, "b" * 25), chat("q" * 100, "c"), chat("q", "d" * 500)]
    result, train, *_ = prepared(tmp_path, "sft", [rows_file(tmp_path / "a.jsonl", rows)], validation_fraction=1e-9)
    assert (result.cut, result.dropped) == (2, 1)
    assert [len(train.sequence(i)[0]) for i in range(3)] == [65, 65, 65]
    learned = [BYTES.show(ids[mask == 1]) for ids, mask in map(train.sequence, range(3))]
    assert learned == ["a" * 24 + "<|im_end|>", "b" * 25 + "<|im_end|>", "d" * 45]


def test_pairs_with_an_answer_that_does_not_fit_are_dropped(tmp_path):
    rows = [pair("q", "good", "bad"), pair("q", "long" * 100, "bad"), pair("q", "good", "long" * 100)]
    result, train, *_ = prepared(tmp_path, "dpo", [rows_file(tmp_path / "a.jsonl", rows)], validation_fraction=1e-9)
    assert (result.dropped, len(train)) == (2, 2)
    assert [("good" in text, "bad" in text) for text in shown(train)] == [(True, False), (False, True)]


def test_when_every_row_is_too_long_that_is_said(tmp_path):
    with pytest.raises(DataError, match="all rows of .* are longer than the context.*Raise model.context"):
        prepared(tmp_path, "sft", [rows_file(tmp_path / "a.jsonl", [chat("q" * 100, "a")])])


def test_the_roles_of_conversations_become_tokens():
    """A chat template writes them before each message."""
    rows = [Conversation(row["messages"]) for row in world.instructions(1, 300, "train")]
    tokenizer = train_tokenizer("bpe", [text for row in rows for text in row.texts()], 600)
    assert [len(tokenizer.encode(role)) for role in ("user", "assistant")] == [1, 1]


def test_a_pair_is_learned_on_its_last_answer_only(tmp_path):
    """Earlier answers in the prompt are context, equal on both sides: they must not count."""
    turns = [*chat("1?", "one")["messages"], {"role": "user", "content": "2?"}]
    source = rows_file(tmp_path / "a.jsonl", [pair(turns, "two", "three")])
    _, train, *_ = prepared(tmp_path, "dpo", [source], context=128)
    learned = [BYTES.show(ids[mask == 1]) for ids, mask in map(train.sequence, range(2))]
    assert learned == ["two<|im_end|>", "three<|im_end|>"]
