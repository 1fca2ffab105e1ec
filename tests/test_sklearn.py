"""The estimators are scikit-learn's: its own checks pass with none excused, and its tools drive them."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone, is_outlier_detector
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import lookalike as la
from lookalike.integrations.sklearn import Imputer

# The tables here are too small to calibrate a rate of 5 % on, as the estimators say.
pytestmark = pytest.mark.filterwarnings("ignore::lookalike.LookalikeWarning")

TINY = {"max_steps": 25, "width": 16, "depth": 1, "batch_size": 64}
FAMILIES = [
    la.VAE(**TINY),
    la.GAN(**TINY),
    la.Diffusion(**TINY, n_steps=2),
    la.Hybrid(**TINY, n_steps=2),
    la.Detector(**TINY),
    la.Mixture(max_steps=25, n_components=8, batch_size=64),
]


@parametrize_with_checks(FAMILIES)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def blob_and_strays() -> tuple[np.ndarray, np.ndarray]:
    """A correlated blob, +1, and rows that break the correlation, -1."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(180, 1))
    blob = np.hstack([u, u + 0.1 * rng.normal(size=u.shape), rng.normal(size=u.shape)])
    strays = np.hstack(
        [3 + rng.normal(size=(20, 1)), -3 + rng.normal(size=(20, 1)), rng.normal(size=(20, 1))]
    )
    return np.vstack([blob, strays]), np.repeat([1, -1], [180, 20])


@pytest.fixture(params=FAMILIES, ids=lambda f: type(f).__name__)
def unfitted(request):
    return clone(request.param).set_params(random_state=0)


def test_a_clone_is_unfitted_has_equal_parameters_and_fits_to_equal_scores(unfitted):
    X, _ = blob_and_strays()
    wish = {"x0": la.Number(lower=-10, upper=10)}
    first = unfitted.set_params(contamination=0.1, schema=wish).fit(X)
    second = clone(first)
    assert not hasattr(second, "schema_")
    assert repr(second.get_params()) == repr(first.get_params())
    np.testing.assert_array_equal(second.fit(X).score_samples(X), first.score_samples(X))


def test_a_pipeline_scales_fits_and_predicts(unfitted):
    X, _ = blob_and_strays()
    pipeline = make_pipeline(StandardScaler(), unfitted).fit(X)
    scaled = StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(
        pipeline.score_samples(X), clone(unfitted).fit(scaled).score_samples(scaled)
    )
    assert set(pipeline.predict(X)) <= {1, -1}
    assert pipeline.decision_function(X).shape == (200,)


def test_a_pipeline_hands_frames_on_with_their_names(unfitted):
    X, _ = blob_and_strays()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    pipeline = make_pipeline(StandardScaler().set_output(transform="pandas"), unfitted).fit(frame)
    assert pipeline[-1].feature_names_in_.tolist() == ["a", "b", "c"]
    scaled = pipeline[0].transform(frame)[["c", "a", "b"]]
    np.testing.assert_array_equal(pipeline[-1].score_samples(scaled), pipeline.score_samples(frame))


@pytest.mark.parametrize("routing", [False, True])
def test_a_grid_search_ranks_by_auroc(unfitted, routing):
    X, y = blob_and_strays()
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), unfitted),
            {f"{type(unfitted).__name__.lower()}__max_steps": [2, 30]},
            scoring="roc_auc",
            cv=StratifiedKFold(2, shuffle=True, random_state=0),
            error_score="raise",
        ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > 0.7
    assert search.predict(X).shape == (200,)


def test_it_is_an_outlier_detector_that_takes_text_and_holes(unfitted):
    tags = get_tags(unfitted)
    assert is_outlier_detector(unfitted)
    assert tags.input_tags.allow_nan
    assert tags.input_tags.string
    assert tags.input_tags.categorical
    assert not tags.input_tags.sparse
    assert not tags.target_tags.required


def test_no_metadata_is_asked_for(unfitted):
    with config_context(enable_metadata_routing=True):
        assert unfitted.get_metadata_routing()._serialize() == {}


# ---- Imputer ----


@parametrize_with_checks([Imputer(la.Mixture(max_steps=20, n_components=4), n_draws=2, random_state=0)])
def test_scikit_learns_checks_of_the_imputer(estimator, check):
    check(estimator)


def test_holes_are_filled_as_a_step_of_a_pipeline(people, others):
    names = ["income", "age", "debt", "city"]
    model = la.Mixture(max_steps=40, n_components=12)
    imputer = Imputer(model, random_state=0).fit(people[names])
    filled = imputer.transform(others[names])
    assert not filled.isna().any().any()
    known = others[names].notna()
    assert filled.where(known).equals(others[names].where(known))
    # As the generator itself has it, of twenty draws.
    own = imputer.generator_.impute(others[names], 20, imputer.seed_, combine=True)
    pd.testing.assert_frame_equal(filled, own)
    numbers = names[:3]
    pipeline = make_pipeline(clone(imputer).set_params(n_draws=5), StandardScaler(), LogisticRegression())
    scores = cross_val_score(pipeline, people[numbers], people["member"], cv=3, error_score="raise")
    assert scores.mean() > 0.6
    with pytest.raises(ValueError, match="generator must be an estimator that imputes"):
        Imputer(LogisticRegression()).fit(people[names])


def test_output_is_of_the_kind_that_is_set(people):
    frame = people[["income", "debt"]].reset_index(drop=True)
    imputer = Imputer(la.Mixture(max_steps=20, n_components=4), n_draws=1, random_state=0).fit(frame)
    wanted = imputer.transform(frame)
    assert imputer.set_output(transform="polars").transform(frame).to_pandas().equals(wanted)
    assert imputer.get_feature_names_out().tolist() == ["income", "debt"]
    bare = clone(imputer).set_output(transform="pandas").fit(frame.to_numpy())
    made = bare.transform(frame.to_numpy())
    assert isinstance(made, pd.DataFrame)
    assert list(made) == ["x0", "x1"]
