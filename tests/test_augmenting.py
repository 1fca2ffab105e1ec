"""Rows are added where cross-validation says that they help; nothing fitted sees the rows left out."""

import warnings
from importlib.util import find_spec

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import t as student
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import lookalike as la
from lookalike.boosting import BoostingClassifier, BoostingRegressor
from lookalike.candidates import (
    TARGET,
    ClassWeights,
    Made,
    Nothing,
    Rare,
    Rows,
    Smote,
    Target,
    Taught,
    Training,
)
from lookalike.findings import Finding, choice, found

MIXTURE = la.Mixture(n_components=8, max_steps=40)
ONCE = StratifiedKFold(2)
FITTED = []  # tables that a `Truth` was fitted to: clones keep nothing of their own


NAMES = list("abcdef")
GAP = 0.8


def problem(n, seed, gap=GAP):
    """Two clouds of normal rows, a fifth of them of the class "yes"."""
    rng = np.random.default_rng(seed)
    yes = np.arange(n) % 5 == 0
    x = rng.normal(size=(n, len(NAMES))) + gap * yes[:, None]
    return pd.DataFrame(x, columns=NAMES), pd.Series(np.where(yes, "yes", "no"), name="bought")


class Truth(BaseEstimator):
    """Generates from the clouds of `problem` themselves."""

    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit(self, frame):
        FITTED.append(frame)
        self.codes_ = frame[TARGET]
        return self

    def generate(self, n, given=None, random_state=None):
        rng = np.random.default_rng(random_state)
        code = np.repeat(given[TARGET], n) if given else rng.choice(self.codes_, n)
        x = rng.normal(size=(n, len(NAMES))) + GAP * (code == "1")[:, None]
        return pd.DataFrame(x, columns=NAMES).assign(**{TARGET: code})


@pytest.fixture(scope="module")
def helped():
    """A tree of few rows, and a generator that knows the truth."""
    X, y = problem(400, 0)
    return la.augment(
        X,
        y,
        Truth(),
        DecisionTreeClassifier(max_depth=6, random_state=0),
        candidates=[Rare(1), Rows(20), ClassWeights()],
        random_state=0,
    )


def test_rows_that_help_are_chosen_and_said_to(helped):
    assert helped.report.chosen == Rows(20)
    assert len(helped.X) == len(helped.y) == 8400
    assert helped.sample_weight is None
    (found,) = (f for f in helped.report.findings if f.candidate == Rows(20))
    assert 0 < found.low < found.gain < found.high
    assert found.probability > 0.75
    assert helped.report.verdict == (
        f"generated rows x20: measured {found.gain:+.3f} average precision of yes, 95% interval "
        f"{found.low:+.3f} to {found.high:+.3f}; with what was expected before, {found.expected:+.3f}, "
        f"a gain with a probability of {found.probability:.2f}."
    )
    lines = repr(helped.report).splitlines()
    assert [line.startswith("*") for line in lines[2:]] == [False, False, True, False]
    assert [row["chosen"] for row in helped.report.table] == [False, False, True, False]


def test_the_real_rows_come_first_as_they_were(helped):
    X, y = problem(400, 0)
    pd.testing.assert_frame_equal(helped.X.head(400), X)
    pd.testing.assert_series_equal(helped.y.head(400), y)
    assert set(helped.y) == {"yes", "no"}


def test_rows_that_cannot_help_are_not_added():
    X, y = problem(100, 0, gap=20.0)
    candidates = [Rare(1), Rows(2), Taught(2), ClassWeights()]
    done = la.augment(X, y, MIXTURE, KNeighborsClassifier(3), candidates=candidates, cv=3, random_state=0)
    assert done.report.chosen == Nothing()
    assert done.sample_weight is None
    pd.testing.assert_frame_equal(done.X, X)
    pd.testing.assert_series_equal(done.y, y)
    assert done.report.verdict.startswith("no augmentation: the best candidate, ")
    assert " measured +0.000 average precision of yes, 95% interval +0.000 to +0.000; " in done.report.verdict


