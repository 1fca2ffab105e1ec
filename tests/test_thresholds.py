"""Thresholds by rate, share, budget and cost: each does what it says, before and after export."""

import pickle  # noqa: TID251 - a model goes to workers by it

import numpy as np
import onnxruntime as ort
import pytest
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest

import lookalike as la
from lookalike import onnxfile, runtime
from lookalike.calibration import Calibration
from lookalike.thresholds import Thresholded, by_budget, candidates

RNG = np.random.default_rng(0)


class Scores(Thresholded):
    """A model whose rows are their own scores."""

    def __init__(self, calibration):
        self.calibration_ = Calibration(calibration)
        self.offset_ = 0.0

    def score_samples(self, X):
        return np.asarray(X, dtype=float) if not hasattr(X, "__next__") else map(np.asarray, X)

    def _check(self, task):
        assert task == "score"


def alerts(model, X):
    return int((model.score_samples(X) < model.offset_).sum())


finite = st.floats(-1e6, 1e6) | st.integers(0, 3).map(float)


@given(st.lists(finite, min_size=1, max_size=30), st.integers(0, 40))
def test_a_budget_is_kept_and_used_up_as_far_as_ties_allow(scores, budget):
    scores = np.array(scores)
    offset = by_budget(scores, budget)
    assert (scores < offset).sum() <= budget
    more = np.unique(scores[scores >= offset])
    if more.size:  # to take in the next score, with all that equal it, would be too much
        assert (scores <= more[0]).sum() > budget


@given(st.lists(finite, min_size=1, max_size=30))
def test_candidates_part_the_scores_in_every_way(scores):
    scores = np.array(scores)
    counts = {int((scores < place).sum()) for place in candidates(scores)}
    assert counts == {int((scores < value).sum()) for value in np.unique(scores)} | {len(scores)}


def test_a_false_alarm_rate_holds_among_new_normal_rows():
    rates = []
    for _ in range(200):
        model = Scores(RNG.normal(size=199)).set_threshold(false_alarm_rate=0.1)
        rates.append(alerts(model, RNG.normal(size=500)) / 500)
    assert np.mean(rates) == pytest.approx(0.1, abs=0.01)


def test_a_budget_of_a_stream_is_that_of_false_alerts():
    counts = []
    for _ in range(100):
        model = Scores(RNG.normal(size=999)).set_threshold(budget=20, per=1000)
        counts.append(alerts(model, RNG.normal(size=1000)))
    assert np.mean(counts) == pytest.approx(20, abs=2)
    seen = RNG.normal(size=500)  # of rows that are given, no more than their part of the budget
    assert alerts(model.set_threshold(budget=20, per=1000, X=seen), seen) == 10
    assert alerts(model.set_threshold(budget=7, X=seen), seen) == 7
    assert alerts(model.set_threshold(budget=0, X=seen), seen) == 0
    assert alerts(model.set_threshold(budget=9999, X=seen), seen) == 500
    parts = (seen[i : i + 100] for i in range(0, 500, 100))
    assert alerts(model.set_threshold(budget=7, X=parts), seen) == 7


def costs(scores, y, offset, miss, false_alarm, prior):
    missed, alarmed = np.mean(scores[y == -1] >= offset), np.mean(scores[y == 1] < offset)
    return prior * miss * missed + (1 - prior) * false_alarm * alarmed


