"""`minigpt import` of what mlx-lm stores in few bits: the floats that mlx itself unpacks."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from minigpt.errors import UsageError
from minigpt.exchange.hf.quantized import in_floats, taken_apart, unpacked


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_are_those_of_mlx(bits):
    import mlx.core as mx

    weight = np.random.default_rng(bits).normal(size=(6, 128)).astype(np.float32)
    parts = dict(zip(("weight", "scales", "biases"), mx.quantize(mx.array(weight), 64, bits), strict=True))
    theirs = np.array(mx.dequantize(parts["weight"], parts["scales"], parts["biases"], 64, bits))
    tensors = {f"layer.{name}": np.array(part) for name, part in parts.items()}
    assert unpacked(tensors["layer.weight"], bits).max() <= 2**bits - 1
    found = in_floats(tensors | {"norm.weight": weight[0]}, {"group_size": 64, "bits": bits}, "here")
    assert found.keys() == {"layer.weight", "norm.weight"} and np.array_equal(found["norm.weight"], weight[0])
    assert np.abs(found["layer.weight"] - theirs).max() < 1e-6 and np.abs(theirs - weight).max() < 2


@pytest.mark.parametrize("dtype", ["int4", "int8"])
def test_our_own_export_comes_back(minigpt, copy, dtype):
    """mlx-lm agrees with the run that was made; 4 bits come with embeddings in 8."""
    assert minigpt("export", copy, "--to", "mlx", "--dtype", dtype, "--no-verify", "--out", "there").code == 0
    result = minigpt("import", "there", "--run", "back", "--json")
    assert result.code == 0, result.err
    checks = json.loads(result.out)["checks"]
    assert {check["reader"] for check in checks} == {"mlx-lm"} and all(check["ok"] for check in checks)
    assert all(check["found"] is not None for check in checks)
    stored = load_file("there/model.safetensors")
    kept = load_file("back/pretrain/final/weights.safetensors")
    name = "model.layers.0.mlp.down_proj"  # (32, 64) in groups of 32
    low = stored[f"{name}.biases"].astype(np.float32).repeat(32, 1)
    steps = (kept[f"{name}.weight"] - low) / stored[f"{name}.scales"].astype(np.float32).repeat(32, 1)
    assert np.abs(steps - steps.round()).max() < 1e-2 and steps.round().min() >= 0 and steps.round().max() < 256
    answers = [minigpt("generate", place, "-p", "The cat", "--temperature", 0).out for place in ("there", "back")]
    assert answers[0] == answers[1] != ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, "mode 'mxfp4'"),
        ({"quantization": "4bit"}, "is not that of mlx"),
        ({"quantization": {"group_size": 64, "bits": 4}, "model_type": "gpt2"}, "GPT-2"),
    ],
)
def test_what_cannot_be_read_names_the_next_step(content, words):
    with pytest.raises(UsageError, match=words) as refused:
        taken_apart(content, "config.json")
    assert "mlx_lm.convert" in refused.value.hint


def test_the_bits_of_other_programs_name_the_next_step(minigpt, copy):
    assert minigpt("export", copy, "--no-verify", "--out", "there").code == 0
    path = copy.parent / "there" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq"}}))
    minigpt("import", "there", "--run", "back").refused(2, "quantization_config", "mlx_lm.convert")
