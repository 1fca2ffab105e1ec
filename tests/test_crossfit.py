"""Cross-conformal p-values: rows judged by models that have not seen them, on made-up and on real tables."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import TINY
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import lookalike as la
from lookalike.calibration import Calibration, select

LOF = LocalOutlierFactor(n_neighbors=5, novelty=True)
REAL = {
    "cancer": lambda: load_breast_cancer(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "digits": lambda: load_digits(return_X_y=True),
}


class Distance:
    """How far a row is from the mean of those fitted: as quick as it gets."""

    def __init__(self, seen=None):
        self.seen = seen

    def get_params(self, deep=True):
        return {"seen": self.seen}

    def set_params(self, **parameters):
        return self

    def fit(self, X):
        self.rows = np.asarray(X)
        return self

    def score_samples(self, X):
        assert not (np.asarray(X)[:, None] == self.rows).all(2).any(), "a row was seen"
        return -np.linalg.norm(X - self.rows.mean(0), axis=1)


class Memory(Distance):
    """The nearest row fitted: of a row that it has seen it says that nothing is more normal."""

    def score_samples(self, X):
        return -np.linalg.norm(np.asarray(X)[:, None] - self.rows, axis=2).min(1)


def uniform_gap(p):
    """How far above alpha the share of p-values of at most alpha rises, for alpha up to one half."""
    alphas = np.linspace(0.02, 0.5, 25)
    return np.max(np.mean(p[:, None] <= alphas, axis=0) - alphas)


@pytest.mark.parametrize("guaranteed", [False, True])
def test_p_values_of_new_normal_rows_are_super_uniform(guaranteed):
    rng, p = np.random.default_rng(0), []
    for _ in range(150):
        model = la.CrossConformal(Memory(), n_folds=5, random_state=rng).fit(rng.normal(size=(40, 2)))
        p.append(model.p_values(rng.normal(size=(20, 2)), guaranteed))
    assert uniform_gap(np.concatenate(p)) <= 0.015


def test_p_values_are_the_formula():
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(23, 2)), rng.normal(size=(9, 2))
    model = la.CrossConformal(Distance(), n_folds=3, random_state=1).fit(X)
    scores = [-np.linalg.norm(new - X[model.folds_ != k].mean(0), axis=1) for k in range(3)]
    held = [-np.linalg.norm(X[model.folds_ == k] - X[model.folds_ != k].mean(0), axis=1) for k in range(3)]
    counts = np.array([(h[:, None] <= s).sum(0) for h, s in zip(held, scores, strict=True)])
    assert model.p_values(new) == pytest.approx((1 + counts.sum(0)) / 24)
    own = [(1 + c) / (1 + len(h)) for c, h in zip(counts, held, strict=True)]
    assert model.p_values(new, guaranteed=True) == pytest.approx(np.minimum(1, 2 * np.mean(own, axis=0)))
    assert sorted(np.bincount(model.folds_)) == [7, 8, 8]


def test_rows_fitted_are_scored_as_if_unseen():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    X[:9] *= 20  # far from the others and from each other
    memory = la.CrossConformal(Memory(), random_state=0)
    labels = memory.fit_predict(X)
    assert (labels[:9] == -1).all()
    assert np.mean(labels == -1) == pytest.approx(0.05, abs=0.01)
    assert np.mean(memory.predict(X) == -1) < 0.04  # of rows that it has seen, it calls fewer odd
    assert np.array_equal(labels == -1, memory.out_of_fold_scores_ < memory.offset_)
    assert np.array_equal(memory.calibration_.scores, np.sort(memory.out_of_fold_scores_))
    la.CrossConformal(Distance(), random_state=0).fit(X)  # which refuses rows that it has seen
    share = la.CrossConformal(Memory(), contamination=0.2, random_state=0).fit_predict(X)
    assert np.mean(share == -1) == pytest.approx(0.2, abs=0.01)


def test_scores_of_the_folds_are_made_comparable():
    class Loud(Memory):
        """Each fit speaks on a scale of its own."""

        def score_samples(self, X):
            return super().score_samples(X) * 10 ** (1 + self.rows[0, 0] % 3) - self.rows[0, 1]

    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(200, 2)), 1.5 * rng.normal(size=(300, 2))
    plain, loud = (la.CrossConformal(m, random_state=0).fit(X) for m in (Memory(), Loud()))
    assert loud.score_samples(new) == pytest.approx(plain.score_samples(new))
    assert loud.out_of_fold_scores_ == pytest.approx(plain.out_of_fold_scores_)
    assert loud.offset_ == pytest.approx(plain.offset_)


@pytest.mark.parametrize("table", REAL)
@pytest.mark.parametrize("how", ["split", "cross"])
def test_p_values_are_super_uniform_on_real_tables(table, how):
    X, y = REAL[table]()
    X = X[y == (1 if table != "digits" else 3)]
    rng, p = np.random.default_rng(0), []
    estimator = make_pipeline(StandardScaler(), GaussianMixture(1, reg_covar=1e-2))
    for _ in range(40):
        train, test = np.split(rng.permutation(X), [len(X) * 3 // 4])
        if how == "split":
            fitted, held_out = np.split(train, [len(train) // 2])
            model = clone(estimator).fit(fitted)
            p.append(Calibration(model.score_samples(held_out)).p_values(model.score_samples(test)))
        else:
            p.append(la.CrossConformal(estimator, random_state=rng).fit(train).p_values(test))
    error = 2 / np.sqrt(40 * min(len(X) // 4, 20))  # rows of a table return, so draws are not independent
    assert uniform_gap(np.concatenate(p)) <= error


def planted(rng, share):
    """Digits 0 to 4 are normal; among the rows to judge some are 5 to 9."""
    X, y = load_digits(return_X_y=True)
    normal, odd = rng.permutation(X[y < 5]), rng.permutation(X[y >= 5])
    test, n_odd = normal[600:900], round(300 * share / (1 - share))
    labels = np.repeat([False, True], [len(test), n_odd])
    return normal[:600], np.concatenate([test, odd[:n_odd]]), labels


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_selection_keeps_its_level_on_a_real_table_where_a_share_does_not(share):
    rng, results = np.random.default_rng(0), []
    for seed in range(12):
        train, test, odd = planted(rng, share)
        model = la.CrossConformal(LOF, random_state=seed).fit(train)
        p, alerts = model.p_values(test), {}
        for method in ("bh", "storey", "by"):
            alerts[method] = select(p, 0.2, method)
        alerts["contamination"] = model.score_samples(test) < np.percentile(model.score_samples(test), 10)
        results.append([[(m & ~odd).sum() / max(m.sum(), 1), m[odd].mean()] for m in alerts.values()])
    (bh, storey, by, guess), error = np.mean(results, axis=0), np.std(results, axis=0) / np.sqrt(12)
    assert bh[0] <= 0.2 * (1 - share) + 3 * error[0, 0]
    assert storey[0] <= 0.2 + 3 * error[1, 0]
    assert by[0] <= bh[0]
    assert min(bh[1], storey[1]) > 0.5
    if share == 0.5:
        assert storey[1] > bh[1]  # more power where anomalies are many
        assert guess[1] < 0.3  # a guess of 10 % misses most of them


TABLES = [list, np.asarray, pd.DataFrame, lambda x: pl.DataFrame(x.tolist(), orient="row"), csr_array]


@pytest.mark.parametrize("container", TABLES, ids=["list", "array", "pandas", "polars", "sparse"])
def test_any_table_and_any_estimator_will_do(container):
    X = np.random.default_rng(0).normal(size=(60, 3)).round(2)
    estimator = IsolationForest(n_estimators=5, random_state=0)
    model = la.CrossConformal(estimator, n_folds=3, random_state=0).fit(container(X))
    plain = la.CrossConformal(estimator, n_folds=3, random_state=0).fit(X)
    assert np.array_equal(model.score_samples(container(X)), plain.score_samples(X))
    parts = model.p_values(container(X[i : i + 20]) for i in range(0, 60, 20))
    assert np.array_equal(np.concatenate(list(parts)), plain.p_values(X))


@pytest.mark.filterwarnings("ignore::lookalike.LookalikeWarning")
def test_our_estimators_are_crossed_too(people, others):
    model = la.CrossConformal(la.VAE(**TINY), n_folds=2, random_state=0).fit(people)
    p = model.p_values(others)
    assert p.min() >= 1 / (len(people) + 1)
    assert np.mean(p <= 0.1) < 0.25
    model.set_threshold(budget=10, X=others)
    assert (model.predict(others) == -1).sum() == 10


def test_it_is_one_of_scikit_learns():
    model = la.CrossConformal(LOF, n_folds=4, random_state=3)
    assert clone(model).get_params()["estimator__n_neighbors"] == 5
    assert clone(model).set_params(estimator__n_neighbors=7).estimator.n_neighbors == 7
    for method in ("predict", "score_samples", "p_values", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(model, method)([[0.0, 1.0]])
    with pytest.raises(NotFittedError):
        model.set_threshold(false_alarm_rate=0.1)
    X = np.random.default_rng(0).normal(size=(80, 2))
    piped = make_pipeline(StandardScaler(), model).fit(X)
    assert np.array_equal(piped.predict(X), piped.predict(X))
    assert model.fit(X).n_features_in_ == 2
    frame = pd.DataFrame(X, columns=["a", "b"])
    assert la.CrossConformal(IsolationForest(n_estimators=3)).fit(frame).feature_names_in_.tolist() == [
        "a",
        "b",
    ]
    for n_folds, message in (
        (1, "n_folds must be a whole number of at least 2, got 1"),
        (81, "at least n_folds=81"),
    ):
        with pytest.raises(ValueError, match=message):
            la.CrossConformal(LOF, n_folds=n_folds).fit(X)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_pass_but_those_of_fitted_rows():
    """Those ask that the rows fitted be predicted as if they were new: see `fit_predict`."""
    known = dict.fromkeys(
        ("check_outliers_fit_predict", "check_outliers_train"), "rows fitted count as unseen"
    )
    model = la.CrossConformal(IsolationForest(n_estimators=5, random_state=0), random_state=0)
    done = check_estimator(model, expected_failed_checks=known)
    assert {check["status"] for check in done} <= {"passed", "skipped", "xfail"}
