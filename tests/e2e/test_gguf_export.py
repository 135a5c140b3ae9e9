"""`minigpt export --to gguf`: what it writes, what llama.cpp says of it, and what it refuses."""

import errno
import json
import shutil
from types import SimpleNamespace

import pytest
from command import tiny


def test_a_gguf_export_is_judged_by_llama_cpp(minigpt, copy):
    result = minigpt("export", copy, "--to", "gguf", "--stage", "sft", "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert len(said["checks"]) == 5 and all(check["ok"] and check["reader"] == "llama.cpp" for check in said["checks"])
    directory = copy / "export" / "gguf"
    assert {path.name for path in directory.iterdir()} == {"model.gguf", "Modelfile", "README.md"}
    assert "FROM ./model.gguf" in (directory / "Modelfile").read_text("utf-8")


def test_a_gguf_file_can_be_written_alone(minigpt, copy, tmp_path):
    out = tmp_path / "new" / "mine.gguf"
    result = minigpt("export", copy, "--to", "gguf", "--out", out, "--dtype", "bfloat16")
    assert result.code == 0, result.err
    assert out.read_bytes()[:4] == b"GGUF" and [path.name for path in out.parent.iterdir()] == ["mine.gguf"]
    assert "top-5 log-probabilities" in " ".join(result.out.split()) and "DIFFERS" not in result.out
    minigpt("export", copy, "--to", "gguf", "--out", out).refused(2, "exists already")


def test_a_gguf_file_that_differs_is_not_kept(minigpt, copy, monkeypatch):
    def doubled(kind, arrays):
        return arrays | {"model.norm.weight": 2 * arrays["model.norm.weight"]}

    monkeypatch.setattr("minigpt.exchange.gguf.file.to_hugging_face", doubled)
    minigpt("export", copy, "--to", "gguf").refused(1, "llama.cpp differs in top-5 log-probabilities")
    assert list((copy / "export").iterdir()) == []


def test_a_missing_llama_cpp_is_said(minigpt, copy, monkeypatch):
    monkeypatch.setattr("minigpt.exchange.gguf.export.is_installed", lambda: False)
    result = minigpt("export", copy, "--to", "gguf")
    assert result.code == 0 and "not installed" in result.out and "xllamacpp" in result.out


@pytest.mark.parametrize("out", ["dir", "file.gguf"])
def test_a_disk_that_fills_up_leaves_nothing_of_a_gguf_export(minigpt, copy, tmp_path, monkeypatch, out):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gguf.GGUFWriter.write_tensor_data", full)
    result = minigpt("export", copy, "--to", "gguf", "--out", tmp_path / "new" / out)
    result.refused(4, "No space left on device", "choose another --out")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_disk_without_room_is_said_before_anything_is_written(minigpt, copy, tmp_path, monkeypatch, to):
    monkeypatch.setattr("minigpt.store.checkpoint.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    result = minigpt("export", copy, "--to", to, "--out", tmp_path / "new" / "out")
    result.refused(4, "The export", "needs", "choose another --out")
    assert "checkpoint" not in result.err and not (tmp_path / "new").exists()


def test_what_has_no_place_or_no_weights_is_refused(minigpt, copy, tmp_path):
    (tmp_path / "file").write_text("mine")
    minigpt("export", copy, "--to", "gguf", "--out", tmp_path / "file" / "x").refused(2, "could not be written")
    minigpt("export", copy, "--to", "gguf", "--out", tmp_path / "file").refused(2, "exists already")
    for stage in ("pretrain", "sft", "dpo"):
        shutil.rmtree(copy / stage)
    minigpt("export", copy, "--to", "gguf").refused(2, "No stage of", "is finished yet")
    assert (tmp_path / "file").read_text() == "mine" and not (copy / "export").exists()


def test_missing_packages_are_named(minigpt, copy, monkeypatch):
    monkeypatch.setattr("minigpt.exchange.gguf.export.importlib.util.find_spec", lambda name: None)
    minigpt("export", copy, "--to", "gguf").refused(2, "the package gguf", "minigpt[gguf]")


def test_a_reader_that_crashes_is_an_error(minigpt, copy, monkeypatch):
    monkeypatch.setattr("minigpt.exchange.gguf.llama_cpp.SERVE", "import os; os.abort()")
    minigpt("export", copy, "--to", "gguf").refused(1, "llama.cpp does not load", "exit code -6")
    assert list((copy / "export").iterdir()) == []


def test_a_model_with_room_for_more_tokens_answers_and_goes_out(minigpt, tmp_path, sources):
    """model.vocab_size above the tokenizer's; hardly trained, so that it says tokens that nobody has."""
    settings = tiny(model__vocab_size=1200, pretrain__steps=1, pretrain__eval_every=1, pretrain__save_every=1)
    run = tmp_path / "run"
    assert minigpt("train", "pretrain", *settings, "--data", sources.text, "--run", run, "--backend", "torch").code == 0
    result = minigpt("generate", run, "--prompt", "The", "--temperature", 2, "--max-tokens", 60, "--min-p", 0)
    assert result.code == 0 and result.out.startswith("The"), result.err
    for to in ("gguf", "hf"):
        result = minigpt("export", run, "--to", to)
        assert result.code == 0, result.err


def test_blocks_that_do_not_fit_are_refused_or_reported(minigpt, sources):
    """q4_0 and q8_0 have blocks of 32 numbers: none divides rows of 36 and 100; 64 of d_ff do, 48 of d_model do not."""
    for name, width, hidden in (("odd", 36, 100), ("some", 48, 64)):
        shape = {"model__d_model": width, "model__d_ff": hidden, "model__n_head": 2, "model__n_kv_head": 1}
        flags = tiny(**shape, pretrain__steps=2)
        made = minigpt("train", "pretrain", *flags, "--data", sources.text, "--run", name, "--backend", "torch")
        assert made.code == 0, made.err
    refused = minigpt("export", "odd", "--to", "gguf", "--dtype", "q4_0")
    refused.refused(2, "q4_0 stores blocks of 32 numbers", "rows have 100, 36 numbers", "--dtype float16")
    refused = minigpt("export", "odd", "--to", "mlx", "--dtype", "int4")
    refused.refused(2, "divide no matrix of this model", "multiples of 32")
    assert "--group-size" not in refused.err  # of 32 was refused, and there is no smaller one
    result = minigpt("export", "some", "--to", "gguf", "--dtype", "q4_0", "--backend", "torch")
    assert result.code == 0 and "stored as float16: rows" in " ".join(result.out.split()), result.err
    whole = minigpt("export", "some", "--to", "gguf", "--dtype", "float16", "--out", "f.gguf", "--backend", "torch")
    assert whole.code == 0 and "stored as float16" not in whole.out
