"""The independent programs that read an export again, each with the same four functions.

Token ids and logits are those of the other program alone: nothing here calls our model or tokenizer.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np

from backends import get_backend
from minigpt.text.messages import Message

CLASSIFIES = "ForSequenceClassification"  # what the name of a model that scores ends in


class TransformersReader:
    """Hugging Face transformers, on torch and the CPU, computing in float32."""

    name = "transformers"
    needs = ("transformers", "torch")

    def __init__(self, directory: Path):
        import transformers

        transformers.logging.set_verbosity_error()  # it warns of texts longer than the context, which are meant
        transformers.logging.disable_progress_bar()
        self.backend = get_backend("torch", "cpu")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        kind = transformers.AutoModelForCausalLM
        if json.loads((directory / "config.json").read_text("utf-8"))["architectures"][0].endswith(CLASSIFIES):
            kind = transformers.AutoModelForSequenceClassification
        self.model = kind.from_pretrained(directory, dtype="float32", local_files_only=True).eval()

    @property
    def padding(self) -> int | None:
        """What a model that scores does not read at the end of a row; None: it reads one row at a time."""
        return self.model.config.pad_token_id

    def scores(self, rows: list[np.ndarray]) -> np.ndarray:
        """The scores (N,) of rows of ids, which are read together where the model knows a padding."""
        if self.padding is None:
            return np.array([self.logits(row[None])[0, 0] for row in rows])
        ids = np.full((len(rows), max(map(len, rows))), self.padding, np.int32)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row)] = row
        return self.logits(ids)[:, 0]

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """(B, T, V) for ids (B, T); of a model that scores (B, 1)."""
        return self.backend.numpy(self.model(self.backend.array(ids)).logits)

    def encode(self, text: str) -> list[int]:
        """The ids of a text as plain text: what looks like a control token is none."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def chat(self, messages: list[Message], answer_next: bool) -> list[int]:
        """The ids of a conversation by its chat template."""
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=answer_next)["input_ids"]

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """At most `count` ids of the likeliest answer, with the one that ended it."""
        found = self.model.generate(self.backend.array([prompt]), max_new_tokens=count, do_sample=False)
        return found[0, len(prompt) :].tolist()


class MLXReader:
    """mlx-lm, on MLX's default device, computing in float32."""

    name = "mlx-lm"
    needs = ("mlx_lm", "mlx", "transformers")

    def __init__(self, directory: Path):
        self.backend = get_backend("mlx")  # first: on CPUs it turns off compiling, which takes minutes
        import mlx_lm
        import transformers

        transformers.logging.set_verbosity_error()
        self.model, self.tokenizer = mlx_lm.load(str(directory))
        self.model.set_dtype(self.backend.zeros((1,)).dtype)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        return self.backend.numpy(self.model(self.backend.array(ids)))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def chat(self, messages: list[Message], answer_next: bool) -> list[int]:
        return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=answer_next))

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        from mlx_lm.generate import generate_step

        found: list[int] = []
        for token, _ in generate_step(self.backend.array(prompt), self.model, max_tokens=count):
            found.append(int(token))
            if found[-1] in self.tokenizer.eos_token_ids:
                break
        return found


Reader = TransformersReader | MLXReader
READERS: tuple[type[Reader], ...] = (TransformersReader, MLXReader)


def is_installed(reader: type[Reader]) -> bool:
    return all(importlib.util.find_spec(package) for package in reader.needs)


def cannot_read(reader: type[Reader], directory: Path) -> str | None:
    """Why this reader would compute something else from a sound export; None where it computes the same."""
    config = json.loads((directory / "config.json").read_text("utf-8"))
    if reader is MLXReader and config["architectures"][0].endswith(CLASSIFIES):
        return "mlx-lm has no models that score"
    if config["model_type"] == "minimind":
        return "it does not know MiniMind's own layout"
    if reader is not MLXReader:
        return "mlx's quantized weights are for mlx-lm" if "quantization" in config else None
    kind, scaling = config["model_type"], config.get("rope_scaling") or {}
    if kind == "mistral" and (config.get("sliding_window") or 1e9) < config["max_position_embeddings"]:
        return "mlx-lm knows no sliding window over all layers"
    if kind == "gemma":
        return "mlx-lm's Gemma has the exact GELU only"
    sliding = "sliding_attention" in (config.get("layer_types") or [])
    if kind == "gemma2" and sliding and config["sliding_window"] < config["max_position_embeddings"]:
        return "mlx-lm's Gemma 2 knows no sliding window"
    if kind == "gemma2" and not (config.get("attn_logit_softcapping") and config.get("final_logit_softcapping")):
        return "mlx-lm's Gemma 2 has soft-caps always"
    if kind == "gpt2" and config.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        return "mlx-lm's GPT-2 has the approximate GELU only"
    wide = config.get("n_inner") not in (None, 4 * config.get("n_embd", 0))
    if kind == "gpt2" and (wide or not config.get("tie_word_embeddings", True)):
        return "mlx-lm's GPT-2 has tied embeddings and d_ff = 4 d_model only"
    if kind == "qwen3" and config.get("attention_bias"):
        return "mlx-lm's Qwen3 has no biases"
    if scaling.get("attention_factor"):
        return "mlx-lm's YaRN has no attention_factor of its own"
    return None