def test_what_is_fitted_has_not_seen_the_rows_left_out():
    X, y = problem(60, 1)
    FITTED.clear()
    tested = []

    def scoring(model, rows, labels):
        tested.append(rows)
        return float(np.mean(model.predict(rows) == labels))

    sampler = la.Augmenter(
        Truth(), KNeighborsClassifier(3), candidates=[Rare(1), Rows(1)], scoring=scoring, cv=4, random_state=0
    )
    sampler.fit(X, y)
    folds = tested[::3]  # each scores real rows alone and two candidates
    assert [rows is same for rows, same in zip(tested[1::3], folds, strict=True)] == [True] * 8
    for rows, fitted in zip(folds, FITTED[:8], strict=True):
        assert len(rows) == 15
        assert set(rows["a"]).isdisjoint(fitted["a"])
        assert set(rows["a"]) | set(fitted["a"]) == set(X["a"])


@pytest.mark.parametrize("container", ["numpy", "pandas", "polars", "pyarrow"])
def test_any_table_comes_back_as_it_came(container):
    X, y = problem(80, 2)
    X["kind"] = np.array(list("uvw"))[np.arange(80) % 3]
    X.loc[3, "a"] = np.nan
    make = {
        "numpy": lambda: (X[NAMES].to_numpy(np.float32), y.to_numpy()),
        "pandas": lambda: (X.astype({"kind": "category"}), y.astype("category")),
        "polars": lambda: (pl.from_pandas(X), pl.from_pandas(y)),
        "pyarrow": lambda: (pa.Table.from_pandas(X), pa.chunked_array([y.tolist()])),
    }[container]
    rows, labels = make()
    sampler = la.Augmenter(MIXTURE, candidates=[Rows(1.5)], cv=2, min_gain=-10, random_state=0)
    new, new_labels = sampler.fit_resample(rows, labels)
    assert type(new) is type(rows)
    assert type(new_labels) is type(labels)
    assert len(new) == len(new_labels) == 200
    read = pd.DataFrame(new) if container == "numpy" else new if container == "pandas" else new.to_pandas()
    given = pd.DataFrame(rows) if container == "numpy" else X.astype(read.dtypes)
    pd.testing.assert_frame_equal(read.head(80), given)
    if hasattr(new, "schema"):
        assert new.schema == rows.schema
    assert_array_equal(np.asarray(new_labels)[:80], y)


def test_a_column_of_the_table_can_be_named():
    X, y = problem(60, 3)
    named = la.augment(X.assign(bought=y), "bought", candidates=[ClassWeights()], cv=2, random_state=0)
    apart = la.augment(X, y, candidates=[ClassWeights()], cv=2, random_state=0)
    assert repr(named.report) == repr(apart.report)
    pd.testing.assert_series_equal(named.y, y)


