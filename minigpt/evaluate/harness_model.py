"""A trained stage as a model of EleutherAI's harness. Imported only where `lm_eval` is installed.

    lm_eval's own command that knows our models:   minigpt harness run --model minigpt --model_args run=runs/demo …

A text without a context begins after the token that separates documents in training. For the same figures of an export
give the harness's `hf` model prefix_token_id=1: it would take <|im_end|>, the only end that transformers is told.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from minigpt.evaluate.likelihood import likelihoods
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import Sampling
from minigpt.machine import choose_backend
from minigpt.runs.loading import load_engine
from minigpt.runs.run import run_at
from minigpt.text.chatml import render

LONGEST = 256  # tokens of an answer, where a test says nothing


class MiniGPTLM(TemplateLM):
    """The harness asks for the likelihood of texts and for answers; it splits and counts as for its own models."""

    def __init__(
        self, engine: Engine | None = None, run: str = "", stage: str | None = None, bits: int = 0,
        framework: str = "auto", batch_size: Any = None, max_batch_size: Any = None, device: Any = None, **more: Any,
    ):  # fmt: skip
        """An engine, or a run as `minigpt evaluate` takes it; the harness's batch sizes and device are not used."""
        super().__init__()
        if engine is None:
            opened, named = run_at(run or None)
            engine = load_engine(opened, stage or named, choose_backend(framework, "auto")[0], int(bits))
        self.engine, self._rendered = engine, dict[str, list[int]]()

    @property
    def eot_token_id(self) -> int:
        return self.engine.tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        return self.engine.model.config.context

    @property
    def max_gen_toks(self) -> int:
        return min(LONGEST, self.max_length // 2)

    @property
    def tokenizer_name(self) -> str:
        return f"minigpt-{self.engine.tokenizer.kind}-{self.engine.tokenizer.vocab_size}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        """Ids of a text. Control tokens come from conversations that were rendered here, never from the text."""
        known = max((text for text in self._rendered if string.startswith(text)), key=len, default="")
        return self._rendered.get(known, []) + self.engine.tokenizer.encode(string[len(known) :])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text with its control tokens' names, whose ids `tok_encode` remembers."""
        tokenizer = self.engine.tokenizer
        ids, _ = render(tokenizer, chat_history, generation_prompt=add_generation_prompt)
        text, end = tokenizer.show(ids), tokenizer.encode("\n")
        self._rendered[text] = ids
        if text.endswith("\n") and ids[-len(end) :] == end:  # the harness moves white space to what follows
            self._rendered[text[:-1]] = ids[: -len(end)]
        return text

    def _loglikelihood_tokens(self, requests: Sequence[Any], **more: Any) -> list[tuple[float, bool]]:
        found = likelihoods(self.engine, [(context, continuation) for _, context, continuation in requests])
        return [(one.logprob, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, each token once, in windows of the model's context."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            cut = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            for window in map(make_disjoint_window, cut):
                windows.append((None, *window))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers that end before the first stop text of each request; greedy unless it asks for sampling."""
        found = []
        for request in requests:
            context, settings = request.args
            longest = min(int(settings.get("max_gen_toks", self.max_gen_toks)), self.max_length - 1)
            drawn = bool(settings.get("do_sample")) and float(settings.get("temperature", 0.0)) > 0
            sampling = Sampling(temperature=float(settings["temperature"]) if drawn else 0.0, seed=0)
            prompt = (self.tok_encode(context) or [self.prefix_token_id])[-(self.max_length - longest) :]
            text = self.engine.answer([prompt], sampling, longest)[0].text
            for stop in handle_stop_sequences(settings.get("until"), eos=None):
                text = text.split(stop)[0] if stop else text
            found.append(text)
        return found
