"""PyOD's detectors behind scikit-learn's interface: their scores turned around, and nothing else changed."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import lookalike as la
from lookalike.integrations.pyod import PyOD

X = np.random.default_rng(0).normal(size=(400, 3))
FAR = np.array([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0]])


class StandIn(BaseEstimator):
    """PyOD's interface, in the few words that are used of it."""

    def __init__(self, contamination=0.1):
        self.contamination = contamination

    def fit(self, X, y=None):
        self.mean_ = X.mean(0)
        self.decision_scores_ = self.decision_function(X)
        self.threshold_ = np.percentile(self.decision_scores_, 100 * (1 - self.contamination))
        return self

    def decision_function(self, X):
        return np.linalg.norm(X - self.mean_, axis=1)

    def predict(self, X):
        return (self.decision_function(X) > self.threshold_).astype(int)


def real_detectors():
    name = "of PyOD; install it with: pip install lookalike[pyod]"
    knn = pytest.importorskip("pyod.models.knn", reason=name).KNN
    return [knn(), pytest.importorskip("pyod.models.iforest", reason=name).IForest(n_estimators=20)]


def holds(detector):
    """The facts that hold of any detector."""
    model = PyOD(detector).fit(X)
    np.testing.assert_array_equal(model.score_samples(FAR), -model.detector_.decision_function(FAR))
    assert model.predict(FAR).tolist() == [1, -1]
    np.testing.assert_array_equal(model.predict(X), 1 - 2 * model.detector_.predict(X))
    np.testing.assert_array_equal(model.decision_function(FAR), model.score_samples(FAR) - model.offset_)
    assert not hasattr(detector, "decision_scores_")  # it is cloned
    scaled = make_pipeline(StandardScaler(), PyOD(detector)).fit(X)
    assert scaled.predict(FAR).tolist() == [1, -1]


@parametrize_with_checks([PyOD(StandIn())])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_a_stand_in_is_turned_around():
    holds(StandIn())


def test_pyods_own_detectors_are_turned_around():
    for detector in real_detectors():
        holds(detector)


def test_pyods_own_detectors_join_an_ensemble():
    knn, trees = real_detectors()
    members = [("knn", PyOD(knn)), ("trees", PyOD(trees)), ("ours", IsolationForest())]
    model = la.Ensemble(members, random_state=0)
    assert model.fit(X).score_samples(FAR)[1] < -2
    np.testing.assert_array_equal(clone(model).fit(X).score_samples(FAR), model.score_samples(FAR))


def test_parameters_reach_the_detector():
    model = PyOD(StandIn()).set_params(detector__contamination=0.3)
    assert clone(model).get_params()["detector__contamination"] == 0.3
    assert np.mean(model.fit(X).predict(X) == -1) == pytest.approx(0.3, abs=0.01)


def test_an_ensemble_takes_it_wrapped_and_refuses_it_bare():
    model = la.Ensemble([PyOD(StandIn()), IsolationForest(n_estimators=10)], random_state=0).fit(X)
    assert model.p_values(FAR)[1] == 1 / 21
    for bare in (StandIn(), make_pipeline(StandardScaler(), StandIn())):
        with pytest.raises(TypeError, match=r"'odd' is a detector of PyOD, .*Wrap it: .*pyod.PyOD\(StandIn"):
            la.Ensemble([("odd", bare)]).fit(X)


@pytest.mark.parametrize(
    "detector, message",
    [
        (StandIn, r"detector is the class StandIn. Give an instance: PyOD\(StandIn\(\)\)"),
        ("KNN", "str is no detector of PyOD: it has no fit and no decision_function"),
        (IsolationForest(), "it has score_samples, higher for more normal rows. Use it as it is"),
    ],
)
def test_what_is_no_detector_is_refused(detector, message):
    with pytest.raises(TypeError, match=message):
        PyOD(detector).fit(X)


def test_a_detector_that_leaves_no_scores_is_refused():
    class Classifier(LogisticRegression):
        def fit(self, X, y=None):
            return super().fit(X, X[:, 0] > 0)

    with pytest.raises(
        TypeError, match="Classifier is no detector of PyOD: its fit leaves no decision_scores_"
    ):
        PyOD(Classifier()).fit(X)


def test_an_unfitted_one_refuses():
    with pytest.raises(NotFittedError):
        PyOD(StandIn()).score_samples(X)


def test_pyod_is_not_imported():
    code = "import sys, lookalike.integrations.pyod; sys.exit('pyod' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
