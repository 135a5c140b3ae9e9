"""Published laws against the tables of their papers, and fits against known laws and SciPy."""

import math

import numpy as np
import pytest
import scipy.optimize

from minigpt.errors import DataError
from minigpt.experiments.fits import Point, fit, fit_kaplan, fit_power
from minigpt.experiments.isoflop import Valley, frontier, valleys
from minigpt.experiments.laws import (
    CHINCHILLA,
    FLOPS,
    KAPLAN,
    KAPLAN_BUDGET,
    KAPLAN_COMPUTE,
    KAPLAN_FRONTIER,
    KAPLAN_PARAMETERS,
    KAPLAN_TOKENS,
    PF_DAY,
    REPLICATION,
    TOKENS_PER_PARAMETER,
    Law,
)  # fmt: skip

# Hoffmann et al. 2022, table A3, approach 3: parameters, operations, tokens. The exponents behind it have more digits
# than the paper gives, which at 10 T parameters, far outside all runs, makes a sixth. (For 175 B the paper prints
# 1.26e+24 operations, a tenth of 6 N D: a slip, as the rows above and below show.)
TABLE_A3 = [
    (400e6, 2.21e19, 9.2e9), (1e9, 1.62e20, 27.1e9), (10e9, 2.46e22, 410.1e9), (67e9, 1.71e24, 4.1e12),
    (175e9, 1.26e25, 12.0e12), (280e9, 3.52e25, 20.1e12), (520e9, 1.36e26, 43.5e12), (1e12, 5.65e26, 94.1e12),
    (10e12, 8.55e28, 1425.5e12),
]  # fmt: skip
# The same table, approach 2: operations and parameters.
APPROACH_2 = [
    (1.84e19, 400e6), (1.20e20, 1e9), (1.32e22, 10e9), (6.88e23, 67e9), (4.54e24, 175e9), (1.18e25, 280e9),
    (4.19e25, 520e9), (1.59e26, 1e12), (1.75e28, 10e12),
]  # fmt: skip
# Table 3, approach 1.
TABLE_3 = [
    (400e6, 1.92e19, 8.0e9), (1e9, 1.21e20, 20.2e9), (10e9, 1.23e22, 205.1e9), (67e9, 5.76e23, 1.5e12),
    (175e9, 3.85e24, 3.7e12), (280e9, 9.90e24, 5.9e12), (520e9, 3.43e25, 11.0e12), (1e12, 1.27e26, 21.2e12),
    (10e12, 1.30e28, 216.2e12),
]  # fmt: skip
TRUTH = Law(1.2, 40.0, 90.0, 0.35, 0.40)
GENERATOR = np.random.default_rng(0)


def grid(law, noise=0.0, generator=GENERATOR):
    """25 runs of 5 sizes and 5 lengths."""
    return [
        Point(n, d, law.loss(n, d) * math.exp(noise * generator.normal()))
        for n in np.geomspace(1e5, 1e7, 5) for d in np.geomspace(1e6, 3e8, 5)
    ]  # fmt: skip


# ---- published ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters, compute, tokens", TABLE_A3)
def test_chinchilla_table_a3(parameters, compute, tokens):
    assert CHINCHILLA.tokens_for(parameters) == pytest.approx(tokens, rel=0.2)
    assert FLOPS * parameters * CHINCHILLA.tokens_for(parameters) == pytest.approx(compute, rel=0.2)


@pytest.mark.parametrize("parameters, compute, tokens", TABLE_3)
def test_chinchilla_table_3_is_twenty_tokens_per_parameter(parameters, compute, tokens):
    assert TOKENS_PER_PARAMETER * parameters == pytest.approx(tokens, rel=0.12)
    assert FLOPS * TOKENS_PER_PARAMETER * parameters**2 == pytest.approx(compute, rel=0.13)


@pytest.mark.parametrize("rows, exponent", [
    ([(compute, parameters) for parameters, compute, _ in TABLE_3], 0.50), (APPROACH_2, 0.49),
    ([(compute, parameters) for parameters, compute, _ in TABLE_A3], 0.46),
])  # fmt: skip
def test_the_rows_of_each_approach_lie_on_the_power_law_of_table_2(rows, exponent):
    """N grows as C^0.50, C^0.49 and C^0.46: `frontier` finds table 2's exponents from the rows of tables 3 and A3."""
    found = frontier([Valley(compute, parameters, 0.0, 3, True) for compute, parameters in rows])
    assert found.exponent == pytest.approx(exponent, abs=0.006)
    for compute, parameters in rows:
        assert found.parameters(compute) == pytest.approx(parameters, rel=0.04)


def test_chinchilla_table_2():
    """Approach 3: N grows as C^0.46, D as C^0.54."""
    assert round(CHINCHILLA.exponent, 2) == 0.46 and round(1 - CHINCHILLA.exponent, 2) == 0.54