def test_equal_seeds_give_equal_rows():
    X, y = problem(100, 4)
    a, b, other = (
        la.augment(
            X,
            y,
            MIXTURE,
            LogisticRegression(),
            candidates=[Taught(1), Rows(1)],
            cv=ONCE,
            min_gain=-10,
            random_state=seed,
        )
        for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(a.X, b.X)
    assert repr(a.report) == repr(b.report)
    assert_array_equal(a.sample_weight, b.sample_weight)
    assert not a.X.equals(other.X)


# ---- weights ----


def test_weights_come_where_they_are_taken_and_repeats_where_not():
    X, y = problem(100, 5)
    weighted, piped, repeated = (
        la.augment(X, y, estimator=model, candidates=[ClassWeights()], cv=2, min_gain=-10, random_state=0)
        for model in (
            LogisticRegression(),
            make_pipeline(StandardScaler(), LogisticRegression()),
            KNeighborsClassifier(3),
        )
    )
    for done in (weighted, piped):
        assert_array_equal(done.sample_weight, np.where(y == "yes", 4.0, 1.0))
        pd.testing.assert_frame_equal(done.X, X)
    assert repeated.sample_weight is None
    assert repeated.y.value_counts().to_dict() == {"yes": 80, "no": 80}
    sampler = la.Augmenter(
        estimator=LogisticRegression(), candidates=[ClassWeights()], cv=2, min_gain=-10, random_state=0
    )
    _, labels = sampler.fit_resample(X, y)
    assert labels.value_counts().to_dict() == {"yes": 80, "no": 80}


def test_repeats_keep_the_total_of_any_run_of_rows():
    weight = np.r_[np.ones(10), np.random.default_rng(0).random(200)]
    made = Made(np.arange(210)[:, None], np.arange(210), weight).repeated(0.5)
    assert_array_equal(made.y[:10], np.arange(10))
    times = np.bincount(made.y, minlength=210)
    assert np.abs(np.cumsum(times) - np.cumsum(weight)).max() <= 0.5 + 1e-9


def test_a_committees_labels_weigh_one_a_row_and_are_what_it_holds_likely():
    X, y = problem(200, 6)
    target = Target((y == "yes").to_numpy().astype(np.int64), np.array(["no", "yes"]))
    training = Training(X, target, MIXTURE, LogisticRegression(), 0)
    made = Taught(2).make(training)
    assert_allclose(made.weight[200:].sum(), 400)
    p = LogisticRegression().fit(X, y).predict_proba(made.X[200:])[:, 1]
    assert np.corrcoef(p, np.where(made.y[200:] == 1, made.weight[200:], 1 - made.weight[200:]))[0, 1] > 0.98
    assert (np.bincount(Rare(0.5).make(training).y) == [160, 80]).all()


# ---- tasks ----


def test_several_classes_and_numbers_are_tasks_too():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=120), "b": rng.choice(["u", "v"], 120)})
    kind = np.digitize(X["a"] + 0.3 * rng.normal(size=120), [-0.5, 1.0])
    many = la.augment(X, kind, MIXTURE, candidates=[Rare(1)], cv=ONCE, min_gain=-10, random_state=0)
    assert many.report.scoring == "area under the ROC curve"
    assert len(set(np.bincount(many.y))) == 1
    assert many.y.dtype == kind.dtype
    number = pd.Series(X["a"] ** 2 + 0.1 * rng.normal(size=120), name="z")
    far = la.augment(
        X, number, MIXTURE, candidates=[ClassWeights(), Taught(1)], cv=KFold(2), min_gain=-10, random_state=0
    )
    assert far.report.scoring == "minus root mean squared error"
    assert [f.candidate for f in far.report.findings] == [Nothing(), Taught(1)]
    assert len(far.y) == 240
    assert far.y.name == "z"
    assert far.y[120:].between(number.min(), number.max()).all()


def test_boosting_takes_tables_as_they_come(people):
    rows = people.drop(columns="member")
    labels = people["member"].to_numpy()
    model = BoostingClassifier().fit(rows, labels)
    assert np.mean(model.predict(rows) == labels) > 0.9
    assert_array_equal(model.predict_proba(rows).shape, (len(rows), 2))
    strange = rows.head(3).assign(city="Atlantis", age=None)
    assert np.isfinite(BoostingRegressor().fit(rows, labels.astype(float)).predict(strange)).all()


def test_smote_is_a_candidate_where_it_is_installed():
    X, y = problem(60, 7)
    X["kind"] = list("uv") * 30
    if find_spec("imblearn") is None:
        report = la.augment(X, y, candidates=[Smote()], cv=2, random_state=0).report
        assert report.verdict == "no augmentation: there was no candidate."
        assert repr(report).endswith("not tried: SMOTENC, as imbalanced-learn is not installed.")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = la.augment(X, y, candidates=[Smote()], cv=2, min_gain=-10, random_state=0)
        assert done.y.value_counts().to_dict() == {"yes": 48, "no": 48}
        assert set(done.X["kind"]) == {"u", "v"}


# ---- the choice ----


def test_the_interval_is_that_of_nadeau_and_bengio():
    alone = np.full(5, 0.5)
    differences = np.array([0.01, 0.03, -0.02, 0.04, 0.00])
    seen = found(Rows(1), alone + differences, alone, 0.25, 0.0, 500)
    half = student.ppf(0.975, 4) * np.sqrt((1 / 5 + 1 / 4) * np.var(differences, ddof=1))
    assert_allclose([seen.gain, seen.low, seen.high], [0.012, 0.012 - half, 0.012 + half])


