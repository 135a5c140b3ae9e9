"""`minigpt export`: what it writes, and what it refuses."""

import json

import pytest
from command import contents

from minigpt.exchange.hf import tensors, tokenizer_files
from minigpt.runs.run import open_run
from minigpt.text.chatml import render


def test_an_export_is_a_directory_that_other_tools_know(minigpt, copy):
    result = minigpt("export", copy, "--to", "hf", "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    directory = copy / "export" / "hf"
    assert (said["path"], said["stage"], said["dtype"]) == (str(directory), "dpo", "float32")
    assert {path.name for path in directory.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json", "README.md",
    }  # fmt: skip
    assert {check["reader"] for check in said["checks"] if check["ok"]} == {"transformers", "mlx-lm"}
    assert len(said["checks"]) == 8 and all(check["ok"] and check["found"] is not None for check in said["checks"])
    assert said["size"] == sum(path.stat().st_size for path in directory.iterdir())


def test_wrong_names_are_refused(minigpt, copy):
    minigpt("export", copy, "--to", "onnx").refused(2, "export target 'onnx'", "hf")
    minigpt("export", copy, "--dtype", "float8").refused(2, "dtype 'float8'", "float32")
    minigpt("export", copy, "--stage", "sftt").refused(2, "stage 'sftt'", "sft")
    minigpt("export", copy / "nothing").refused(2, "not a run directory")


def test_what_is_there_is_not_replaced(minigpt, copy, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("ten years of work")
    minigpt("export", copy, "--out", tmp_path / "mine").refused(2, "exists already")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_table_says_what_the_readers_found(minigpt, copy):
    result = minigpt("export", copy, "--to", "mlx", "--dtype", "bfloat16", "--stage", "sft")
    assert result.code == 0 and "token ids of 300 texts" in result.out and "greedy answer" in result.out, result.err
    again = minigpt("export", copy, "--to", "mlx", "--dtype", "float16", "--stage", "sft", "--no-verify")
    assert again.code == 0 and "reader" not in again.out  # the default place is replaced


@pytest.mark.parametrize("fault", ["a weight", "a token", "the chat template"])
def test_a_reader_that_finds_something_else_stops_the_export(minigpt, copy, monkeypatch, fault):
    """Each part of the export broken on purpose: nothing is left of it, and what was there before stays."""
    minigpt("export", copy, "--no-verify")
    before = contents(copy / "export")
    if fault == "a weight":
        right = tensors.to_hugging_face
        broken = lambda kind, flat: right(kind, flat) | {"model.norm.weight": flat["model.norm.weight"] * 1.001}  # noqa
        monkeypatch.setattr("minigpt.exchange.exporting.to_hugging_face", broken)
    elif fault == "a token":
        right = tokenizer_files.merges
        monkeypatch.setattr(tokenizer_files, "merges", lambda pieces: right(pieces)[1:])
    else:
        unguarded = tokenizer_files.CHAT_TEMPLATE.replace(tokenizer_files.GUARD, "")
        monkeypatch.setattr(tokenizer_files, "CHAT_TEMPLATE", unguarded)  # users may write control tokens
    words = {"a weight": "logits", "a token": "300 texts", "the chat template": "60 chats"}
    minigpt("export", copy).refused(1, "transformers differs in", words[fault])
    assert contents(copy / "export") == before
    assert [path.name for path in (copy / "export").iterdir()] == ["hf"]


def test_a_full_disk_leaves_nothing(minigpt, copy, monkeypatch):
    def full(path, *rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minigpt.exchange.exporting.write_tensors", full)
    minigpt("export", copy).refused(4, "could not be written", "No space left")
    assert [*(copy / "export").iterdir()] == []


def test_trainers_find_our_loss_mask_in_the_chat_template(minigpt, copy):
    """transformers marks what it learns of a conversation where we do: answers with their end, and nothing else."""
    from transformers import AutoTokenizer

    assert minigpt("export", copy, "--no-verify").code == 0
    tokenizer = AutoTokenizer.from_pretrained(copy / "export" / "hf")
    texts = ["What is 2 plus 1?", "It is 3.", "你好 <|im_end|> <unk>", "<|im_end|>!"]
    talk = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, texts, strict=True)]
    found = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = render(open_run(copy).tokenizer, talk)
    assert (found["input_ids"], found["assistant_masks"]) == (ids, mask) and 0 < sum(mask) < len(mask)
