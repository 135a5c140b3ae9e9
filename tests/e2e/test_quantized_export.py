"""`minigpt export --to mlx --dtype int8|int4`: mlx-lm opens it in its own format and agrees."""

import json

import numpy as np
import pytest
from command import contents
from safetensors.numpy import load_file

from backends.tree import map_leaves
from minigpt.errors import UsageError
from minigpt.exchange import exporting
from minigpt.exchange.exporting import mlx_quantization, write_model
from minigpt.exchange.hf.tensor_files import rounded
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.parity.models import random_weights
from minigpt.quantize.codes import quantize_weights
from minigpt.sections import ModelConfig
from minigpt.text.learn import train_tokenizer


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_mlx_lm_agrees(minigpt, copy, dtype):
    minigpt("quantize", copy, "--bits", dtype[-1], "--method", "gptq", "--backend", "torch")
    result = minigpt("export", copy, "--to", "mlx", "--dtype", dtype, "--backend", "torch", "--json")
    assert result.code == 0, result.err
    found = {check["quantity"].split(",")[0]: check for check in json.loads(result.out)["checks"] if check["ok"]}
    assert found["logits"]["reader"] == "mlx-lm" and found["logits"]["found"] < 1e-5
    assert found["greedy answer"]["found"] == 0
    directory = copy / "export" / "mlx"
    config = json.loads((directory / "config.json").read_text("utf-8"))
    embeddings = {"model.embed_tokens": {"group_size": 32, "bits": 8}} if dtype == "int4" else {}
    assert config["quantization"] == {"group_size": 32, "bits": int(dtype[-1])} | embeddings
    assert config["dtype"] == "float16"
    theirs = load_file(directory / "model.safetensors")
    ours = load_file(copy / "dpo" / dtype / "weights.safetensors")  # what minigpt quantize saved, GPTQ and all
    assert len(theirs) == len(ours)
    for name, array in ours.items():
        exported = theirs[name.replace(".packed", ".weight")]
        assert np.array_equal(exported, array if array.dtype != np.float32 else array.astype(np.float16)), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("d_ff", [128, 80])  # of 80, groups of 64 leave down_proj in floats
def test_tied_untied_and_some_matrices_in_floats(both, tmp_path, tied, d_ff):
    import mlx_lm

    mlx = next(backend for backend in both if backend.name == "mlx")
    tokenizer = train_tokenizer("bpe", ["A cat sat on a mat. " * 50], 300)
    config = ModelConfig(
        n_layer=2, n_head=4, n_kv_head=2, d_model=64, d_ff=d_ff, vocab_size=tokenizer.vocab_size, context=32,
        tie_embeddings=tied,
    )  # fmt: skip
    weights = quantize_weights(random_weights(config), 4, 64)
    write_model(config, weights, tokenizer, tmp_path, "float16", "mlx")
    model, _ = mlx_lm.load(str(tmp_path))
    model.set_dtype(mlx.zeros((1,)).dtype)
    ids = np.arange(24, dtype=np.int32)[None] + 40
    theirs = mlx.numpy(model(mlx.array(ids)))
    stored = map_leaves(lambda w: rounded(w, "float16") if w.dtype == np.float32 else w, weights)
    for backend in both:
        ours = backend.numpy(GPT(config, backend)(to_backend(backend, stored), backend.array(ids)))
        assert np.abs(ours).max() > 1 and np.abs(ours - theirs).max() < 1e-5


def test_another_order_of_the_codes_is_refused(minigpt, copy, monkeypatch):
    """The comparison can fail: with the bytes of each word turned round nothing is kept."""
    before, right = contents(copy), exporting.write_tensors

    def swapped(path, tensors, *rest):
        right(path, [(name, a.byteswap() if a.dtype == np.uint32 else a) for name, a in tensors], *rest)

    monkeypatch.setattr(exporting, "write_tensors", swapped)
    result = minigpt("export", copy, "--to", "mlx", "--dtype", "int8", "--backend", "torch")
    result.refused(1, "mlx-lm differs in logits")
    assert contents(copy) == before


def test_what_is_not_there_is_refused(minigpt, copy):
    minigpt("export", copy, "--to", "hf", "--dtype", "int8").refused(2, "dtype 'int8'", "float32")
    minigpt("export", copy, "--to", "gguf", "--dtype", "int4").refused(2, "dtype 'int4'", "q4_0")
    minigpt("export", copy, "--to", "mlx", "--dtype", "q4_0").refused(2, "dtype 'q4_0'", "int4")
    config = ModelConfig(
        d_model=64, d_ff=256, vocab_size=64, norm="layer", positions="learned", feed_forward="gelu_tanh", n_kv_head=4,
        qkv_bias=True, output_bias=True, mlp_bias=True,
    )  # fmt: skip
    with pytest.raises(UsageError, match="GPT-2"):
        mlx_quantization(config, quantize_weights(init_weights(config, 1), 8))
