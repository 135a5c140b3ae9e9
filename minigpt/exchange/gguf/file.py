"""A model as one GGUF file, which llama.cpp, ollama and LM Studio open.

Names and numbers come from the `gguf` package, which llama.cpp's own converter uses. The tensors are written one
after the other, so that no more than one of them is there twice.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import UsageError
from minigpt.exchange.gguf.tokenizer import add_tokenizer
from minigpt.exchange.hf.architectures import model_type_of, portable
from minigpt.exchange.hf.families import width_of
from minigpt.exchange.hf.tensors import CONV1D, to_hugging_face
from minigpt.model.moe import ROUTER
from minigpt.model.rope import rope_frequencies
from minigpt.sections import ModelConfig, RopeScaling
from minigpt.text.tokenizer import Tokenizer

# Hugging Face's name of an architecture -> llama.cpp's, where they differ.
NAMES = {"mixtral": "llama", "qwen3_moe": "qwen3moe", "phi": "phi2"}
# Our name of a number format -> that of the matrices' type in the file and of the file as a whole.
FORMATS = {
    "float32": ("F32", "ALL_F32"),
    "float16": ("F16", "MOSTLY_F16"),
    "bfloat16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
}
# Four bits cost more here than in all layers together: eight (see minigpt.quantize.codes). Under their names and ours.
VOCABULARY = ("token_embd.weight", "output.weight", "model.embed_tokens.weight", "lm_head.weight")
POSITIONS = ("position_embd.weight", "model.embed_positions.weight")  # float32, as llama.cpp's converter has them
Arrays = dict[str, np.ndarray]


def write_gguf(path: Path, config: ModelConfig, arrays: Arrays, tokenizer: Tokenizer, name: str, dtype: str) -> None:
    """Write the whole model to `path`: weights (NumPy, by our names), configuration, tokenizer and chat template.

    Matrices are stored as `dtype` (a key of FORMATS), vectors always as float32, as llama.cpp wants them. Raises
    UsageError for a model that llama.cpp has no architecture for and for weights that float16 cannot hold.
    """
    from gguf import GGUFWriter

    kind, config = architecture(config), portable(config)
    writer = GGUFWriter(None, kind)
    add_metadata(writer, config, name, dtype)
    add_tokenizer(writer, tokenizer, config.vocab_size)
    tensors = dict(named_tensors(kind, config, arrays))
    for tensor, array in tensors.items():
        add_tensor_type(writer, tensor, array.shape, dtype)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, array in tensors.items():
        writer.write_tensor_data(encoded(tensor, array, dtype))
    writer.close()


# ---- configuration -------------------------------------------------------------------------------------------


def architecture(config: ModelConfig) -> str:
    """llama.cpp's name for a model of this configuration. Raises UsageError when it has none."""
    kind, config = model_type_of(config), portable(config)
    kind = NAMES.get(kind, kind)
    if kind == "mistral" and config.sliding_window >= config.context:
        kind = "llama"  # the window never hides anything
    scaling = config.rope_scaling
    for unknown, what in (
        (kind == "mistral", f"a sliding window of {config.sliding_window} tokens"),
        (kind == "qwen3" and config.qkv_bias, "biases beside normalized queries and keys"),
        (kind == "gpt2" and config.feed_forward != "gelu_tanh", "the exact form of GELU"),
        (kind == "qwen3moe" and not config.normalize_gates, "gates that do not sum to 1 (set normalize_gates)"),
        (kind == "olmoe" and config.normalize_gates, "gates that sum to 1 (normalize_gates)"),
        (kind == "olmoe" and config.n_kv_head < config.n_head, "heads that share keys and values (n_kv_head)"),
        (kind == "qwen3moe" and config.qkv_bias, "biases beside normalized queries and keys"),
        (kind == "gemma2" and config.attention_scale, "an attention_scale of its own"),
        (kind == "gemma2" and not (config.attention_softcap and config.logit_softcap), "scores without soft-caps"),
        (kind == "gemma2" and config.full_attention_every != 2 and 0 < config.sliding_window < config.context,
         "windows in other than every second layer"),
        (kind != "llama" and scaling.kind == "llama3", "rope scaling of kind llama3"),
        (scaling.kind == "yarn" and (scaling.beta_fast, scaling.beta_slow) != (32, 1), "YaRN's beta_fast, beta_slow"),
    ):
        if unknown:
            raise UsageError(f"llama.cpp's {kind} does not take {what}.", "Export to hf or mlx instead.")
    return kind


def add_metadata(writer: Any, config: ModelConfig, name: str, dtype: str) -> None:
    """The keys from which llama.cpp builds the model."""
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(LlamaFileType[FORMATS[dtype][1]])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_positions or config.context)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(width_of(config) if config.experts else config.d_ff)
    writer.add_head_count(config.n_head)
    if config.norm == "layer":
        writer.add_layer_norm_eps(config.norm_eps)
    if config.positions == "learned":
        return
    if config.norm == "rms":
        writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.experts:
        writer.add_expert_count(config.experts)
        writer.add_expert_used_count(config.experts_per_token)
        writer.add_expert_feed_forward_length(width_of(config))
    if config.attention_softcap:
        writer.add_attn_logit_softcapping(config.attention_softcap)
        writer.add_final_logit_softcapping(config.logit_softcap)
        writer.add_sliding_window(config.sliding_window or config.max_positions or config.context)
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.rotated)
    writer.add_rope_freq_base(config.rope_theta)
    add_rope_scaling(writer, config.rope_scaling)


