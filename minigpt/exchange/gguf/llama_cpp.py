"""llama.cpp as a reader that knows nothing of us: its server in a process of its own (package xllamacpp), over HTTP.

Not in this process: there the symbols of torch's library, which the MLX backend loads for everybody, break it.
"""

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minigpt.errors import MiniGPTError
from minigpt.text.messages import Message

SERVE = f"import sys; from {__name__} import serve; serve(sys.argv[1], int(sys.argv[2]))"


def is_installed() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


@contextmanager
def llama_cpp(path: Path, context: int) -> Iterator["LlamaCpp"]:
    """A GGUF file that llama.cpp has loaded. Raises MiniGPTError when it does not load the file."""
    command = [sys.executable, "-c", SERVE, str(path), str(context)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise MiniGPTError(f"llama.cpp does not load {path} (exit code {process.wait()}).")
        yield LlamaCpp(address)
    finally:
        process.communicate()  # closes its stdin, on which it ends


def serve(path: str, context: int) -> None:
    """Load the file with float32 keys and values and exact attention, write the address, end with stdin."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = context
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_gpu_layers = params.cache_ram_mib = params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
    params.warmup = params.fit_params = params.ui = False
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError):
        raise SystemExit(1) from None
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


class LlamaCpp:
    """A server of llama.cpp at `address`."""

    def __init__(self, address: str):
        self._address = address

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text as it stands; the names of special tokens in it are text."""
        return self._ask("/tokenize", content=text, add_special=False, parse_special=False)["tokens"]

    def chat(self, messages: list[Message]) -> list[int]:
        """Ids of a conversation, up to the assistant's turn, as the file's chat template writes it.

        The server takes the token that begins a text out of what the template wrote and puts it in front itself.
        """
        text = self._ask("/apply-template", messages=messages)["prompt"]
        return self._ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def answer(self, ids: list[int], tokens: int) -> tuple[list[int], str]:
        """(ids with the token that ended it, text) of the greedy answer of at most `tokens` to the prompt `ids`."""
        found = self._complete(ids, tokens, return_tokens=True)
        return found["tokens"], found["content"]

    def likeliest(self, ids: list[int], top: int, special: int) -> list[tuple[int, float]]:
        """(id, log-probability) of the `top` tokens that most likely follow `ids`.

        The server omits a step that ends within a character, so it is made to choose the `special` token; what
        it tells are the model's own log-probabilities all the same.
        """
        chosen = self._complete(ids, 1, n_probs=top, logit_bias=[[special, 1e6]])
        step = chosen["completion_probabilities"][0]
        return [(one["id"], one["logprob"]) for one in step["top_logprobs"]]

    def _complete(self, ids: list[int], tokens: int, **more: Any) -> dict:
        return self._ask("/completion", prompt=ids, n_predict=tokens, temperature=0, top_k=1, **more)

    def _ask(self, path: str, **question: Any) -> dict:
        body = json.dumps(question).encode()
        request = urllib.request.Request(self._address + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)
        except OSError as error:
            raise MiniGPTError(f"llama.cpp gives no answer ({path}): {error}.") from None
