"""Images are added to a training set where a classifier of images is found to gain by them."""

from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch.utils.data import DataLoader

import lookalike as la
from lookalike import augmenting, image_classifier
from lookalike.candidates import OF_IMAGES, TARGET, Nothing, Rare, Varied
from lookalike.image_classifier import ImageClassifier, flips_help
from lookalike.integrations.torch import Mixed

DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images * (255 / 16)).round().astype(np.uint8), DIGITS.target
POOL = [np.random.default_rng(c).permutation(np.flatnonzero(LABELS[:1200] == c)) for c in range(10)]
FEW = np.concatenate([rows[:9] for rows in POOL])
X, Y = PIXELS[FEW], LABELS[FEW]
TEST = slice(1200, None)
QUICK = {"max_steps": 4, "width": 32, "depth": 1, "n_steps": 4, "random_state": 0}
ASKED = []  # of `Varying`: clones keep nothing of their own
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")


def flat():
    """A classifier that takes no time."""
    rows = FunctionTransformer(lambda images: images.reshape(len(images), -1) / 255)
    return make_pipeline(rows, LogisticRegression(max_iter=200))


class Others(BaseEstimator):
    """Draws digits that nobody has seen, or noise in their place."""

    def __init__(self, noise=False, random_state=None):
        self.noise = noise
        self.random_state = random_state

    def fit(self, table):
        assert set(table) == {"image", TARGET}
        assert len(table["image"]) == len(table[TARGET])
        return self

    def generate(self, n, given=None, random_state=None):
        rng = np.random.default_rng(random_state)
        rows = rng.choice(POOL[int(given[TARGET])][9:], n)
        images = rng.integers(0, 256, (n, 8, 8)) if self.noise else PIXELS[rows]
        return {"image": images.astype(np.uint8), TARGET: np.full(n, given[TARGET], object)}


class Varying(Others):
    """Varies by nothing, and tells by how much it should."""

    def vary(self, table, strength, random_state=None):
        ASKED.append((strength, len(table["image"])))
        return table


# ---- the judge ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_network_learns_digits_in_seconds():
    model = ImageClassifier(random_state=0).fit(PIXELS[:1200], LABELS[:1200].astype(str))
    assert (model.predict(PIXELS[TEST]) == LABELS[TEST].astype(str)).mean() > 0.9
    p = model.predict_proba(PIXELS[TEST])
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(model.predict_proba(PIXELS[TEST][5:9]), p[5:9], atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (5, 7, 3), (40, 18), (3, 3, 1)])
def test_images_of_any_size_are_named_and_equal_seeds_name_alike(shape):
    images = np.random.default_rng(0).random((20, *shape))
    labels = np.tile(["a", "b"], 10)
    first, second = (ImageClassifier(max_steps=3, random_state=0).fit(images, labels) for _ in range(2))
    assert_array_equal(first.predict_proba(images), second.predict_proba(images))
    with pytest.raises(la.SchemaError, match=r"X must be images, \(n, height, width"):
        first.predict(images.reshape(20, -1))


def test_weights_say_how_often_an_image_is_shown():
    labels = np.where(np.arange(len(Y)) % 3 == 0, "wrong", "right")  # of what cannot be told apart
    told = ImageClassifier(max_steps=40, random_state=0).fit(X, labels, np.where(labels == "wrong", 0.0, 1.0))
    assert (told.predict(X) == "right").all()


@pytest.mark.slow
def test_images_that_mirroring_turns_into_others_are_not_mirrored(monkeypatch):
    monkeypatch.setattr(image_classifier, "TRIED", 60)
    one = np.zeros((8, 8))
    one[1:7, 1:3] = one[3:5, 1:6] = 1
    images = np.stack([one, one[:, ::-1]] * 30) + np.random.default_rng(0).normal(0, 0.1, (60, 8, 8))
    assert not flips_help(images, np.tile([0, 1], 30), 0)


# ---- what is added -----------------------------------------------------------------------------------------


def test_images_that_help_are_added_below_the_real_ones():
    done = la.augment(X, Y, Others(), flat(), candidates=[Rare(8)], cv=5, random_state=0)
    assert done.report.chosen == Rare(8)
    assert done.X.shape == (720, 8, 8)
    assert (done.X.dtype, done.y.dtype, done.sample_weight) == (X.dtype, Y.dtype, None)
    assert_array_equal(done.X[:90], X)
    assert_array_equal(done.y[:90], Y)
    assert_array_equal(np.bincount(done.y), np.full(10, 72))
    (found,) = done.report.findings[1:]
    assert 0 < found.gain < found.high
    assert "measured +0." in done.report.verdict
    assert " accuracy, 95% interval" in done.report.verdict
    before, after = (flat().fit(a, b).score(PIXELS[TEST], LABELS[TEST]) for a, b in ((X, Y), done[:2]))
    assert after > before