def add_rope_scaling(writer: Any, scaling: RopeScaling) -> None:
    """Stretched positions; those of kind "llama3" are a tensor of factors instead."""
    from gguf import RopeScalingType

    if scaling.kind in ("none", "llama3"):
        return
    writer.add_rope_scaling_type(RopeScalingType(scaling.kind))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context)
        if scaling.attention_factor:  # llama.cpp multiplies it with the usual one
            writer.add_rope_scaling_attn_factors(scaling.attention_factor / (0.1 * math.log(scaling.factor) + 1))


# ---- tensors -------------------------------------------------------------------------------------------------


def named_tensors(kind: str, config: ModelConfig, arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """(llama.cpp's name, NumPy array) of every weight."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    number = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == kind)
    names = get_tensor_name_map(number, config.n_layer)
    layout = {"gpt2": "gpt2", "phi2": "phi"}.get(kind, "llama")  # Gemma's norms are stored as they are, here
    for name, array in to_hugging_face(layout, _experts_together(config, arrays)).items():
        stem, _, leaf = name.rpartition(".")
        if ".mlp.experts." in name or name.endswith(ROUTER):
            yield _expert_name(stem, leaf), array
            continue
        if kind == "llama" and stem.endswith(("q_proj", "k_proj")):
            array = interleaved(array, config.head_dim)
        yield f"{names.get_name(stem)}.{leaf}", array.T if name.endswith(CONV1D) else array
    if config.rope_scaling.kind == "llama3":
        plain = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
        yield "rope_freqs.weight", (plain / rope_frequencies(config)).astype(np.float32)  # (D/2,)


def _experts_together(config: ModelConfig, arrays: Arrays) -> Arrays:
    """The same with the experts' matrices in one tensor (E, out, in) for each layer, in place of the first's."""
    if not config.experts:
        return arrays
    found: Arrays = {}
    for name, array in arrays.items():
        if ".mlp.experts.0." in name:
            every = [arrays[name.replace(".experts.0.", f".experts.{e}.")] for e in range(config.experts)]
            found[name.replace(".experts.0.", ".experts.")] = np.stack(every)
        elif ".mlp.experts." not in name:
            found[name] = array
    return found


def _expert_name(stem: str, leaf: str) -> str:
    """llama.cpp's name of a router or of the experts' matrices in one."""
    layer, part = stem.split(".")[2], stem.rpartition(".")[2]
    kind = "gate_inp" if part == "gate" else f"{part.removesuffix('_proj')}_exps"
    return f"blk.{layer}.ffn_{kind}.{leaf}"


def interleaved(w: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of Q or K (heads · D, …) in the order in which llama.cpp's llama rotates them: pairs side by side.

    Ours and Hugging Face's rotary positions turn row i of a head together with row i + D/2; llama.cpp's llama turns
    2i with 2i + 1.
    """
    return w.reshape(-1, 2, head_dim // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def size_of(arrays: Arrays, dtype: str) -> int:
    """Bytes that the weights will take in a file."""
    from gguf import quant_shape_to_byte_shape

    shapes = {name: array.shape for name, array in arrays.items()}
    stored = [quant_shape_to_byte_shape(shape, tensor_type(name, shape, dtype)) for name, shape in shapes.items()]
    return sum(int(np.prod(shape)) for shape in stored)


def add_tensor_type(writer: Any, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Announce a tensor whose data follows later."""
    from gguf import quant_shape_to_byte_shape

    kind = tensor_type(name, shape, dtype)
    stored = quant_shape_to_byte_shape(shape, kind)
    writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), kind)


def tensor_type(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """How a tensor is stored: vectors as float32; matrices whose rows do not divide into blocks as float16."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) == 1 or name in POSITIONS or name.endswith((ROUTER, "ffn_gate_inp.weight")):
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType["Q8_0" if dtype == "q4_0" and name in VOCABULARY else FORMATS[dtype][0]]
    return kind if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def check_blocks(shapes: dict[str, tuple[int, ...]], dtype: str) -> list[tuple[int, ...]]:
    """Shapes of the matrices that stay float16 since their rows do not divide into the blocks of `dtype`.

    Raises UsageError when none divides: the file would be no smaller than a float16 one.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block = GGML_QUANT_SIZES[GGMLQuantizationType[FORMATS[dtype][0]]][0]
    kept = (*POSITIONS, ROUTER)  # in float32, whatever is asked for
    matrices = [shape for name, shape in shapes.items() if len(shape) > 1 and not name.endswith(kept)]
    unfit = [shape for shape in matrices if shape[-1] % block]
    if matrices and len(unfit) == len(matrices):
        widths = ", ".join(sorted({str(shape[-1]) for shape in unfit}))
        message = f"{dtype} stores blocks of {block} numbers, which divide no matrix: rows have {widths} numbers."
        raise UsageError(message, "Export with --dtype float16, or train a model of widths that are multiples of 32.")
    return unfit


def encoded(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The array as its bytes in the file."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    kind = tensor_type(name, array.shape, dtype)
    array = np.ascontiguousarray(array, np.float32)
    if kind is GGMLQuantizationType.F16 and np.abs(array).max() >= 65520:
        raise UsageError(f"{name} has numbers that float16 cannot hold.", "Export with --dtype bfloat16 or float32.")
    return quantize(array, kind).view(np.uint8)


def stored(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The array (float32) as a reader of the file gets it: rounded to what the file holds."""
    from gguf.quants import dequantize

    return dequantize(encoded(name, array, dtype), tensor_type(name, array.shape, dtype)).reshape(array.shape)
