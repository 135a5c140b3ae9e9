"""What a model writes while it learns: fixed prompts, continued again and again, kept in samples.jsonl."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from backends.base import Array
from backends.tree import Tree
from minigpt.data.shards import MemoryShard
from minigpt.events import Report, Sampled
from minigpt.generate.engine import Engine
from minigpt.generate.request import Answer
from minigpt.generate.sampling import GREEDY
from minigpt.model.gpt import GPT
from minigpt.model.lora import join
from minigpt.model.router import generates
from minigpt.sections import StageConfig
from minigpt.store.requests import take_sample
from minigpt.store.stage import StageStore, averaged
from minigpt.text.tokenizer import Tokenizer
from minigpt.train.loop import Done, State

PROMPTS = 3
OPENING = 12  # tokens of a text that is to be continued
LENGTH = 40  # tokens of a continuation


def prompts_of(shard: MemoryShard, context: int, count: int = PROMPTS) -> list[list[int]]:
    """The beginnings of some held-out sequences: of a text its first tokens, of others all before the answer."""
    found: list[list[int]] = []
    for i in range(count):
        ids, mask = shard.sequence(i * len(shard) // count)
        if mask is not None and not mask.any():
            continue  # nothing that is learned: what belongs to another sequence
        start = OPENING if mask is None else int((mask != 0).argmax())
        prompt = ids[: max(1, min(start, len(ids) - 1))].tolist()
        if len(ids) > 1 and len(prompt) + LENGTH <= context and prompt not in found:
            found.append(prompt)
    return found


class Led(GPT):
    """A model shared out between processes that write the same text: all of them go on by the first one's logits.

    Each computes the passes for itself. Unlike processors round differently, and where two tokens are as good as each
    other they would choose different ones, and soon wait for each other in different exchanges.
    """

    def __init__(self, model: GPT):
        vars(self).update(vars(model))

    def logits(self, weights: Tree, hidden: Array) -> Array:
        return self.backend.group.share(super().logits(weights, hidden))


class Samples:
    """A hook that continues the prompts greedily every `sample_every` steps, after the last one, and when asked to."""

    def __init__(
        self, stage: str, config: StageConfig, model: GPT, tokenizer: Tokenizer, prompts: Sequence[list[int]],
        base: Tree | None, store: StageStore, report: Report,
    ):  # fmt: skip
        self.stage, self.config, self.store, self.report = stage, config, store, report
        prompts = list(prompts) if generates(model.config) else []
        self.model, self.tokenizer, self.prompts, self.base = model, tokenizer, prompts, base

    def __call__(self, state: State, done: Done) -> None:
        every, group = self.config.sample_every or self.config.eval_every, self.model.backend.group
        due = state.step % every == 0 or state.step == self.config.steps
        if not due:
            asked = partial(take_sample, self.store.directory.parent)
            due = group.first(asked) if group.in_step else asked()
        if self.prompts and due:
            weights = averaged(state.weights, state.moments)
            self.take(state.step, weights if self.base is None else join(self.base, weights))

    def take(self, step: int, weights: Tree) -> None:
        """Continue the prompts with these weights, report it and keep it.

        Where processes have a part of them each, all must call this.
        """
        group = self.model.backend.group
        model = Led(self.model) if group.in_step else self.model

        def answered(weights: Tree) -> list[Answer]:
            return Engine(model, weights, self.tokenizer).answer(self.prompts, GREEDY, LENGTH)

        answers = group.opened(answered)(weights)
        if not self.store.writes:
            return
        rows: list[dict[str, Any]] = [
            {"step": step, "prompt": self.tokenizer.show(prompt), "text": answer.text}
            for prompt, answer in zip(self.prompts, answers, strict=True)
        ]
        with self.store.samples.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.report(Sampled(self.stage, step, rows[0]["prompt"], rows[0]["text"]))
