"""Ways to search for an answer, against transformers' processors and beams, the paper's formula, and brute force."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from minigpt.errors import UsageError
from minigpt.generate import constraint
from minigpt.generate.beams import beam_search
from minigpt.generate.contrastive import contrastive_search
from minigpt.generate.engine import Engine
from minigpt.generate.request import Request
from minigpt.generate.sampling import GREEDY, Sampling, log_softmax, softmax
from minigpt.generate.scheduler import Scheduler
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.text.characters import CharTokenizer
from minigpt.text.tokenizer import FIRST_BYTE, IM_END

BYTES = CharTokenizer("")
CONFIG = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=48, vocab_size=288, context=64, tie_embeddings=False
)
PROMPTS = [np.random.default_rng(size).integers(FIRST_BYTE, 288, size).tolist() for size in (3, 9)]


def weights_of(config, ends=0.0):
    """Random ones; larger `ends` make stop tokens likelier."""
    weights = random_weights(config)
    head = weights["lm_head"]["weight"]
    head[:FIRST_BYTE] = 0
    head[IM_END] = ends * head[35:60].mean(axis=0)
    return weights


def engine_of(backend, config=CONFIG, ends=0.0):
    return Engine(GPT(config, backend), to_backend(backend, weights_of(config, ends)), BYTES)


@pytest.fixture(scope="session")
def engine(backend):
    return engine_of(backend)


def logits_after(engine, text):
    """(T, V) of a whole text, computed at once."""
    backend = engine.model.backend
    return backend.numpy(engine.model(engine.weights, backend.array(np.array([text], np.int32))))[0]


# ---- penalties


PENALTIES = {
    "no_repeat_2": Sampling(0.0, no_repeat_ngram=2),
    "no_repeat_1": Sampling(0.0, no_repeat_ngram=1),
    "repetition": Sampling(0.0, repetition_penalty=1.4),
    "both": Sampling(0.0, repetition_penalty=1.2, no_repeat_ngram=3),
    "bias": Sampling(0.0, logit_bias=((90, 3.0), (91, -5.0))),
}


def processors(sampling):
    """The same settings in transformers."""
    found = transformers.LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        found.append(transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.logit_bias:
        found.append(transformers.SequenceBiasLogitsProcessor([[[i], bias] for i, bias in sampling.logit_bias]))
    if sampling.no_repeat_ngram:
        found.append(transformers.NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram))
    return found


@pytest.mark.parametrize("sampling", PENALTIES.values(), ids=PENALTIES)
def test_penalties_are_those_of_transformers(engine, sampling):
    """Token by token: the answer is the likeliest token after transformers' processors of the same logits."""
    changed = processors(sampling)
    for prompt in (PROMPTS[1], [70, 71, 70, 71, 70]):
        (answer,) = engine.answer([prompt], sampling, 20)
        text = list(prompt)
        for token in answer.ids:
            scores = torch.tensor(logits_after(engine, text)[-1:])
            assert token == int(changed(torch.tensor([text]), scores).argmax())
            text.append(token)
    assert engine.answer([PROMPTS[1]], sampling, 20) != engine.answer([PROMPTS[1]], GREEDY, 20)


def test_frequency_and_presence_are_taken_off_as_openai_says(engine):
    """logit - count · frequency - (count > 0) · presence, of the answer's tokens alone."""
    sampling = Sampling(0.0, frequency_penalty=0.7, presence_penalty=0.4)
    (answer,) = engine.answer([[70, 71, 72]], sampling, 25)
    for n, token in enumerate(answer.ids):
        scores = logits_after(engine, [70, 71, 72, *answer.ids[:n]])[-1].astype(np.float64)
        for other in set(answer.ids[:n]):
            scores[other] -= 0.7 * answer.ids[:n].count(other) + 0.4
        assert token == scores.argmax()
    assert answer != engine.answer([[70, 71, 72]], GREEDY, 25)[0]


# ---- stop texts


# Only ASCII letters and signs, so that each token is a character.
PRINTABLE = Sampling(
    1.0, seed=5, logit_bias=tuple((i, -1000.0) for i in range(288) if not FIRST_BYTE + 33 <= i < FIRST_BYTE + 127)
)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_stop_text_ends_the_answer_and_nothing_of_it_is_streamed(engine, size):
    """Wherever it begins and whichever tokens it is made of; a text that only begins like it is not held back."""
    (whole,) = engine.answer([PROMPTS[0]], PRINTABLE, 30)
    for place in (0, 4, 30 - size):
        stop = whole.text[place : place + size]
        place = whole.text.index(stop)
        pieces = []
        found = engine.written(Request(PROMPTS[0], PRINTABLE, 30, (stop, "\x00", stop[:1] + "\x01")), pieces.append)
        assert (found.text, found.reason, found.stop) == (whole.text[:place], "stop", stop)
        assert "".join(pieces) == found.text
        assert found.ids == whole.ids[: place + size]
    missing = engine.answers([Request(PROMPTS[0], PRINTABLE, 30, (whole.text[-2:] + "\x00",))])[0]
    assert (missing.text, missing.reason) == (whole.text, "length")


