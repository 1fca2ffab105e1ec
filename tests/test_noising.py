"""Rows and images are led to noise and back: interpolated, varied, denoised, followed as they are drawn."""

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits

import lookalike as la

DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images * (255 / 16)).round().astype(np.uint8), DIGITS.target.astype(str)
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")
QUICK = {"max_steps": 4, "width": 32, "depth": 1, "n_steps": 2, "random_state": 0}


def rows(part):
    return {"image": PIXELS[part], "label": LABELS[part]}


NEW = rows(slice(1200, 1224))


def gap(images, others=NEW["image"]):
    """Mean distance in levels of grey."""
    return np.abs(np.asarray(images, dtype=float) - others).mean()


@pytest.fixture(scope="module")
def digits():
    return la.Diffusion(width=32, max_steps=800, n_steps=8, guidance=1, autoguidance=1, random_state=0).fit(
        rows(slice(1200))
    )


def tried(model, table, expected):
    """The energy with each column as it is expected, (n, 2)."""
    return np.stack([model.anomaly_score({**table, name: expected[name]}) for name in table], 1)


@pytest.fixture(scope="module")
def small():
    return la.Diffusion(**QUICK).fit(rows(slice(40)))


@pytest.mark.slow
def test_a_path_leads_from_one_image_to_the_other(digits):
    a, b = rows(slice(1200, 1212)), rows(slice(1300, 1312))
    path = digits.interpolate(a, b, steps=6)
    images, labels = path["image"].reshape(12, 6, 8, 8), path["label"].reshape(12, 6)
    assert_array_equal(images[:, 0], a["image"])
    assert_array_equal(images[:, -1], b["image"])
    assert ((labels == a["label"][:, None]) | (labels == b["label"][:, None])).all()
    changes = (labels[:, 1:] != labels[:, :-1]).sum(1)
    assert_array_equal(changes, a["label"] != b["label"])
    # The noise of either end leads to it: the first step away is a small one, and each is one nearer to b.
    assert gap(images[:, 1], images[:, 0]) < 0.3 * gap(images[:, 0], images[:, -1])
    left = [gap(images[:, k], b["image"]) for k in range(6)]
    assert (np.diff(left) < 0).all()
    alone = digits.interpolate({k: v[7:8] for k, v in a.items()}, {k: v[7:8] for k, v in b.items()}, 6)
    assert_array_equal(alone["image"], images[7])


@pytest.mark.slow
def test_the_steps_of_a_path_are_of_equal_length(digits):
    threes = PIXELS[1200:][LABELS[1200:] == "3"][:16]
    ends = ({"image": part, "label": ["3"] * 8} for part in (threes[:8], threes[8:]))
    path = digits.interpolate(*ends, steps=7)["image"].reshape(8, 7, -1)
    length = np.linalg.norm(np.diff(path.astype(float), axis=1), axis=2)
    assert (length.max(1) < 1.2 * length.mean(1)).all()


@pytest.mark.slow
def test_the_noise_of_images_draws_them_again(digits):
    here = rows(slice(1212, 1228))
    both = digits.interpolate(here, here, steps=3)["image"].reshape(-1, 3, 8, 8)
    assert np.abs(both[:, 1].astype(int) - here["image"]).max() <= 1


@pytest.mark.slow
def test_variations_are_the_farther_off_the_stronger_they_are(digits):
    made = {s: digits.vary(NEW, s, random_state=0) for s in (0.01, 0.4, 0.7, 1)}
    far = [gap(table["image"]) for table in made.values()]
    assert far[0] < 10
    assert (np.diff(far) > 0).all()
    assert far[-1] > 0.9 * gap(digits.generate(given={"label": NEW["label"]}, random_state=1)["image"])
    assert all((table["label"] == NEW["label"]).all() for table in made.values())
    some = {name: column[:5] for name, column in NEW.items()}
    assert_array_equal(digits.vary(some, 0.7, random_state=0)["image"], made[0.7]["image"][:5])
    assert gap(digits.vary(NEW, 0.7, random_state=1)["image"], made[0.7]["image"]) > 5
    others = {**NEW, "image": NEW["image"][::-1].copy()}
    assert_array_equal(digits.vary(others, 1, random_state=0)["image"], made[1]["image"])  # nothing is left


@pytest.mark.slow
def test_noise_is_taken_away_and_the_label_helps(digits):
    noisy = digits.noise(NEW, 60, random_state=0)
    assert 55 < (noisy["image"] - NEW["image"]).std() < 65
    told, untold = digits.denoise(noisy, 60)["image"], digits.denoise(noisy["image"], 60)
    assert gap(told) < gap(untold) < 0.7 * gap(noisy["image"])
    assert_allclose(digits.denoise(digits.noise(NEW, 1), 1)["image"], NEW["image"], atol=10)


@pytest.mark.slow
def test_a_trajectory_ends_with_what_is_generated(digits):
    asked = {"label": np.tile(DIGITS.target_names, 2).astype(str)}
    sigmas, images = digits.trajectory(given=asked, random_state=3)
    drawn = digits.generate(given=asked, random_state=3)["image"]
    assert images.shape == (9, 20, 8, 8)
    assert_array_equal(images[-1], drawn)
    assert sigmas[-1] == 0
    assert (np.diff(sigmas) < 0).all()
    assert images[0].std() == pytest.approx(sigmas[0], rel=0.1)
    # The last step goes to what is expected of the image in the least noise that was learned.
    expected = digits.denoise({"image": images[-2], **asked}, sigmas[-2])["image"]
    noise = digits.codec_.layout.noise
    least = sigmas[0] * noise.least / noise.most
    ahead = expected + least / sigmas[-2] * (images[-2] - expected)
    last = digits.denoise({"image": ahead, **asked}, least)["image"]
    assert_array_equal(last.clip(0, 255).round(), drawn)


