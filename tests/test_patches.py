"""Small defects of images: what patches say of them, with templates and without."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

import lookalike as la
from lookalike import archive
from lookalike.layout import ImageLayout, Layout, Rows
from lookalike.patches import Patches, gathered, scales, spread_out
from lookalike.verbs import Energies
from lookalike.vetting import vetted_schema

pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")
QUICK = {"max_steps": 4, "width": 32, "depth": 1, "memory": 256, "random_state": 0}


def clouds(n, seed):
    """Smooth images, of which no two are alike, as bytes: (n, 16, 16)."""
    rng = np.random.default_rng(seed)
    soft = gaussian_filter(rng.normal(size=(n, 16, 16)), (0, 2, 2), mode="wrap")
    return (128 + 350 * soft + rng.normal(0, 3, soft.shape)).clip(0, 255).astype(np.uint8)


def torn(images, seed):
    """Images of which 3 x 3 pixels are half as bright, and where these begin, (n, 2)."""
    at = np.random.default_rng(seed).integers(1, 12, (len(images), 2))
    spoiled = images.copy()
    for image, (i, j) in zip(spoiled, at, strict=True):
        image[i : i + 3, j : j + 3] //= 2
    return spoiled, at


def auroc(good, bad):
    return roc_auc_score(np.arange(len(good) + len(bad)) >= len(good), np.r_[good, bad])


@pytest.fixture(scope="module")
def sky():
    return la.Detector(**QUICK).fit(clouds(200, 0))


def test_a_small_defect_is_found_where_whole_images_do_not_tell(sky):
    good = clouds(100, 1)
    bad, at = torn(clouds(100, 2), 3)
    assert auroc(sky.anomaly_score(good), sky.anomaly_score(bad)) > 0.9
    energies = Energies(sky.codec_, sky.model_, sky.memory_, sky.n_train_)
    told = [
        energies.totals(torch.from_numpy(x.reshape(100, -1).astype(float)), torch.empty(100, 0).long())
        for x in (good, bad)
    ]
    whole = [auroc(usual, odd) for usual, odd in zip(*told, strict=True)][:3]  # network, and memory's two
    assert max(whole) < 0.75
    heat = sky.heatmap(bad)
    peaks = np.stack(np.unravel_index(heat.reshape(100, -1).argmax(1), (16, 16)), 1)
    assert (np.abs(peaks - at - 1).max(1) <= 3).mean() > 0.8
    assert_allclose(heat.sum((1, 2)), sky.anomaly_score(bad))


def test_scores_of_images_depend_on_nothing_else_and_are_saved(sky, tmp_path):
    images = clouds(40, 4)
    scores = sky.score_samples(images)
    assert_array_equal(sky.score_samples(images[11:13]), scores[11:13])
    sky.save(tmp_path / "sky.lookalike")
    assert_array_equal(la.load(tmp_path / "sky.lookalike").score_samples(images), scores)


def test_every_family_has_the_patches_of_images():
    good, (bad, _) = clouds(60, 1), torn(clouds(60, 2), 3)
    model = la.Diffusion(**QUICK).fit({"image": clouds(200, 0), "kind": np.tile(["a", "b"], 100)})
    usual, odd = ({"image": images, "kind": np.tile(["a", "b"], 30)} for images in (good, bad))
    assert auroc(model.anomaly_score(usual), model.anomaly_score(odd)) > 0.9


def test_where_images_are_registered_places_matter():
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.1, (100, 16, 16))
    images[:, :8] += 1
    learned = [
        Patches.learn(
            (16, 16, 1), 1, torch.from_numpy(x).float().flatten(1), 64, torch.Generator().manual_seed(0)
        )
        for x in (images, clouds(100, 0) / 80)
    ]
    assert learned[0].reach > 20 * learned[1].reach
    upside_down = torch.from_numpy(images[:, ::-1].copy()).float().flatten(1)
    own, other = (
        learned[0].energies(Rows(x, torch.empty(100, 0))).sum(1)
        for x in (torch.from_numpy(images).float().flatten(1), upside_down)
    )
    assert other.min() > own.max()


def test_patches_are_as_odd_as_they_are_far_from_the_nearest():
    generator = torch.Generator().manual_seed(0)
    shape = (6, 6, 2)
    patches = Patches.learn(shape, 1, torch.randn(50, 72, generator=generator), 40, generator)
    image = torch.randn(1, 72, generator=generator)
    cells = patches.energies(Rows(image, torch.empty(1, 0))).view(shape)
    padded = np.pad(image.view(shape).numpy(), ((1, 1), (1, 1), (0, 0)), mode="edge")
    squares = np.empty((3, 3))
    for i, j in np.ndindex(3, 3):
        window = torch.from_numpy(padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]).permute(2, 0, 1)
        seen = torch.cat([(patches.weight * window).sum((1, 2, 3)) + patches.bias, patches.places[i, j]])
        squares[i, j] = ((seen - patches.patches) ** 2).sum(1).min() + patches.alike
    pixels = squares.repeat(2, 0).repeat(2, 1)
    assert_allclose(float(cells.sum()), (pixels**4).sum() ** 0.25, rtol=1e-4)
    assert_allclose(cells.sum(2) / cells.sum(), pixels**4 / (pixels**4).sum(), rtol=1e-3)
    assert_array_equal(cells[..., 0], cells[..., 1])


def test_a_soft_maximum_is_shared_by_what_it_is_made_of():
    squares = torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3e-8, 3e-8, 3e-8]])
    cells = gathered(squares)
    assert_allclose(cells[0], np.array([0, 16, 1]) / 17 * 17**0.25, rtol=1e-6)
    assert_array_equal(cells[1], 0)
    assert_allclose(cells[2].sum(), 3e-8 * 3**0.25, rtol=1e-5)


def test_what_is_kept_is_far_from_each_other():
    x = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
    assert spread_out(x, 3).tolist() == [0, 4, 2]


def test_small_images_have_small_patches_and_tables_none():
    assert scales(Layout(5, [], range(5))) == ()
    assert [scales(ImageLayout((n, n, 1), [], range(n * n))) for n in (5, 15, 16)] == [(1,), (1,), (1, 2)]


@pytest.mark.slow
def test_patches_are_traced():
    generator = torch.Generator().manual_seed(0)
    patches = Patches.learn((17, 18, 1), 2, torch.randn(20, 306, generator=generator), 40, generator)

    class Told(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = patches

        def forward(self, images):
            return self.patches.energies(Rows(images, images[:, :0]))

    x = torch.randn(7, 306, generator=generator)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Told(), (x[:3],), dynamic_shapes=({0: batch},))
    assert_allclose(program.module()(x), patches.energies(Rows(x, x[:, :0])), rtol=1e-5)


# ---- templates ---------------------------------------------------------------------------------------------


def boards(n, seed, spoiled=False):
    """Pads of any place, black on white, drawn up to a pixel off their templates; some with a hole."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((16, 16))
    place = rng.uniform(4, 12, (n, 2, 1, 1))
    template = np.hypot(y - place[:, 0], x - place[:, 1]) > 4
    off = place + rng.integers(-1, 2, (n, 2, 1, 1))
    image = np.hypot(y - off[:, 0], x - off[:, 1]) > 4
    if spoiled:
        image ^= np.maximum(np.abs(y - off[:, 0].round()), np.abs(x - off[:, 1].round())) < 2
    return {"image": image.astype(np.uint8), "template": template.astype(np.uint8)}