def test_the_replication_is_consistent_with_chinchilla_itself():
    """Besiroglu et al. 2024: exponent 0.512 and about 20 tokens per parameter at Chinchilla's compute of 5.76e23."""
    parameters, tokens = REPLICATION.optimum(5.76e23)
    assert REPLICATION.exponent == pytest.approx(0.5126, abs=5e-4)
    assert parameters == pytest.approx(70e9, rel=0.06) and tokens / parameters == pytest.approx(20, rel=0.12)
    assert CHINCHILLA.optimum(5.76e23)[0] == pytest.approx(40e9, rel=0.05)  # "40 billion" of approach 3 in section 3.4


def test_kaplan():
    """Overfitting stays below 0.02 when D exceeds 5e3 N^0.74 (eq. 4.4); N doubled makes the loss 2^-0.076 = 0.95."""
    for parameters in (1e7, 1e8, 1e9):
        excess = KAPLAN.loss(parameters, 5e3 * parameters**0.74) / KAPLAN.loss(parameters, 1e30) - 1
        assert excess == pytest.approx(0.02, abs=0.003)
    assert KAPLAN_PARAMETERS.loss(2e9) / KAPLAN_PARAMETERS.loss(1e9) == pytest.approx(0.95, abs=0.002)
    assert KAPLAN_TOKENS.loss(5.4e13) == KAPLAN_PARAMETERS.loss(8.8e13) == 1.0
    assert KAPLAN_COMPUTE.loss(PF_DAY) == pytest.approx(3.1e8**0.05)
    assert KAPLAN_FRONTIER.parameters(PF_DAY) == pytest.approx(1.3e9)  # table 6
    assert KAPLAN_FRONTIER.parameters(1e3 * PF_DAY) == pytest.approx(1.3e9 * 10**2.19)


# Kaplan et al. 2020, equations 1.1 to 1.3 with table 5.
@pytest.mark.parametrize("law, exponent", [(KAPLAN_PARAMETERS, 0.076), (KAPLAN_TOKENS, 0.095), (KAPLAN_COMPUTE, 0.05)])
def test_kaplans_power_laws(law, exponent):
    assert law.loss(1e20) / law.loss(1e21) == pytest.approx(10**exponent)


@pytest.mark.parametrize("days", [1e-3, 1.0, 1e3])
def test_kaplans_budget(days):
    """Table 6: N = 1.3e9 C^0.73 with C in PF-days, and the loss of C alone, (3.1e8 / C)^0.050.

    Table 6 also has the batch, 2.0e6 C^0.24 tokens, and the steps, 5.4e3 C^0.03: together the tokens, C / 6 N.
    """
    parameters, tokens = KAPLAN_BUDGET.optimum(days * PF_DAY)
    assert parameters == pytest.approx(1.3e9 * days**0.73)
    assert tokens == pytest.approx(2.0e6 * days**0.24 * 5.4e3 * days**0.03, rel=0.03)
    assert KAPLAN_BUDGET.lowest(days * PF_DAY) == pytest.approx((3.1e8 / days) ** 0.05)


# Besiroglu et al. 2024, table 1: constants and standard errors of their fit, and a = beta / (alpha + beta).
@pytest.mark.parametrize("name, value, error", [
    ("A", 482.01, 124.58), ("B", 2085.43, 1293.23), ("E", 1.8172, 0.03), ("alpha", 0.3478, 0.02),
    ("beta", 0.3658, 0.02), ("exponent", 0.5126, 0.02),
])  # fmt: skip
def test_the_replications_table(name, value, error):
    """To the digits printed; Hoffmann et al.'s E and beta are more than four of these standard errors away."""
    assert getattr(REPLICATION, name) == pytest.approx(value, abs=1e-4)
    if name in ("E", "beta"):
        assert abs(getattr(CHINCHILLA, name) - value) > 4 * error


def test_kaplan_for_plentiful_data_is_his_law_of_parameters():
    assert KAPLAN.loss(1e9, 1e40) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-6)


# ---- properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [CHINCHILLA, REPLICATION, TRUTH])
@pytest.mark.parametrize("compute", [1e15, 5.76e23])
def test_optimum_is_the_lowest_loss_of_its_budget(law, compute):
    best = scipy.optimize.minimize_scalar(
        lambda n: law.loss(math.exp(n), compute / FLOPS / math.exp(n)), bounds=(5, 40), method="bounded",
        options={"xatol": 1e-8},
    )  # fmt: skip
    parameters, tokens = law.optimum(compute)
    assert math.log(parameters) == pytest.approx(best.x, abs=1e-4)
    assert FLOPS * parameters * tokens == pytest.approx(compute)
    assert law.tokens_for(parameters) == pytest.approx(tokens)
    assert law.compute_for(law.loss(parameters, tokens)) == pytest.approx(compute, rel=1e-5)


