"""A model as one GGUF file, which llama.cpp, ollama and LM Studio open.

Names and numbers come from the `gguf` package, which llama.cpp's own converter uses. The tensors are written one
after the other, so that no more than one of them is there twice.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backends.tree import Tree, items
from minigpt.config import ModelConfig
from minigpt.errors import UsageError
from minigpt.exchange.gguf_tokenizer import add_tokenizer
from minigpt.tokenizer import Tokenizer

# Our name of a number format -> that of the matrices' type in the file and of the file as a whole.
FORMATS = {
    "float32": ("F32", "ALL_F32"),
    "float16": ("F16", "MOSTLY_F16"),
    "bfloat16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
}


def write_gguf(
    path: Path, config: ModelConfig, weights: Tree, tokenizer: Tokenizer, template: str, name: str, dtype: str
) -> None:
    """Write the whole model to `path`: weights (NumPy), configuration, tokenizer and chat template.

    Matrices are stored as `dtype` (a key of FORMATS), vectors always as float32, as llama.cpp wants them. Raises
    UsageError for a model that llama.cpp has no architecture for and for weights that float16 cannot hold.
    """
    from gguf import GGUFWriter

    kind = architecture(config)
    writer = GGUFWriter(None, kind)
    add_metadata(writer, config, name, dtype)
    add_tokenizer(writer, tokenizer, config.vocab_size)
    writer.add_chat_template(template)
    tensors = list(named_tensors(kind, config, weights))
    for tensor, array in tensors:
        add_tensor_type(writer, tensor, array.shape, dtype)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, array in tensors:
        writer.write_tensor_data(encoded(tensor, array, dtype))
    writer.close()


def architecture(config: ModelConfig) -> str:
    """llama.cpp's name for a model of this configuration."""
    return "qwen3" if config.qk_norm else "llama"


def add_metadata(writer: Any, config: ModelConfig, name: str, dtype: str) -> None:
    """The keys from which llama.cpp builds the model."""
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(LlamaFileType[FORMATS[dtype][1]])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def named_tensors(kind: str, config: ModelConfig, weights: Tree) -> Iterator[tuple[str, np.ndarray]]:
    """(llama.cpp's name, NumPy array) of every weight."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    number = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == kind)
    names = get_tensor_name_map(number, config.n_layer)
    for name, array in items(weights):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            array = interleaved(array, config.head_dim)
        yield found, array


def interleaved(w: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of Q or K (heads · D, d) in the order in which llama.cpp's llama rotates them: pairs side by side.

    Ours and Hugging Face's rotary positions turn row i of a head together with row i + D/2; llama.cpp's llama turns
    2i with 2i + 1.
    """
    heads = w.reshape(-1, 2, head_dim // 2, w.shape[-1])
    return heads.swapaxes(1, 2).reshape(w.shape)


def add_tensor_type(writer: Any, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Announce a tensor whose data follows later."""
    from gguf import GGML_QUANT_SIZES

    kind = tensor_type(shape, dtype)
    values, size = GGML_QUANT_SIZES[kind]
    bytes_per_row = shape[-1] // values * size
    stored = (*shape[:-1], bytes_per_row)
    writer.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), kind)


def tensor_type(shape: tuple[int, ...], dtype: str) -> Any:
    """How a tensor is stored: vectors as float32; matrices whose rows do not divide into blocks as float16."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[FORMATS[dtype][0]] if len(shape) > 1 else GGMLQuantizationType.F32
    return kind if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def encoded(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The array as its bytes in the file."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    kind = tensor_type(array.shape, dtype)
    array = np.ascontiguousarray(array, np.float32)
    if kind is GGMLQuantizationType.F16 and np.abs(array).max() > np.finfo(np.float16).max:
        raise UsageError(f"{name} has numbers that float16 cannot hold.", "Export with --dtype bfloat16 or float32.")
    return quantize(array, kind)


def stored(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The array (float32) as a reader of the file gets it: rounded to what the file holds."""
    from gguf.quants import dequantize

    return dequantize(encoded(name, array, dtype), tensor_type(array.shape, dtype)).reshape(array.shape)
