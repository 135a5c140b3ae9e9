"""llama.cpp as a reader that knows nothing of us: its server in this process, asked over HTTP (package xllamacpp)."""

import importlib.util
import json
import urllib.request
from pathlib import Path
from typing import Any

from minigpt.data.rows import Message
from minigpt.errors import MiniGPTError
from minigpt.tokenizer import IM_START


def is_installed() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCpp:
    """A GGUF file that llama.cpp has loaded, with float32 keys and values and exact attention."""

    def __init__(self, path: Path, context: int):
        """Raises MiniGPTError when llama.cpp does not load the file."""
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_gpu_layers = params.cache_ram_mib = params.verbosity = 0
        params.warmup = params.fit_params = params.ui = False
        try:
            self._server = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise MiniGPTError(f"llama.cpp does not load {path}: {error}.") from None

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text, in which the names of special tokens become those tokens if `special` says so."""
        return self._ask("/tokenize", content=text, add_special=False, parse_special=special)["tokens"]

    def render(self, messages: list[Message]) -> str:
        """The conversation, up to the assistant's turn, as the file's chat template writes it."""
        return self._ask("/apply-template", messages=messages)["prompt"]

    def answer(self, ids: list[int], tokens: int) -> tuple[list[int], str]:
        """(ids with the token that ended it, text) of the greedy answer of at most `tokens` to the prompt `ids`."""
        found = self._complete(ids, tokens, return_tokens=True)
        return found["tokens"], found["content"]

    def likeliest(self, ids: list[int], top: int) -> list[tuple[int, float]]:
        """(id, log-probability) of the `top` tokens that most likely follow `ids`.

        The server leaves out a step that ends within a character, so it is made to choose a special token; what it
        tells are the model's own log-probabilities all the same.
        """
        chosen = self._complete(ids, 1, n_probs=top, logit_bias=[[IM_START, 1e6]])
        step = chosen["completion_probabilities"][0]
        return [(one["id"], one["logprob"]) for one in step["top_logprobs"]]

    def _complete(self, ids: list[int], tokens: int, **more: Any) -> dict:
        return self._ask("/completion", prompt=ids, n_predict=tokens, temperature=0, top_k=1, **more)

    def _ask(self, path: str, **question: Any) -> dict:
        body = json.dumps(question).encode()
        request = urllib.request.Request(
            self._server.listening_address + path, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)