def test_images_that_harm_are_not_and_a_dict_of_labels_will_do():
    table = {"image": X, "label": Y}
    generator = Others(noise=True)
    done = la.augment(table, "label", generator, flat(), candidates=[Rare(6)], cv=3, random_state=0)
    assert done.report.chosen == Nothing()
    assert done.report.verdict.startswith("no augmentation: the best candidate, generated rows of rare")
    assert_array_equal(done.X, X)
    assert_array_equal(done.y, Y)


def test_real_images_are_varied_with_their_labels():
    ASKED.clear()
    done = la.augment(X, Y, Varying(), flat(), candidates=[Varied(2, 0.4)], cv=2, random_state=0)
    assert ASKED[:2] == [(0.4, 90), (0.4, 90)]
    assert str(done.report.findings[1].candidate) == "rows varied by 0.4, x2"
    with pytest.raises(ValueError, match=r"Others\(.*\) has no vary, as la.Diffusion and la.Hybrid have"):
        la.augment(X, Y, Others(), flat(), candidates=[Varied(1, 0.4)], cv=2, random_state=0)


@pytest.mark.parametrize(
    ("table", "y"),
    [
        ({"a": [1, 2], "b": [3, 4]}, "b"),
        ({"image": X, "label": Y, "more": Y}, "label"),
        ({"image": X, "other": X}, Y),
        ({"image": X, "label": Y}, "lable"),
    ],
    ids=["a table", "another column", "two of images", "no such label"],
)
def test_other_dicts_are_refused(table, y):
    with pytest.raises(la.SchemaError, match="a dict is augmented where it holds images and their labels"):
        la.augment(table, y)


@pytest.mark.slow
def test_by_default_a_network_judges(monkeypatch):
    monkeypatch.setattr(image_classifier, "TRIED", 8)
    monkeypatch.setattr(augmenting, "ImageClassifier", partial(ImageClassifier, max_steps=150))
    done = la.augment(X, Y, la.Diffusion(**QUICK), cv=2, random_state=0)
    assert [str(f.candidate) for f in done.report.findings] == ["real rows alone", *map(str, OF_IMAGES)]
    assert done.report.findings[0].scores.mean() > 0.5
    assert (len(done.X) == 90) == (done.report.chosen == Nothing())


# ---- a data set of PyTorch ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return la.Diffusion(**QUICK).fit({"image": X, "label": Y.astype(str)})


def test_generated_images_are_mixed_in_as_tensors(model):
    mixed = Mixed({"image": X, "label": Y.astype(str)}, model, 0.25, random_state=0)
    assert len(mixed) == 120
    (batch,) = DataLoader(mixed, batch_size=120)
    assert batch["image"].shape == (120, 1, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].dtype == torch.int64
    assert 0 <= batch["image"].min() <= batch["image"].max() <= 1
    np.testing.assert_allclose(batch["image"][:90, 0] * 255, X, atol=1e-4)
    assert_array_equal(batch["label"][:90], Y)
    before = mixed[list(range(90, 120))]
    mixed.set_epoch(1)
    assert not torch.equal(mixed[list(range(90, 120))]["image"], before["image"])
    again = Mixed({"image": X, "label": Y.astype(str)}, model, 0.25, random_state=0)
    assert torch.equal(again[list(range(90, 120))]["image"], before["image"])


def test_variations_are_mixed_in_with_the_labels_of_their_images(model):
    options = {"share": 0.5, "random_state": 0}
    table = {"image": X, "label": Y.astype(str)}
    near, far = (Mixed(table, model, strength=s, **options)[list(range(180))] for s in (0.25, 1.0))
    assert_array_equal(near["label"], far["label"])

    def gap(rows):
        """How far variations are from the nearest image of their label."""
        real, new = rows["image"][:90].flatten(1), rows["image"][90:].flatten(1)
        other = rows["label"][90:, None] != rows["label"][:90]
        return torch.cdist(new, real).masked_fill(other, torch.inf).min(1).values.mean()

    assert gap(near) < 0.6 * gap(far)
    with pytest.raises(ValueError, match="given and strength exclude each other"):
        Mixed(table, model, given={"label": "3"}, strength=0.5)


def test_images_alone_are_a_tensor_of_channels():
    images = np.random.default_rng(0).random((40, 4, 6, 3)).astype("f4")
    mixed = Mixed(images, la.Diffusion(**QUICK).fit(images), 0.2, random_state=0)
    assert mixed[[0, 49]].shape == (2, 3, 4, 6)
    np.testing.assert_allclose(mixed[0], images[0].transpose(2, 0, 1), atol=1e-6)
