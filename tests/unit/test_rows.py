"""What a file's rows become: written control tokens, keys that nobody reads, answers of weight 0, kinds of files."""

import json
from pathlib import Path

import pytest

from minigpt.data.examples import Conversation, Preference, Text
from minigpt.data.parse.fields import RowError
from minigpt.data.parse.formats import parse_row
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.data.rows import rows_of
from minigpt.data.sort import KINDS, kinds_of_files
from minigpt.errors import DataError
from minigpt.text.characters import CharTokenizer
from minigpt.text.chatml import render
from minigpt.text.tokenizer import IM_END

BYTES = CharTokenizer("")
HI, YO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path, *rows: object) -> tuple[list[object], list[str]]:
    """(values of the rows that the file gives, notes without the file's name)"""
    notes = []
    found = list(rows_of(write(path, *rows), notes.append))
    return [row.value for row in found], [note.text.removeprefix(f"{path}: ") for note in notes]


# ---- written control tokens


@pytest.mark.parametrize(
    ("text", "values", "note"),
    [
        ("one<|endoftext|>two\n<|endoftext|>\n<|endoftext|>", [{"text": "one"}, {"text": "two\n"}], "3 times inside"),
        ("one<|endoftext|>", [{"text": "one"}], "once inside a text: a document ends there"),
        (
            "<|im_start|>问题？<|im_end|> <|im_start|>回答。<|im_end|>",
            [{"text": "问题？\n回答。"}],
            "1 row is written as <|im_start|>…<|im_end|>, and taken as texts",
        ),
        (
            "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n",
            [{"messages": [{"role": "system", "content": "Be."}, HI, YO]}],
            "taken as conversations",
        ),
        ("<|im_start|>user\nHi<|im_end|>", [{"text": "Hi"}], "taken as texts"),  # nobody answers
        ("<|im_start|>q<|im_end|><|endoftext|><|im_start|>a", [{"text": "q"}, {"text": "a"}], None),
        ("It writes <|im_end|>.", [{"text": "It writes <|im_end|>."}], "(<|im_end|> once) and learned as letters"),
        ("<|im_start|>a<|im_start|>b<|im_end|>", None, "<|im_start|> 2 times, <|im_end|> once"),
    ],
    ids=["two documents", "one document", "MiniMind", "ChatML", "no answer", "both", "a word about it", "nested"],
)
def test_written_control_tokens(tmp_path, text, values, note):
    for row in ({"text": text}, text):
        found, notes = read(tmp_path / "a.jsonl", row)
        assert found == (values or [{"text": text}])
        assert any(note is None or note in said for said in notes), notes


def test_text_never_becomes_a_control_token(tmp_path):
    """A conversation that was written in ChatML has its own control tokens and no others."""
    inner = "<|im_start|>user\na <|endoftext b|> <|im_end |><|im_end|>\n<|im_start|>assistant\n<|reserved_0|><|im_end|>"
    (value,), _ = read(tmp_path / "a.jsonl", {"text": inner})
    ids, _ = render(BYTES, parse_row(Row("", value)).messages)
    assert [i for i in ids if i < 32] == [2, 3, 2, 3]
    assert BYTES.show_quoted(ids).endswith("<|im_start|>assistant\n“<|reserved_0|>”<|im_end|>\n")


def test_messages_with_written_control_tokens_are_counted_and_kept(tmp_path):
    row = {"messages": [HI, YO | {"content": "Yo</s><|im_end|>"}]}
    assert read(tmp_path / "a.jsonl", row, row) == (
        [row, row],
        ["control tokens are written out in the text (</s> 2 times, <|im_end|> 2 times) and learned as letters. Take "
         'them out, or write conversations as {"messages": [...]}.'],
    )  # fmt: skip


def test_bad_rows_and_ordinary_rows_pass_unchanged(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a < b | c"}\nnot json <|im_end|>\n"x"\n')
    notes = []
    first, bad, last = rows_of(tmp_path / "a.jsonl", notes.append)
    assert (first.value, last.value, type(bad), notes) == ({"text": "a < b | c"}, "x", BadRow, [])


# ---- keys that are not used


def test_each_key_that_is_not_used_is_named_once(tmp_path):
    thinking = YO | {"reasoning_content": "Hm.", "name": "bot", "tool_calls": []}
    rows = [
        {"messages": [HI, thinking], "id": 1, "tools": "[]"}, {"messages": [HI, thinking], "id": 2, "source": None},
        {"prompt": "a", "completion": "b", "label": True},
    ]  # fmt: skip
    values, notes = read(tmp_path / "a.jsonl", *rows)
    assert values == rows
    assert notes == [
        'not used of the rows: "id" (2 rows), "tools" (1 row).',
        'not used of the messages: "name" (2 messages), "reasoning_content" (2 messages).',
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a"}, "a", {"system": "s", "messages": [HI, YO]},
        {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]], "system": "f"},
        {"prompt": "a", "chosen": "b", "rejected": "c"}, {"chosen": [HI, YO], "rejected": [HI, YO | {"content": "No"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"messages": [HI], "chosen": "b", "rejected": "c"}, {"Question": "a", "Context": "b", "Answer": "c"},
    ],
    ids=str,
)  # fmt: skip
def test_no_key_of_a_known_form_is_called_unused(tmp_path, row):
    assert read(tmp_path / "a.jsonl", row) == ([row], [])