@pytest.fixture(scope="module")
def inspector():
    return la.Detector(**QUICK, schema={"template": la.Template(of="image")}).fit(boards(200, 0))


def test_images_are_judged_by_how_they_differ_from_their_templates(inspector, tmp_path):
    good, bad = boards(80, 1), boards(80, 2, spoiled=True)
    assert auroc(inspector.anomaly_score(good), inspector.anomaly_score(bad)) > 0.99
    assert (inspector.predict(bad) == -1).mean() > 0.9
    assert np.median(inspector.p_values(bad)) < 0.1
    heat = inspector.heatmap(bad)
    assert heat.shape == (80, 16, 16)
    hole = (bad["image"] == 1) & (bad["template"] == 0)
    assert np.median(heat[hole]) > 5 * np.median(heat[~hole])
    wrong = {**good, "template": np.roll(good["template"], 1, 0)}  # others' templates
    assert auroc(inspector.anomaly_score(good), inspector.anomaly_score(wrong)) > 0.9
    inspector.save(tmp_path / "m.lookalike")
    loaded = la.load(tmp_path / "m.lookalike")
    assert_array_equal(loaded.score_samples(bad), inspector.score_samples(bad))
    assert "'template'  template  16 x 16, 1 channel, 0 to 255, of 'image'" in repr(loaded.schema_)
    one = {name: images[5:6] for name, images in bad.items()}
    assert_array_equal(inspector.score_samples(one), inspector.score_samples(bad)[5:6])


