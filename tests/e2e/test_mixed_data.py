"""A folder of texts, chats and pairs: each file goes to the stage that it fits, and it is said which."""

import json

from command import conversation, tiny, write_rows

FEW = {f"{stage}__steps": 1 for stage in ("pretrain", "sft", "dpo")}


def folder(path):
    path.mkdir()
    (path / "story.txt").write_text("".join(f"Ann has {n} cats.\n" for n in range(300)))
    write_rows(path / "chats.jsonl", [conversation(f"What is {n}?", "A number.") for n in range(30)])
    write_rows(path / "pairs.jsonl", [{"prompt": f"Say {n}.", "chosen": f"{n}!", "rejected": "No."} for n in range(30)])
    return path


def test_run_takes_a_folder_file_by_file(minigpt, tmp_path):
    folder(tmp_path / "mixed")
    result = minigpt("run", *tiny(**FEW), "--run", "run", "--data", "mixed", "--backend", "torch")
    assert result.code == 0, result.err
    for stage, file in (("pretrain", "story.txt"), ("sft", "chats.jsonl"), ("dpo", "pairs.jsonl")):
        assert any(line.split()[:2] == [stage, f"mixed/{file}"] for line in result.err.splitlines()), result.err
        assert (tmp_path / "run" / stage / "final").is_dir()
    checked = minigpt("data", "check", "mixed", *tiny(), "--json")
    assert [one["stage"] for one in json.loads(checked.out)["stages"]] == ["sft", "dpo", "pretrain"]
    assert "mixed/pairs.jsonl" in minigpt("data", "check", "mixed", *tiny()).err


def test_a_file_of_which_no_stage_learns_is_named(minigpt, tmp_path):
    write_rows(folder(tmp_path / "mixed") / "odd.jsonl", [{"a": 1}])
    minigpt("run", *tiny(**FEW), "--run", "run", "--data", "mixed").refused(3, "odd.jsonl:1", "no known form")
