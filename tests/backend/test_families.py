"""Experts, Gemma and Phi as files: transformers and mlx-lm compute our logits, and what they write comes back."""

import json

import numpy as np
import pytest

from backends import tree
from minigpt.errors import UsageError
from minigpt.exchange.hf.architectures import config_json, model_type_of
from minigpt.exchange.hf.foreign_config import model_config
from minigpt.exchange.hf.foreign_files import read_weights
from minigpt.exchange.hf.tensor_files import write_tensors
from minigpt.exchange.hf.tensors import from_hugging_face, to_hugging_face
from minigpt.exchange.readers.readers import MLXReader, cannot_read
from minigpt.model.gpt import GPT, active_count, parameter_count, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig, RopeScaling

SHAPE = {
    "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48, "head_dim": 8, "vocab_size": 96,
    "context": 64, "max_positions": 64,
}  # fmt: skip
EXPERTS = {"experts": 4, "tie_embeddings": False}
GEMMA = {"feed_forward": "geglu_tanh", "embedding_scale": True}
BIASES = {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "head_bias": True, "tie_embeddings": False}
FAMILIES = {
    "mixtral": ModelConfig(**SHAPE, **EXPERTS, normalize_gates=True),
    "qwen3_moe": ModelConfig(**SHAPE, **EXPERTS, qk_norm=True, expert_width=32, experts_per_token=3),
    "qwen3_moe, normalized": ModelConfig(**SHAPE, **EXPERTS | {"tie_embeddings": True}, qk_norm=True,
                                         normalize_gates=True),
    "olmoe": ModelConfig(**SHAPE, **EXPERTS, qk_norm=True, qk_norm_whole=True, experts_per_token=1),
    "gemma": ModelConfig(**SHAPE | {"head_dim": 16}, **GEMMA),
    "gemma2": ModelConfig(**SHAPE, **GEMMA, norm_placement="sandwich", attention_softcap=20.0, logit_softcap=10.0,
                          sliding_window=5, full_attention_every=2, attention_scale=12**-0.5),
    "phi": ModelConfig(**SHAPE, **BIASES, norm="layer", parallel=True, feed_forward="gelu_tanh", rope_fraction=0.5),
}  # fmt: skip
IDS = np.random.default_rng(1).integers(0, 96, (2, 24)).astype(np.int32)
BOUND = 1e-4


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Name -> a directory with config.json and model.safetensors."""

    def write(name):
        directory, config = tmp_path_factory.mktemp("family"), FAMILIES[name]
        flat = dict(tree.items(random_weights(config)))
        stored = to_hugging_face(model_type_of(config), flat)
        write_tensors(directory / "model.safetensors", stored.items(), "float32", {"format": "pt"})
        (directory / "config.json").write_text(json.dumps(config_json(config, "float32", [3, 1])))
        return directory

    return {name: write(name) for name in FAMILIES}


def ours(backend, name):
    config = FAMILIES[name]
    return backend.numpy(GPT(config, backend)(to_backend(backend, random_weights(config)), backend.array(IDS)))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_architecture_is_the_one_that_is_meant(name):
    assert model_type_of(FAMILIES[name]) == name.split(",")[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_computes_our_logits_and_its_own_config_comes_back(backend, name, written):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        written[name], dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        expected = model(torch.tensor(IDS.astype(np.int64))).logits.numpy()
    assert np.abs(expected).max() > 1
    assert np.abs(ours(backend, name) - expected).max() < BOUND
    assert model_config(model.config.to_dict(), None, "here") == FAMILIES[name]
    own = sum(weight.numel() for weight in model.parameters())
    assert own == parameter_count(FAMILIES[name])


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("gemma")])
def test_mlx_lm_computes_our_logits(backend, name, written):
    if backend.name != "mlx":
        pytest.skip("mlx-lm runs on MLX")
    from mlx_lm.utils import load_model

    assert cannot_read(MLXReader, written[name]) is None
    model, _ = load_model(written[name])
    assert np.abs(backend.numpy(model(backend.array(IDS))) - ours(backend, name)).max() < BOUND


@pytest.mark.parametrize(("name", "words"), [("gemma", "exact GELU"), ("gemma2", "sliding window")])
def test_what_mlx_lm_computes_otherwise_is_known(name, words, written):
    assert words in cannot_read(MLXReader, written[name])


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_written_comes_back_unchanged(name, written):
    config = FAMILIES[name]
    content = json.loads((written[name] / "config.json").read_text())
    assert model_config(content, None, "here") == config
    back = from_hugging_face(content["model_type"], read_weights(written[name]), config, "here")
    flat = dict(tree.items(random_weights(config)))
    assert list(back) == list(flat)
    assert all(np.abs(back[key] - flat[key]).max() < 1e-6 for key in flat)


def test_phi3_is_llama_with_matrices_that_lie_together(tmp_path, backend):
    import torch
    import transformers

    from tests.backend.foreign import save_model

    save_model(tmp_path, "phi3", 96, pad_token_id=0)
    found = json.loads((tmp_path / "config.json").read_text())
    config = model_config(found, None, "here")
    flat = from_hugging_face("phi3", read_weights(tmp_path), config, "here")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor(IDS.astype(np.int64))).logits.numpy()
    found = backend.numpy(GPT(config, backend)(to_backend(backend, tree.unflatten(flat)), backend.array(IDS)))
    assert np.abs(found - expected).max() < BOUND and model_type_of(config) == "llama"


def test_stretched_and_training_options_are_exported_as_what_they_compute(backend):
    """NTK is another base; heads further ahead are not part of the file."""
    ntk = ModelConfig(**SHAPE, predict_ahead=1, rope_scaling=RopeScaling(kind="ntk", factor=4.0))
    content = config_json(ntk, "float32", [3])
    assert content["rope_theta"] == pytest.approx(10000 * 4 ** (8 / 6))
    plain = model_config(content, None, "here")
    flat = to_hugging_face("llama", dict(tree.items(random_weights(ntk))))
    weights = tree.unflatten(from_hugging_face("llama", flat, plain, "here"))
    found = [backend.numpy(GPT(c, backend)(to_backend(backend, w), backend.array(IDS)))
             for c, w in ((ntk, random_weights(ntk)), (plain, weights))]  # fmt: skip
    assert np.abs(found[0] - found[1]).max() < 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"positions": "alibi"}, "this combination"), ({"norm_placement": "post"}, "this combination"),
        ({"experts": 4}, "this combination"), ({"feed_forward": "relu2"}, "this combination"),
        ({"experts": 4, "router": "sigmoid"}, "router"), ({"token_shift": 2}, "token_shift"),
        ({"head_gate": True}, "head_gate"), ({"value_projection": True}, "value_projection"),
        ({"skips": True}, "skips"), ({"repeat_layers": 1}, "repeat_layers"),
        ({"attention_sinks": 1, "sliding_window": 4}, "attention_sinks"),
        ({"skips": True, "token_shift": 2, "qk_norm": True, "experts": 4}, "skips, token_shift"),
    ],
)  # fmt: skip
def test_what_no_other_tool_computes_is_not_exported(options, words):
    """What no architecture has is named, and nothing beside it."""
    with pytest.raises(UsageError, match=f"^No Hugging Face architecture has {words}( of norm, .*)?\\."):
        model_type_of(ModelConfig(**SHAPE, **options))


def minimind(**changes):
    """config.json as MiniMind 3 writes it: use_moe and the keys of Qwen3-MoE."""
    return {
        "architectures": ["MiniMindForCausalLM"], "model_type": "minimind", "hidden_size": 768, "num_hidden_layers": 8,
        "use_moe": True, "dropout": 0.0, "vocab_size": 6400, "flash_attn": True, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 96, "hidden_act": "silu", "intermediate_size": 2432,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
        "inference_rope_scaling": False, "rope_scaling": None, "num_experts": 4, "num_experts_per_tok": 1,
        "moe_intermediate_size": 2432, "norm_topk_prob": True, "router_aux_loss_coef": 5e-4,
    } | changes  # fmt: skip


def minimind2(width, layers, **changes):
    """And as MiniMind 2 does, without QK-norm and with a shared expert."""
    found = minimind(hidden_size=width, num_hidden_layers=layers, head_dim=width // 8, num_key_value_heads=2,
                     intermediate_size=64 * -(-int(width * 8 / 3) // 64), num_experts_per_tok=2, n_routed_experts=4,
                     n_shared_experts=1, scoring_func="softmax", aux_loss_alpha=0.1, seq_aux=True,
                     **changes)  # fmt: skip
    return {key: value for key, value in found.items() if key not in ("num_experts", "moe_intermediate_size")}


def test_published_counts_of_minimind():
    """64 M, and 198 M of which 64 M work; of the generation before 26 M, 104 M, 145 M, and 95.052 M as it prints."""

    def millions(content, count=parameter_count):
        return count(model_config(content, None, "here")) / 1e6

    assert round(millions(minimind(use_moe=False))) == 64
    assert round(millions(minimind())) == 198 and round(millions(minimind(), active_count)) == 64
    assert round(millions(minimind2(512, 8, use_moe=False))) == 26
    assert round(millions(minimind2(768, 16, use_moe=False))) == 104
    assert round(millions(minimind2(640, 8))) == 145
    assert round(millions(minimind2(512, 8)), 3) == 95.052


def test_minimind_3_is_qwen3_moe_under_a_name_of_its_own(backend):
    """Its tensors have Qwen3-MoE's names; its single normalized gate is 1."""
    content = minimind(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                       intermediate_size=48, moe_intermediate_size=48, vocab_size=96, num_experts_per_tok=2,
                       max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=1e4)  # fmt: skip
    config, expected = model_config(content, None, "here"), FAMILIES["qwen3_moe, normalized"]
    assert config == expected
    flat = dict(tree.items(random_weights(expected)))
    assert from_hugging_face("minimind", flat, config, "here").keys() == flat.keys()
    second = model_config(minimind2(32, 1), None, "here")
    names = {name.replace(".shared_experts.", ".shared_experts.0."): w
             for name, w in tree.items(random_weights(second))}  # fmt: skip
    assert len(from_hugging_face("minimind", names, second, "here")) == len(names)
