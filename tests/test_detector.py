"""The detector on real rows: what it finds, with and without labels, and that its file finds the same."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import lookalike as la
from lookalike import runtime


def contaminated(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Breast cancers among other cells: one row in ten, and alike."""
    X, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(seed)
    odd = rng.permutation(np.flatnonzero(y == 0))[:40]
    return np.concatenate([X[y == 1], X[odd]]), np.repeat([0, 1], [(y == 1).sum(), len(odd)])


def test_unlabelled_anomalies_among_the_rows_fitted_are_found() -> None:
    X, y = contaminated()
    model = la.Detector(random_state=0).fit(X)
    nearest = NearestNeighbors(n_neighbors=6).fit(X / X.std(0))
    by_neighbours = nearest.kneighbors(X / X.std(0))[0][:, 1:].mean(1)
    ours = roc_auc_score(y, model.anomaly_score(X))
    assert ours > 0.85
    assert ours > roc_auc_score(y, by_neighbours) + 0.02


def test_a_few_known_anomalies_help_to_find_others() -> None:
    X, digit = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    usual, odd = rng.permutation(np.flatnonzero(digit != 8)), rng.permutation(np.flatnonzero(digit == 8))
    fitted, known = usual[:800], odd[:10]
    new = np.concatenate([usual[800:], odd[10:]])
    truth = np.repeat([0, 1], [len(usual) - 800, len(odd) - 10])
    y = np.repeat([1, -1], [800, 10])
    blind = la.Detector(random_state=0, max_steps=300).fit(X[fitted])
    told = la.Detector(random_state=0, max_steps=300).fit(X[np.concatenate([fitted, known])], y)
    before, after = (roc_auc_score(truth, model.anomaly_score(X[new])) for model in (blind, told))
    assert after > before + 0.02


@pytest.mark.parametrize(
    "y, complaint", [([1, -1, 0], "got 0 as well"), ([1, -1], "one label a row, 3 in all, got shape")]
)
def test_labels_that_are_none_are_refused(y: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        la.Detector().fit(np.eye(3), y)


def test_a_detector_does_not_generate_and_says_who_does() -> None:
    model = la.Detector(random_state=0, max_steps=5).fit(np.random.default_rng(0).normal(size=(200, 2)))
    with pytest.raises(
        la.ConditionError, match=r"cannot generate\. Fit a Mixture, VAE, GAN, Diffusion or Hybrid"
    ):
        model.generate(3)


@pytest.fixture(scope="module")
def detector(people):
    """Fitted to mixed columns with missing values, and told of three anomalies."""
    return la.Detector(max_steps=40, width=32, random_state=0).fit(people, [-1] * 3 + [1] * (len(people) - 3))


def test_mixed_rows_are_scored_alike_whatever_they_come_with(detector, people, others):
    scores = detector.score_samples(others)
    assert np.isfinite(scores).all()
    assert scores[7] == detector.score_samples(others.iloc[7:8])[0]
    explained = detector.explain(others, tested=0)
    assert np.allclose(explained.shares.sum(1), detector.anomaly_score(others))
    assert (explained.shares >= 0).all()


def test_what_is_saved_and_loaded_scores_the_same_bits(detector, others, tmp_path):
    detector.save(tmp_path / "m.lookalike")
    again = la.load(tmp_path / "m.lookalike")
    assert np.array_equal(again.score_samples(others), detector.score_samples(others))


@pytest.mark.parametrize("inputs", ["columns", "core"])
def test_the_exported_file_gives_the_same_ranking(detector, people, others, inputs, tmp_path):
    detector.export(tmp_path / "m.onnx", inputs=inputs)
    served = runtime.load(tmp_path / "m.onnx")
    ours, theirs = detector.score_samples(others), served.score_samples(others)
    assert np.abs(ours - theirs).max() < 1e-4 * ours.std()
    assert np.array_equal(detector.predict(others), served.predict(others))
    assert np.allclose(
        detector.explain(others, tested=0).shares, served.explain(others, tested=0).shares, atol=1e-4
    )


def test_no_more_is_remembered_than_was_allowed(people):
    model = la.Detector(memory=20, max_steps=5, width=16, random_state=0).fit(people)
    assert len(model.memory_.rows) == 20
    assert np.isfinite(model.score_samples(people)).all()