def test_boards_that_equal_their_templates_leave_any_difference_odd():
    table = boards(60, 0)
    same = {**table, "image": table["template"]}
    model = la.Detector(**QUICK, schema={"template": la.Template()}).fit(same)
    assert np.isfinite(model.score_samples(same)).all()
    assert model.anomaly_score(boards(20, 1, spoiled=True)).min() > model.anomaly_score(same).max()


@pytest.mark.parametrize("dtype", ["u1", "f4", "?"])
def test_what_lies_within_a_shift_of_the_template_is_no_difference(dtype):
    images = np.zeros((2, 6, 7, 3), dtype)
    images[:, 2:4, 3:5] = 1
    table = {"image": images, "template": np.roll(images, (1, -1), (1, 2))}
    schema = la.Schema.fit(table, {"template": la.Template(shift=1)})
    assert_array_equal(schema.encode(table).numbers, 0)
    far = schema.encode({**table, "template": np.roll(images, 3, 2)}).numbers.reshape(images.shape)
    assert_array_equal(far[0, 2:4, 3:5], 1)
    exact = la.Schema.fit(table, {"template": la.Template(shift=0)}).encode(table).numbers
    assert_array_equal(exact, images.astype(float).reshape(2, -1) - table["template"].reshape(2, -1))


@pytest.mark.parametrize("dtype", ["u1", "i2", "?", "f2", "f8"])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_whatever_differs_can_be_told_by_pairs_made_up(dtype, shift):
    rng = np.random.default_rng(0)
    soft = gaussian_filter(rng.normal(size=(2, 20, 6, 7, 2)), (0, 0, 1, 1, 0))
    pairs = soft > 0 if dtype == "?" else (soft * 300 + 120).clip(0, 255) / (255 if dtype[0] == "f" else 1)
    table = dict(zip(("image", "template"), pairs.astype(dtype), strict=True))
    schema = la.Schema.fit(table, {"template": la.Template(shift=shift)})
    encoded = schema.encode(table)
    assert (encoded.numbers > 0).any()
    assert (encoded.numbers < 0).any()
    made = schema.decode(encoded)
    assert [made[name].dtype for name in table] == [pairs.astype(dtype).dtype] * 2
    assert_allclose(
        schema.encode(made).numbers, encoded.numbers, atol={"f2": 2e-3, "f8": 1e-12}.get(dtype, 0)
    )