def test_no_compute_reaches_the_end_of_a_law():
    with pytest.raises(ValueError, match="no compute"):
        TRUTH.compute_for(1.2)


# ---- fits --------------------------------------------------------------------------------------------------


def test_a_law_without_noise_is_found_again():
    found = fit(grid(TRUTH), draws=5).law
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=1e-3), name


def test_the_fit_is_scipys():
    points = grid(TRUTH, noise=0.01)
    n, d, target = (np.log([getattr(p, name) for p in points]) for name in ("parameters", "tokens", "loss"))

    def objective(p):
        value = np.logaddexp.reduce([p[0] - p[3] * n, p[1] - p[4] * d, np.full(len(n), p[2])])
        r = np.abs(value - target)
        return np.where(r <= 1e-3, r * r / 2, 1e-3 * (r - 0.5e-3)).sum() * 1e4

    truth = [math.log(40), math.log(90), math.log(1.2), 0.35, 0.40]
    settings = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-13}
    starts = np.array(truth) * (1 + 0.1 * GENERATOR.normal(size=(4, 5)))
    minimize = scipy.optimize.minimize
    theirs = min(minimize(objective, start, method="Nelder-Mead", options=settings).fun for start in starts)
    found = fit(points, draws=1).law
    ours = objective([math.log(found.A), math.log(found.B), math.log(found.E), found.alpha, found.beta])
    assert ours <= theirs * (1 + 1e-4)


def test_intervals_hold_the_truth_and_a_larger_run_is_predicted():
    held, samples = 0, 4
    for seed in range(samples):
        found = fit(grid(TRUTH, noise=0.005, generator=np.random.default_rng(seed)), seed, draws=40)
        low, high = found.interval(lambda law: law.loss(3e7, 1e9))
        held += low <= TRUTH.loss(3e7, 1e9) <= high
        assert found.law.loss(3e7, 1e9) == pytest.approx(TRUTH.loss(3e7, 1e9), rel=0.02)  # 10 × the largest run's C
    assert held >= 0.75 * samples


def test_an_outlier_moves_the_fit_little():
    points = grid(TRUTH)
    points[7] = Point(points[7].parameters, points[7].tokens, points[7].loss * 1.3)
    assert fit(points, draws=1).law.loss(3e7, 1e9) == pytest.approx(TRUTH.loss(3e7, 1e9), rel=0.003)


def test_too_few_runs_are_refused():
    with pytest.raises(DataError, match="5 runs of 5 sizes"):
        fit(grid(TRUTH)[::5])
    with pytest.raises(DataError, match="1 sizes"):
        fit(grid(TRUTH)[:5] * 2)


def test_kaplans_law_is_found_again():
    points = [Point(n, d, KAPLAN.loss(n, d)) for n in np.geomspace(1e6, 1e9, 5) for d in np.geomspace(1e8, 2e10, 5)]
    found = fit_kaplan(points, draws=5).law
    assert (found.alpha_n, found.alpha_d) == pytest.approx((0.076, 0.103), rel=1e-3)
    assert found.loss(1e10, 1e11) == pytest.approx(KAPLAN.loss(1e10, 1e11), rel=1e-4)
    sizes = [1e6, 1e7, 1e8]
    power = fit_power(sizes, [KAPLAN_PARAMETERS.loss(n) for n in sizes])
    assert (power.scale, power.exponent) == pytest.approx((8.8e13, 0.076), rel=1e-6)


def test_valleys_lie_at_the_optimum():
    points = []
    for compute in (1e15, 1e16, 1e17):
        best = TRUTH.optimum(compute)[0]
        for n in best * np.geomspace(0.6, 1.6, 5):
            points.append(Point(n, compute / FLOPS / n, TRUTH.loss(n, compute / FLOPS / n)))
    found = valleys(points)
    assert [v.runs for v in found] == [5, 5, 5] and all(v.inside for v in found)
    for valley in found:
        assert valley.parameters == pytest.approx(TRUTH.optimum(valley.compute)[0], rel=0.03)
        assert valley.loss == pytest.approx(TRUTH.loss(*TRUTH.optimum(valley.compute)), rel=1e-3)
    assert frontier(found).exponent == pytest.approx(TRUTH.exponent, abs=0.01)


def test_a_valley_beyond_the_sizes_is_said_to_be_a_guess():
    best = TRUTH.optimum(1e16)[0]
    sizes = best * np.array([0.2, 0.4, 0.8])
    points = [Point(n, 1e16 / FLOPS / n, TRUTH.loss(n, 1e16 / FLOPS / n)) for n in sizes]
    assert [v.inside for v in valleys(points)] == [False]


def test_a_budget_with_two_sizes_has_no_valley():
    assert valleys([Point(1e6, 1e7, 2.0), Point(2e6, 5e6, 2.1)]) == []
    with pytest.raises(DataError, match="0 budgets"):
        frontier([])
