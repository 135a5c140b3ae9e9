"""`minigpt data check`: what is counted, and that it reads on behind bad rows."""

import json

from minigpt.config import DataConfig
from minigpt.data.check import check
from minigpt.data.reader import Reader
from minigpt.stages.table import STAGES
from minigpt.text.characters import CharTokenizer

BYTES = CharTokenizer("")


def chat(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def checked(tmp_path, stage, rows, context=64, **settings):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    data = DataConfig(**{stage: [str(path)]}, **settings)
    return check(Reader(stage, STAGES[stage].form, data.of(STAGES[stage]), 1, tmp_path), BYTES, context)


def test_conversations_are_counted_and_measured(tmp_path):
    """chat(q, a) has 21 + q + a tokens, of which a + 1 are learned."""
    rows = [chat("q" * 5, "a" * 3), chat("q" * 7, "a" * 4), chat("q" * 60, "a"), chat("q" * 5, "a" * 3)]
    report = checked(tmp_path, "sft", rows)
    assert report.forms == {"messages": 4} and sum(report.splits.values()) == 4
    assert report.lengths == [29, 32, 82, 29] and sum(report.tokens.values()) == 172
    assert report.learned_tokens == 4 + 5 + 2 + 4
    assert (report.too_long, report.duplicates, report.across_splits) == (1, 1, 0)
    assert sum(count for *_, count in report.histogram()) == 4
    assert report.histogram()[0][0] == 29 and report.histogram()[-1][1] == 82


def test_the_example_marks_what_is_learned(tmp_path):
    report = checked(tmp_path, "sft", [chat("Hi", "Yo")])
    assert report.example == [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False), ("Yo<|im_end|>", True), ("\n", False),
    ]  # fmt: skip


def test_bad_rows_are_listed_and_do_not_stop_it(tmp_path):
    report = checked(tmp_path, "sft", [chat("Hi", "Yo"), {"messages": []}, {"text": "x"}, chat("Hi", "Ho")])
    assert len(report.bad) == 2 and "a.jsonl:2: " in report.bad[0] and "a.jsonl:3: " in report.bad[1]
    assert sum(report.splits.values()) == 2


def test_texts_and_pairs(tmp_path):
    report = checked(tmp_path, "pretrain", [{"text": "x" * 500}, {"text": "中"}])
    assert (report.forms, report.lengths, report.too_long) == ({"text": 2}, [500, 3], 0)  # texts are never too long
    assert report.learned_tokens == 0 and report.example[0][1]
    report = checked(tmp_path, "dpo", [{"prompt": "q", "chosen": "a", "rejected": "b" * 99}])
    assert (report.forms, report.lengths, report.too_long) == ({"dpo": 1}, [21 + 1 + 99], 1)  # the longer one


def test_rows_that_validation_shares_with_training_are_seen(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps(chat("1", "1")) + "\n" + json.dumps(chat("9", "9")) + "\n", "utf-8")
    report = checked(tmp_path, "sft", [chat("1", "1"), chat("2", "2")], sft_validation=[str(own)])
    assert report.splits == {"train": 2, "validation": 2}
    assert (report.duplicates, report.across_splits) == (1, 1)


def test_the_report_is_json_without_single_lengths(tmp_path):
    values = json.loads(json.dumps(checked(tmp_path, "sft", [chat("Hi", "Yo")]).as_dict()))
    assert values["forms"] == {"messages": 1} and "lengths" not in values and values["histogram"] == [[25, 25, 1]]
