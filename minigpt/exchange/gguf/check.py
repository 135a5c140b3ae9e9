"""A GGUF file against the model that it was made from, with llama.cpp as the judge."""

import unicodedata
from pathlib import Path

import numpy as np

from backends.tree import Tree, items, unflatten
from minigpt.exchange.gguf.file import stored
from minigpt.exchange.gguf.llama_cpp import LlamaCpp, llama_cpp
from minigpt.exchange.hf.directory_check import is_fair
from minigpt.exchange.readers.checks import Check
from minigpt.exchange.readers.probes import random_conversations, random_texts
from minigpt.generate.engine import Engine
from minigpt.model.gpt import to_backend
from minigpt.sections import ModelConfig
from minigpt.text.chatml import render
from minigpt.text.imported import ImportedTokenizer
from minigpt.text.messages import Message
from minigpt.text.tokenizer import Tokenizer

TOP = 5
# Largest difference of a log-probability. llama.cpp multiplies 16-bit matrices with inputs rounded to 16 bits, and
# quantized ones with inputs rounded to 8 bits; ours are compared with the same stored numbers in float32.
BOUNDS = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 1e-1, "q8_0": 3e-1, "q4_0": 3e-1}
ANSWER = 24  # tokens
PROMPTS = 8
BROKEN = "\ufffd"


def check_gguf(path: Path, engine: Engine, dtype: str, texts: int = 400, conversations: int = 100) -> list[Check]:
    """Token ids, chat template, top-5 log-probabilities and greedy answers: llama.cpp's against ours."""
    tokenizer, same = engine.tokenizer, Engine(engine.model, stored_weights(engine, dtype), engine.tokenizer)
    talks = [talk for talk in random_conversations(tokenizer, conversations) if is_fair(tokenizer, talk)]
    with llama_cpp(path, engine.model.config.context) as reader:
        return [
            _compare_texts(reader, tokenizer, texts),
            *([_compare_prompts(reader, tokenizer, talks)] if tokenizer.chats else []),
            *_compare_answers(reader, same, talks, bound_of(engine.model.config, dtype)),
        ]


def bound_of(config: ModelConfig, dtype: str) -> float:
    """The largest difference of a log-probability; llama.cpp looks GELU up in a table of 16-bit numbers."""
    return max(BOUNDS[dtype], 1e-3 if config.feed_forward in ("swiglu", "reglu") else 1e-2)


def stored_weights(engine: Engine, dtype: str) -> Tree:
    """The engine's weights as the file holds them: rounded to `dtype`."""
    backend = engine.model.backend
    rounded = {name: stored(name, backend.numpy(leaf), dtype) for name, leaf in items(engine.weights)}
    return to_backend(backend, unflatten(rounded))


def _compare_texts(reader: LlamaCpp, tokenizer: Tokenizer, count: int) -> Check:
    """llama.cpp does not normalize texts: for a tokenizer that does, they are normalized here."""
    texts, what = list(random_texts(tokenizer, count)), "texts"
    if _normalizes(tokenizer):
        texts, what = [unicodedata.normalize("NFC", text) for text in texts], "NFC-normalized texts"
    ours = tokenizer.encode_batch(texts)
    differing = sum(reader.tokenize(text) != ids for text, ids in zip(texts, ours, strict=True))
    return Check("llama.cpp", f"token ids of {count:,} {what}", differing, 0)


def _normalizes(tokenizer: Tokenizer) -> bool:
    return isinstance(tokenizer, ImportedTokenizer) and '"NFC"' in tokenizer.files["tokenizer.json"]


def _compare_prompts(reader: LlamaCpp, tokenizer: Tokenizer, talks: list[list[Message]]) -> Check:
    """Conversations that the file's template renders to other token ids than we do."""
    if _normalizes(tokenizer):
        talks = [[m | {"content": unicodedata.normalize("NFC", m["content"])} for m in talk] for talk in talks]
    differing = sum(reader.chat(talk) != prompt_ids(tokenizer, talk) for talk in talks)
    return Check("llama.cpp", f"token ids of {len(talks):,} chats", differing, 0)


def prompt_ids(tokenizer: Tokenizer, talk: list[Message]) -> list[int]:
    """Our ids; our template breaks the names of special tokens in a message up."""
    if not isinstance(tokenizer, ImportedTokenizer):
        talk = [m | {"content": m["content"].replace("<|", "< |").replace("<unk>", "< unk>")} for m in talk]
    return render(tokenizer, talk, True)[0]


def _compare_answers(reader: LlamaCpp, engine: Engine, talks: list[list[Message]], bound: float) -> list[Check]:
    """Greedy answers to the conversations that leave room for one, token by token."""
    room = engine.model.config.context - ANSWER
    prompts = [ids for ids in (render(engine.tokenizer, talk, True)[0] for talk in talks) if len(ids) <= room][:PROMPTS]
    prompts += [[engine.tokenizer.end_of_text]]  # the only one where no conversation fits the context
    differences, regrets, other_texts = [], [], 0
    for prompt in prompts:
        ids, text = reader.answer(prompt, min(ANSWER, room))
        for i, (values, token) in enumerate(zip(_logprobs(engine, prompt, ids), ids, strict=True)):
            differences.append(_largest(values, reader.likeliest(prompt + ids[:i], TOP, engine.tokenizer.stops[0])))
            regrets.append(values.max() - values[token])
        other_texts += not _same_text(text, engine.tokenizer.decode(ids))
    return [
        Check("llama.cpp", f"top-{TOP} log-probabilities of {len(prompts)} answers", float(np.max(differences)), bound),
        Check("llama.cpp", "its greedy choice: log-probability below our best", float(np.max(regrets)), bound),
        Check("llama.cpp", f"the text of {len(prompts)} greedy answers", other_texts, 0),
    ]


def _logprobs(engine: Engine, prompt: list[int], answer: list[int]) -> np.ndarray:
    """(answer, V) log-probabilities that our model gives at each token of the answer."""
    backend = engine.model.backend
    ids = backend.array(np.array([prompt + answer[:-1]], np.int32))  # (1, T)
    logits = backend.numpy(engine.model(engine.weights, ids))[0, len(prompt) - 1 :].astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def _largest(ours: np.ndarray, found: list[tuple[int, float]]) -> float:
    """The largest difference over the tokens that llama.cpp finds likeliest, and over the values in their order."""
    theirs = np.array([value for _, value in found])
    same_tokens = np.abs(ours[[token for token, _ in found]] - theirs).max()
    return float(np.maximum(same_tokens, np.abs(np.sort(ours)[::-1][: len(found)] - theirs).max()))


def _same_text(theirs: str, ours: str) -> bool:
    """Equal but for the bytes of an unfinished character, which llama.cpp holds back at the end."""
    return theirs.rstrip(BROKEN) == ours.rstrip(BROKEN)