# ---- beams


@pytest.fixture(scope="session")
def theirs():
    """transformers' model with the same weights, in which a stop is fairly likely."""
    c = CONFIG
    settings = transformers.LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.d_model, intermediate_size=c.d_ff, num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, rms_norm_eps=c.norm_eps, head_dim=c.head_dim,
        rope_theta=c.rope_theta, max_position_embeddings=c.context, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(settings).eval()
    from backends.tree import items

    model.load_state_dict({name: torch.tensor(np.asarray(w)) for name, w in items(weights_of(c, 9.0))})
    return model


BEAMS = {
    "two": (2, {}), "four": (4, {}), "long": (4, {"length_penalty": 2.0}), "short": (4, {"length_penalty": -1.0}),
    "early": (3, {"early_stopping": True}), "sum": (3, {"length_penalty": 0.0}),
}  # fmt: skip


@pytest.mark.parametrize(("beams", "settings"), BEAMS.values(), ids=BEAMS)
def test_beams_are_those_of_transformers(backend, theirs, beams, settings):
    """All beams, in order, with their scores."""
    engine, ends = engine_of(backend, ends=9.0), list(BYTES.stops)
    reasons = set()
    for prompt, penalty in itertools.product(PROMPTS, (0, 2)):
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), num_beams=beams,
            num_return_sequences=beams, max_new_tokens=12, do_sample=False, eos_token_id=ends, pad_token_id=0,
            no_repeat_ngram_size=penalty, output_scores=True, return_dict_in_generate=True, **settings,
        )  # fmt: skip
        found = beam_search(engine, Request(prompt, Sampling(0.0, no_repeat_ngram=penalty), 12), beams, **settings)
        assert len(found) == beams
        for (answer, score), ids, wanted in zip(found, expected.sequences, expected.sequences_scores, strict=True):
            shown = [*answer.ids, answer.stop] if answer.reason == "stop" else answer.ids
            padded = ids[len(prompt) :].tolist()
            assert shown == padded[: len(shown)] and set(padded[len(shown) :]) <= {0, IM_END}  # filled up
            assert score == pytest.approx(float(wanted), abs=1e-4)
            reasons.add(answer.reason)
    assert "stop" in reasons


def test_enough_beams_find_the_likeliest_answer_of_all(backend):
    """Against the sums of log-probabilities of all answers of three tokens without a stop token."""
    small = CONFIG.model_copy(update={"vocab_size": 40, "context": 16})
    engine = engine_of(backend, small)
    found = beam_search(engine, Request([35, 36], GREEDY, 3), 40, length_penalty=0.0)
    answer, score = next((answer, score) for answer, score in found if answer.reason == "length")
    pairs = list(itertools.product(range(40), repeat=2))
    ids = backend.array(np.array([[35, 36, a, b] for a, b in pairs], np.int32))
    shares = log_softmax(backend.numpy(engine.model(engine.weights, ids)).astype(np.float64))  # (1600, 4, 40)
    totals = np.array([shares[i, 1, a] + shares[i, 2, b] for i, (a, b) in enumerate(pairs)])[:, None] + shares[:, 3]
    for stop in BYTES.stops:
        totals[:, stop] = totals[[i for i, pair in enumerate(pairs) if stop in pair]] = -np.inf
    place, last = np.unravel_index(totals.argmax(), totals.shape)
    assert answer.ids == [*pairs[place], last] and score == pytest.approx(totals.max(), abs=1e-4)


def test_one_beam_is_greedy(engine):
    ((answer, _),) = beam_search(engine, Request(PROMPTS[1], GREEDY, 20), 1)
    assert answer == engine.answer([PROMPTS[1]], GREEDY, 20)[0]


# ---- contrastive search


def contrastive_by_formula(engine, prompt, count, alpha, tokens):
    """Every candidate's whole text computed anew, in float64."""
    backend, model, text = engine.model.backend, engine.model, list(prompt)
    for _ in range(tokens):
        shares, worth = softmax(logits_after(engine, text)[-1].astype(np.float64)), {}
        for token in np.argsort(-shares)[:count].tolist():
            ids = backend.array(np.array([[*text, token]], np.int32))
            h = backend.numpy(model.hidden(engine.weights, ids))[0].astype(np.float64)
            cosines = h[:-1] @ h[-1] / np.linalg.norm(h[:-1], axis=1) / np.linalg.norm(h[-1])
            worth[token] = (1 - alpha) * shares[token] - alpha * cosines.max()
        text.append(max(worth, key=worth.get))
    return text[len(prompt) :]