@pytest.mark.parametrize(("miss", "false_alarm"), [(1, 1), (5, 1), (1, 5)])
def test_the_threshold_costs_least_with_labels_and_nearly_so_without(miss, false_alarm):
    def draw(n, share=0.1):
        y = np.where(RNG.random(n) < share, -1, 1)
        return RNG.normal(size=n) - 3 * (y == -1), y

    model = Scores(RNG.normal(size=2000))
    X, y = draw(4000)
    places = candidates(X)[::7]
    model.set_threshold(cost=(miss, false_alarm), X=X, y=y)
    least = min(costs(X, y, place, miss, false_alarm, np.mean(y == -1)) for place in places)
    assert costs(X, y, model.offset_, miss, false_alarm, np.mean(y == -1)) <= least
    labelled = model.offset_
    new, new_y = draw(50_000)
    best = min(costs(new, new_y, place, miss, false_alarm, 0.1) for place in np.linspace(-6, 3, 200))
    trivial = min(0.1 * miss, 0.9 * false_alarm)  # no alert at all, or nothing but alerts
    for prior in (0.1, None):
        model.set_threshold(cost=(miss, false_alarm), X=X, prior=prior)
        found = costs(new, new_y, model.offset_, miss, false_alarm, 0.1)
        assert found <= best + 0.1 * (trivial - best) + 0.01
    # Where anomalies are rarer to come than among the labelled rows, a threshold is lower.
    assert model.set_threshold(cost=(miss, false_alarm), X=X, y=y, prior=0.001).offset_ <= labelled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "set_threshold takes one of false_alarm_rate, contamination, budget, cost, got none"),
        ({"budget": 3, "contamination": 0.1, "X": [1.0]}, "takes one of .*, got contamination and budget"),
        ({"false_alarm_rate": 2}, r"alpha must lie in \(0, 1\), got 2"),
        ({"false_alarm_rate": 0.1, "X": [1.0]}, "X is of no use to false_alarm_rate: leave it out"),
        ({"contamination": 0.1}, "contamination is about rows: give them as X"),
        ({"contamination": 0.7, "X": [1.0]}, r"contamination must lie in \(0, 0.5\], got 0.7"),
        ({"budget": 3}, "budget is about rows: give them as X, or say in how many rows"),
        ({"budget": 0, "per": 10}, "budget must be at least 1 without X"),
        ({"budget": 10, "per": 10}, "budget must be less than per, got 10 of 10"),
        ({"budget": 1.5, "X": [1.0]}, "budget must be a whole number of at least 0, got 1.5"),
        ({"cost": 3, "X": [1.0]}, "cost must be two numbers, of a miss and of a false alarm, got 3"),
        ({"cost": (1, 0), "X": [1.0]}, "the cost of a false alarm must be a number above 0, got 0"),
        ({"cost": (1, 1)}, "cost is about rows"),
        ({"cost": (1, 1), "X": [1.0], "prior": 1}, r"prior must lie in \(0, 1\), got 1"),
        ({"cost": (1, 1), "X": [1.0, 2.0], "y": [1, 1]}, "y must hold both normal rows"),
        ({"cost": (1, 1), "X": [1.0, 2.0], "y": [0, 1]}, r"y must hold 1 \(normal\) or -1 \(anomaly\)"),
    ],
)
def test_rules_say_what_they_need(arguments, message):
    model = Scores([1.0, 2.0])
    with pytest.raises(ValueError, match=message):
        model.set_threshold(**arguments)
    assert model.offset_ == 0  # as it was


# ---- models ----


COLUMNS = ["income", "city"]


@pytest.fixture(scope="module")
def rows(others):
    return others[COLUMNS]


@pytest.fixture(scope="module")
def fitted(people, rows):
    return la.VAE(**TINY).fit(people[COLUMNS]).set_threshold(budget=12, X=rows)


@pytest.fixture(scope="module")
def file(fitted, tmp_path_factory):
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("thresholds") / "score.onnx"
    fitted.export(path, explain=False)
    return path


def test_before_fit_there_is_no_threshold_to_set():
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        la.VAE().set_threshold(false_alarm_rate=0.1)


def test_contamination_is_what_it_is_in_fit(people):
    auto = la.VAE(**TINY).fit(people).set_threshold(contamination=0.2, X=people)
    assert auto.offset_ == la.VAE(**TINY, contamination=0.2).fit(people).offset_
    assert np.mean(auto.predict(people) == -1) == pytest.approx(0.2, abs=1 / len(people))


def test_a_threshold_set_after_fit_is_saved_and_exported(fitted, file, rows, tmp_path):
    assert (fitted.predict(rows) == -1).sum() == 12
    fitted.save(tmp_path / "model.lookalike")
    assert la.load(tmp_path / "model.lookalike").offset_ == fitted.offset_
    assert runtime.load(file).offset_ == fitted.offset_