def test_what_was_expected_counts_while_folds_say_little():
    alone = np.full(10, 0.5)

    def likely(candidate, gain, spread, n=500):
        noise = spread * np.resize([-1, 1], 10)
        return found(candidate, alone + gain + noise, alone, 0.25, 0.0, n).probability

    assert likely(Taught(1), 0.0, 0.1) > 0.75 > likely(Rows(1), 0.0, 0.1) == 0.5
    assert likely(Taught(1), -0.15, 0.1) < 0.75  # the rows speak against it
    assert likely(Taught(1), 0.0, 0.1, n=10_000) < 0.6  # of so many rows one fit learns little by chance
    assert likely(Rows(1), 0.02, 0.1) < 0.75 < likely(Rows(1), 0.02, 0.01)
    for candidate in (Taught(1), Rows(1)):
        assert likely(candidate, -0.005, 0.002) < 0.01
        assert likely(candidate, 0.005, 0.002) > 0.99
        assert likely(candidate, 0.0, 0.0) == 0  # the same to the last bit


def test_of_many_candidates_each_may_leave_a_share_of_the_doubt():
    def one(candidate, gain, probability, half=0.1):
        return Finding(candidate, np.full(5, 0.5), gain, gain - half, gain + half, gain / 2, probability)

    alone, likely = one(Nothing(), 0.0, 0.0, 0.0), one(Rows(1), 0.02, 0.8)
    assert choice([alone, likely], 0.75, 0.0) == Rows(1)
    others = [one(Rows(2), 0.0, 0.5), one(ClassWeights(), -0.01, 0.4)]
    assert choice([alone, likely, *others], 0.75, 0.0) == Nothing()
    assert choice([alone, likely, *others], 0.4, 0.0) == Rows(1)
    assert choice([alone, likely, one(Taught(1), 0.03, 0.76), *others], 0.75, 0.0) == Taught(1)  # expected
    assert choice([alone, one(Rows(1), 0.12, 0.8), *others], 0.75, 0.0) == Rows(1)  # its interval is above 0
    assert choice([alone, one(Rows(1), 0.12, 0.8), *others], 0.75, 0.05) == Nothing()


# ---- what is refused ----


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda y: y.mask(y.index == 7), r"y is missing \(NaN or null\) in row 7"),
        (lambda y: y.mask(y == "yes", "no"), r"y holds one class alone, 'no'"),
        (lambda y: y.mask(y.index < 90, "no"), r"class yes has 2 rows, fewer than 5 folds"),
        (lambda y: y[:50], r"X has 100 rows, y the shape \(50,\)"),
        (lambda y: "bougth", "y is 'bougth', which is not a column of X"),
        (lambda y: None, "y is None: pass what is to be predicted"),
    ],
)
def test_what_cannot_be_predicted_is_refused(change, message):
    X, y = problem(100, 8)
    with pytest.raises(la.SchemaError, match=message):
        la.augment(X, change(y), random_state=0)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"candidates": ["smote"]}, r"candidates must be of lookalike\.candidates, .* got 'smote'"),
        ({"generator": LogisticRegression()}, "generator must be an estimator that generates"),
        ({"confidence": 95}, "confidence must be a number from 0.01 to 1, got 95"),
        ({"cv": 1}, "cv must be a whole number from 2 to 100, got 1"),
        ({"cv": [(np.arange(50), np.arange(50, 100))]}, "cv must deal at least 2 folds, got 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    X, y = problem(100, 9)
    with pytest.raises(ValueError, match=message):
        la.Augmenter(**parameters).fit_resample(X, y)


def test_it_is_a_sampler_to_imbalanced_learn():
    pipeline = pytest.importorskip("imblearn.pipeline")
    X, y = problem(100, 10)
    sampler = la.Augmenter(candidates=[ClassWeights()], cv=2, min_gain=-10, random_state=0)
    model = pipeline.make_pipeline(sampler, LogisticRegression()).fit(X, y)
    assert np.mean(model.predict(X) == y) > 0.6
    assert sampler.chosen_ == ClassWeights()


def test_it_is_cloned_as_scikit_learn_does():
    sampler = la.Augmenter(estimator=LogisticRegression(), candidates=[ClassWeights()], min_gain=0.01)
    assert repr(clone(sampler)) == repr(sampler)
