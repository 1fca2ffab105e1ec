"""Conformal p-values, thresholds and selections, against closed forms and simulation."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lookalike
from lookalike.calibration import Calibration, select
from lookalike.errors import LookalikeWarning

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
score_lists = st.lists(finite, min_size=1, max_size=40)
alphas = st.floats(0.001, 0.999) | st.integers(2, 200).map(lambda k: 1 / k)


# -- p-values ----------------------------------------------------------------------------------------------


def test_p_values_are_the_formula():
    calibration = Calibration([3.0, 1.0, 2.0, 2.0])
    assert calibration.p_values([0, 1, 1.5, 2, 2.5, 3, 9]).tolist() == [x / 5 for x in (1, 2, 2, 4, 4, 5, 5)]


def test_p_values_are_exactly_uniform_over_all_orders():
    # Exchangeable means that every order is equally likely; with n = 5 there are few enough to try each.
    p = [Calibration(order[1:]).p_values(order[:1])[0] for order in itertools.permutations(range(6))]
    values, counts = np.unique(p, return_counts=True)
    assert values == pytest.approx(np.arange(1, 7) / 6)
    assert (counts == math.factorial(5)).all()


@pytest.mark.parametrize("draw", ["normal", "few values"])
def test_p_values_are_super_uniform(draw):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 31)) if draw == "normal" else rng.integers(0, 4, size=(4000, 31))
    p = np.array([Calibration(row[1:]).p_values(row[:1])[0] for row in scores])
    for alpha in (0.01, 0.05, 0.1, 0.3, 0.5, 0.9):
        error = 3 * math.sqrt(alpha * (1 - alpha) / len(p))
        assert np.mean(p <= alpha) <= alpha + error
    if draw == "normal":  # without ties the bound is met
        assert np.mean(p <= 10 / 31) == pytest.approx(10 / 31, abs=0.025)


@settings(deadline=None)
@given(score_lists, st.lists(finite, min_size=1, max_size=20))
def test_p_values_rise_with_the_score_and_stay_in_range(calibration, scores):
    p = Calibration(calibration).p_values(np.sort(scores))
    assert (np.diff(p) >= 0).all()
    assert p.min() >= 1 / (len(calibration) + 1)
    assert p.max() <= 1


@settings(deadline=None)
@given(st.permutations(range(12)), st.lists(st.integers(-2, 14), min_size=1))
def test_p_values_depend_on_ranks_alone(calibration, scores):
    def stretch(x):
        return np.exp(np.asarray(x) / 3.0)

    straight = Calibration(calibration).p_values(scores)
    assert np.array_equal(Calibration(stretch(calibration)).p_values(stretch(scores)), straight)


def test_float32_scores_tie_with_themselves():
    scores = np.random.default_rng(0).normal(size=50).astype(np.float32)
    calibration = Calibration(scores)
    assert np.array_equal(np.sort(calibration.p_values(scores)), np.arange(2, 52) / 51)


def test_infinite_scores_have_a_p_value_and_nan_has_none():
    calibration = Calibration([1.0, 2.0])
    assert calibration.p_values([-np.inf, np.inf]).tolist() == [1 / 3, 1]
    with pytest.raises(ValueError, match="scores must not hold NaN"):
        calibration.p_values([1.0, np.nan])


def test_calibration_scores_are_checked():
    with pytest.raises(ValueError, match="at least one calibration row, got none"):
        Calibration([])
    with pytest.raises(ValueError, match="scores must be finite, got nan"):
        Calibration([1.0, np.nan])
    with pytest.raises(ValueError, match="scores must be finite, got -inf"):
        Calibration([1.0, -np.inf])


def test_calibration_does_not_hold_on_to_the_callers_array():
    scores = np.array([2.0, 1.0])
    calibration = Calibration(scores)
    scores[:] = 9
    assert calibration.scores.tolist() == [1, 2]
    assert calibration.scores.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        calibration.scores[0] = 0


def test_calibration_survives_saving():
    calibration = Calibration(np.random.default_rng(0).normal(size=20))
    again = Calibration.from_arrays(calibration.to_arrays())
    assert np.array_equal(again.scores, calibration.scores)


# -- thresholds --------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(score_lists, st.lists(finite, max_size=20), alphas)
def test_threshold_and_p_values_agree(calibration_scores, scores, alpha):
    calibration = Calibration(calibration_scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LookalikeWarning)
        offset = calibration.threshold(alpha)
    assert math.isfinite(offset)
    scores = np.array([*scores, *calibration_scores])
    p = calibration.p_values(scores)
    if alpha >= 1 / (len(calibration_scores) + 1):
        assert np.array_equal(scores < offset, p <= alpha)
    else:
        assert np.array_equal(scores < offset, p <= 1 / (len(calibration_scores) + 1))


def test_threshold_of_hand_worked_ranks():
    calibration = Calibration(np.arange(1, 100))  # n + 1 = 100
    for alpha, offset in [(0.01, 1), (0.05, 5), (0.07, 7), (0.29, 29), (0.999, 99)]:
        assert calibration.threshold(alpha) == offset


def test_false_alarms_of_a_threshold_keep_the_rate():
    # Without ties a new normal row falls below the k-th of n with probability k / (n + 1): here 4 / 80.
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(1500):
        offset = Calibration(rng.normal(size=79)).threshold(0.05)
        alarms.append(np.mean(rng.normal(size=40) < offset))
    assert np.mean(alarms) == pytest.approx(0.05, abs=4 * np.std(alarms) / math.sqrt(len(alarms)))


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, "19"), (0.01, "99"), (0.07, "14"), (1e-4, "9,999")])
def test_too_few_rows_are_said_to_be_too_few(alpha, needed):
    calibration = Calibration([5.0, 4.0, 7.0])
    message = rf"alarm rate of {alpha:g} takes {needed} calibration rows, and there are 3: .* about 0\.25"
    with pytest.warns(LookalikeWarning, match=message):
        offset = calibration.threshold(alpha)
    assert offset == np.nextafter(4.0, -np.inf)
    enough = Calibration(np.arange(int(needed.replace(",", ""))))
    assert enough.threshold(alpha) == 0  # warnings are errors here: none


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, float("nan")])
def test_alpha_must_be_a_rate(alpha):
    with pytest.raises(ValueError, match=rf"alpha must lie in \(0, 1\), got {alpha}"):
        Calibration([1.0]).threshold(alpha)


# -- selection ---------------------------------------------------------------------------------------------

# The fifteen p-values of the example in Benjamini and Hochberg 1995, which rejects four at 0.05.
PAPER = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344),
    *(0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
]


def test_selection_of_the_paper():
    order = np.random.default_rng(0).permutation(15)
    assert np.array_equal(select(PAPER), np.arange(15) < 4)
    assert np.array_equal(select(np.array(PAPER)[order]), order < 4)
    # Yekutieli divides by 1 + 1/2 + ... + 1/15 = 3.318: 0.0019 <= 3/15 * 0.01507, 0.0095 > 4/15 * 0.01507.
    assert np.array_equal(select(PAPER, method="by"), np.arange(15) < 3)


def test_select_is_public():
    assert lookalike.select is select


def test_a_later_rank_saves_the_earlier_ones():
    # 0.04 > 0.05 / 3 alone would not do; 0.045 <= 0.05 at rank three takes all in.
    assert select([0.04, 0.045, 0.03]).tolist() == [True, True, True]


def test_selection_of_nothing():
    assert select([]).tolist() == []
    assert select([0.9, 0.2]).tolist() == [False, False]
    assert select([0.0]).tolist() == [True]


p_arrays = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1) | st.floats(0, 0.05))
rates = st.floats(0.01, 0.9)


@settings(deadline=None)
@given(p_arrays, rates)
def test_selection_agrees_with_its_definition(p, fdr):
    for method, factor in (("bh", 1.0), ("by", sum(1 / i for i in range(1, len(p) + 1)))):
        mask = select(p, fdr, method)
        # Without sorting: the largest threshold t whose estimated share of false ones is within the rate.
        passing = [t for t in p if t * len(p) * factor <= fdr * np.sum(p <= t) * (1 + 1e-12)]
        surely = [t for t in p if t * len(p) * factor <= fdr * np.sum(p <= t) * (1 - 1e-12)]
        assert not (mask & (p > max(passing, default=-1))).any()
        assert mask[p <= max(surely, default=-1)].all()


@settings(deadline=None)
@given(p_arrays, rates)
def test_storeys_selection_agrees_with_its_definition(p, fdr):
    mask = select(p, fdr, "storey")
    share = (1 + np.sum(p > 0.5)) / (len(p) * 0.5)  # of normal rows, estimated
    estimate = np.array([share * t * len(p) / np.sum(p <= t) for t in p])
    assert not (mask & (p > max(p[(p <= 0.5) & (estimate <= fdr * (1 + 1e-12))], default=-1))).any()
    assert mask[p <= max(p[(p <= 0.5) & (estimate <= fdr * (1 - 1e-12))], default=-1)].all()
    if share <= 1:
        assert (select(p, fdr)[p <= 0.5] <= mask[p <= 0.5]).all()


@settings(deadline=None)
@given(p_arrays, rates, st.data())
def test_selection_is_monotone(p, fdr, data):
    mask = select(p, fdr)
    assert (select(p, fdr, "by") <= mask).all()
    assert (mask <= select(p, min(fdr * 1.5, 0.99))).all()
    odder = p.copy()
    odder[data.draw(st.integers(0, len(p) - 1))] = 0
    assert (mask <= select(odder, fdr)).all()  # an odder row never takes another's place
    if mask.any() and not mask.all():
        assert p[mask].max() < p[~mask].min()


def simulate(n_calibration, n_normal, n_odd, fdr, method, repeats, shift=3.0):
    """Return the share of normal rows among the selected, its standard error, and the power."""
    rng = np.random.default_rng(2)
    false, found = [], []
    for _ in range(repeats):
        scores = rng.normal(size=n_normal + n_odd)
        scores[n_normal:] -= shift
        mask = select(Calibration(rng.normal(size=n_calibration)).p_values(scores), fdr, method)
        false.append(mask[:n_normal].sum() / max(mask.sum(), 1))
        found.append(mask[n_normal:].mean() if n_odd else 0.0)
    return np.mean(false), np.std(false) / math.sqrt(repeats), np.mean(found)


@pytest.mark.parametrize("fdr", [0.05, 0.2])
def test_false_discoveries_keep_the_rate(fdr):
    share, error, found = simulate(1000, 180, 20, fdr, "bh", 600)
    assert share <= 0.9 * fdr + 3 * error  # the bound is the rate times the share of normal rows
    assert found > 0.4
    by_share, _, by_found = simulate(1000, 180, 20, fdr, "by", 300)
    assert by_share <= share
    assert by_found <= found


@pytest.mark.parametrize("n_odd", [4, 100, 160])
def test_storey_keeps_the_rate_too_and_finds_more_where_anomalies_are_many(n_odd):
    share, error, found = simulate(1000, 200 - n_odd, n_odd, 0.1, "storey", 400)
    assert share <= 0.1 + 3 * error
    bh_share, bh_error, bh_found = simulate(1000, 200 - n_odd, n_odd, 0.1, "bh", 400)
    assert bh_share <= 0.1 * (1 - n_odd / 200) + 3 * bh_error
    if n_odd >= 100:
        assert found > bh_found + 0.02
        assert share > 0.08  # the rate is used up, of which Benjamini-Hochberg leaves the share of anomalies


def test_a_share_of_the_rows_is_no_rate():
    """What contamination=0.1 raises: of anomalies that are few most alerts are false."""
    rng = np.random.default_rng(3)
    calibration, scores = Calibration(rng.normal(size=2000)), rng.normal(size=2000)
    scores[:20] -= 6
    guess = scores < np.percentile(scores, 10)
    assert guess[20:].sum() / guess.sum() > 0.85
    mask = select(calibration.p_values(scores), 0.1)
    assert mask[20:].sum() / mask.sum() < 0.2
    assert mask[:20].all()


def test_false_discoveries_without_anomalies_are_exactly_the_rate():
    # With continuous scores, and fdr * (n + 1) / n_rows a whole number, the rate is met with equality. All
    # rows are normal, so any selection at all is false, and one must happen in a tenth of the draws.
    share, error, _ = simulate(99, 5, 0, 0.1, "bh", 6000)
    assert share == pytest.approx(0.1, abs=4 * error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 1.2],), r"p_values must lie in \[0, 1\], got 1\.2"),
        (([0.1, np.nan],), r"p_values must lie in \[0, 1\], got nan"),
        (([[0.1]],), r"p_values must have one dimension, got shape \(1, 1\)"),
        (([0.1], 0), r"fdr must lie in \(0, 1\), got 0"),
        (([0.1], 5), r"fdr must lie in \(0, 1\), got 5"),
        (([0.1], 0.1, "bonferroni"), "method must be 'bh', 'storey' or 'by', got 'bonferroni'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        select(*arguments)
