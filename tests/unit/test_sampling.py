"""Sampling: the distribution against a plain one in loops, draws against the distribution, and what is refused."""

import itertools
import math

import numpy as np
import pytest

from minigpt.errors import UsageError
from minigpt.generate.sampling import GREEDY, Sampling, probabilities, probabilities_of_rows, sample, with_seeds

NOTHING = np.array([], int)


def plainly(logits, s, seen):
    """The same distribution from the definitions, one token at a time."""
    scores = {token: float(x) for token, x in enumerate(logits)}
    for token in set(seen.tolist()):
        x = scores[token]
        scores[token] = x / s.repetition_penalty if x > 0 else x * s.repetition_penalty
    if s.temperature == 0:
        best = max(scores, key=scores.get)
        return [float(token == best) for token in scores]
    kept = sorted(scores, key=scores.get, reverse=True)  # likeliest first
    if s.top_k:
        kept = kept[: s.top_k]
    weight = {token: math.exp(scores[token] / s.temperature) for token in kept}
    total, reached, nucleus = sum(weight.values()), 0.0, []
    for token in kept:
        if reached >= s.top_p:
            break
        nucleus.append(token)
        reached += weight[token] / total
    nucleus = [token for token in nucleus if weight[token] >= s.min_p * weight[kept[0]]]
    total = sum(weight[token] for token in nucleus)
    return [weight[token] / total if token in nucleus else 0.0 for token in scores]


SETTINGS = [
    Sampling(temperature, top_k, top_p, min_p, penalty)
    for temperature, top_k, top_p, min_p, penalty in itertools.product(
        (0.0, 0.5, 1.0, 2.0), (0, 1, 5, 100), (1.0, 0.9, 0.3), (0.0, 0.1, 0.5), (1.0, 1.5, 0.8)
    )
]


def test_each_filter_and_all_together_against_the_definitions():
    rng = np.random.default_rng(0)
    supports = set()
    for number, settings in enumerate(SETTINGS):
        logits = rng.normal(0, 2, 20).astype(np.float32)
        seen = rng.integers(0, 20, 6) if number % 2 else NOTHING
        found = probabilities(logits, settings, seen)
        assert np.abs(found - plainly(logits, settings, seen)).max() < 1e-12, settings
        assert found.sum() == pytest.approx(1) and found.dtype == np.float64
        supports.add(int((found > 0).sum()))
    assert len(supports) > 8  # the filters did something


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Sampling(1.0), [0.5, 0.25, 0.125, 0.125]),
        (Sampling(0.5), [16 / 22, 4 / 22, 1 / 22, 1 / 22]),  # squares: 16 4 1 1
        (Sampling(1.0, top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(1.0, top_p=0.49), [1, 0, 0, 0]),  # the first alone reaches it
        (Sampling(1.0, top_p=0.51), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(1.0, min_p=0.49), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(1.0, min_p=0.51), [1, 0, 0, 0]),
        (Sampling(1.0, top_p=1e-9), [1, 0, 0, 0]),  # one token always stays
        (Sampling(1.0, min_p=1.0), [1, 0, 0, 0]),
        (Sampling(1.0, top_k=2, top_p=0.6), [1, 0, 0, 0]),  # of the two that top-k leaves, the first has 2/3
        (GREEDY, [1, 0, 0, 0]),
    ],
)
def test_filters_in_plain_numbers(settings, expected):
    logits = np.log([0.5, 0.25, 0.125, 0.125])
    assert np.allclose(probabilities(logits, settings, NOTHING), expected, atol=1e-12)


def test_the_penalty_makes_seen_tokens_rarer_whatever_their_sign():
    """Dividing a negative logit would make it likelier: it is multiplied (Keskar et al. 2019)."""
    logits = np.array([2.0, -2.0, 1.0, 0.0])
    plain = probabilities(logits, Sampling(1.0), NOTHING)
    found = probabilities(logits, Sampling(1.0, repetition_penalty=2.0), np.array([0, 1, 0, 0]))
    assert np.allclose(found, np.exp([1, -4, 1, 0]) / np.exp([1, -4, 1, 0]).sum())  # how often it was seen is no matter
    assert found[0] < plain[0] and found[1] < plain[1]
    assert probabilities(logits, Sampling(0.0, repetition_penalty=4.0), np.array([0])).argmax() == 2


def test_logits_are_left_as_they_are():
    logits = np.array([3.0, 1.0, -1.0], np.float32)
    probabilities(logits, Sampling(0.5, 1, 0.5, 0.5, 2.0), np.array([0]))
    assert logits.tolist() == [3, 1, -1]


def test_huge_logits_do_not_overflow():
    found = probabilities(np.array([1e4, 1e4, -1e4], np.float32), Sampling(0.01), NOTHING)
    assert found.tolist() == [0.5, 0.5, 0]


# ---- draws


def chi_square(draws, expected):
    counts = np.bincount(draws, minlength=len(expected))
    right = len(draws) * np.array(expected)
    used = right > 0
    assert not counts[~used].any(), "a token without probability was drawn"
    return float(((counts - right) ** 2 / np.where(used, right, 1))[used].sum())


