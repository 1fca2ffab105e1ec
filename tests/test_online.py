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


@given(streams, st.lists(st.integers(0, 60), max_size=5), st.integers(1, 20), st.booleans())
def test_decisions_do_not_depend_on_how_a_stream_is_cut_or_resumed(p, cuts, window, revive):
    whole = OnlineSelector(0.1, window, revive)
    alerts = whole.select(p)
    stream, found = OnlineSelector(0.1, window, revive), []
    for part in np.split(np.array(p), sorted(cuts)):
        found.append(stream.select(part))
        stream = OnlineSelector.from_dict(json.loads(json.dumps(stream.to_dict())))
    assert np.array_equal(np.concatenate(found), alerts)
    assert stream.level == whole.level
    assert stream.to_dict() == whole.to_dict()
    assert repr(stream) == repr(whole)


@given(streams, st.integers(1, 20))
def test_no_more_is_spent_than_the_proof_allows(p, window):
    """Levels known before their rows, that sum to at most fdr * max(alerts, 1): it needs no more."""
    stream, spent = OnlineSelector(0.2, window), 0.0
    for value in p:
        level = stream.level
        spent += level
        (alert,) = stream.select([value])
        assert alert == (0 < level >= value)
        assert spent <= 0.2 * max(stream.n_alerts, 1) + 1e-9
    reviving, spent, beginnings, alerts = OnlineSelector(0.2, window, revive=True), 0.0, set(), 0
    for value in p:
        spent += reviving.level
        beginnings.add(reviving.to_dict()["began"])
        alerts += int(reviving.select([value])[0])
        assert not reviving.silent
    assert spent <= 0.2 * (alerts + len(beginnings)) + 1e-9
    assert alerts >= stream.n_alerts


@given(streams, st.integers(0, 59), st.integers(1, 20))
def test_an_odder_row_takes_no_alert_away(p, i, window):
    """Monotone: what the proof of the false discovery rate asks for."""
    odder = np.array(p)
    odder[i : i + 1] = 0
    assert (OnlineSelector(0.2, window).select(p) <= OnlineSelector(0.2, window).select(odder)).all()


def test_a_stream_falls_silent_or_revives():
    lonely = np.ones(1000)
    lonely[[300, 700]] = 0
    stream, reviving = OnlineSelector(0.1, 50), OnlineSelector(0.1, 50, revive=True)
    assert not stream.select(lonely).any()
    assert stream.silent
    assert repr(stream) == "<OnlineSelector of fdr=0.1, window=50: 0 alerts among 1,000 rows, silent>"
    assert np.flatnonzero(reviving.select(lonely)).tolist() == [300, 700]


def test_memory_is_bounded():
    stream = OnlineSelector(0.5, window=50)
    stream.select(np.zeros(5000))
    assert stream.n_alerts == 5000
    assert len(stream.to_dict()["paying"]) <= 51


def repeated(share, shared, revive, repeats=150, n=2000, rows=1200, fdr=0.1):
    """Of each stream: the share of false alerts, their number, what bounds that, and the power."""
    rng, results = np.random.default_rng(0), []
    for _ in range(repeats):
        calibration, odd = Calibration(rng.normal(size=n)), rng.random(rows) < share
        p = calibration.p_values(rng.normal(size=rows) - 4 * odd)
        if not shared:  # as if each normal row had a calibration set of its own
            p = np.where(odd, p, rng.integers(1, n + 2, rows) / (n + 1))
        stream, quiet = OnlineSelector(fdr, 100, revive), set()
        alerts = np.zeros(rows, dtype=bool)
        for i in range(0, rows, 10):  # often enough to see each beginning
            alerts[i : i + 10] = stream.select(p[i : i + 10])
            (quiet.discard if stream._alerted else quiet.add)(stream._began)
        false, bound = (alerts & ~odd).sum(), fdr * (alerts.sum() + len(quiet))
        results.append((false / max(alerts.sum(), 1), false, bound, alerts[odd].sum() / max(odd.sum(), 1)))
    return np.mean(results, axis=0), np.std(results, axis=0) / np.sqrt(repeats)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("share", [0, 0.02, 0.1])
def test_false_discoveries_keep_the_rate_over_repeated_streams(share, shared):
    (rate, _, _, power), error = repeated(share, shared, revive=False)
    assert rate <= 0.1 + 3 * error[0]
    if share == 0.1:
        assert power > 0.75


@pytest.mark.parametrize("share", [0, 0.02, 0.1])
def test_revived_streams_keep_their_bound_and_find_more(share):
    (_, false, bound, power), error = repeated(share, True, revive=True)
    assert false <= bound + 3 * error[1]
    if share:
        assert power > 0.75


def test_what_is_not_a_state_is_refused():
    state = OnlineSelector().to_dict()
    assert la.OnlineSelector is OnlineSelector
    for change in (
        {"format": 2},
        {"fdr": 2},
        {"window": 0},
        {"paying": [3]},
        {"paying": "x"},
        {"n_rows": None},
    ):
        with pytest.raises(ValueError, match="not the state of an OnlineSelector"):
            OnlineSelector.from_dict({**state, **change})
    with pytest.raises(ValueError, match="not the state of an OnlineSelector: 'paying'"):
        OnlineSelector.from_dict({k: v for k, v in state.items() if k != "paying"})
    with pytest.raises(ValueError, match=r"p_values must lie in \[0, 1\], got 1.5"):
        OnlineSelector().select([1.5])
    with pytest.raises(ValueError, match=r"fdr must lie in \(0, 1\), got 0"):
        OnlineSelector(fdr=0)
    with pytest.raises(ValueError, match="window must be a whole number of at least 1, got 0"):
        OnlineSelector(window=0)