def test_what_would_have_been_normal_is_told_of_images_with_templates(inspector):
    good, bad = boards(40, 1), boards(40, 2, spoiled=True)
    why = inspector.explain(bad)
    assert why.columns == ["image"]
    assert_allclose(why.shares[:, 0], inspector.anomaly_score(bad))
    assert_array_equal(why.expected["template"], bad["template"])
    assert (inspector.predict(why.expected) == 1).all()
    assert_allclose(why.falls[:, 0], why.shares[:, 0] - inspector.anomaly_score(why.expected), atol=1e-6)
    differs = inspector.schema_.encode(bad).numbers.reshape(bad["image"].shape) != 0
    assert_array_equal(why.expected["image"] != bad["image"], differs)
    usual = inspector.explain(good, tested=0)
    assert (usual.expected["image"] != good["image"]).mean() < 0.02


def test_what_templates_do_not_allow_says_so(inspector, tmp_path):
    with pytest.raises(la.ConditionError):
        inspector.generate(2)
    with pytest.raises(la.ConditionError, match="scores and explains, and cannot generate"):
        inspector.export(tmp_path / "m.onnx", task="generate")
    assert not any(tmp_path.iterdir())


def test_templates_that_fit_nothing_are_refused_by_name(inspector):
    table = boards(20, 3)

    def fit(data, **schema):
        la.Detector(**QUICK, schema=schema).fit(data)

    template = la.Template(of="image")
    for data, schema, words in (
        (
            {**table, "template": table["template"][:, :8]},
            {"template": template},
            r"'template' is the template of 'image', .* holds 8 x 16, .* but 'image' 16 x 16",
        ),
        ({**table, "template": table["template"] / 1.0}, {"template": template}, r"Resize or scale one"),
        (
            table,
            {"template": la.Template(of="picture")},
            "template of 'picture', which is no column of images",
        ),
        ({**table, "other": table["image"]}, {"template": template}, "'image' and 'other' both hold images"),
        (
            {**table, "other": table["image"]},
            {"template": template, "other": template},
            "'template' and 'other' are both templates",
        ),
        (table, {}, r"say schema=\{'template': la.Template\(of='image'\)\}"),
        (np.eye(20), {"x0": template}, "'x0' holds no images, and cannot be Template"),
    ):
        with pytest.raises(la.SchemaError, match=words):
            fit(data, **schema)
    with pytest.raises(ValueError, match="shift must be a whole number from 0 to 64, got -1"):
        la.Template(shift=-1)
    with pytest.raises(la.SchemaError, match="column 'template' is missing, but fit saw it"):
        inspector.predict({"image": table["image"]})
    with pytest.raises(la.SchemaError, match=r"'template' held images of shape \(16, 16\) in fit"):
        inspector.predict({**table, "template": table["template"][:, :8]})


def test_images_that_are_known_by_their_differences_are_not_drawn():
    model = la.Diffusion(**QUICK, n_steps=2, schema={"template": la.Template()}).fit(boards(30, 0))
    for draw in (model.generate, lambda: model.impute(boards(3, 1))):
        with pytest.raises(la.ConditionError, match="differ from 'template', their template: it scores"):
            draw()


@pytest.mark.parametrize(("key", "value"), [("shift", -1), ("shift", 10**9), ("of", ["image"]), ("of", "x")])
def test_a_file_that_states_impossible_templates_is_refused(inspector, key, value):
    stated = copy.deepcopy(inspector.schema_.to_dict())
    stated["columns"][1][key] = value
    with pytest.raises((la.ArtifactError, la.SchemaError)):
        vetted_schema(stated)


@pytest.mark.parametrize("change", [lambda a: a[:0], lambda a: a[:, :3]])
def test_a_file_of_impossible_patches_is_refused(sky, tmp_path, change):
    path, name = tmp_path / "m.lookalike", "memory.patches.1.patches"
    sky.save(path)
    manifest, tensors = archive.read(path, kind="model")
    archive.write(
        path, kind="model", manifest=manifest, tensors={**tensors, name: change(tensors[name])}, card=""
    )
    with pytest.raises(la.ArtifactError, match="patches"):
        la.load(path)
