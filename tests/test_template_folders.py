"""Folders of templates beside folders of images: read, learned from, scored with, on the command line too."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import lookalike as la
from lookalike import folders, runtime
from lookalike.cli import main

PIL = pytest.importorskip("PIL.Image")
pytest.importorskip("onnxruntime")
handmade = pytest.importorskip("handmade")
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")
QUICK = {"max_steps": 4, "width": 32, "depth": 1, "memory": 256}
LINES = ("fine", "coarse")  # kinds of boards, and their sub-folders


def boards(n, seed, spoiled=False):
    """Round pads, white on black, up to a pixel off what was designed; some have a hole."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((14, 14))
    place = rng.uniform(4, 10, (n, 2, 1, 1))
    off = place + rng.integers(-1, 2, (n, 2, 1, 1))
    design, board = (255 * (np.hypot(y - p[:, 0], x - p[:, 1]) < 4).astype(np.uint8) for p in (place, off))
    if spoiled:
        board[np.maximum(np.abs(y - off[:, 0].round()), np.abs(x - off[:, 1].round())) < 2] = 0
    return {"image": board, "template": design, "label": np.tile(LINES, n // 2)}


def write(table, folder):
    """Boards as PNG files, designs of the same names as BMP files, and before them one of no board."""
    names = [f"{i:03d}.of.{len(table['label'])}" for i in range(len(table["label"]))]
    la.write_images(table["image"], folder / "boards", names=names, labels=table["label"])
    for name, label, design in zip(names, table["label"], table["template"], strict=True):
        (folder / "designs" / label).mkdir(parents=True, exist_ok=True)
        PIL.fromarray(design).save(folder / "designs" / label / f"{name}.bmp")
    la.write_images(table["image"][:1], folder / "designs" / LINES[1], names=["000"])
    return str(folder / "boards"), str(folder / "designs")


def ordered(table):
    """Rows as their files are: by label, and by number within."""
    order = np.argsort(table["label"], kind="stable")
    return {name: column[order] for name, column in table.items()}


def scores_of(path):
    with open(path, newline="") as file:
        return [(row["file"], float(row["anomaly_score"]), row["is_anomaly"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A model that the command line learned from folders."""
    folder = tmp_path_factory.mktemp("learned")
    images, templates = write(boards(120, 0), folder)
    saved = str(folder / "m.lookalike")
    line = ["-q", "fit", images, "-o", saved, "--templates", templates, "--shift", "2", "--seed", "0"]
    assert (
        main([*line, *(word for name, value in QUICK.items() for word in ("--set", f"{name}={value}"))]) == 0
    )
    return saved


@pytest.fixture(scope="module")
def exported(learned, tmp_path_factory):
    """A file that takes what the model takes."""
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    path.write_bytes(handmade.made(la.load(learned).schema_))
    return str(path)


def test_each_image_is_read_with_the_template_of_its_name(tmp_path):
    table = boards(20, 0)
    images, templates = write(table, tmp_path)
    found = la.read_images(images, templates=templates)
    assert list(found) == ["image", "template", "label"]
    for name, column in ordered(table).items():
        assert_array_equal(found[name], column)
    plain = la.read_images(tmp_path / "boards" / "fine", templates=tmp_path / "designs" / "fine", size=(7, 9))
    assert {name: column.shape for name, column in plain.items()} == dict.fromkeys(
        ("image", "template"), (10, 7, 9)
    )
    one = next((tmp_path / "designs").rglob("*.bmp"))
    for_all = la.read_images(images, templates=one, mode="RGB")["template"]
    assert_array_equal(for_all, np.repeat(la.read_images([one], mode="RGB"), 20, axis=0))


def test_folders_are_learned_and_scored_as_pairs_are(learned, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PART", 17)
    model = la.Detector(**QUICK, random_state=0, schema={"template": la.Template(of="image", shift=2)})
    model.fit(ordered(boards(120, 0)))
    out = str(tmp_path / "out.csv")
    for name, table in {"good": boards(40, 1), "bad": boards(40, 2, spoiled=True)}.items():
        images, templates = write(table, tmp_path / name)
        assert main(["-q", "score", learned, images, "--templates", templates, "-o", out]) == 0
        files, scores, odd = zip(*scores_of(out), strict=True)
        assert files[0] == "coarse/001.of.40.png"
        assert_array_equal(scores, model.anomaly_score(ordered(table)))
        assert (np.array(odd) == "true").mean() > 0.9 if name == "bad" else odd.count("true") < 8
    one = next((tmp_path / "good" / "designs").rglob("*.bmp"))
    assert main(["-q", "score", learned, images, "--templates", str(one), "-o", out]) == 0
    same = {**ordered(table), "template": np.repeat(la.read_images([one]), 40, axis=0)}
    assert_array_equal([score for _, score, _ in scores_of(out)], model.anomaly_score(same))


def test_an_exported_file_scores_folders_without_torch(exported, tmp_path):
    table = ordered(boards(10, 1, spoiled=True))
    images, templates = write(table, tmp_path)
    out = str(tmp_path / "out.csv")
    line = ["score", exported, images, "--templates", templates, "-o", out]
    code = (
        f"import sys; from lookalike.cli import main; assert main({line!r}) == 0; "
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    files, scores, _ = zip(*scores_of(out), strict=True)
    assert files[-1] == "fine/009.of.10.png"
    assert_allclose(scores, handmade.energies(runtime.load(exported).schema_.encode(table)).sum(1))


def test_templates_that_cannot_be_are_refused_in_one_line(learned, exported, tmp_path, capsys):
    images, templates = write(boards(10, 1), tmp_path)
    first = tmp_path / "designs" / "coarse" / "001.of.10.bmp"
    for place in ("lacking", "two", "wide"):
        write(boards(10, 1), tmp_path / place)
    for path in (tmp_path / "lacking" / "designs" / "fine").iterdir():
        path.unlink()
    PIL.open(first).save(tmp_path / "two" / "designs" / "coarse" / "001.of.10.png")
    PIL.open(first).resize((15, 14)).save(tmp_path / "wide" / "designs" / "coarse" / "001.of.10.bmp")
    (tmp_path / "rows.csv").write_text("a\n1\n")
    plain, out = str(tmp_path / "plain.lookalike"), str(tmp_path / "out")
    la.Detector(**QUICK, random_state=0).fit(ordered(boards(40, 0))["image"]).save(plain)
    model, wrong = learned, str(tmp_path / "lacking" / "designs")
    for line, words in [
        (["score", model, images], "differ from 'template', their template. Give them by --templates"),
        (["score", exported, images], "differ from 'template', their template. Give them by --templates"),
        (["score", plain, images, "--templates", templates], "without templates. Leave out --templates."),
        (["fit", images, "-o", out, "--shift", "1"], "give --templates too"),
        (["fit", images, "-o", out, "--templates", templates, "--shift", "-1"], "from 0 to 64, got -1"),
        (
            ["fit", str(tmp_path / "rows.csv"), "-o", out, "--templates", templates],
            "--templates is for one folder of pictures, and",
        ),
        (
            ["score", model, images, "--templates", wrong],
            f"5 of 10 images have no template in {wrong}. The first",
        ),
        (
            ["score", model, images, "--templates", wrong],
            f"fine/000.of.10.png, whose template would be {wrong}/fine/",
        ),
        (["score", model, images, "--templates", f"{images}/none"], "is neither a folder of templates nor"),
        (
            ["score", model, images, "--templates", str(tmp_path / "two" / "designs")],
            "001.of.10.png are templates of the same images. Keep one",
        ),
        (
            ["score", model, images, "--templates", str(tmp_path / "wide" / "designs")],
            "001.of.10.bmp is an image of shape (14, 15), and",
        ),
        (
            ["impute", model, images, "--mask", str(first), "-o", out],
            "scores and explains, and cannot impute",
        ),
    ]:
        assert main(line) == 1
        said = capsys.readouterr().err
        assert words in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(la.SchemaError, match="is a folder, and the images are a list"):
        la.read_images([first], templates=templates)
    with pytest.raises(la.SchemaError, match="one template for each of 1 images, got 2"):
        la.read_images([first], templates=[first, first])
