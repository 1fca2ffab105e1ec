"""Images are learned, generated, completed and scored by the verbs of tables."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

import lookalike as la
from lookalike.evaluation.manifolds import likeness
from lookalike.images import Image
from lookalike.layout import ImageLayout, Rows
from lookalike.models.diffusion import Diffusion
from lookalike.preprocessing import Pixels, TableCodec
from lookalike.schema import Schema, Table
from lookalike.vetting import vetted_schema

DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images * (255 / 16)).round().astype(np.uint8), DIGITS.target.astype(str)
TRAIN, TEST = slice(1200), slice(1200, None)
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")
QUICK = {"max_steps": 4, "width": 32, "depth": 1, "n_steps": 2, "random_state": 0}


def some(n, *shape, dtype=np.uint8):
    """Smooth images of any size."""
    rng = np.random.default_rng(0)
    x = (
        rng.random((n, 1, 1, 1))
        + np.linspace(0, 1, shape[0])[:, None, None] * np.linspace(0, 1, shape[1])[:, None]
    )
    x = np.broadcast_to(x / 2, (n, *shape[:2], shape[2] if len(shape) > 2 else 1)).reshape(n, *shape)
    return (x * 255).astype(dtype) if np.dtype(dtype).kind in "iu" else x.astype(dtype)


@pytest.fixture(scope="module")
def digits():
    model = la.Diffusion(width=64, max_steps=500, n_steps=8, random_state=0)
    return model.fit({"image": PIXELS[TRAIN], "label": LABELS[TRAIN]})


@pytest.fixture(scope="module")
def judge():
    """Knows digits: of real ones it names 97 %."""
    fitted = SVC().fit(PIXELS[TRAIN].reshape(-1, 64) / 255, LABELS[TRAIN])
    return lambda images: fitted.predict(images.reshape(-1, 64) / 255)


@pytest.mark.slow
def test_digits_that_are_asked_for_are_drawn(digits, judge):
    asked = np.tile(DIGITS.target_names, 40).astype(str)
    made = digits.generate(given={"label": asked}, random_state=0)
    assert (made["image"].dtype, made["image"].shape) == (np.uint8, (400, 8, 8))
    assert_array_equal(made["label"], asked)
    assert (judge(made["image"]) == asked).mean() > 0.85  # chance is 0.1
    again = digits.generate(5, given={"label": asked[:5]}, random_state=0)
    assert_array_equal(again["image"], made["image"][:5])


@pytest.mark.slow
def test_a_fitted_model_takes_other_samplers(digits, judge):
    asked = np.tile(DIGITS.target_names, 40).astype(str)

    def drawn(**sampler):
        images = digits.with_sampler(**sampler).generate(given={"label": asked}, random_state=0)["image"]
        return (judge(images) == asked).mean(), images.astype(float)

    few, rough = drawn(n_steps=3)
    assert few > 0.8
    whole, fine = drawn(n_steps=20)
    assert np.abs(rough - fine).mean() < 0.3 * np.abs(fine - fine[::-1]).mean()  # the same images, less exact
    blind, _ = drawn(guidance=0, autoguidance=1)
    strict, _ = drawn(guidance=3)
    assert blind < 0.3 < whole <= strict
    flat = PIXELS[TEST].reshape(-1, 64).astype(float)
    alone, led = (
        likeness(flat[:400], drawn(autoguidance=much)[1].reshape(-1, 64)).recall for much in (1, 2.5)
    )
    assert led > alone + 0.05  # away from a poorer network: more kinds of each digit
    rows = {"image": PIXELS[TEST][:20], "label": LABELS[TEST][:20]}
    other = digits.with_sampler(n_steps=2)
    assert_array_equal(other.score_samples(rows), digits.score_samples(rows))
    assert (other.n_steps, other.guidance, digits.n_steps) == (2, None, 8)
    with pytest.raises(ValueError, match="n_steps must be a whole number from 1 to 10,000, got 0"):
        digits.with_sampler(n_steps=0)


@pytest.mark.slow
def test_holes_of_digits_are_filled_with_what_belongs_there(digits, judge):
    hole = np.zeros((8, 8), dtype=bool)
    hole[2:6, 2:6] = True
    mask = np.broadcast_to(hole, PIXELS[TEST].shape)
    holey = {"image": np.ma.masked_array(PIXELS[TEST], mask), "label": LABELS[TEST]}
    filled = digits.impute(holey, n_draws=10, combine=True, random_state=0)
    assert_array_equal(filled["image"][~mask], PIXELS[TEST][~mask])
    assert_array_equal(filled["label"], LABELS[TEST])

    def error(images):
        return np.sqrt(((images - PIXELS[TEST].astype(float))[mask] ** 2).mean())

    assert error(filled["image"]) < 0.8 * error(np.broadcast_to(PIXELS[TRAIN].mean(0), mask.shape))
    one = digits.impute(holey, random_state=0)
    assert (judge(one["image"]) == LABELS[TEST]).mean() > 0.8


@pytest.mark.slow
def test_spoiled_digits_are_odd_and_the_heatmap_shows_where(digits):
    spoiled = PIXELS[TEST].copy()
    spoiled[:, 1:4, 1:4] = 255 - spoiled[:, 1:4, 1:4]
    good, bad = ({"image": images, "label": LABELS[TEST]} for images in (PIXELS[TEST], spoiled))
    scores = np.r_[digits.anomaly_score(good), digits.anomaly_score(bad)]
    assert roc_auc_score(np.arange(len(scores)) >= len(spoiled), scores) > 0.95
    heat = digits.heatmap(bad)
    assert heat.shape == spoiled.shape
    inside = heat[:, 1:4, 1:4].sum((1, 2)) / heat.sum((1, 2))
    assert np.median(inside) > 3 * 9 / 64
    other = digits.anomaly_score({**good, "label": np.roll(LABELS[TEST], 1)})
    assert np.median(other) > np.median(digits.anomaly_score(good))


@pytest.mark.slow
def test_images_are_saved_with_what_was_learned_of_them(digits, tmp_path):
    digits.save(tmp_path / "digits.lookalike")
    loaded = la.load(tmp_path / "digits.lookalike")
    rows = {"image": PIXELS[TEST][:30], "label": LABELS[TEST][:30]}
    assert_array_equal(loaded.score_samples(rows), digits.score_samples(rows))
    assert_array_equal(
        loaded.generate(3, random_state=1)["image"], digits.generate(3, random_state=1)["image"]
    )
    assert "'image'  image     8 x 8, 1 channel, 0 to 255" in repr(loaded.schema_)


@pytest.mark.parametrize(
    "images",
    [some(40, 7, 10), some(40, 5, 6, 3), some(40, 8, 8, 4, dtype="f4"), some(40, 9, 4) > 90],
    ids=["odd sizes", "colours", "floats with transparency", "truth values"],
)
def test_images_of_any_kind_come_back_as_they_were(images, tmp_path):
    model = la.Diffusion(**QUICK).fit(images)
    model.save(tmp_path / "m.lookalike")
    assert_array_equal(la.load(tmp_path / "m.lookalike").score_samples(images), model.score_samples(images))
    made = model.generate(3, random_state=0)
    assert (made.dtype, made.shape[1:]) == (images.dtype, images.shape[1:])
    assert made.min() >= 0
    assert made.max() <= (1 if images.dtype.kind in "fb" else 255)
    mask = np.zeros(images.shape[:3], dtype=bool)
    mask[:, :2] = True
    part = model.generate(given=np.ma.masked_array(images, np.broadcast_to(mask.T, images.T.shape).T))
    assert_array_equal(part[~mask], images[~mask])
    filled = model.impute(images, mask=mask, random_state=0)
    assert filled.dtype == images.dtype
    assert_array_equal(filled[~mask], images[~mask])
    scores = model.score_samples(images)
    assert_array_equal(model.score_samples(images[7:9]), scores[7:9])
    assert_array_equal(np.concatenate(list(model.score_samples(iter([images[:7], images[7:]])))), scores)
    assert model.heatmap(images[:2]).shape == (2, *images.shape[1:3])


@pytest.mark.parametrize("family", [la.VAE, la.GAN, la.Hybrid, la.Mixture, la.Detector])
def test_every_family_learns_images(family):
    images = some(60, 6, 6)
    model = family(max_steps=4, random_state=0).fit(images)
    assert np.isfinite(model.score_samples(images)).all()
    if family is not la.Detector:
        assert model.generate(2, random_state=0).shape == (2, 6, 6)


@given(
    st.sampled_from(["u1", "i2", "f4", "f8", "?"]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.tuples(st.integers(2, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4)),
            elements=st.floats(0, 1, width=32)
            if dtype[0] == "f"
            else st.integers(0, 1 if dtype == "?" else 200),
        )
    )
)
def test_decode_undoes_encode_for_images(images):
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0, 1  # of images that are all alike there is nothing to learn
    schema = Schema.fit(images)
    table = schema.encode(images)
    back = schema.decode(table)
    assert_array_equal(back, images)
    assert back.dtype == images.dtype
    assert Schema.from_dict(schema.to_dict()).decode(table).tobytes() == images.tobytes()


HOT = (DIGITS.images * 256).astype(np.uint16)  # of twelve bits, but for one pixel
HOT[3, 4, 4] = 65535
DIM = {
    "shades": DIGITS.images.astype(np.uint8),
    "a hot pixel": HOT,
    "floats": np.float32(DIGITS.images / 9e4),
}


@pytest.mark.parametrize("images", DIM.values(), ids=DIM.keys())
def test_images_that_use_little_of_their_range_are_learned_in_unit_spread(images):
    schema = Schema.fit(images)
    numbers = torch.from_numpy(schema.encode(images).numbers)
    pixels = Pixels.fit(numbers.numpy(), schema.raster)
    codec = TableCodec(pixels, [], [], [], [0] * 64, 128)
    rows = codec.training_rows(numbers, torch.zeros(len(images), 0, dtype=torch.long))
    drawn = rows.batch(torch.arange(len(images)), torch.Generator().manual_seed(0)).numbers
    assert drawn.std() == pytest.approx(1, abs=0.02)
    assert ((pixels.restore(drawn) - numbers).abs() <= 0.501 * pixels.step + 1e-9).all()
    far = torch.linspace(schema.raster.low, schema.raster.high, 64, dtype=torch.float64)[None].round()
    for x in (numbers, far):
        back = pixels.decode(pixels.encode(x).double()).numpy()
        pictures = schema.decode(Table(back, np.zeros((len(x), 0), int)))
        assert_allclose(pictures, x.reshape(-1, 8, 8).numpy().astype(images.dtype), rtol=1e-6, atol=1e-10)


def test_where_pixels_hardly_differ_scores_are_finite():
    flat = np.zeros((40, 6, 6))
    flat[0, 0, 0] = 1  # and may be held out, so that nothing differs of what is learned
    for dtype in ("u1", "f4"):
        model = la.Diffusion(**QUICK).fit(flat.astype(dtype))
        few, lit = model.score_samples(flat.astype(dtype)), np.full((3, 6, 6), 255 if dtype == "u1" else 1)
        assert np.isfinite(few).all()
        assert model.score_samples(lit.astype(dtype)).max() < few.min()


@pytest.mark.slow
def test_labels_of_dim_images_are_learned_as_those_of_others(digits):
    def named(model, images):
        odd = {"image": images[TEST], "label": np.roll(LABELS[TEST], 1)}
        return (model.explain(odd, tested=0).expected["label"] == LABELS[TEST]).mean()

    shades = DIM["shades"]
    model = la.Diffusion(width=64, max_steps=500, n_steps=8, random_state=0)
    model.fit({"image": shades[TRAIN], "label": LABELS[TRAIN]})
    assert named(model, shades) > 0.9 * named(digits, PIXELS) > 0.4  # chance is 0.1


@pytest.fixture(scope="module")
def small():
    return la.Diffusion(**QUICK).fit({"image": some(40, 6, 8), "kind": np.tile(["a", "b"], 20)})


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            some(3, 8, 6),
            r"'image' held images of shape \(6, 8\) in fit, but now holds images of shape \(8, 6\)",
        ),
        (some(3, 6, 8, 3), r"but now holds images of shape \(6, 8, 3\)"),
        (np.zeros(3), "but now holds no images"),
        (
            some(3, 6, 8, dtype="f4"),
            r"held whole numbers from 0 to 255 in fit, but now holds numbers \(float32\)",
        ),
        (
            some(3, 6, 8).astype(int) * 3,
            r"held values from 0 to 255 in fit, but image 0 has \d+ at \(\d, \d\)",
        ),
        (
            np.ma.masked_array(some(3, 6, 8), some(3, 6, 8) > 100),
            "'image' lacks pixels in image 0. Fill them",
        ),
        (some(3, 6, 8).astype(complex), "pixels are whole numbers, floats or truth values"),
    ],
)
def test_images_that_do_not_fit_are_refused_by_name(small, image, words):
    with pytest.raises(la.SchemaError, match=words):
        small.score_samples({"image": image, "kind": ["a", "b", "a"]})


def test_what_cannot_be_learned_or_done_is_said(small, tmp_path):
    images = some(40, 6, 8)
    for data, words in (
        ({"a": images, "b": images}, "'a' and 'b' both hold images: one can be learned"),
        (
            {"a": images, "x": np.arange(40) ** 1.5},
            "'x' holds numbers beside images, which cannot be learned",
        ),
        (np.zeros((9, 4, 4)), "every pixel is 0: there is nothing to learn"),
        (np.full((9, 4, 4), np.nan), "lacks pixels in image 0"),
        (some(9, 4, 4, 2).repeat(3, 3), "the last axis has to be that of 1 to 4 channels"),
    ):
        with pytest.raises(la.SchemaError, match=words):
            la.Diffusion(**QUICK).fit(data)
    with pytest.raises(
        la.SchemaError, match=r"learned from images of shape \(6, 8\), and got a 2-D table of 48"
    ):
        small.predict(images.reshape(40, 48))
    rows = {"image": images, "kind": np.tile(["a", "b"], 20)}
    with pytest.raises(la.SchemaError, match=r"counterfactual is for tables, .* heatmap\(X\) says where"):
        small.counterfactual(rows)
    with pytest.raises(la.ConditionError, match="'image' holds images, of which no condition can be written"):
        small.generate(3, given={"image": images[:3]})
    with pytest.raises(la.SchemaError, match=r"to_parquet is for tables, .* write_images keeps them"):
        small.to_parquet(tmp_path / "x.parquet", 3)
    with pytest.raises(la.SchemaError, match=r"'image' holds images, and cannot be Categorical\(\)"):
        la.Diffusion(**QUICK, schema={"image": la.Categorical()}).fit(images)
    with pytest.raises(la.SchemaError, match="learned from a table, not from images"):
        la.VAE(**{**QUICK, "n_steps": 1}).fit(np.eye(20)).heatmap(np.eye(20))
    with pytest.raises(ValueError, match=r"mask goes with an array of its shape, \(2, 2\), got a dict"):
        small.impute(rows, mask=np.ones((2, 2)))


def test_images_without_labels_get_them_too(small):
    """Labels are imputed as pixels are."""
    rows = {"image": some(4, 6, 8), "kind": ["a", None, None, "b"]}
    filled = small.impute(rows, random_state=0)
    assert set(filled["kind"]) <= {"a", "b"}
    assert_array_equal(filled["image"], rows["image"])


# ---- the network -------------------------------------------------------------------------------------------


def denoiser(shape, sizes=(3,)):
    layout = ImageLayout(shape, list(sizes), range(int(np.prod(shape)) + len(sizes)))
    return Diffusion(layout, width=32, depth=1, n_steps=3, generator=torch.Generator().manual_seed(0))


def test_the_exact_score_of_independent_pixels_is_learned():
    """Of standard normal pixels the denoiser is known: x / (1 + sigma^2)."""
    generator = torch.Generator().manual_seed(0)
    model = denoiser((4, 4, 1), sizes=())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(400):
        rows = Rows(torch.randn(128, 16, generator=generator), torch.empty(128, 0, dtype=torch.long))
        loss, _ = next(model.objectives(rows, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clean = torch.randn(512, 16, generator=generator)
    for sigma in (0.3, 1.0, 3.0):
        x = clean + sigma * torch.randn(512, 16, generator=generator)
        with torch.no_grad():
            found, _ = model.denoise(x, torch.full((512, 1), sigma), torch.zeros(1, 16))
        want = x / (1 + sigma**2)
        assert ((found - want).square().mean() / want.square().mean()).sqrt() < 0.15


def test_what_is_observed_is_labels_rectangles_and_scattered_pixels():
    layout = ImageLayout((12, 10, 3), [4], range(361))
    seen = layout.random_observed(4000, torch.Generator().manual_seed(0), "cpu")
    pixels = seen[:, :360].view(-1, 12, 10, 3)
    assert (pixels == pixels[..., :1]).all()  # all channels or none
    none = ~pixels.flatten(1).any(1)
    assert 0.8 < none.float().mean() < 0.9
    assert 0.85 < seen[:, 360].float().mean() < 0.95
    hole = ~pixels[..., 0]
    box = (hole.any(2)[:, :, None] & hole.any(1)[:, None]) == hole
    assert 0.9 < box.flatten(1).all(1).float().mean() < 0.97


@pytest.mark.slow
def test_what_is_drawn_is_as_light_as_what_was_learned():
    """Noise alone does not bury what is light or dark as a whole: begun with it, images come out dark."""
    rng = np.random.default_rng(0)
    images = np.zeros((1000, 12, 12))
    images[:, 3:9, 3:9] = rng.uniform(100, 250, (1000, 1, 1))
    images = (images + rng.normal(0, 5, images.shape)).clip(0, 255).astype(np.uint8)
    model = la.Diffusion(width=32, depth=1, max_steps=400, n_steps=6, autoguidance=1, random_state=0).fit(
        images
    )
    light = [x[:, 3:9, 3:9].mean() for x in (model.generate(1000, random_state=1), images)]
    assert light[0] == pytest.approx(light[1], rel=0.07)


def test_processes_that_share_each_step_end_alike():
    """Convolutions have gradients in another order of memory, which the fused optimizer takes as it comes."""
    fabric = pytest.importorskip("test_fabric", reason="lightning-fabric launches processes")
    first, second = fabric.fitted_by(2, la.Diffusion(**QUICK), some(60, 8, 8))
    assert fabric.gap(first, second) == 0


def test_the_loop_moves_convolutions_as_plain_torch_does(monkeypatch):
    images = some(60, 8, 8)
    fitted = la.Diffusion(**QUICK, batch_size=32).fit(images)
    monkeypatch.setattr(torch.autograd, "grad", backward)
    plain = la.Diffusion(**QUICK, batch_size=32).fit(images)
    for p, q in zip(fitted.model_.parameters(), plain.model_.parameters(), strict=True):
        assert_allclose(p, q, atol=1e-5)


def backward(loss, parameters, allow_unused):
    """Gradients as torch itself gathers them, laid out as the parameters are."""
    for p in parameters:
        p.grad = None
    loss.backward()
    return [p.grad for p in parameters]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("shape", [100_000, 100_000], "shape of column 'image'"),
        ("shape", [6, -8], "shape of column 'image'"),
        ("shape", "68", "shape of column 'image'"),
        ("low", 255.0, "an empty range"),
        ("storage", {"family": "integer", "native": "<U9"}, "hold no numbers"),
        ("storage", {"family": "float", "native": "|u1"}, "hold no numbers"),
    ],
)
def test_a_file_that_states_impossible_images_is_refused(small, key, value, words):
    stated = copy.deepcopy(small.schema_.to_dict())
    stated["columns"][0][key] = value
    with pytest.raises(la.ArtifactError, match=words):
        vetted_schema(stated)


def test_an_image_reads_its_cells_from_the_top():
    image = Image().learn("x", some(2, 2, 3))
    assert [cell.name for cell in image.cells()] == [f"x[{i},{j}]" for i in range(2) for j in range(3)]
    assert isinstance(
        Schema.fit(some(2, 2, 3)).decode(Table(np.zeros((1, 6)), np.zeros((1, 0), int))), np.ndarray
    )
