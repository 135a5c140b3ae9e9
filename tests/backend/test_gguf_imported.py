"""Models and tokenizers from elsewhere as GGUF: llama.cpp must find what transformers' files said."""

import json

import pytest
from foreign import CHATML, LLAMA2, THINKING, byte_level, save_model, sentencepiece_like

from backends import get_backend
from backends.tree import items
from minigpt.errors import UsageError
from minigpt.exchange.exporting import export_run
from minigpt.exchange.gguf.check import check_gguf
from minigpt.exchange.gguf.file import write_gguf
from minigpt.exchange.importing import import_directory, open_directory
from minigpt.exchange.readers.checks import refuse_differences
from minigpt.runs.run import open_run


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("gguf-zoo")
    size = byte_level(root / "qwen3", THINKING)
    save_model(root / "qwen3", "qwen3", size + 7, tie_word_embeddings=True)
    save_model(root / "llama", "llama", sentencepiece_like(root / "llama", LLAMA2), rope_theta=500.0)
    save_model(root / "mistral", "mistral", byte_level(root / "mistral", CHATML, "<|im_end|>"), sliding_window=None)
    save_model(root / "gpt2", "gpt2", byte_level(root / "gpt2", None))
    save_model(root / "qwen2", "qwen2", byte_level(root / "qwen2", CHATML, qwen2=True), tie_word_embeddings=True)
    return root


def written(directory, path):
    engine = open_directory(directory, get_backend("torch", "cpu"))
    arrays = {name: engine.model.backend.numpy(leaf) for name, leaf in items(engine.weights)}
    write_gguf(path, engine.model.config, arrays, engine.tokenizer, "test", "float32")
    return engine


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral", "gpt2", "qwen2"])
def test_llama_cpp_reads_what_was_imported(zoo, tmp_path, kind):
    engine = written(zoo / kind, tmp_path / "model.gguf")
    found = check_gguf(tmp_path / "model.gguf", engine, "float32", 300, 60)
    refuse_differences(found)
    assert len(found) == 5 - (kind == "gpt2")


def test_an_imported_run_goes_out_with_an_honest_card(zoo, tmp_path):
    import_directory(zoo / "qwen3", tmp_path / "run", None, None)
    run, backend = open_run(tmp_path / "run"), get_backend("torch", "cpu")
    exported = export_run(run, None, "gguf", tmp_path / "out", "q8_0", backend)
    assert len(exported.checks) == 6  # and which matrices do not fill the blocks of q8_0
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "imported (qwen3)" in card and "| pretrain | not known: the model came from elsewhere |" in card
    assert "TEMPLATE" not in (tmp_path / "out" / "Modelfile").read_text("utf-8")  # its own is in the file


def test_a_way_of_splitting_that_llama_cpp_does_not_know_is_refused(zoo, tmp_path):
    content = json.loads((zoo / "gpt2" / "tokenizer.json").read_text())
    for split, words in (
        ({"type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": True}, "Metaspace"),
        (content["pre_tokenizer"] | {"add_prefix_space": True}, "a space in front"),
        (None, "none"),
    ):
        engine = open_directory(zoo / "gpt2", get_backend("torch", "cpu"))
        engine.tokenizer.files["tokenizer.json"] = json.dumps(content | {"pre_tokenizer": split})
        with pytest.raises(UsageError, match=words):
            write_gguf(tmp_path / "model.gguf", engine.model.config, dict(items(engine.weights)), engine.tokenizer,
                       "test", "float32")  # fmt: skip
    assert not (tmp_path / "model.gguf").exists()
