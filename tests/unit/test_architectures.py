"""The config.json of well-known models, as published, and how many parameters these have by their authors' count."""

import json

import numpy as np
import pytest

from minigpt.errors import UsageError
from minigpt.exchange.hf.architectures import config_json
from minigpt.exchange.hf.foreign_config import model_config
from minigpt.exchange.hf.tensor_files import converted, read_tensors, rounded, write_tensors
from minigpt.model.gpt import parameter_count

COMMON = {"use_cache": True, "initializer_range": 0.02, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
          "bos_token_id": 1, "eos_token_id": 2, "attention_dropout": 0.0}  # fmt: skip
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "attention_bias": False,
         "mlp_bias": False, "pretraining_tp": 1, "rms_norm_eps": 1e-5}  # fmt: skip
PUBLISHED = {
    "gpt2": (124_439_808, {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
    }),
    "Qwen3-0.6B": (596_049_920, COMMON | {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    }),
    "Qwen2.5-0.5B": (494_032_768, COMMON | {
        "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": True, "use_mrope": False, "use_sliding_window": False,
        "vocab_size": 151936,
    }),
    "SmolLM2-135M": (134_515_008, COMMON | LLAMA | {
        "hidden_size": 576, "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192,
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "rope_interleaved": False,
        "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "vocab_size": 49152,
    }),
    "Llama-3.2-1B": (1_235_814_400, COMMON | LLAMA | {
        "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    }),
    "TinyLlama-1.1B": (1_100_048_384, COMMON | LLAMA | {
        "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 2048, "num_attention_heads": 32,
        "num_hidden_layers": 22, "num_key_value_heads": 4, "rope_scaling": None, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "vocab_size": 32000,
    }),
    "Mistral-7B-v0.1": (7_241_732_096, COMMON | {
        "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32000,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name):
    parameters, content = PUBLISHED[name]
    config = model_config(content, None, name)
    assert parameter_count(config) == parameters
    assert model_config(config_json(config, "bfloat16", [2]), None, "again") == config
    assert model_config(content, 512, name).context == 512


def test_settings_that_change_the_result_are_taken_over():
    names = ("SmolLM2-135M", "Llama-3.2-1B", "Mistral-7B-v0.1")
    smol, llama, mistral = (model_config(PUBLISHED[name][1], None, name) for name in names)
    assert smol.rope_theta == 100000 and smol.rope_scaling.kind == "none" and smol.tie_embeddings
    scaling = llama.rope_scaling
    assert (scaling.kind, scaling.factor, scaling.original_context) == ("llama3", 32, 8192)
    assert mistral.sliding_window == 4096
    later = PUBLISHED["Mistral-7B-v0.1"][1] | {"sliding_window": None}
    assert model_config(later, None, "v0.3").sliding_window == 0


@pytest.mark.parametrize("change", [{"rope_interleaved": True}, {"use_sliding_window": True}, {"auto_map": {}},
                                    {"partial_rotary_factor": 0.5}, {"rope_theta": "x"}])  # fmt: skip
def test_a_value_that_is_not_supported_is_refused(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        model_config(PUBLISHED["SmolLM2-135M"][1] | change, None, "here")


@pytest.mark.parametrize("name", ["gpt2", "Llama-3.2-1B", "Mistral-7B-v0.1"])
def test_wrong_values_are_named_and_never_crash(name):
    content = PUBLISHED[name][1]
    inner = content.get("rope_scaling") or {}
    for value in ("x", -1, 0, 1.5, None, [], {}, [1], {"a": 1}, True, 10**30, float("nan")):
        changed = [content | {key: value} for key in content]
        changed += [content | {"rope_scaling": inner | {key: value}} for key in inner]
        for one in changed:
            try:
                model_config(one, None, "FILE")
            except UsageError as error:
                assert "FILE" in str(error)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_come_back_as_they_were_rounded(tmp_path, dtype):
    x = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32) * 100
    x[0] = [0.0, -0.0, 1.0, 3e-8, 65504.0]
    write_tensors(tmp_path / "x.safetensors", [("odd", x[0, :3]), ("x", x)], dtype, {"format": "pt"})
    back = read_tensors(tmp_path / "x.safetensors")
    assert (back["x"] == rounded(x, dtype)).all() and back["x"].dtype == np.float32
    if dtype != "bfloat16":
        from safetensors.numpy import load_file

        assert (load_file(tmp_path / "x.safetensors")["x"].astype(np.float32) == back["x"]).all()
    spacing = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    assert (np.abs(back["x"] - x) <= np.abs(x) * spacing + 6e-8).all()


def test_bfloat16_rounds_to_even():
    bits = converted(np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20], np.float32), "bfloat16")
    assert [f"{b:04x}" for b in bits] == ["3f80", "3f80", "3f82", "bf81"]


def test_what_float16_cannot_hold_is_refused():
    with pytest.raises(UsageError, match="float16"):
        converted(np.array([70000.0], np.float32), "float16")


def test_integers_are_kept(tmp_path):
    write_tensors(tmp_path / "x.safetensors", [("packed", np.arange(4, dtype=np.uint32))], "float16", {})
    assert read_tensors(tmp_path / "x.safetensors")["packed"].tolist() == [0, 1, 2, 3]
    assert json.loads((tmp_path / "x.safetensors").read_bytes()[8:].partition(b"\0")[0])["packed"]["dtype"] == "U32"