@pytest.mark.parametrize(("count", "alpha"), [(4, 0.6), (1, 0.6), (5, 0.0), (3, 1.0)])
def test_contrastive_search_is_the_papers_formula(engine, count, alpha):
    found = contrastive_search(engine, Request(PROMPTS[1], GREEDY, 10), count, alpha)
    assert found.ids == contrastive_by_formula(engine, PROMPTS[1], count, alpha, 10)
    greedy = engine.answer([PROMPTS[1]], GREEDY, 10)[0]
    assert (found == greedy) == (count == 1 or alpha == 0)


# ---- grammars


SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["name", "ages"],
    "properties": {
        "name": {"enum": ["Ann", "Tom"]}, "fine": {"type": "boolean"},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
}  # fmt: skip


def test_answers_fit_a_schema_an_expression_or_a_choice(engine):
    """Of a random model, at a high temperature, with draft tokens too, and together in one batch."""
    grammars = [
        constraint.json_schema(BYTES, SCHEMA), constraint.regular_expression(BYTES, "[a-c]{2,4}-(é|中)+x"),
        constraint.choice(BYTES, ["yes", "no (never)", "yes, but"]),
    ]  # fmt: skip
    requests = [
        Request([50 + i], Sampling(1.5, seed=i), 60, (), 1, grammar) for i in range(8) for grammar in grammars
    ]
    answers = engine.answers(requests)
    for i in range(0, len(answers), 3):
        parsed, matched, chosen = (answer.text for answer in answers[i : i + 3])
        assert set(json.loads(parsed)) >= {"name", "ages"} and answers[i].reason == "stop"
        assert len(json.loads(parsed)["ages"]) <= 3 and json.loads(parsed)["name"] in ("Ann", "Tom")
        assert re.fullmatch("[a-c]{2,4}-(é|中)+x", matched) or answers[i + 1].reason == "length"
        assert chosen in ("yes", "no (never)", "yes, but")
    assert len({answer.text for answer in answers}) > 12
    assert all(answer == engine.answers([request])[0] for answer, request in zip(answers[:6], requests, strict=False))


def test_random_schemas_get_valid_answers(backend, monkeypatch):
    """A slice of scripts/engine_checks.py, judged by jsonschema; without the grammar no answer is valid."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import engine_checks

    ((_, found, _, holds),) = engine_checks.schemas(backend, 25)
    assert holds, found
    monkeypatch.setattr("minigpt.generate.constraint.Matched.allowed", lambda self: np.ones(288, bool))
    monkeypatch.setattr("minigpt.generate.constraint.Matched.accept", lambda self, token: None)
    ((_, found, _, holds),) = engine_checks.schemas(backend, 2)
    assert not holds and found.startswith("0 valid")


def test_a_grammar_is_compiled_once_and_each_answer_has_its_own_place_in_it():
    constraint._compiled.cache_clear()
    first, second, third = (constraint.regular_expression(BYTES, "[ab]x|cy").start() for _ in range(3))
    at = {letter: BYTES.encode(letter)[0] for letter in "abcxy"}
    first.accept(at["a"])
    second.accept(at["c"])
    for matched, follows in ((first, "x"), (second, "y"), (third, "abc")):
        assert np.flatnonzero(matched.allowed()).tolist() == [at[letter] for letter in follows]
    assert constraint._compiled.cache_info().misses == 1


def test_grammars_that_are_none_are_refused():
    for make, what in (
        (lambda: constraint.json_schema(BYTES, {"type": "wat"}), "JSON schema"),
        (lambda: constraint.json_schema(BYTES, "{"), "JSON schema"),
        (lambda: constraint.regular_expression(BYTES, "(yes"), "expression"),
        (lambda: constraint.choice(BYTES, []), "choice"),
    ):
        with pytest.raises(UsageError, match=what):
            make()


def test_a_grammar_and_a_penalty_that_leave_nothing_end_that_row_alone(engine):
    request = Request([50], Sampling(0.0, no_repeat_ngram=1), 9, (), None, constraint.choice(BYTES, ["aa"]))
    scheduler = Scheduler(engine)
    lost, fine = scheduler.add(request), scheduler.add(replace(request, sampling=GREEDY))
    while not scheduler.idle:
        scheduler.step()
    assert (lost.reason, fine.reason, fine.text) == ("error", "stop", "aa")
    assert "No token is left" in lost.error