def test_a_threshold_set_after_export_holds_everywhere(file, rows, tmp_path):
    model = runtime.load(file, device="cpu")
    scores, p = model.score_samples(rows), model.p_values(rows)
    old = model.offset_
    for rule in ({"budget": 20, "X": rows}, {"contamination": 0.1, "X": rows},
                 {"false_alarm_rate": 0.25}, {"cost": (5.0, 1.0), "X": rows}):  # fmt: skip
        model.set_threshold(**rule)
        assert_array_equal(model.predict(rows) == -1, model.decision_function(rows) < 0)
        assert_array_equal(model.predict(rows) == -1, scores < model.offset_)
    model.set_threshold(false_alarm_rate=0.25)
    assert_array_equal(model.predict(rows) == -1, p <= 0.25)
    assert model.offset_ > old
    assert model.verify() < 1e-4  # of the file as it was exported
    digest = model.save(tmp_path / "new.onnx")
    new = runtime.load(tmp_path / "new.onnx", sha256=digest)
    assert new.info()["threshold"] == new.offset_ == model.offset_
    assert new.verify() < 1e-4
    # onnxruntime alone, with nothing of ours: the label of the graph has moved as well.
    session = ort.InferenceSession(tmp_path / "new.onnx", providers=["CPUExecutionProvider"])
    feeds = model._feeds(model._rows(rows))(0, len(rows))
    score, label, p_value = session.run(["score", "label", "p_value"], feeds)
    assert_array_equal(label == -1, score < model.offset_)
    assert_array_equal(label, model.predict(rows))
    assert_array_equal(p_value, p)
    # All else is as it was, and a file whose threshold is set back is the old one to the byte of its graph.
    before, after = (onnxfile.read(path) for path in (file, tmp_path / "new.onnx"))
    ours = before.document("lookalike"), after.document("lookalike")
    assert {k for k in ours[0] if ours[0][k] != ours[1][k]} <= {"threshold", "golden"}
    new.offset_ = old
    new.save(tmp_path / "back.onnx")
    assert onnxfile.read(tmp_path / "back.onnx").document("lookalike") == ours[0]


def test_a_model_keeps_its_threshold_in_other_processes(file, rows):
    model = runtime.load(file, device="cpu").set_threshold(budget=9, X=rows)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    assert again.offset_ == model.offset_
    assert again.verify() < 1e-4


def test_what_cannot_be_a_threshold_is_not_written(file, tmp_path):
    model = runtime.load(file, device="cpu")
    path = tmp_path / "model.onnx"
    model.save(path)
    before = path.read_bytes()
    for wrong in (np.nan, np.inf):
        model.offset_ = wrong
        with pytest.raises(la.ArtifactError):
            model.save(path)
    assert path.read_bytes() == before


def test_the_default_of_an_input_that_is_none_is_not_changed(file):
    with pytest.raises(ValueError, match="no single initializer 'treshold'"):
        onnxfile.with_default(file.read_bytes(), "treshold", 1.0)


def test_thresholds_on_a_real_table():
    X, y = load_breast_cancer(return_X_y=True)
    y = np.where(y == 1, 1, -1)  # benign is normal
    normal, odd = X[y == 1], X[y == -1][:40]
    train, rest = normal[:180], normal[180:]
    model = la.CrossConformal(IsolationForest(random_state=0), random_state=0).fit(train)
    test, labels = np.concatenate([rest, odd]), np.repeat([1, -1], [len(rest), 40])
    model.set_threshold(false_alarm_rate=0.1)
    assert np.mean(model.predict(rest) == -1) <= 0.1 + 2 * np.sqrt(0.09 / len(rest)) + 2 * np.sqrt(0.09 / 180)
    model.set_threshold(budget=30, X=test)
    assert (model.predict(test) == -1).sum() == 30
    cheap = model.set_threshold(cost=(1, 10), X=test, y=labels).offset_
    dear = model.set_threshold(cost=(10, 1), X=test, y=labels).offset_
    assert cheap < dear
    assert np.mean(model.predict(odd) == -1) > 0.85
