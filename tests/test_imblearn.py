"""Samplers of imbalanced-learn's kind: its own checks, and its pipelines."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import TINY_MIXTURE
from imblearn.base import is_sampler
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline
from imblearn.utils.estimator_checks import estimator_checks_generator
from pandas.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler

import lookalike as la
from lookalike.boosting import BoostingClassifier
from lookalike.candidates import ClassWeights
from lookalike.integrations.imblearn import Generated
from lookalike.integrations.sklearn import Imputer

SMALL = la.Mixture(n_components=4, max_steps=20)
SPARSE = "check_samplers_pandas_sparse", "a sparse column is refused by name: what is learned is dense"


class Tagged(la.Augmenter):
    """With imbalanced-learn's own kind of tags, which tell the checks what to try."""

    def __sklearn_tags__(self):
        return Generated().__sklearn_tags__()


def named(part):
    return part.func.__name__ if hasattr(part, "func") else type(part).__name__


def checks_of(sampler, reasons):
    """imbalanced-learn's checks of a sampler; those that fail for a reason."""
    found = estimator_checks_generator(sampler, expected_failed_checks=reasons, mark="xfail")
    return pytest.mark.parametrize("sampler, check", list(found), ids=named)


@checks_of(Generated(SMALL, random_state=0), dict([SPARSE]))
def test_imbalanced_learns_checks(sampler, check):
    check(sampler)


@pytest.mark.slow
@pytest.mark.extras
@checks_of(
    Tagged(candidates=[ClassWeights()], cv=2, random_state=0),
    {
        "check_target_type": "it adds rows to tasks of numbers too",
        "check_samplers_fit": "it has no sampling strategy: cross-validation finds what to add",
        "check_samplers_list": "lists of rows come back as an array",
        "check_samplers_multiclass_ova": "its estimator would take a column for each class as several tasks",
    }
    | dict([SPARSE]),
)
def test_imbalanced_learns_checks_of_what_chooses(sampler, check):
    check(sampler)


@pytest.mark.parametrize("container", ["numpy", "pandas", "polars", "pyarrow"])
def test_every_kind_of_table_comes_back_with_more_rows_of_rare_classes(people, container):
    rows = people.drop(columns=["member", "key"]).reset_index(drop=True)
    y = pd.Series(np.where(people["income"] > 60_000, "rich", "not"), name="wealth")
    X, labels = {
        "numpy": lambda: (rows[["income", "age"]].to_numpy(), y.to_numpy()),
        "pandas": lambda: (rows, y.astype("category")),
        "polars": lambda: (pl.from_pandas(rows), pl.from_pandas(y)),
        "pyarrow": lambda: (pa.Table.from_pandas(rows), pa.chunked_array([y.tolist()])),
    }[container]()
    sampler = Generated(la.Mixture(**TINY_MIXTURE), sampling_strategy=0.5, random_state=0)
    new_X, new_y = sampler.fit_resample(X, labels)
    assert type(new_X) is type(X)
    assert type(new_y) is type(labels)
    assert len(new_X) == len(new_y)
    counts = pd.Series(np.asarray(new_y)).value_counts()
    assert counts["rich"] == int(counts["not"] * 0.5) > (y == "rich").sum()
    assert sampler.sampling_strategy_ == {"rich": counts["rich"] - (y == "rich").sum()}
    if container == "pandas":
        assert_frame_equal(new_X.head(len(rows)), rows)
        assert new_y.dtype == labels.dtype
        made = new_X[len(rows) :]
        assert made["income"].median() > 45_000 > rows["income"].median()  # of the class, not of all
        assert made["city"].isna().any()


def test_it_works_in_a_pipeline_and_a_search():
    rng = np.random.default_rng(0)
    rare = rng.random(300) < 0.15
    X = pd.DataFrame({"a": rng.normal(size=300) + 2 * rare, "b": rng.normal(size=300)})
    y = np.where(rare, "yes", "no")
    model = make_pipeline(
        StandardScaler().set_output(transform="pandas"),
        Generated(SMALL, random_state=0),
        LogisticRegression(),
    )
    search = GridSearchCV(
        model,
        {"generated__sampling_strategy": [0.3, "auto"], "generated__generator__n_components": [2, 4]},
        scoring="average_precision",
        cv=StratifiedKFold(2),
        error_score="raise",
    ).fit(X, rare)
    assert len(search.cv_results_["params"]) == 4
    fitted = clone(model).fit(X, y)
    assert fitted[:-1].get_feature_names_out().tolist() == ["a", "b"]
    # Rows are added where it is fitted alone, and more of the rare class are found.
    assert fitted.predict(X).shape == (300,)
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    assert (fitted.predict(X)[rare] == "yes").sum() > (plain.predict(X)[rare] == "yes").sum()


def test_what_chooses_works_in_a_pipeline_with_text_and_holes(people):
    X, y = people.drop(columns=["member", "key"]), people["member"].to_numpy()
    sampler = la.Augmenter(candidates=[ClassWeights()], cv=2, min_gain=-10, random_state=0)
    model = make_pipeline(
        Imputer(la.Mixture(**TINY_MIXTURE), n_draws=1, random_state=0), sampler, BoostingClassifier()
    ).fit(X, y)
    assert np.mean(model.predict(X) == y) > 0.8
    assert model[:-1].get_feature_names_out().tolist() == list(X)
    assert model[1].chosen_ == ClassWeights()


def test_equal_seeds_add_equal_rows_and_others_others():
    X, y = np.random.default_rng(0).normal(size=(100, 2)), np.arange(100) % 4 == 0
    a, b, c = (Generated(SMALL, random_state=seed).fit_resample(X, y)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a[:100] == c[:100]).all()
    assert (a[100:] != c[100:]).any()
    assert is_sampler(Generated())
    same = RandomOverSampler().fit_resample(X, y)[1]
    assert len(a) == len(same)


def test_what_makes_no_sense_is_refused():
    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3 == 0
    with pytest.raises(ValueError, match="generator must be an estimator that generates"):
        Generated(LogisticRegression()).fit_resample(X, y)
    with pytest.raises(la.SchemaError, match="X has 30 rows, y 20"):
        Generated(SMALL).fit_resample(X, y[:20])
    with pytest.raises(ValueError, match="sampling_strategy"):
        Generated(SMALL, sampling_strategy="most").fit(X, y)
