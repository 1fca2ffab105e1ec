"""The alarm for drift of the scores, and weights for drifted inputs."""

import json
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import lookalike as la
from lookalike.calibration import Calibration
from lookalike.drift import DriftMonitor, _bets, density_ratio

# ---- the alarm ----


def test_bets_are_fair():
    p = (np.arange(2_000_000) + 0.5) / 2_000_000
    pays = _bets(p)
    assert pays.min() >= 0
    assert pays.mean(0) == pytest.approx(1, abs=1e-3)


def test_ranks_are_uniform_and_independent_with_bounded_memory():
    """What the bound on the alarm rests on; ties included, and scores forgotten."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 4, (6000, 14)).astype(float)
    ranks = np.array(
        [DriftMonitor(row[:8], memory=8, random_state=i)._ranks(row[8:]) for i, row in enumerate(draws)]
    )
    for column in ranks.T:
        gap = np.abs(np.sort(column) - (np.arange(6000) + 0.5) / 6000).max()  # Kolmogorov
        assert gap < 1.7 / math.sqrt(6000)
    correlation = np.corrcoef(np.hstack([ranks, (ranks - 0.5) ** 2]).T) - np.eye(12)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(6000)


@pytest.mark.parametrize("memory", [120, 4096])
def test_false_alarms_come_with_probability_alpha_at_most(memory):
    rng, n = np.random.default_rng(1), 200
    alarms = sum(
        DriftMonitor(rng.normal(size=100), 0.1, memory, random_state=i).update(rng.normal(size=600))
        for i in range(n)
    )
    assert alarms / n <= 0.1 + 3 * math.sqrt(0.09 / n)


SHIFTS = {
    "lower": (lambda z, u: z - 1, 60),
    "a little lower": (lambda z, u: z - 0.4, 600),
    "higher": (lambda z, u: z + 1, 60),
    "wider": (lambda z, u: 2 * z, 100),
    "narrower": (lambda z, u: 0.4 * z, 100),
    "one in ten odd": (lambda z, u: np.where(u < 0.1, z - 6, z), 300),
    "stuck": (lambda z, u: np.full_like(z, 0.9), 300),
}


@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("quiet", [0, 3000])
def test_drift_is_seen_soon(kind, quiet):
    shift, within = SHIFTS[kind]
    rng, delays = np.random.default_rng(2), []
    for seed in range(7):
        monitor = DriftMonitor(rng.normal(size=1000), random_state=seed)
        assert not monitor.update(rng.normal(size=quiet))
        monitor.update(shift(rng.normal(size=3000), rng.random(3000)))
        delays.append(monitor.alarm_row - quiet if monitor.alarm else math.inf)
    assert np.median(delays) <= within * (2.5 if quiet else 1)


@given(st.lists(st.integers(0, 5) | st.floats(-3, 3), max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_the_path_does_not_depend_on_batches_or_on_a_restart(scores, cuts):
    def monitor():
        return DriftMonitor([1, 2, 3, 3, 4], alpha=0.3, memory=12, random_state=5)

    whole, parts = monitor(), monitor()
    whole.update(scores)
    for part in np.split(np.array(scores, dtype=float), sorted(cuts)):
        parts.update(part)
        parts = DriftMonitor.from_dict(json.loads(json.dumps(parts.to_dict())))
    assert parts.to_dict() == whole.to_dict()
    assert parts.log_capital == whole.log_capital
    assert len(whole.to_dict()["scores"]) <= 12


def test_what_is_said_of_a_monitor():
    rng = np.random.default_rng(0)
    monitor = la.DriftMonitor(Calibration(rng.normal(size=300)), random_state=0)
    assert monitor.capital == 1
    assert monitor.update([]) is False
    monitor.update(rng.normal(size=1200))
    assert repr(monitor).startswith("<DriftMonitor: no alarm in 1,200 rows, capital ")
    assert repr(monitor).endswith(" of 100>")
    assert monitor.update(rng.normal(size=20_000) - 3)  # longer than a float's range would last
    assert 1200 < monitor.alarm_row < 1230
    assert math.isfinite(monitor.log_capital)
    assert "ALARM at row 1,2" in repr(monitor)
    assert monitor.update(rng.normal(size=10)) is True  # an alarm stays


def test_what_a_monitor_does_not_take():
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\), got 1"):
        DriftMonitor([1.0], alpha=1)
    with pytest.raises(ValueError, match="memory must be a whole number"):
        DriftMonitor([1.0], memory=0)
    with pytest.raises(ValueError, match="give the monitor one without"):
        DriftMonitor(Calibration([1.0], [1.0]))
    monitor = DriftMonitor([1.0, 2.0], random_state=0)
    with pytest.raises(ValueError, match="must not hold NaN"):
        monitor.update([np.nan])
    with pytest.raises(ValueError, match="one dimension"):
        monitor.update([[1.0]])
    state = monitor.to_dict()
    nan = math.nan
    for change in ({"format": 0}, {"alpha": 2}, {"scores": [2, 1]}, {"scores": []}, {"scores": [nan]},
                   {"scores": [0.0] * 5000}, {"stakes": [1]}, {"stakes": [nan] * 7}, {"log_unit": nan},
                   {"seed": -1}, {"n_rows": "x"}, {"n_rows": -1}):  # fmt: skip
        with pytest.raises(ValueError, match="not the state of a DriftMonitor"):
            DriftMonitor.from_dict({**state, **change})


def test_drift_of_a_real_table_is_seen_and_its_absence_too():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    even, odd = X[y < 5], X[y >= 5]
    model = IsolationForest(n_estimators=30, random_state=0).fit(even[:400])
    monitor = DriftMonitor(model.score_samples(even[400:650]), random_state=0)
    assert not monitor.update(model.score_samples(even[650:]))
    assert monitor.update(model.score_samples(odd))


# ---- weights ----


def test_weighted_p_values_are_the_formula():
    calibration = Calibration([3.0, 1.0, 2.0, 2.0], weights=[4.0, 1.0, 2.0, 3.0])
    p = calibration.p_values([0, 1, 2, 2.5, 3, 9], weights=[1, 1, 2, 0, 5, 1])
    assert p == pytest.approx([1 / 11, 2 / 11, 8 / 12, 6 / 10, 15 / 15, 11 / 11])
    assert calibration.n_effective == pytest.approx(100 / 30)
    assert Calibration([1, 2]).n_effective == 2
    again = Calibration.from_arrays(calibration.to_arrays())
    assert np.array_equal(again.p_values([2.5], [1]), calibration.p_values([2.5], [1]))


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=20),
    st.lists(st.floats(-6, 6), min_size=1),
    st.floats(0.01, 100),
)
def test_equal_weights_are_none(scores, rows, weight):
    weighted = Calibration(scores, np.full(len(scores), weight))
    p = weighted.p_values(rows, np.full(len(rows), weight))
    assert p == pytest.approx(Calibration(scores).p_values(rows))


def test_weights_are_of_all_rows_or_of_none():
    with pytest.raises(ValueError, match="those of these rows are missing"):
        Calibration([1.0], [1.0]).p_values([1.0])
    with pytest.raises(ValueError, match="those of the calibration rows are missing"):
        Calibration([1.0]).p_values([1.0], [1.0])
    with pytest.raises(ValueError, match="weights must be one a row, got 1 for 2 rows"):
        Calibration([1.0], [1.0]).p_values([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="finite and not negative, got -1"):
        Calibration([1.0], [-1.0])
    with pytest.raises(ValueError, match="no one threshold for all rows"):
        Calibration([1.0], [1.0]).threshold(0.1)
    assert Calibration([1.0], [0.0]).p_values([0.0], [0.0]) == 1  # nothing is known


def shifted(rng, n, mean):
    """Rows of which the larger are scored lower, and no odder."""
    x = rng.normal(mean, 1, n)
    return x, -np.abs(x) + 0.3 * rng.normal(size=n)


def test_weighted_p_values_are_valid_under_a_known_shift_where_others_are_not():
    rng, plain, weighted = np.random.default_rng(0), [], []
    for _ in range(150):
        x, scores = shifted(rng, 400, 0.0)
        new, new_scores = shifted(rng, 40, 1.0)
        weights = [np.exp(side - 0.5) for side in (x, new)]  # N(1, 1) over N(0, 1)
        plain.append(Calibration(scores).p_values(new_scores))
        weighted.append(Calibration(scores, weights[0]).p_values(new_scores, weights[1]))
    for alpha in (0.05, 0.1, 0.2, 0.5):
        assert np.mean(np.array(weighted) <= alpha) <= alpha + 0.012
        assert np.mean(np.array(weighted) <= alpha) >= 0.5 * alpha  # and of use
        assert np.mean(np.array(plain) <= alpha) > 1.3 * alpha


@pytest.mark.parametrize("kind", ["array", "pandas", "polars"])
def test_the_ratio_of_a_mix_of_segments_is_found(kind):
    rng = np.random.default_rng(0)
    reference, new = rng.choice(3, 3000, p=[0.8, 0.1, 0.1]), rng.choice(3, 2000, p=[0.2, 0.4, 0.4])
    names = np.array(["north", "south", "west"])
    make = {
        "array": lambda c: c[:, None],
        "pandas": lambda c: pd.DataFrame({"segment": names[c]}),
        "polars": lambda c: pl.DataFrame({"segment": names[c]}),
    }[kind]
    encoder = make_column_transformer((OneHotEncoder(), ["segment"])) if kind != "array" else OneHotEncoder()
    classifier = make_pipeline(encoder, LogisticRegression())
    weights = density_ratio(make(reference), make(new), classifier)
    for codes, found in zip((reference, new), weights, strict=True):
        for segment, ratio in enumerate([0.25, 4, 4]):
            assert found[codes == segment].mean() == pytest.approx(ratio, rel=0.15)
    # Scores are lower in the south, as ever: no drift of what is normal there.
    scores, new_scores = (rng.normal(size=len(c)) - 3 * (c == 1) for c in (reference, new))
    weighted = Calibration(scores, weights[0]).p_values(new_scores, weights[1])
    assert np.mean(weighted <= 0.05) <= 0.07
    assert np.mean(Calibration(scores).p_values(new_scores) <= 0.05) > 0.15


def test_a_classifier_that_is_sure_gives_finite_ratios():
    class Sure:
        def fit(self, X, y):
            return self

        def predict_proba(self, X):
            return np.column_stack([X[:, 0] < 0, X[:, 0] >= 0]).astype(float)

    weights = la.density_ratio(-np.ones((20, 1)), np.ones((30, 1)), Sure(), random_state=0)
    assert all(np.isfinite(w).all() for w in weights)
    assert weights[0].max() < 1 < weights[1].min()
    with pytest.raises(
        ValueError, match="needs at least 5 reference rows and as many new ones, got 4 and 30"
    ):
        density_ratio(np.ones((4, 1)), np.ones((30, 1)), Sure())
