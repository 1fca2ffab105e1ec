"""Picture files become arrays that can be fitted, and back."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import lookalike as la

PIL = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")
RNG = np.random.default_rng(0)


def bytes_of(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_what_is_written_is_read_again_with_its_labels(channels, tmp_path):
    images, labels = bytes_of(12, 6, 9, *channels), list("abca" * 3)
    paths = la.write_images(images, tmp_path, labels=labels)
    found = la.read_images(tmp_path)
    order = np.argsort([str(path) for path in paths])
    assert_array_equal(found["image"], images[order])
    assert found["label"].tolist() == [labels[i] for i in order]
    assert_array_equal(la.read_images(paths), images)  # a list keeps its order, and has no labels
    assert_array_equal(la.read_images(tmp_path / "a"), images[[i for i in order if labels[i] == "a"]])


def test_a_folder_of_files_is_fitted(tmp_path):
    made = la.write_images(bytes_of(40, 6, 6, 1), tmp_path, names=[f"picture {i:02d}" for i in range(40)])
    assert made[3].name == "picture 03.png"
    (tmp_path / ".hidden.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("nor this")
    images = la.read_images(tmp_path)
    assert images.shape == (40, 6, 6)
    model = la.Diffusion(max_steps=3, width=32, depth=1, n_steps=2, memory=16, random_state=0).fit(images)
    assert model.generate(2, random_state=0).shape == (2, 6, 6)


def test_images_are_resized_and_converted_where_that_is_asked_for(tmp_path):
    la.write_images(bytes_of(1, 8, 8), tmp_path, names=["grey"])
    la.write_images(bytes_of(1, 4, 6, 3), tmp_path, names=["small"])
    assert la.read_images(tmp_path, size=(8, 10), mode="RGB").shape == (2, 8, 10, 3)
    with pytest.raises(
        la.SchemaError, match=r'small\.png is an image of shape \(8, 8, 3\).* Give mode="RGB"'
    ):
        la.read_images(tmp_path, size=(8, 8))
    with pytest.raises(
        la.SchemaError, match=r"small\.png is an image of shape \(4, 6\).* Give size=\(height"
    ):
        la.read_images(tmp_path, mode="L")


def test_files_that_are_no_pictures_are_named(tmp_path):
    with pytest.raises(la.SchemaError, match="there is no picture in"):
        la.read_images(tmp_path)
    with pytest.raises(la.SchemaError, match="is not a folder"):
        la.read_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="mode must be one of 'L', 'RGB', 'RGBA', got 'CMYK'"):
        la.read_images(tmp_path, mode="CMYK")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 30)
    with pytest.raises(la.SchemaError, match=r"cut\.png cannot be read as a picture"):
        la.read_images(tmp_path)
    la.write_images(bytes_of(1, 4, 4), tmp_path / "a", names=["cut"])
    la.write_images(bytes_of(1, 4, 4), tmp_path, names=["stray"])
    with pytest.raises(la.SchemaError, match=r"stray\.png lies beside sub-folders, whose names are labels"):
        la.read_images(tmp_path)
    with pytest.raises(la.SchemaError, match=r"images to write are bytes .*, got float64 of shape"):
        la.write_images(np.zeros((2, 4, 4)), tmp_path)


def test_a_sheet_shows_each_image_in_its_place(tmp_path):
    images = bytes_of(5, 6, 9, 3)
    sheet = la.contact_sheet(images, tmp_path / "sheet.png", columns=3, scale=2)
    assert_array_equal(np.asarray(PIL.open(tmp_path / "sheet.png")), sheet)
    assert sheet.shape == (2 + 2 * 14, 2 + 3 * 20, 3)
    for i, image in enumerate(images):
        top, left = 2 + i // 3 * 14, 2 + i % 3 * 20
        assert_array_equal(sheet[top : top + 12 : 2, left : left + 18 : 2], image)
    assert (sheet[16:, 42:] == 255).all()  # where no image is left
    assert la.contact_sheet(images).shape[0] == 2 * (10 * 6 + 2) + 2  # enlarged to be seen


def test_a_sheet_has_labels_below_and_any_range(tmp_path):
    grey = np.linspace(-1, 1, 4 * 64, dtype=np.float32).reshape(4, 8, 8)
    sheet = la.contact_sheet(grey, columns=4, limits=(-1, 0), labels=["a", "b", 3, None], scale=1)
    assert (sheet.ndim, sheet.dtype) == (2, np.uint8)
    assert_array_equal(sheet[2:10, 2:10], (255 * (grey[0] + 1)).round().astype(np.uint8))
    assert (sheet[2:10, 22:30] == 255).all()  # beyond the range
    assert (sheet[10:, :10] < 100).any()
    assert la.contact_sheet(bytes_of(2, 4, 4, 4), labels="ab").shape[2] == 4
    assert la.contact_sheet(bytes_of(3, 4, 4, 1) > 100).max() == 255


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (np.zeros((4, 4)), {}, "a sheet is made of images of shape .* got float64 of shape"),
        (np.zeros((2, 4, 4, 2)), {}, "images of a sheet have 1, 3 or 4 channels, got 2"),
        (np.zeros((2, 4, 4)), {"labels": ["a"]}, "one label for each of 2 images, got 1"),
        (np.zeros((2, 4, 4)), {"columns": 0}, "columns must be a whole number of at least 1, got 0"),
        (np.zeros((2, 4, 4)), {"limits": (1, 1)}, "the lower first, got"),
    ],
)
def test_what_makes_no_sheet_is_said(images, options, words):
    with pytest.raises(ValueError, match=words):
        la.contact_sheet(images, **options)
