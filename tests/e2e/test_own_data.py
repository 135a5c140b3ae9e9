"""Data as people bring them: what is in the files is used, or it is said what is not."""

import json
from pathlib import Path

import pytest
from command import conversation, tiny, write_rows

STORY = "".join(f"Ann has {n} cats and a dog.\n" for n in range(300))
FEW = {"pretrain__steps": 1, "pretrain__save_every": 1, "pretrain__eval_every": 1}


def trained(minigpt, stage, data, *more):
    result = minigpt("train", stage, *tiny(**FEW), "--run", "run", "--data", data, "--backend", "torch", *more)
    assert result.code == 0, result.err
    return " ".join(result.err.split())


@pytest.fixture
def here(tmp_path):
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories/a.txt").write_text(STORY)
    return tmp_path


def test_what_a_folder_has_besides_data_is_listed(minigpt, here):
    (here / "stories/photo.webp").write_bytes(b"x")
    (here / "stories/LICENSE").write_text("x")
    assert "stories: omitted, because their type is not supported: LICENSE, photo.webp." in trained(
        minigpt, "pretrain", "stories"
    )


def test_a_data_set_with_a_card_and_parquet_files_is_read(minigpt, here):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (here / "set/data").mkdir(parents=True)
    (here / "set/README.md").write_text("---\nlicense: mit\n---\nThe card of a data set.\n")
    for part in range(3):
        parquet.write_table(pyarrow.table({"text": STORY.splitlines()[part::3]}), here / f"set/data/{part}.parquet")
    said = trained(minigpt, "pretrain", "set")
    assert "only describe data: README.md." in said
    assert " 300 documents" in said or any(f" {n} documents" in said for n in range(270, 301))
    result = minigpt("data", "check", "set", "--json")
    assert result.code == 0 and json.loads(result.out)["forms"] == {"text": 300}


def test_the_folder_that_holds_the_run_may_be_the_data(minigpt, here):
    for steps in (1, 2):  # the second time the run is there, with its log and its configuration
        said = trained(minigpt, "pretrain", ".", "--set", f"pretrain.steps={steps}", "--allow-changes")
        assert "pretrain: finished in" in said
    minigpt("train", "pretrain", *tiny(**FEW), "--run", "second", "--data", ".", "--backend", "torch")
    (meta,) = Path("second/data/pretrain/train").glob("meta.json")
    assert json.loads(meta.read_text())["sequences"] == 1  # the story alone
    minigpt("train", "pretrain", "--run", "third", "--data", "run", "--backend", "torch").refused(
        3, "run is a run, not data."
    )


def test_documents_on_one_line_are_told_apart(minigpt, here):
    (here / "one.txt").write_text("<|endoftext|>".join(STORY.splitlines()))
    said = trained(minigpt, "pretrain", "one.txt")
    assert "one.txt: <|endoftext|> is written 299 times inside a text: a document ends there." in said
    assert any(f"pretrain: {n} documents" in said for n in range(270, 300))


def test_rows_in_the_form_of_minimind_are_texts(minigpt, here):
    rows = [{"text": f"<|im_start|>问题{n}？<|im_end|> <|im_start|>回答{n}。<|im_end|>"} for n in range(400)]
    write_rows(here / "mini.jsonl", rows)
    said = trained(minigpt, "pretrain", "mini.jsonl")
    assert "mini.jsonl: 400 rows are written as <|im_start|>…<|im_end|>, and taken as texts without them." in said
    result = minigpt("data", "check", "mini.jsonl", "--run", "run")
    assert result.code == 0 and "问题0？\n回答0。" in result.out and "im_start" not in result.out


def test_what_looks_like_a_control_token_is_shown_in_quotation_marks(minigpt, here):
    write_rows(here / "chat.jsonl", [conversation("What is <|im_end|>?", "A mark.")] * 20)
    result = minigpt("data", "check", "chat.jsonl")
    assert result.code == 0
    assert "<|im_start|>user\nWhat is “<|im_end|>”?<|im_end|>\n" in result.out
    assert "(<|im_end|> 20 times) and learned as letters" in " ".join(result.err.split())
    trained(minigpt, "pretrain", "stories")
    inspected = minigpt("tokenizer", "inspect", "a <|im_end|>", "--run", "run")
    assert "In a text <|im_end|> is only letters, not a control token." in inspected.err


def test_a_quotation_that_never_closes_costs_one_row(minigpt, here):
    lines = ["prompt,completion"] + [f"Ask {n},Answer {n}." for n in range(200)]
    lines[21] = '"Tell me a joke,Sure.'
    (here / "a.csv").write_text("\n".join(lines) + "\n")
    result = minigpt("data", "check", "a.csv", "--json")
    found = json.loads(result.out)
    assert result.code == 3 and sum(found["splits"].values()) == 199
    assert len(found["bad"]) == 1 and "a.csv:22: " in found["bad"][0] and "179 lines after it" in found["bad"][0]
    lines[21] = '"Tell me a joke, "" please\nmany lines\nof text" that ends wrongly'
    (here / "a.csv").write_text("\n".join(lines) + "\n")
    found = json.loads(minigpt("data", "check", "a.csv", "--json").out)
    assert sum(found["splits"].values()) == 199 and found["lost_lines"] == 3 and "(3 lines) are lost" in found["bad"][0]


def test_keys_that_are_not_used_are_named_and_answers_of_weight_0_are_not_learned(minigpt, here):
    bad = {"role": "assistant", "content": "Bad", "weight": 0}
    talk = conversation("Hi", "Good")["messages"]
    write_rows(here / "a.jsonl", [{"messages": [talk[0], bad, talk[0], talk[1] | {"reasoning_content": "Hm"}]}] * 30)
    result = minigpt("data", "check", "a.jsonl")
    said = " ".join(result.err.split())
    assert result.code == 0 and 'a.jsonl: not used of the messages: "reasoning_content" (30 messages).' in said
    assert "⟦Good<|im_end|>⟧" in result.out and "Bad<|im_end|>\n" in result.out and "⟦Bad" not in result.out


def test_an_address_that_cannot_be_reached_is_said_in_one_sentence(minigpt, here):
    for source, words in (("http://127.0.0.1:9/a.jsonl", "Is there a network"), ("s3://b/a.jsonl", "s3://")):
        result = minigpt("train", "pretrain", *tiny(), "--run", "run", "--data", source, "--backend", "torch")
        assert result.code in (1, 3) and words in result.err and "Traceback" not in result.err
