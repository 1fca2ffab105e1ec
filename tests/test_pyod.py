"""PyOD's detectors behind scikit-learn's interface, and ours behind PyOD's: scores turned around, no more."""

import pickle  # noqa: TID251 - what joblib sends to its workers is one
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY_MIXTURE
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import lookalike as la
from lookalike.integrations.pyod import PyOD, as_pyod, from_pyod

PYOD = "of PyOD; install it with: pip install lookalike[pyod]"
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
    knn = pytest.importorskip("pyod.models.knn", reason=PYOD).KNN
    return [knn(), pytest.importorskip("pyod.models.iforest", reason=PYOD).IForest(n_estimators=20)]


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


# ---- the other way -----------------------------------------------------------------------------------------


def test_ours_is_a_detector_of_pyod(people):
    base = pytest.importorskip("pyod.models.base", reason=PYOD)
    ours = la.Mixture(**TINY_MIXTURE)
    detector = as_pyod(ours, contamination=0.05)
    assert isinstance(detector, base.BaseDetector)
    assert clone(detector).get_params()["estimator__n_components"] == ours.n_components
    detector.fit(people)
    alone = clone(ours).fit(people)
    np.testing.assert_array_equal(detector.decision_scores_, -alone.score_samples(people))
    assert detector.labels_.sum() == 20  # 5 % of 400
    np.testing.assert_array_equal(detector.labels_, detector.decision_scores_ > detector.threshold_)
    odd = people.head(50).assign(income=people["income"].max(), age=17)
    np.testing.assert_array_equal(detector.decision_function(odd), -alone.score_samples(odd))
    found = detector.predict(odd)
    np.testing.assert_array_equal(found, detector.decision_function(odd) > detector.threshold_)
    assert found.mean() > 0.5 > detector.predict(people).mean()
    outlying = detector.predict_proba(odd)
    np.testing.assert_allclose(outlying.sum(1), 1)
    assert outlying[:, 1].mean() > detector.predict_proba(people)[:, 1].mean()
    assert not hasattr(ours, "schema_")  # it is cloned
    with pytest.raises(NotFittedError):
        as_pyod(ours).decision_function(people)


def test_ours_joins_what_pyod_makes_of_detectors():
    lscp = pytest.importorskip("pyod.models.lscp", reason=PYOD).LSCP
    data = pytest.importorskip("pyod.utils.data", reason=PYOD)
    knn, _ = real_detectors()
    ours = as_pyod(la.Mixture(**TINY_MIXTURE))
    both = lscp([ours, knn], n_bins=2, random_state=0).fit(X)
    assert both.predict(FAR).tolist() == [0, 1]
    scores = ours.fit(X).decision_function(FAR)
    data.evaluate_print("ours", np.array([0, 1]), scores)  # refuses what is no scores
    again = pickle.loads(pickle.dumps(ours))  # noqa: S301 - as joblib sends detectors to its workers
    np.testing.assert_array_equal(again.decision_function(FAR), scores)


def test_there_and_back_nothing_changes():
    pytest.importorskip("pyod", reason=PYOD)
    trees = IsolationForest(n_estimators=20, random_state=0)
    back = from_pyod(as_pyod(trees)).fit(X)
    np.testing.assert_array_equal(back.score_samples(FAR), clone(trees).fit(X).score_samples(FAR))
    assert back.predict(FAR).tolist() == [1, -1]
    knn = real_detectors()[0]
    there = as_pyod(from_pyod(knn)).fit(X)
    np.testing.assert_array_equal(there.decision_function(FAR), clone(knn).fit(X).decision_function(FAR))


def test_a_fitted_detector_scores_as_it_was_fitted():
    detector = StandIn().fit(X)
    model = from_pyod(detector)
    assert model.detector_ is detector
    np.testing.assert_array_equal(model.score_samples(FAR), -detector.decision_function(FAR))
    assert model.predict(FAR).tolist() == [1, -1]
    with pytest.raises(NotFittedError):
        from_pyod(StandIn()).score_samples(FAR)
    with pytest.raises(TypeError, match="Give an instance"):
        from_pyod(StandIn)


@pytest.mark.parametrize(
    "estimator, message",
    [
        (la.Mixture, r"estimator is the class Mixture. Give an instance: as_pyod\(Mixture\(\)\)"),
        (StandIn(), "estimator must have fit and score_samples, higher for more normal rows, got StandIn"),
    ],
)
def test_what_does_not_score_is_no_detector_of_pyod(estimator, message):
    with pytest.raises(TypeError, match=message):
        as_pyod(estimator)
