"""The GAN draws the images asked for, in styles that mix, learns from few of them, and says what it lacks."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from test_images import DIGITS, LABELS, PIXELS, TEST, TRAIN, judge, some
from tiny import build, numbers, seeded

import lookalike as la
from lookalike.disturbing import disturb
from lookalike.layout import ImageLayout, Rows
from lookalike.models.contest import reaches, steepness
from lookalike.models.gan import GAN

__all__ = ["judge"]
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")
ASKED = np.tile(DIGITS.target_names, 20).astype(str)
QUICK = {"max_steps": 4, "width": 32, "batch_size": 16, "memory": 64, "random_state": 0}


def stop_after(step):
    def stop(progress):
        if progress.step >= step:
            raise RuntimeError("killed")

    return stop


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "styled"])
def digits(request):
    options = {"max_steps": 250, "learning_rate": 1e-2, "random_state": 0}  # few steps, so larger ones
    model = la.GAN(width=64, batch_size=64, style=request.param, **options)
    return model.fit({"image": PIXELS[TRAIN], "label": LABELS[TRAIN]})


@pytest.mark.slow
def test_digits_that_are_asked_for_are_drawn(digits, judge):
    made = digits.generate(given={"label": ASKED}, random_state=0)
    assert_array_equal(made["label"], ASKED)
    assert (judge(made["image"]) == ASKED).mean() > 0.5  # chance is 0.1
    kinds = [
        made["image"][digit == ASKED].astype(float).std(0).mean() for digit in DIGITS.target_names.astype(str)
    ]
    assert min(kinds) > 10  # no two of a kind are one image
    again = digits.generate(5, given={"label": ASKED[:5]}, random_state=0)
    assert_array_equal(again["image"], made["image"][:5])


@pytest.mark.slow
def test_mixed_digits_keep_the_class_of_their_large_shapes(digits, judge):
    if not digits.style:
        pytest.skip("has no styles")
    given = {"label": ASKED}
    made = digits.generate(given=given, random_state=0)["image"]
    mixed = digits.mix(0, 1, given=given)["image"]
    assert (judge(mixed) == judge(made)).mean() > 0.8
    assert np.abs(mixed - made.astype(float)).mean() > 5


@pytest.mark.slow
def test_holes_are_filled_around_known_pixels(digits, tmp_path):
    mask = np.zeros(PIXELS[TEST].shape, dtype=bool)
    mask[:, 2:6, 2:6] = True
    holey = {"image": np.ma.masked_array(PIXELS[TEST], mask), "label": LABELS[TEST]}
    filled = digits.impute(holey, n_draws=4, combine=True, random_state=0)["image"]
    assert_array_equal(filled[~mask], PIXELS[TEST][~mask])

    def error(images):
        return np.abs((images - PIXELS[TEST].astype(float))[mask]).mean()

    assert error(filled) < error(np.broadcast_to(PIXELS[TRAIN].mean(0), mask.shape))


@pytest.fixture(scope="module")
def styled():
    labels = np.tile(["a", "b"], 30)
    return la.GAN(style=True, **QUICK).fit({"image": some(60, 7, 10), "label": labels})


def test_images_mixed_with_themselves_are_themselves(styled):
    given = {"label": ["a", "b"] * 10}
    made = styled.generate(given=given, random_state=3)
    assert_array_equal(styled.mix(3, 3, given=given)["image"], made["image"])
    mixed = styled.mix(3, 4, given=given)
    assert_array_equal(mixed["label"], given["label"])
    assert (mixed["image"] != made["image"]).any()
    few = styled.mix(3, 4, given={"label": ["a", "b"]})
    assert_array_equal(few["image"], mixed["image"][:2])


def test_truncated_images_are_less_varied_and_files_keep_it(styled, tmp_path):
    def variety(psi):
        made = styled.with_truncation(psi).generate(60, given={"label": "a"}, random_state=0)["image"]
        return made.astype(float).std(0).mean()

    whole, half, none = map(variety, (1.0, 0.5, 0.0))
    assert whole > half > none == 0
    halved = styled.with_truncation(0.5)
    halved.save(tmp_path / "m.lookalike")
    loaded = la.load(tmp_path / "m.lookalike")
    made = halved.generate(5, random_state=0)["image"]
    assert_array_equal(loaded.generate(5, random_state=0)["image"], made)
    assert (styled.generate(5, random_state=0)["image"] != made).any()


@pytest.mark.parametrize("style", [False, True])
def test_images_of_odd_sizes_keep_what_is_known(style):
    images = some(40, 5, 6, 3)
    model = la.GAN(style=style, n_steps=2, **QUICK).fit(images)
    mask = np.zeros(images.shape[:3], dtype=bool)
    mask[:, :2] = True
    filled = model.impute(images, mask=mask, random_state=0)
    assert_array_equal(filled[~mask], images[~mask])
    assert_array_equal(model.score_samples(images[7:9]), model.score_samples(images)[7:9])


def test_a_fit_that_changes_images_goes_on_to_the_same_bits(tmp_path):
    images, options = some(60, 8, 8), {**QUICK, "max_steps": 20, "augment": True}
    whole = la.GAN(**options).fit(images)
    path = tmp_path / "fit.checkpoint"
    with pytest.raises(RuntimeError, match="killed"):
        la.GAN(**options, checkpoint=path, callbacks=[stop_after(8)]).fit(images)
    resumed = la.GAN(**options, checkpoint=path).fit(images)
    assert whole.model_.chance > 0
    for name, tensor in whole.model_.state_dict().items():
        assert torch.equal(tensor, resumed.model_.state_dict()[name]), name


@pytest.mark.parametrize("unseen, more", [(1.0, False), (0.8, False), (0.2, True), (0.0, True), (None, True)])
def test_images_are_changed_more_when_those_held_back_are_taken_for_made_ones(unseen, more):
    model = build(GAN, ImageLayout((4, 4, 1), [], range(16)))
    model.augment, model.unseen = (
        True,
        numbers(torch.randn(0 if unseen is None else 8, 16, generator=seeded())),
    )
    model.judge = lambda rows, observed: torch.full((len(rows),), unseen)
    with torch.no_grad():
        model.chance.fill_(0.5)
    model._adapt(torch.tensor(1.0), torch.tensor(0.0), seeded())  # of learned images, and of made ones
    assert (model.chance > 0.5).item() == more
    assert (model.chance < 0.5).item() != more


def test_only_few_images_are_changed_unless_it_is_asked_for():
    few, many = la.GAN(**QUICK).fit(some(60, 4, 4)), la.GAN(**QUICK).fit(some(2600, 4, 4))
    assert [few.model_.augment, many.model_.augment] == [True, False]
    assert not la.GAN(augment=False, **QUICK).fit(some(60, 4, 4)).model_.augment


def test_changes_move_flags_with_pixels_and_leave_alone_what_they_should():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 200, 60, generator=generator) + 10
    observed = torch.rand(200, 20, generator=generator).repeat_interleave(3, 1) < 0.5
    same, flags = disturb((4, 5, 3), images, observed, torch.tensor(0.0), generator)
    assert torch.equal(same, images)
    assert torch.equal(flags, observed)
    marked = torch.where(observed, 0.0, 1.0).expand(2, -1, -1).clone().requires_grad_()
    moved, flags = disturb((4, 5, 3), marked, observed, torch.tensor(1.0), generator)
    assert torch.equal(moved[0], moved[1])
    # Light and contrast map 0 to one value of each image: where it is, or a hole, the flag is up.
    for image, flag in zip(moved[0].detach(), flags, strict=True):
        assert len(image[flag & (image != 0)].unique()) <= 1
    (slope,) = torch.autograd.grad(moved.sum(), marked)
    assert (slope != 0).any()


def test_the_critic_weighs_the_label_of_an_image_as_it_weighs_images():
    """The penalty is on slopes from image to image, of which labels are as far apart."""
    layout = ImageLayout((4, 4, 1), [3], range(17))
    penalty = steepness(lambda x: 4 * x[:, 16:].sum(1), torch.zeros(5, 19), reaches(layout))
    assert penalty.item() == pytest.approx(3 * 4**2 / 16)


def test_every_part_of_an_image_is_completed_from_the_rest():
    layout = ImageLayout((6, 5, 2), [3], range(61))
    turns = layout.turns()
    assert turns.shape == (61,)
    grid = turns[:60].view(6, 5, 2)
    assert (grid[..., 0] == grid[..., 1]).all()
    assert (grid[0:2, 0:2] == 0).all()
    assert (grid[0:2, 2:4] == 1).all()
    model = GAN(
        layout,
        latent_dim=4,
        width=16,
        depth=1,
        n_steps=1,
        gamma=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    rows = Rows(torch.randn(7, 60), torch.zeros(7, 1, dtype=torch.long))
    cells, expected = model.energies(rows)
    changed = Rows(torch.where(turns[:60] == 0, rows.numbers + 1, rows.numbers), rows.ids)
    _, after = model.energies(changed)
    same = expected.numbers == after.numbers
    assert same[:, turns[:60] == 0].all()
    assert cells[0].shape == (7, 61)


def test_what_is_not_drawn_is_found():
    labels = LABELS[TRAIN]
    options = {**QUICK, "memory": 1024}
    model = la.GAN(**options).fit({"image": PIXELS[TRAIN], "label": labels})
    real, lacking = np.arange(1200), np.flatnonzero(labels != "3")
    fine = model.diagnose_modes({"image": PIXELS[real], "label": labels[real]}, random_state=0)
    assert fine.missing == fine.rare == []
    assert fine.covered == pytest.approx(1)
    found = model.diagnose_modes({"image": PIXELS[lacking], "label": labels[lacking]}, random_state=0)
    assert found.missing[0] == "label = '3'"
    assert all("mostly label = '3'" in name for name in found.missing[1:])
    assert len(found.missing) > 1
    assert "label = '3'" in repr(found)
    assert model.diagnose_modes(n=500, random_state=0).missing  # of four steps there is little to expect


def test_tables_have_modes_too():
    rng = np.random.default_rng(0)
    centres = rng.integers(4, size=1000)
    rows = np.c_[10.0 * centres, 5.0 * (centres % 2)] + rng.normal(size=(1000, 2))
    model = la.Mixture(random_state=0).fit(rows)
    assert model.diagnose_modes(n_clusters=4, random_state=0).missing == []
    assert len(model.diagnose_modes(rows[centres != 2], n_clusters=4, random_state=0).missing) == 1


def test_what_is_not_for_tables_or_needs_styles_is_said(styled):
    for option in ("style", "augment"):
        with pytest.raises(la.SchemaError, match=f"{option}=True is for images"):
            la.GAN(max_steps=2, **{option: True}).fit(np.random.default_rng(0).normal(size=(50, 2)))
    plain = la.GAN(**QUICK).fit(some(40, 4, 4))
    with pytest.raises(la.ConditionError, match=r"no styles to mix. Fit a GAN\(style=True\)"):
        plain.mix(0, 1)
    with pytest.raises(la.ConditionError, match="no styles to truncate"):
        plain.with_truncation(0.5)
    with pytest.raises(ValueError, match="truncation must be a number from 0 to 1, got 2"):
        styled.with_truncation(2)
    with pytest.raises(la.ConditionError, match="mix is given values"):
        styled.mix(0, 1, 3, given={"label": la.OneOf(["a"])})
