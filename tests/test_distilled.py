"""The hybrid of images: a student draws in few steps what its teacher draws in many."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import lookalike as la
from lookalike.layout import Rows

DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images * (255 / 16)).round().astype(np.uint8), DIGITS.target.astype(str)
ROWS = {"image": PIXELS, "label": LABELS}
STAGED = {"max_steps": 100, "width": 16, "n_steps": 2, "random_state": 0}  # which end at 90, 96, 99 and 100
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")


class Drawing:
    """Keeps what is drawn while the fit goes on."""

    def __init__(self):
        self.images, self.steps = [], []

    def __call__(self, progress):
        self.images.append(progress.model.generate(40, given={"label": la.Balanced()}, random_state=0))
        self.steps.append(progress.step)


@pytest.fixture(scope="module")
def seen():
    return Drawing()


@pytest.fixture(scope="module")
def fitted(seen):
    return la.Hybrid(max_steps=300, width=64, n_steps=2, random_state=0, callbacks=[seen]).fit(ROWS)


@pytest.fixture(scope="module")
def judge():
    """Knows digits: of real ones it names 99 %."""
    known = SVC().fit(PIXELS.reshape(-1, 64) / 255, LABELS)
    return lambda images: known.predict(images.reshape(-1, 64) / 255)


@pytest.mark.slow
def test_digits_that_are_asked_for_are_drawn_in_two_steps(fitted, seen, judge):
    asked = np.tile(DIGITS.target_names, 20).astype(str)
    made = fitted.generate(given={"label": asked}, random_state=0)["image"]
    assert (judge(made) == asked).mean() > 0.85
    spread = [PIXELS[:200].astype(float).std(0).mean(), made.astype(float).std(0).mean()]
    assert spread[1] / spread[0] == pytest.approx(1, abs=0.15)
    # Whoever looks on sees digits from the time that the teacher can draw, and none when the student begins.
    named = [(judge(drawn["image"]) == drawn["label"]).mean() for drawn in seen.images]
    assert min(named[len(named) // 2 :]) > 0.6


@pytest.mark.slow
def test_the_student_draws_what_its_teacher_draws_from_the_same_noise(fitted):
    model = fitted.model_
    layout, generator = model.layout, torch.Generator().manual_seed(0)
    z, ids = torch.randn(64, layout.n_numbers, generator=generator), torch.arange(64)[:, None] % 10
    given, uniforms = Rows(torch.full_like(z, torch.nan), ids), torch.full((64, 2), 0.5)
    nothing = torch.zeros(layout.width - layout.n_numbers)
    with torch.inference_mode():
        wanted, drawn = (
            m.sample(z, uniforms, given, nothing).numbers for m in (model.teacher, model.student)
        )

    def apart(a, b):
        return (a - b).square().mean(1).sqrt().mean().item()

    assert apart(drawn, wanted) < 0.5 * apart(drawn.roll(10, 0), wanted)  # another of the same label


def test_what_is_not_asked_for_is_drawn_too_and_what_is_given_is_kept(fitted):
    drawn = fitted.generate(200, random_state=0)
    assert np.bincount(drawn["label"].astype(int), minlength=10).min() > 5
    hole = np.zeros((20, 8, 8), dtype=bool)
    hole[:, 2:6, 2:6] = True
    holey = {"image": np.ma.masked_array(PIXELS[:20], hole), "label": LABELS[:20]}
    filled = fitted.impute(holey, random_state=0)["image"]
    assert_array_equal(filled[~hole], PIXELS[:20][~hole])
    real, mean = PIXELS[:20].astype(float), PIXELS.mean(0)
    missed, blind = (
        np.sqrt(((x - real)[hole] ** 2).mean()) for x in (filled, np.broadcast_to(mean, real.shape))
    )
    assert missed < blind


def test_the_noise_of_an_image_is_found_in_few_steps(fitted):
    ends = ({"image": PIXELS[i], "label": LABELS[i]} for i in ([0, 1], [10, 11]))
    path = fitted.interpolate(*ends, steps=3)
    assert_array_equal(path["image"].reshape(2, 3, 8, 8)[:, 0], PIXELS[:2])


@pytest.fixture(scope="module")
def unbroken():
    return la.Hybrid(**STAGED).fit(ROWS).model_.state_dict()


@pytest.mark.parametrize("stops", [25, 96, 99, 100])
def test_a_fit_killed_in_any_stage_goes_on_to_the_same_bits(stops, unbroken, tmp_path):
    def killed(progress):
        if progress.step == stops:
            raise InterruptedError  # before the checkpoint of this evaluation

    with pytest.raises(InterruptedError):
        la.Hybrid(**STAGED, checkpoint=tmp_path / "c", callbacks=[killed]).fit(ROWS)
    resumed = la.Hybrid(**STAGED, checkpoint=tmp_path / "c").fit(ROWS).model_.state_dict()
    for name, tensor in unbroken.items():
        assert_array_equal(resumed[name], tensor, err_msg=name)


def test_a_file_holds_no_rows_that_were_drawn_on_the_way(fitted, tmp_path):
    fitted.save(tmp_path / "m")
    again = la.load(tmp_path / "m")
    assert again.model_.state_dict().keys() == fitted.model_.state_dict().keys()
    assert not [name for name, _ in fitted.model_.named_buffers() if "remembered" in name]
    assert_array_equal(
        again.generate(5, random_state=0)["image"], fitted.generate(5, random_state=0)["image"]
    )
