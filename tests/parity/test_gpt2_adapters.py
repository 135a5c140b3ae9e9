"""Adapters of a GPT-2 model, whose query, key and value are one layer in the other tools, and three here."""

import numpy as np
import pytest

from backends.tree import items, map_leaves
from minigpt.errors import UsageError
from minigpt.exchange.adapters.adapters import _with_mlx, _with_peft
from minigpt.exchange.adapters.files import layers_of, read_adapter, tree_of, write_adapter
from minigpt.exchange.hf.architectures import config_json
from minigpt.exchange.hf.tensor_files import write_tensors
from minigpt.exchange.hf.tensors import to_hugging_face
from minigpt.exchange.hf.tokenizer_files import write_json
from minigpt.model.gpt import GPT, to_backend
from minigpt.model.lora import init_adapter, join, layer_at, lora_shapes, scales
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig, TuneConfig

MODEL = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=4, d_model=32, d_ff=128, vocab_size=61, context=32, norm="layer",
    positions="learned", feed_forward="gelu_tanh", qkv_bias=True, output_bias=True, mlp_bias=True,
)  # fmt: skip
IDS = np.random.default_rng(1).integers(0, 61, (2, 12)).astype(np.int32)
CASES = [
    ("peft", {}), ("peft", {"dora": True}), ("peft", {"lora_targets": ["q_proj", "v_proj", "down_proj"]}),
    ("mlx-adapter", {"lora_targets": ["q_proj", "k_proj", "v_proj"], "dora": True}),
    ("mlx-adapter", {}),  # of rank 12 and 4: mlx-lm has one for all
]  # fmt: skip


def random_adapter(base, **settings):
    shapes = lora_shapes(MODEL, TuneConfig(lora_rank=4, **settings))
    adapter = init_adapter(lambda layer: layer_at(base, layer)["weight"], shapes, seed=2)
    rng = np.random.default_rng(3)
    adapter = map_leaves(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), adapter)
    return join(adapter, scales(adapter, 1.5))


class Bare:
    """A reader of the model alone, without a tokenizer."""

    def __init__(self, directory, to):
        if to == "peft":
            from transformers import AutoModelForCausalLM

            self.model = AutoModelForCausalLM.from_pretrained(directory)
        else:
            from mlx_lm.utils import load_model

            self.model = load_model(directory)[0]


@pytest.mark.parametrize(("to", "settings"), CASES)
def test_the_other_tool_reads_a_gpt2_adapter_and_we_read_it_back(both, tmp_path, to, settings):
    framework = next(b for b in both if b.name == {"peft": "torch", "mlx-adapter": "mlx"}[to])
    base = random_weights(MODEL)
    (tmp_path / "base").mkdir()
    tensors = to_hugging_face("gpt2", dict(items(base)))
    write_tensors(tmp_path / "base" / "model.safetensors", tensors.items(), "float32", {"format": "pt"})
    write_json(tmp_path / "base" / "config.json", config_json(MODEL, "float32", 2))
    adapter, out = random_adapter(base, **settings), tmp_path / "adapter"
    out.mkdir()
    write_adapter(out, to, layers_of(adapter), MODEL, 0.0, "float32")
    model = {"peft": _with_peft, "mlx-adapter": _with_mlx}[to](Bare(tmp_path / "base", to), out).model
    ids = framework.array(IDS)
    theirs = model(ids.long()).logits.detach().numpy() if to == "peft" else np.array(model(ids))

    def ours(tree):
        return framework.numpy(GPT(MODEL, framework)(to_backend(framework, tree), ids))

    assert np.abs(ours(join(base, adapter)) - theirs).max() < 1e-4
    assert np.abs(ours(base) - theirs).max() > 0.1
    again = tree_of(read_adapter(out, MODEL))  # query, key and value share an A now: other leaves, the same function
    assert np.abs(ours(join(base, again)) - theirs).max() < 1e-4


def test_what_has_no_name_there_is_refused(tmp_path):
    base = random_weights(MODEL)
    half = layers_of(random_adapter(base, dora=True, lora_targets=["q_proj"]))
    with pytest.raises(UsageError, match="q_proj, k_proj and v_proj or none"):
        write_adapter(tmp_path, "peft", half, MODEL, 0.0, "float32")