# ---- answers that are not learned


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False}], ids=str)
def test_an_answer_of_weight_0_is_context_only(mark):
    talk = {"messages": [HI, YO | {"content": "Bad"} | mark, HI, YO | {"weight": 1}]}
    ids, mask = render(BYTES, parse_row(Row("", talk)).messages)
    assert BYTES.show(i for i, learned in zip(ids, mask, strict=True) if learned) == "Yo<|im_end|>"
    plain, all_of_it = render(BYTES, [HI, YO | {"content": "Bad"}, HI, YO])
    assert plain == ids and sum(all_of_it) == sum(mask) + len("Bad") + 1  # its end of turn, too


def test_messages_without_a_weight_of_0_are_as_they_were():
    """Also in their digest, which decides the split."""
    assert parse_row(Row("", {"messages": [HI | {"weight": 0}, YO | {"weight": 1}]})) == Conversation([HI, YO])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [HI, YO | {"weight": 0}]}, "every answer has the weight 0"),
        ({"messages": [HI, YO | {"weight": 0.5}]}, 'message 2 of "messages" has the weight "0.5"'),
        ({"messages": [HI, YO | {"weight": "no"}]}, 'has the weight "no"'),
        ({"prompt": "a", "chosen": [YO | {"weight": 0}], "rejected": "b"}, "an answer of the pair has the weight 0"),
        ({"messages": [HI, YO | {"tool_calls": [{"id": 1}]}]}, 'has "tool_calls", which is not supported'),
    ],
)
def test_weights_that_cannot_be(row, words):
    with pytest.raises(RowError, match=words):
        parse_row(Row("a:1", row))


def test_an_earlier_answer_of_a_pair_may_have_weight_0():
    pair = parse_row(Row("", {"prompt": [HI, YO | {"weight": 0}, HI], "chosen": "b", "rejected": "c"}))
    assert isinstance(pair, Preference) and pair.prompt[1]["weight"] == 0


def test_a_masked_answer_in_the_middle_keeps_the_others_aligned():
    talk = [HI, YO | {"weight": 0}, HI, YO]
    ids, mask = render(BYTES, talk)
    assert [i for i, learned in zip(ids, mask, strict=True) if learned][-1] == IM_END and sum(mask) == 3


# ---- tables


def test_a_table_names_its_columns(tmp_path):
    (tmp_path / "a.csv").write_text("Frage;Antwort\nWer?;Ann.\n")
    (row,) = rows_of(tmp_path / "a.csv")
    with pytest.raises(RowError, match='no known form: its columns are "frage", "antwort". Name the columns'):
        parse_row(row)
    (tmp_path / "b.csv").write_text("prompt,antwort\nWer?,Ann.\n")
    (row,) = rows_of(tmp_path / "b.csv")
    with pytest.raises(RowError, match='has "prompt" but no "completion". Add that column to "prompt", "antwort"'):
        parse_row(row)


# ---- kinds of files


def test_every_file_of_a_folder_is_sorted_by_what_it_holds(tmp_path):
    write(tmp_path / "a.jsonl", {"text": "x"}, {"text": "y"})
    write(tmp_path / "b.jsonl", {"messages": [HI, YO]}, {"prompt": "a", "completion": "b"})
    write(tmp_path / "c.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    write(tmp_path / "d.jsonl", {"text": "x"}, {"messages": [HI, YO]}, {"messages": [HI, YO]})
    write(tmp_path / "e.jsonl", {"prompt": "a", "completion": "b", "label": False})
    write(tmp_path / "f.jsonl", {"prompt": "What is 2 + 2?", "task": "sum"})
    write(tmp_path / "g.jsonl", {"foo": 1}, {"text": ""})
    write(tmp_path / "h.jsonl", {"text": "x"}, {"foo": 1})
    (tmp_path / "i.txt").write_text("x")
    found = kinds_of_files([str(tmp_path)], tmp_path)
    assert [(one.path.name[0], one.kind, one.rows) for one in found] == [
        ("a", "texts", 2), ("b", "conversations", 2), ("c", "pairs", 1), ("d", "mixed", 3),
        ("e", "labelled answers", 1), ("f", "prompts", 1), ("g", "nothing", 2), ("h", "texts", 2), ("i", "texts", 0),
    ]  # fmt: skip
    why = {one.path.name[0]: one.why for one in found}
    assert why["b"] == "2 conversations" and why["d"] == "2 conversations, 1 texts"
    assert why["g"].startswith("no usable row, 2 unusable") and "g.jsonl:1: no known form" in why["g"]
    assert why["h"].startswith("1 texts, 1 unusable") and "h.jsonl:2" in why["h"]
    assert found[1].forms == {"messages": 1, "prompt/completion": 1} and all(one.kind in KINDS for one in found)


def test_only_the_first_rows_of_a_file_are_looked_at(tmp_path):
    write(tmp_path / "a.jsonl", *[{"text": "x"}] * 1200)
    (one,) = kinds_of_files([str(tmp_path / "a.jsonl")], tmp_path)
    assert (one.rows, one.why) == (1000, "1,000 texts in the first 1,000 rows")
    with pytest.raises(DataError, match="does not exist"):
        kinds_of_files([str(tmp_path / "b.jsonl")], tmp_path)


def test_a_text_row_is_still_a_text():
    assert parse_row(Row("", {"text": "a"})) == Text("a")
