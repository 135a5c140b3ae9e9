"""`minigpt import`: a directory becomes a run that the other commands go on with."""

import json
import shutil

import pytest
from command import contents


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """A model's directory, as `minigpt export` writes it."""
    from command import call

    directory = tmp_path_factory.mktemp("exported") / "model"
    result = call("export", trained, "--no-verify", "--out", directory)
    assert result.code == 0, result.err
    return directory


def test_an_imported_model_is_a_run_like_any_other(minigpt, exported, sources, tmp_path):
    result = minigpt("import", exported, "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    run = tmp_path / "runs" / "model"
    assert (said["path"], said["architecture"], said["context"]) == ("runs/model", "qwen3", 64)
    assert len(said["checks"]) == 4 and all(check["ok"] for check in said["checks"])

    steps = [f"sft.{name}={value}" for name, value in (("steps", 2), ("batch_size", 2), ("eval_rows", 2))]
    flags = [part for setting in steps for part in ("--set", setting)]
    trained = minigpt("train", "sft", "--run", run, "--data", sources.conversations, *flags)
    assert trained.code == 0, trained.err
    measured = minigpt("evaluate", run, "--json")
    assert measured.code == 0 and json.loads(measured.out)["stage"] == "sft", measured.err
    talked = minigpt("chat", run, "--max-tokens", 4, stdin=b"Hello\n/exit\n")
    assert talked.code == 0 and "only pretrained" not in talked.err, talked.err
    again = minigpt("export", run, "--to", "mlx")
    assert again.code == 0, again.err


def test_an_imported_model_has_no_data_of_its_own(minigpt, exported, sources):
    minigpt("import", exported, "--no-verify", "--run", "mine")
    minigpt("evaluate", "mine").refused(2, "no data for pretrain", "--data")
    minigpt("train", "pretrain", "--run", "mine", "--data", sources.text).refused(2, "was imported", "train sft")
    measured = minigpt("evaluate", "mine", "--data", sources.text, "--json")
    assert measured.code == 0 and json.loads(measured.out)["bits_per_byte"] > 0, measured.err


def test_a_directory_answers_without_being_imported(minigpt, exported, trained):
    here, there = (minigpt("generate", place, "-p", "The cat", "--temperature", 0) for place in (exported, trained))
    assert here.code == there.code == 0 and here.out == there.out
    minigpt("generate", exported, "-p", "x", "--stage", "sft").refused(2, "no stages", "minigpt import")


def test_the_import_says_what_it_cannot_take(minigpt, exported, tmp_path):
    minigpt("import", tmp_path / "nothing").refused(2, "no directory")
    minigpt("import", tmp_path).refused(2, "no config.json")
    minigpt("import", exported, "--context", 99).refused(2, "64 tokens at most")
    damaged = shutil.copytree(exported, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-8])
    minigpt("import", damaged, "--run", "new").refused(2, "no whole safetensors file")
    assert not (tmp_path / "new").exists()
    minigpt("import", exported, "--no-verify", "--run", "mine")
    before = contents(tmp_path / "mine")
    minigpt("import", exported, "--run", "mine").refused(2, "exists already")
    assert contents(tmp_path / "mine") == before


def test_a_full_disk_leaves_no_run(minigpt, exported, monkeypatch, tmp_path):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    minigpt("import", exported, "--no-verify", "--run", "new/one").refused(4, "No space left")
    assert [*(tmp_path / "new").iterdir()] == []