@pytest.mark.slow
def test_images_are_explained_by_image_and_label(digits):
    new = rows(slice(1200, 1400))
    odd = {name: column.copy() for name, column in new.items()}
    odd["label"] = np.roll(odd["label"], 1)
    changed = odd["label"] != new["label"]
    why = digits.explain(odd)
    assert why.columns == ["image", "label"]
    assert_allclose(why.shares.sum(1), digits.anomaly_score(odd))
    assert_allclose(why.shares[:, 0], digits.heatmap(odd).sum((1, 2)))
    assert (why.expected["label"] == new["label"])[changed].mean() > 0.35  # chance is 0.1
    assert why.expected["image"].shape == new["image"].shape
    assert "8 x 8 pixels" in repr(why)
    assert_allclose(why.falls, why.shares.sum(1)[:, None] - tried(digits, odd, why.expected), atol=1e-9)


def test_a_hybrid_takes_noise_away_too():
    model = la.Hybrid(**QUICK).fit(PIXELS[:40])
    images = PIXELS[40:43]
    assert model.vary(images, random_state=0).shape == images.shape
    assert model.denoise(model.noise(images, 30), 30).shape == images.shape
    assert_array_equal(model.trajectory(2, random_state=0).images[-1], model.generate(2, random_state=0))
    path = model.interpolate(images, images[::-1], steps=3)
    assert_array_equal(path.reshape(3, 3, 8, 8)[:, 0], images)


def test_a_hybrid_of_a_table_finds_no_noise():
    table = PIXELS[:40, 3, :3].astype(float)
    model = la.Hybrid(**QUICK).fit(table)
    with pytest.raises(la.ConditionError, match="Hybrid cannot interpolate: fit a VAE or Diffusion for that"):
        model.interpolate(table[:2], table[2:4])


@pytest.mark.parametrize("family", [la.GAN, la.Mixture])
def test_families_without_such_noise_say_who_has_it(family):
    model = family(max_steps=2, random_state=0).fit(PIXELS[:40])
    for verb, call in {
        "interpolate": lambda: model.interpolate(PIXELS[:2], PIXELS[:2]),
        "vary": lambda: model.vary(PIXELS[:2]),
        "denoise": lambda: model.denoise(PIXELS[:2], 3),
        "trajectory": lambda: model.trajectory(2),
    }.items():
        with pytest.raises(
            la.ConditionError, match=f"{family.__name__} cannot {verb}: fit a .*Diffusion.* for that"
        ):
            call()


def test_what_cannot_be_led_is_refused(small):
    with pytest.raises(ValueError, match="a and b must be of as many rows, got 3 and 2"):
        small.interpolate(rows(slice(3)), rows(slice(2)))
    with pytest.raises(ValueError, match=r"strength must lie in \(0, 1\], got 0"):
        small.vary(rows(slice(3)), 0)
    with pytest.raises(la.SchemaError, match=r"held images of shape \(8, 8\) in fit, but now holds images"):
        small.denoise(np.zeros((2, 4, 4)), 1)
    with pytest.raises(la.SchemaError, match="lacks pixels"):
        small.denoise(np.full((2, 8, 8), np.nan), 1)
    with pytest.raises(la.ConditionError, match="trajectory follows one draw"):
        small.trajectory(2, given={"label": la.OneOf(["1", "2"])})
    table = la.Diffusion(**QUICK).fit(np.random.default_rng(0).normal(size=(60, 2)))
    with pytest.raises(la.SchemaError, match="noise is for images, and Diffusion learned from a table"):
        table.noise(np.zeros((2, 2)), 1)


def test_rows_of_tables_are_led_as_images_are(people, others):
    model = la.Diffusion(**TINY).fit(people)
    a, b = people.head(4), others.head(4)
    path = model.interpolate(a, b, steps=4)
    for k, table in ((0, a), (3, b)):
        for name in ("income", "age", "debt", "city", "since"):
            pd.testing.assert_series_equal(
                path[name].iloc[k::4].reset_index(drop=True),
                table[name].reset_index(drop=True),
                check_dtype=False,
            )
    assert path["city"].iloc[1::4].tolist() == path["city"].iloc[0::4].tolist()
    varied = model.vary(a, 0.5, random_state=0)
    assert (varied["income"] != a["income"]).all()
    assert varied["city"].equals(a["city"])
    assert varied["debt"].isna().tolist() == a["debt"].isna().tolist()
    assert varied["key"].equals(a["key"])


def test_a_preview_changes_nothing_and_shows_what_is_drawn_in_the_end(tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "progress.png"
    seen = []

    def watch(progress):
        seen.append(progress.model.generate(4, random_state=0)["image"])

    plain = la.Diffusion(**QUICK).fit(rows(slice(40)))
    preview = la.Preview(path, n=4, every=3)
    shown = la.Diffusion(**QUICK, callbacks=[preview, watch]).fit(rows(slice(40)))
    want = shown.generate(4, random_state=0)["image"]
    assert_array_equal(want, plain.generate(4, random_state=0)["image"])
    assert_array_equal(seen[-1], want)
    assert not np.array_equal(seen[0], want)
    assert_array_equal(np.asarray(image.open(path)), la.contact_sheet(want))
    assert [file.name for file in tmp_path.iterdir()] == ["progress.png"]
    with pytest.raises(la.SchemaError, match="a preview shows images, and the fit is of a table"):
        la.Diffusion(**QUICK, callbacks=[preview]).fit(np.random.default_rng(0).normal(size=(60, 2)))
