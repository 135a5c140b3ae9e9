"""`minigpt export`: what it writes, and what it refuses."""

import json


def test_an_export_is_a_directory_that_other_tools_know(minigpt, copy):
    result = minigpt("export", copy, "--to", "hf", "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    directory = copy / "export" / "hf"
    assert (said["path"], said["stage"], said["dtype"]) == (str(directory), "dpo", "float32")
    assert {path.name for path in directory.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json",
    }  # fmt: skip
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
