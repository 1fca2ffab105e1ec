"""Ensembles: unlike detectors on one scale, at least as good as most of them, with p-values that hold."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.sparse import csr_array
from scipy.stats import norm
from sklearn.base import BaseEstimator, clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils.estimator_checks import parametrize_with_checks

import lookalike as la
from lookalike.ensemble import NormalScale

# Tables here are too small to calibrate a rate of 5 % on, as ensembles and members say.
pytestmark = pytest.mark.filterwarnings("ignore::lookalike.LookalikeWarning")

TINY = {"max_steps": 25, "width": 16, "depth": 1, "batch_size": 64}
FOREST = IsolationForest(n_estimators=10)
LOF = LocalOutlierFactor(n_neighbors=5, novelty=True)


class Distance(BaseEstimator):
    """How far a row is from the mean of those fitted, in a unit of its own: as quick as it gets."""

    def __init__(self, unit=1.0):
        self.unit = unit

    def fit(self, X, y=None):
        self.mean_, self.n_ = np.asarray(X, float).mean(0), len(X)
        return self

    def score_samples(self, X):
        return -self.unit * np.linalg.norm(X - self.mean_, axis=1)


class First(Distance):
    """How large the first column is."""

    def score_samples(self, X):
        return -np.abs(np.asarray(X)[:, 0])


class Constant(Distance):
    def score_samples(self, X):
        return np.full(len(X), 7.0)


class Decider(BaseEstimator):
    """Offers a decision function alone."""

    def fit(self, X, y=None):
        self.distance_ = Distance().fit(X)
        return self

    def decision_function(self, X):
        return 3 + self.distance_.score_samples(X)


def numbers(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2))


def mixed(n):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"size": rng.normal(size=n), "kind": rng.choice(["x", "y"], n), "weight": rng.normal(size=n)}
    )


@parametrize_with_checks(
    [la.Ensemble([FOREST, LOF]), la.Ensemble([("rows", LOF), ("model", la.VAE(**TINY))], contamination=0.1)]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# ---- what it is worth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("table, anomaly", [(load_breast_cancer, 0), (load_wine, 2)])
def test_it_is_near_the_best_member_and_above_the_worst(table, anomaly):
    X, y = table(return_X_y=True)
    odd, alone, together = y == anomaly, [], []
    for seed in range(2):
        normal = np.random.default_rng(seed).permutation(np.flatnonzero(~odd))
        fitted, rest = np.split(normal, [len(normal) * 2 // 3])
        new = np.r_[rest, np.flatnonzero(odd)]
        members = [
            IsolationForest(),
            make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)),
            la.VAE(max_steps=100, width=32, depth=1),
        ]
        model = la.Ensemble(members, random_state=seed).fit(X[fitted])
        auc = [roc_auc_score(~odd[new], m.score_samples(X[new])) for m in model.named_estimators_.values()]
        alone.append(auc)
        together.append(roc_auc_score(~odd[new], model.score_samples(X[new])))
    best, worst = np.mean(alone, axis=0).max(), np.mean(alone, axis=0).min()
    assert np.mean(together) > worst
    assert np.mean(together) > best - 0.02


def test_p_values_of_new_normal_rows_are_super_uniform():
    rng, p = np.random.default_rng(0), []
    for _ in range(300):
        model = la.Ensemble([Distance(), First(), Constant()], random_state=rng)
        p.append(model.fit(rng.normal(size=(180, 2))).p_values(rng.normal(size=(20, 2))))
    alphas = np.arange(1, 11) / 10
    shares = np.mean(np.concatenate(p)[:, None] <= alphas, axis=0)
    assert (shares <= alphas + 0.025).all()
    assert shares == pytest.approx(alphas, abs=0.025)  # nine rows calibrate: exact at tenths


def test_p_values_hold_on_a_real_table():
    X, y = load_wine(return_X_y=True)
    X, p = X[y != 2], []
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(len(X))
        model = la.Ensemble([make_pipeline(StandardScaler(), LOF), Distance()], random_state=seed)
        p.append(model.fit(X[order[:91]]).p_values(X[order[91:]]))
    alphas = np.arange(1, 7) / 6  # five rows calibrate
    assert np.mean(np.concatenate(p)[:, None] <= alphas, axis=0) == pytest.approx(alphas, abs=0.05)


def test_the_rows_that_calibrate_are_used_for_nothing_else():
    X = numbers(200)
    model = la.Ensemble([Distance()], random_state=0).fit(X)
    (member,) = model.named_estimators_.values()
    assert member.n_ == 180
    assert len(model.calibration_.scores) == 10
    calibrating = np.isin(model.score_samples(X), model.calibration_.scores)
    moved = np.where(calibrating[:, None], 50 * X, X)
    again = la.Ensemble([Distance()], random_state=0).fit(moved)
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    assert again.calibration_.scores.max() < model.calibration_.scores.min()


def test_thresholds_are_those_asked_for():
    X = numbers(2000)
    auto = la.Ensemble([Distance()], random_state=0).fit(X)
    assert np.mean(auto.predict(numbers(2000, 1)) == -1) == pytest.approx(0.05, abs=0.04)
    share = la.Ensemble([Distance()], contamination=0.2, random_state=0)
    assert np.mean(share.fit_predict(X) == -1) == pytest.approx(0.2, abs=0.001)
    assert np.mean(share.set_threshold(budget=10, X=X).predict(X) == -1) == 0.005
    np.testing.assert_array_equal(share.decision_function(X), share.score_samples(X) - share.offset_)
    np.testing.assert_array_equal(share.anomaly_score(X), -share.score_samples(X))


# ---- the scale -------------------------------------------------------------------------------------------


def test_units_of_members_do_not_matter():
    X, new = numbers(300), 3 * numbers(100, 1)
    small, large = (la.Ensemble([Distance(), Distance(k)], random_state=0).fit(X) for k in (1.0, 1e6))
    assert large.score_samples(new) == pytest.approx(small.score_samples(new))


def test_normal_scores_are_normal_and_rise_far_beyond_the_reference():
    rng = np.random.default_rng(0)
    scale = NormalScale(rng.exponential(size=2000))
    assert scale(rng.exponential(size=2000)).std() == pytest.approx(1, abs=0.05)
    far = np.concatenate([-np.logspace(300, -3, 40), np.linspace(0, 20, 2000), np.logspace(2, 300, 40)])
    assert (np.diff(scale(far)) > 0).all()
    assert np.isfinite(scale(far)).all()
    # The tail of an exponential distribution goes on as it is: P(S > 15) = exp(-15).
    assert scale(np.array([15.0])) == pytest.approx(norm.isf(np.exp(-15)), abs=0.3)
    ends = scale.knots[[0, -1]]
    assert scale(np.nextafter(ends, (-np.inf, np.inf))) == pytest.approx(scale(ends), abs=1e-6)


@pytest.mark.parametrize("reference", [[2.0], [2.0] * 9, [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0]])
def test_ties_share_the_middle_of_their_ranks(reference):
    scale = NormalScale(np.array(reference))
    assert scale(np.array([2.0])) == pytest.approx(0, abs=1e-12)
    assert (np.diff(scale(np.array([-9.0, 0.0, 2.0, 4.0, 9.0]))) > 0).all()


def test_a_member_that_says_nothing_changes_no_ranking():
    X, new = numbers(300), numbers(50, 1)
    alone, beside = (la.Ensemble(m, random_state=0).fit(X) for m in ([LOF], [LOF, Constant()]))
    assert beside.score_samples(new) == pytest.approx(alone.score_samples(new) / 2)


# ---- members, seeds, parameters --------------------------------------------------------------------------


def test_equal_seeds_give_equal_ensembles():
    X = numbers(200)
    members = [("trees", make_pipeline(StandardScaler(), FOREST)), ("vae", la.VAE(**TINY))]
    first, same, other = (la.Ensemble(members, random_state=s).fit(X).score_samples(X) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other)


def test_members_get_seeds_of_their_own_unless_they_have_one():
    given = IsolationForest(n_estimators=10, random_state=5)
    model = la.Ensemble([FOREST, clone(FOREST), given], random_state=0).fit(numbers(100))
    seeds = [m.random_state for m in model.named_estimators_.values()]
    assert list(model.named_estimators_) == ["isolationforest-1", "isolationforest-2", "isolationforest-3"]
    assert seeds[2] == 5
    assert len({*seeds}) == 3
    assert FOREST.random_state is None  # members are cloned
    assert not hasattr(FOREST, "estimators_")


@pytest.mark.parametrize("named", [False, True])
def test_parameters_of_members_are_got_set_and_cloned(named):
    parts = [("isolationforest", clone(FOREST)), ("vae", la.VAE(**TINY))]
    model = la.Ensemble(parts if named else [part for _, part in parts], contamination=0.1)
    assert model.get_params()["vae__width"] == 16
    model.set_params(vae__width=8, isolationforest=LOF, contamination=0.2)
    assert (parts[1][1].width, model.contamination) == (8, 0.2)
    copy = clone(model)
    assert copy.get_params()["vae__width"] == 8
    assert copy.get_params()["vae"] is not parts[1][1]
    assert "LocalOutlierFactor(n_neighbors=5, novelty=True)" in repr(copy)
    assert "vae" not in model.set_params(estimators=[LOF]).get_params()
    with pytest.raises(ValueError, match="Invalid parameter 'depth' for estimator Ensemble"):
        model.set_params(depth=3)


def test_a_decision_function_will_do_and_an_ensemble_is_a_member():
    X, new = numbers(200), numbers(50, 1)
    assert la.Ensemble([Decider()], random_state=0).fit(X).score_samples(new) == pytest.approx(
        la.Ensemble([Distance()], random_state=0).fit(X).score_samples(new)
    )
    outer = la.Ensemble([la.Ensemble([FOREST, LOF]), OneClassSVM()], random_state=0)
    np.testing.assert_array_equal(outer.fit(X).score_samples(new), clone(outer).fit(X).score_samples(new))
    assert la.CrossConformal(outer, n_folds=2, random_state=0).fit(X).p_values([[9.0, 9.0]]) < 0.02


def test_a_member_explains_its_own_score():
    X = mixed(150)[["size", "weight"]]
    model = la.Ensemble([FOREST, la.VAE(**TINY)], random_state=0).fit(X)
    shares = model.explain(X[:4]).shares
    assert shares.sum(1) == pytest.approx(model.named_estimators_["vae"].anomaly_score(X[:4]))
    with pytest.raises(ValueError, match=r"must be one that explains \(vae\), got 'isolationforest'"):
        model.explain(X, member="isolationforest")
    with pytest.raises(
        ValueError, match=r"none of localoutlierfactor explains; lookalike's own estimators do"
    ):
        la.Ensemble([LOF]).fit(X.to_numpy()).explain(X.to_numpy())


# ---- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [pl.from_pandas, pa.Table.from_pandas, pd.DataFrame.to_numpy])
def test_every_container_gives_the_same_scores(container):
    frame = pd.DataFrame(numbers(200), columns=["b", "a"])
    model = la.Ensemble([FOREST, la.VAE(**TINY)], random_state=0)
    wanted = model.fit(frame).score_samples(frame)
    np.testing.assert_array_equal(model.fit(container(frame)).score_samples(container(frame)), wanted)
    np.testing.assert_array_equal(np.concatenate([*model.score_samples(iter([container(frame)]))]), wanted)


def test_columns_are_matched_by_name():
    frame = pd.DataFrame(numbers(200) * [1, 9], columns=["b", "a"])
    model = la.Ensemble([FOREST, la.VAE(**TINY)], random_state=0).fit(frame)
    assert model.feature_names_in_.tolist() == ["b", "a"]
    assert model.n_features_in_ == 2
    np.testing.assert_array_equal(model.score_samples(frame[["a", "b"]]), model.score_samples(frame))
    with pytest.raises(ValueError, match=r"member 'isolationforest'.*\n.*now missing:\n- a"):
        model.score_samples(frame[["b"]])


@pytest.mark.parametrize("container", [pd.DataFrame, pl.from_pandas])
def test_mixed_frames_go_to_whom_takes_them(container):
    frame = container(mixed(200))
    trees = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough"), FOREST
    )
    model = la.Ensemble([trees, la.VAE(**TINY)], random_state=0).fit(frame)
    assert np.isfinite(model.score_samples(frame)).all()
    message = (
        r"member 'isolationforest' \(IsolationForest\): could not convert string to float: '[xy]'\nWhere"
    )
    with pytest.raises(ValueError, match=message):
        la.Ensemble([la.VAE(**TINY), FOREST]).fit(frame)


def test_sparse_rows_go_to_whom_takes_them():
    X = numbers(100)
    model = la.Ensemble([FOREST], random_state=0)
    wanted = model.fit(X).score_samples(X)
    np.testing.assert_array_equal(model.fit(csr_array(X)).score_samples(csr_array(X)), wanted)
    with pytest.raises(la.SchemaError, match=r"member 'vae' \(VAE\): sparse input .* not supported"):
        la.Ensemble([FOREST, la.VAE(**TINY)]).fit(csr_array(X))


# ---- refusing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members, kind, message",
    [
        ([], ValueError, "estimators must be a list of at least one"),
        (FOREST, ValueError, "estimators must be a list of at least one"),
        ([("a", FOREST), ("a", LOF)], ValueError, "two estimators are named 'a'"),
        ([("a__b", FOREST)], ValueError, "cannot be named 'a__b'"),
        ([("contamination", FOREST)], ValueError, "cannot be named 'contamination'"),
        ([IsolationForest], TypeError, r"IsolationForest is a class. Give an instance: IsolationForest\(\)"),
        (["trees"], TypeError, r"member 'str' \(str\) is no estimator: it has no fit"),
        ([StandardScaler()], TypeError, "neither score_samples nor decision_function"),
        ([LocalOutlierFactor()], TypeError, "can with novelty=True"),
        ([la.VAE(width=-1)], ValueError, r"member 'vae' \(VAE\): width must be"),
    ],
)  # fmt: skip
def test_what_is_no_member_is_refused(members, kind, message):
    with pytest.raises(kind, match=message):
        la.Ensemble(members).fit(numbers(50))


@pytest.mark.parametrize(
    "data, message",
    [
        (numbers(2), "at least 3 rows, got n_samples = 2"),
        (numbers(50)[:, 0], "Reshape your data"),
        (pl.from_numpy(numbers(50)).lazy(), "Collect it first"),
        (mixed(50).to_numpy(), r"member 'localoutlierfactor' \(LocalOutlierFactor\): could not convert"),
    ],
)
def test_what_is_no_table_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        la.Ensemble([LOF]).fit(data)


def test_failures_of_ours_name_the_member():
    frame = pd.DataFrame({"one": 1.0, "number": np.arange(50.0)})
    frame.loc[3, "number"] = np.inf
    with pytest.raises(la.SchemaError, match=r"member 'second' \(VAE\): .*'number'.*inf"):
        la.Ensemble([("first", Constant()), ("second", la.VAE(**TINY))]).fit(frame)


def test_scores_that_are_no_numbers_are_refused():
    class Broken(Distance):
        def score_samples(self, X):
            return np.where(np.asarray(X)[:, 0] > 50, np.nan, super().score_samples(X))

    model = la.Ensemble([LOF, ("broken", Broken())]).fit(numbers(50))
    with pytest.raises(la.SchemaError, match="member 'broken' scored row 1 by nan"):
        model.score_samples([[0.0, 0.0], [99.0, 0.0]])


@pytest.mark.parametrize("contamination", [0.0, 0.7, "often", None])
def test_a_contamination_out_of_its_range_is_refused(contamination):
    with pytest.raises(ValueError, match="contamination must lie in"):
        la.Ensemble([LOF], contamination=contamination).fit(numbers(50))


def test_an_unfitted_ensemble_refuses():
    for verb in ("score_samples", "predict", "p_values", "explain"):
        with pytest.raises(NotFittedError):
            getattr(la.Ensemble([LOF]), verb)(numbers(5))