@pytest.mark.parametrize("settings", [Sampling(1.0), Sampling(1.5, top_k=6, min_p=0.05), Sampling(0.7, top_p=0.95)])
def test_draws_follow_the_distribution(settings):
    """Pearson's statistic has a mean of at most 7 here; above 30 has a chance of 1 in 10,000. A tenth off is seen."""
    logits = np.random.default_rng(3).normal(0, 1, 8)
    draws = [sample(logits, settings, NOTHING, position) for position in range(8000)]
    right = probabilities(logits, settings, NOTHING)
    assert chi_square(draws, right) < 30
    wrong = probabilities(logits * 1.2, settings, NOTHING)
    wrong = np.where(right > 0, np.maximum(wrong, 1e-3), 0)
    assert chi_square(draws, wrong / wrong.sum()) > 30


def test_a_draw_is_a_function_of_logits_settings_and_position():
    logits = np.random.default_rng(4).normal(0, 1, 50)
    first = [sample(logits, Sampling(1.0, seed=5), NOTHING, position) for position in range(40)]
    again = [sample(logits, Sampling(1.0, seed=5), NOTHING, position) for position in reversed(range(40))]
    other = [sample(logits, Sampling(1.0, seed=6), NOTHING, position) for position in range(40)]
    assert first == again[::-1] and first != other
    assert len(set(first)) > 10  # positions draw anew


def test_a_draw_is_the_first_number_of_philox_with_this_key():
    shares = np.full(1000, 1 / 1000)
    for seed, position in ((0, 0), (7, 3), (7, 4), (2**62 + 11, 500)):
        draw = np.random.Generator(np.random.Philox(key=[seed, position])).random()
        found = sample(shares, Sampling(1.0, seed=seed), NOTHING, position, None, shares)
        assert found == int(np.searchsorted(np.cumsum(shares), draw, side="right"))
    none = np.array([0.4, 0.0, 0.0])  # rounding may leave the sum below 1
    assert {sample(none, Sampling(1.0, seed=seed), NOTHING, 0, None, none) for seed in range(20)} == {0}


@pytest.mark.parametrize("width", [2, 7, 129, 1536])
def test_rows_together_have_the_bits_of_each_alone(width):
    logits = (np.random.default_rng(width).normal(size=(9, width)) * 6).astype(np.float32)
    temperatures = [0.3, 1.0, 1.7] * 3
    found = probabilities_of_rows(logits, temperatures)
    for row, share, temperature in zip(logits, found, temperatures, strict=True):
        assert (share == probabilities(row, Sampling(temperature), NOTHING)).all()
    logits[4, 0] = np.nan
    assert probabilities_of_rows(logits, temperatures) is None
    assert probabilities_of_rows(logits[:1], [1e-320]) is None  # the quotients are infinite
    plain = {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"presence_penalty": 1.0}, {"temperature": 0.0}
    assert Sampling(0.7).by_temperature and not any(Sampling(**{"temperature": 0.7} | one).by_temperature
                                                    for one in plain)  # fmt: skip


def test_greedy_draws_the_likeliest():
    for seed in range(20):
        logits = np.random.default_rng(seed).normal(0, 1, 30)
        assert sample(logits, Sampling(0.0, seed=seed), NOTHING, seed) == logits.argmax()
        assert sample(logits, Sampling(1.0, top_k=1, seed=seed), NOTHING, seed) == logits.argmax()
    assert sample(np.array([1.0, 3.0, 3.0]), GREEDY, NOTHING, 0) == 1  # of equal ones the first, as argmax


def test_greedy_means_that_nothing_but_the_largest_logit_counts():
    assert GREEDY.greedy and Sampling(0.0, top_k=3, seed=8).greedy
    assert not Sampling(0.0, repetition_penalty=1.2).greedy and not Sampling(0.8).greedy


def test_several_answers_get_seeds_of_their_own():
    found = with_seeds(Sampling(0.9, seed=7), 3)
    assert [s.seed for s in found] == [7, 8, 9] and {s.temperature for s in found} == {0.9}


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", math.nan), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1), ("top_p", -1.0),
     ("min_p", -0.1), ("min_p", 1.1), ("repetition_penalty", 0.0), ("repetition_penalty", -1.0), ("seed", -1),
     ("seed", 2**64)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} .* is out of range"):
        Sampling(**{name: value})


def test_the_ends_of_the_ranges_are_allowed():
    Sampling(0.0, 0, 1.0, 0.0, 0.1, 0)
    Sampling(100.0, 10**6, 1e-9, 1.0, 9.0, 2**63 - 1)


@pytest.mark.parametrize("temperature", [1e-320, 5e-324, 1e-300])
def test_a_temperature_that_is_hardly_above_0_takes_the_likeliest(temperature):
    """The limit of softmax(x / T) for T towards 0: all on the largest, shared by those that are equal."""
    logits = np.array([1.0, -700.0, 3.0, 2.999, 3.0], np.float32)
    found = probabilities(logits, Sampling(temperature), NOTHING)
    assert found.tolist() == [0, 0, 0.5, 0, 0.5]
    assert probabilities(-logits, Sampling(temperature, min_p=0.1, top_p=0.9), NOTHING).tolist() == [0, 1, 0, 0, 0]


def test_a_penalty_that_is_hardly_above_0_gives_numbers():
    found = probabilities(np.array([1.0, 2.0, 3.0], np.float32), Sampling(1.0, repetition_penalty=1e-320), [0])
    assert found.tolist() == [1, 0, 0]  # 1 / 1e-320 is by far the largest
