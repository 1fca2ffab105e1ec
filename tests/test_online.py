"""Alerts from a stream: the promised share is false, however the stream is cut and wherever it is resumed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lookalike as la
from lookalike.calibration import Calibration
from lookalike.online import OnlineSelector

streams = st.lists(st.floats(0, 1) | st.floats(0, 0.002), max_size=60)


@given(streams, st.lists(st.integers(0, 60), max_size=5), st.integers(1, 20))
def test_decisions_do_not_depend_on_how_a_stream_is_cut_or_resumed(p, cuts, window):
    whole = OnlineSelector(0.1, window)
    alerts = whole.select(p)
    stream, found = OnlineSelector(0.1, window), []
    for part in np.split(np.array(p), sorted(cuts)):
        found.append(stream.select(part))
        stream = OnlineSelector.from_dict(json.loads(json.dumps(stream.to_dict())))
    assert np.array_equal(np.concatenate(found), alerts)
    assert repr(stream) == repr(whole)
    assert stream.level == whole.level


@given(streams, st.integers(1, 20))
def test_levels_are_what_the_bound_is_made_of(p, window):
    """What is spent is at most fdr * (alerts + quiet rows / window): the proof needs no more."""
    stream, spent, quiet, alerts = OnlineSelector(0.2, window), 0.0, 0, []
    for i, value in enumerate(p):
        before = sum(alerts[max(i - window, 0) :])
        assert stream.level == pytest.approx(0.2 * max(before, 1) / window)
        spent, quiet = spent + stream.level, quiet + (before == 0)
        alerts += stream.select([value]).tolist()
        assert alerts[-1] == (value <= 0.2 * max(before, 1) / window)
    assert spent <= 0.2 * (sum(alerts) + quiet / window) + 1e-9
    assert (stream.n_rows, stream.n_alerts) == (len(p), sum(alerts))


def test_memory_is_bounded():
    stream = OnlineSelector(0.5, window=50)
    stream.select(np.zeros(5000))
    assert stream.n_alerts == 5000
    assert len(stream.to_dict()["recent"]) <= 51


def repeated(share, repeats, shared, n=2000, rows=1500, fdr=0.1):
    """False alerts, alerts, the bound on the false, and the power, as means over streams."""
    rng, results = np.random.default_rng(0), []
    for _ in range(repeats):
        calibration, odd = Calibration(rng.normal(size=n)), rng.random(rows) < share
        p = calibration.p_values(rng.normal(size=rows) - 4 * odd)
        if not shared:  # as if each normal row had a calibration set of its own
            p = np.where(odd, p, rng.integers(1, n + 2, rows) / (n + 1))
        alerts = OnlineSelector(fdr).select(p)
        past = np.append(0, np.cumsum(alerts))
        quiet = np.sum(past[:-1] == past[np.maximum(np.arange(rows) - 100, 0)])
        false = np.sum(alerts & ~odd)
        results.append(
            (false, alerts.sum(), fdr * (alerts.sum() + quiet / 100), alerts[odd].sum() / max(odd.sum(), 1))
        )
    return np.mean(results, axis=0), np.std(results, axis=0) / np.sqrt(repeats)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("share", [0, 0.02, 0.1])
def test_false_alerts_keep_the_bound_over_repeated_streams(share, shared):
    (false, alerts, bound, power), error = repeated(share, 120, shared)
    assert false <= bound + 3 * error[0]
    if share == 0.1:
        assert false <= 0.1 * alerts + 3 * error[0]  # where alerts come steadily it is the share that holds
        assert power > 0.85


def test_what_is_not_a_state_is_refused():
    state = OnlineSelector().to_dict()
    assert la.OnlineSelector is OnlineSelector
    for change in (
        {"format": 2},
        {"fdr": 2},
        {"window": 0},
        {"recent": [3]},
        {"recent": "x"},
        {"n_rows": None},
    ):
        with pytest.raises(ValueError, match="not the state of an OnlineSelector"):
            OnlineSelector.from_dict({**state, **change})
    with pytest.raises(ValueError, match="not the state of an OnlineSelector: 'recent'"):
        OnlineSelector.from_dict({k: v for k, v in state.items() if k != "recent"})
    with pytest.raises(ValueError, match=r"p_values must lie in \[0, 1\], got 1.5"):
        OnlineSelector().select([1.5])
    with pytest.raises(ValueError, match=r"fdr must lie in \(0, 1\), got 0"):
        OnlineSelector(fdr=0)
    with pytest.raises(ValueError, match="window must be a whole number of at least 1, got 0"):
        OnlineSelector(window=0)
