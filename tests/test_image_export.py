"""Models of images leave as one ONNX file a task, and folders of pictures pass through the command line."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

import lookalike as la
from lookalike import feeding, noise, runtime
from lookalike.cli import main
from lookalike.exporters.columns import front, tail
from lookalike.schema import Schema, Table

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images * (255 / 16)).round().astype(np.uint8), DIGITS.target.astype(str)
ROWS = {"image": PIXELS[1000:1060], "label": LABELS[1000:1060]}
QUICK = {"max_steps": 20, "width": 32, "depth": 1, "n_steps": 2, "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")


@pytest.fixture(scope="module")
def digits():
    return la.Diffusion(**QUICK).fit({"image": PIXELS[:600], "label": LABELS[:600]})


@pytest.fixture(scope="module")
def served(digits, tmp_path_factory):
    """Each task's file, exported when it is first asked for."""
    folder, opened = tmp_path_factory.mktemp("exported"), {}

    def load(task):
        if task not in opened:
            digits.export(folder / f"{task}.onnx", task=task)
            opened[task] = runtime.load(folder / f"{task}.onnx", device="cpu", threads=1)
        return opened[task]

    return load


@pytest.mark.slow
def test_a_file_scores_images_as_the_model_does(digits, served):
    model = served("score")
    scores = model.score_samples(ROWS)
    spread = digits.calibration_.scores.std()
    assert_allclose(scores, digits.score_samples(ROWS), atol=1e-5 * spread, rtol=1e-5)
    assert_array_equal(model.predict(ROWS), digits.predict(ROWS))
    assert_allclose(model.p_values(ROWS), digits.p_values(ROWS))
    heat = model.heatmap(ROWS)
    assert heat.shape == (60, 8, 8)
    assert_allclose(heat, digits.heatmap(ROWS), atol=1e-5 * spread)
    for n in (1, 3, 7):  # a row's bits are its own
        assert_array_equal(model.score_samples({k: v[:n] for k, v in ROWS.items()}), scores[:n])
    assert model.verify() == 0
    (image, label) = json.loads(json.dumps(model._contents.document("lookalike")["columns"]))
    assert image == {"column": "image", "input": "image", "type": "uint8", "shape": [8, 8]}
    assert label["input"] == "column:label"  # a graph that scores has an output of that name
    shapes = {value.name: (value.dtype, value.dims) for value in model._contents.inputs}
    assert shapes == {"image": ("uint8", ("n", 8, 8)), "column:label": ("string", ("n",))}
    wrong = {**ROWS, "image": ROWS["image"].repeat(2, 1)}
    with pytest.raises(la.SchemaError, match=r"'image' held images of shape \(8, 8\) in fit"):
        model.predict(wrong)
    shares = model.explain(ROWS, tested=0).shares
    assert_allclose(shares, digits.explain(ROWS, tested=0).shares, atol=1e-5 * spread)
    with pytest.raises(la.SchemaError, match=r"takes whole images, .* heatmap\(X\) says where"):
        model.explain(ROWS)


@pytest.mark.slow
def test_a_file_of_dim_images_scores_lighter_ones_as_the_model_does(tmp_path):
    dim = DIGITS.images.astype(np.uint8)
    model = la.Diffusion(**QUICK, memory=64).fit(dim[:200])
    model.export(tmp_path / "m.onnx", explain=False)
    served = runtime.load(tmp_path / "m.onnx", device="cpu", threads=1)
    light = np.concatenate([dim[600:620], PIXELS[600:620], np.full((1, 8, 8), 255, np.uint8)])
    scores = model.score_samples(light)
    assert np.isfinite(scores).all()
    assert scores[20:].max() < scores[:20].min()
    assert_allclose(served.score_samples(light), scores, rtol=1e-5)
    assert np.isfinite(model.explain(light, tested=0).shares).all()


@pytest.mark.slow
def test_images_drawn_by_a_file_are_those_that_the_model_generates(digits, served):
    model = served("generate")
    for given in (None, {"label": "3"}, {"label": la.Balanced()}):
        made, want = (m.generate(40, given=given, random_state=5) for m in (model, digits))
        assert made["image"].dtype == np.uint8
        assert_array_equal(made["label"], want["label"])
        assert (made["image"] != want["image"]).mean() < 0.002  # a pixel may be rounded otherwise
        few = model.generate(7, given=given, random_state=5)
        assert_array_equal(few["image"], made["image"][:7])
    document = model._contents.document("lookalike")
    normals, uniforms = noise.rows(0, 0, 4, *document["noise"])
    feeds = {"image": np.zeros((4, 8, 8), np.uint8), "column:label": np.array(["7"] * 4, dtype=object)}
    known = np.zeros((4, 65), dtype=bool)
    known[:, 64] = True  # the label
    session = ort.InferenceSession(model._contents.data, providers=["CPUExecutionProvider"])
    image, label = session.run(
        [feeding.FILLED + "image", feeding.FILLED + "column:label"],
        {**feeds, "known": known, "normals": normals, "uniforms": uniforms},
    )
    assert (image.dtype, image.shape, set(label)) == (np.uint8, (4, 8, 8), {"7"})
    held = onnx.load_from_string(model._contents.data).graph.initializer
    weights = [a.tobytes() for a in map(onnx.numpy_helper.to_array, held) if a.size > 256]
    assert len(set(weights)) == len(weights)  # the start and the steps ask one network


@pytest.mark.slow
def test_images_drawn_in_bytes_are_nearly_the_same(digits, served, tmp_path, capsys):
    digits.export(tmp_path / "m.onnx", task="generate", precision="int8")
    assert "of what is drawn is the same" in capsys.readouterr().out
    model = runtime.load(tmp_path / "m.onnx", device="cpu", threads=1)
    told = model.info()["parity"]["int8"]
    assert told["alike"] > 0.99
    assert told["share"] >= 0.5
    files = (onnx.load_from_string(m._contents.data) for m in (model, served("generate")))
    held, before = (list(map(onnx.numpy_helper.to_array, file.graph.initializer)) for file in files)
    assert any(a.dtype == np.int8 for a in held if a.ndim == 4)
    # Steps of the sampler share what they multiply with.
    assert sum(a.nbytes for a in held) < 0.4 * sum(a.nbytes for a in before)
    layers = [(a.dtype, a.shape, a.tobytes()) for a in held if a.dtype in (np.int8, np.int32) and a.ndim]
    assert len(set(layers)) == len(layers)
    given = {"label": np.tile(DIGITS.target_names, 4).astype(str)}
    made, want = (m.generate(given=given, random_state=3)["image"].astype(float) for m in (model, digits))
    assert 0 < np.abs(made - want).mean() < 4
    assert model.verify() == 0


@pytest.mark.slow
def test_holes_of_images_are_filled_by_a_file_as_the_model_fills_them(digits, served):
    model = served("impute")
    mask = np.zeros((60, 8, 8), dtype=bool)
    mask[:50, 2:6, 2:6] = True
    holey = {"image": np.ma.masked_array(ROWS["image"], mask), "label": [None, *ROWS["label"][1:]]}
    filled, want = (m.impute(holey, random_state=2) for m in (model, digits))
    assert_array_equal(filled["image"][~mask], ROWS["image"][~mask])
    assert_array_equal(filled["label"], want["label"])
    assert (filled["image"] != want["image"]).mean() < 0.002
    assert (filled["image"] != ROWS["image"])[mask].mean() > 0.3
    assert model.verify() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "family", "inputs"),
    [((5, 7, 3), "u1", la.Diffusion, "core"), ((6, 6), "f4", la.GAN, "columns")],
    ids=["colours of odd sizes, as a matrix", "floats, and another family"],
)
def test_images_of_any_kind_and_family_are_drawn_by_a_file(shape, dtype, family, inputs, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.random((60, 1, 1, 1)) * np.linspace(0.2, 1, np.prod(shape)).reshape(shape[0], shape[1], -1)
    images = images.reshape(60, *shape)
    images = images.astype(dtype) if dtype[0] == "f" else (images * 255).astype(dtype)
    model = family(**QUICK).fit(images)
    model.export(tmp_path / "m.onnx", task="impute", inputs=inputs)
    served = runtime.load(tmp_path / "m.onnx", device="cpu", threads=1)
    mask = np.zeros((60, *shape[:2]), dtype=bool)
    mask[:, :2] = True
    filled, want = (m.impute(images, mask=mask, random_state=1) for m in (served, model))
    assert (filled.dtype, filled.shape) == (images.dtype, images.shape)
    assert_array_equal(filled[~mask], images[~mask])
    assert_allclose(filled.astype(float), want.astype(float), atol=1 if dtype == "u1" else 1e-5)
    few = served.impute(images[:3], mask=mask[:3], random_state=1)
    assert_array_equal(few, filled[:3])


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "?"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_an_image_goes_through_a_graph_as_one_tensor(shape, dtype):
    images = (np.arange(5 * np.prod(shape)).reshape(5, *shape) % 7 / 7 * (1 if dtype in "f4f8" else 200)) - (
        20 if dtype == "i2" else 0
    )
    images = images > 90 if dtype == "?" else images.astype(dtype)
    schema = Schema.fit(images)
    parts = front(schema, numbers="numbers"), tail(schema, numbers="numbers", naming=feeding.FILLED)
    encoded, decoded = (opened(part) for part in parts)
    assert [value.name for value in encoded.get_inputs()] == ["image"]
    table = schema.encode(images)
    (numbers,) = encoded.run(["numbers"], feeding.feed(schema, images))
    assert_array_equal(numbers, table.numbers)
    far = table.numbers * 1.3 - 0.2  # beyond the range, and between whole numbers
    (back,) = decoded.run([feeding.FILLED + "image"], {"numbers": far, "ids": table.ids})
    want = schema.decode(Table(far, table.ids))
    assert (back.dtype, back.shape) == (images.dtype, images.shape)
    assert_array_equal(back, want)
    holes = np.ma.masked_array(images, images == images.max())
    (tensor,) = feeding.feed(schema, holes, allow_missing=True).values()
    assert tensor.dtype == images.dtype
    assert_array_equal(tensor[~holes.mask], images[~holes.mask])


@pytest.mark.parametrize("dtype", ["u1", "i2", "?", "f2", "f4", "f8"])
@pytest.mark.parametrize(("shape", "shift"), [((5, 6), 0), ((5, 6), 1), ((4, 5, 3), 2), ((4, 5), 64)])
def test_a_graph_compares_images_with_their_templates_as_the_schema_does(dtype, shape, shift):
    table = pairs(30, shape, dtype)
    schema = Schema.fit(table, {"template": la.Template(shift=shift)})
    encoded, feeds = opened(front(schema)), feeding.feed(schema, table)
    assert {value.name: value.shape for value in encoded.get_inputs()} == {
        name: ["n", *shape] for name in table
    }
    assert {name: tensor.dtype for name, tensor in feeds.items()} == dict.fromkeys(table, np.dtype(dtype))
    (numbers,) = encoded.run(["numbers"], feeds)
    assert_array_equal(numbers, schema.encode(table).numbers)
    assert numbers.any()
    for wrong in (np.nan, np.inf, -np.inf) if dtype[0] == "f" else ():
        for name in table:
            spoiled = feeds[name].copy()
            spoiled[:, 2, 3] = wrong
            (numbers,) = encoded.run(["numbers"], {**feeds, name: spoiled})
            assert not np.isfinite(numbers).all(1).any()


def pairs(n, shape, dtype, seed=0):
    """Smooth images a pixel off their templates, and rough."""
    rng = np.random.default_rng(seed)
    template = gaussian_filter(rng.random((n, *shape)), (0, 1, 1, *(0 for _ in shape[2:])))
    image = np.roll(template, 1, 2) + rng.normal(0, 0.05, template.shape)
    both = image.clip(0, 1), template
    scale = 1 if dtype[0] == "f" else 255
    found = (x > 0.5 if dtype == "?" else (x * scale).astype(dtype) for x in both)
    return dict(zip(("image", "template"), found, strict=True))


@pytest.mark.slow
def test_a_file_of_images_with_templates_says_what_the_model_says(tmp_path):
    schema = {"template": la.Template(of="image")}
    model = la.Detector(width=32, depth=1, max_steps=4, memory=256, random_state=0, schema=schema)
    model.fit(pairs(200, (12, 12), "u1"))
    model.export(tmp_path / "m.onnx")
    served = runtime.load(tmp_path / "m.onnx", device="cpu", threads=1)
    good, bad = pairs(60, (12, 12), "u1", 1), pairs(60, (12, 12), "u1", 2)
    bad["image"][:, 4:7, 4:7] ^= 128
    spread = model.calibration_.scores.std()
    for table in (good, bad, {**good, "template": bad["template"]}):
        scores = served.score_samples(table)
        assert_allclose(scores, model.score_samples(table), atol=1e-5 * spread, rtol=1e-5)
        assert_array_equal(served.predict(table), model.predict(table))
        assert_allclose(served.p_values(table), model.p_values(table))
        assert_allclose(served.heatmap(table), model.heatmap(table), atol=1e-5 * spread, rtol=1e-5)
        assert_array_equal(served.score_samples({k: v[7:10] for k, v in table.items()}), scores[7:10])
    assert (served.predict(good) == 1).mean() > 0.8
    assert (served.predict(bad) == -1).mean() > 0.9
    assert served.verify() == 0

    session = ort.InferenceSession(served._contents.data, providers=["CPUExecutionProvider"])
    score, label = session.run(["score", "label"], bad)  # bytes as they are, without lookalike
    assert_allclose(score, model.score_samples(bad), atol=1e-5 * spread, rtol=1e-5)
    assert_array_equal(label, model.predict(bad))

    why, want = (m.explain(bad, tested=0) for m in (served, model))
    assert_allclose(why.shares, want.shares, atol=1e-5 * spread, rtol=1e-5)
    assert (why.expected["image"] != want.expected["image"]).mean() < 0.002
    assert_array_equal(why.expected["template"], bad["template"])
    with pytest.raises(la.SchemaError, match=r"takes whole images, .* The fitted model can"):
        served.explain(bad)
    with pytest.raises(la.SchemaError, match="column 'template' is missing, but fit saw it"):
        served.predict({"image": good["image"]})
    with pytest.raises(la.SchemaError, match=r"'template' held images of shape \(12, 12\) in fit"):
        served.predict({**good, "template": good["template"][:, :9]})

    for name, images in bad.items():
        la.write_images(images, tmp_path / name)
    file, folder, templates, out = (str(tmp_path / name) for name in ("m.onnx", "image", "template", "s.csv"))
    assert main(["-q", "score", file, folder, "--templates", templates, "-o", out]) == 0
    scored = np.loadtxt(out, delimiter=",", skiprows=1, usecols=1)
    assert_allclose(scored, served.anomaly_score(bad), rtol=1e-12)


@pytest.mark.slow
def test_a_file_of_colours_with_templates_and_labels_says_what_the_model_says(tmp_path):
    def boards(seed):
        return {**pairs(120, (9, 8, 3), "f4", seed), "kind": np.tile(["a", "b"], 60)}

    schema = {"template": la.Template(of="image", shift=2)}
    model = la.Detector(width=32, depth=1, max_steps=4, memory=256, random_state=0, schema=schema)
    saved, exported = str(tmp_path / "m.lookalike"), str(tmp_path / "m.onnx")
    model.fit(boards(0)).save(saved)
    assert main(["-q", "export", saved, "-o", exported, "--no-explain"]) == 0
    served = runtime.load(exported, device="cpu", threads=1)
    with pytest.raises(la.ArtifactError, match="exported with explain=False"):
        served.heatmap(boards(1))
    unlike = {**boards(1), "template": boards(2)["template"], "kind": np.tile(["b", "c"], 60)}
    for table in (boards(1), unlike):
        want = model.score_samples(table)
        assert_allclose(
            served.score_samples(table), want, atol=1e-5 * model.calibration_.scores.std(), rtol=1e-5
        )
        assert_array_equal(served.predict(table), model.predict(table))


def opened(part):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(part.model().SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_a_schema_of_images_is_held_against_the_graph(digits, tmp_path):
    handmade = pytest.importorskip("handmade")
    schema = digits.schema_
    other = Schema.fit({"image": PIXELS[:9, :4], "label": LABELS[:9]})
    for task in ("score", "generate"):
        assert runtime.load(handmade.made(schema, task), device="cpu").task == task
        document = {**handmade.about(schema, task), "schema": other.to_dict()}
        with pytest.raises(la.ArtifactError, match="of its graph is not"):
            runtime.load(handmade.sealed(handmade.graph(schema, task), document), device="cpu")


def test_a_template_is_an_input_of_graphs_that_score_and_of_no_others():
    handmade = pytest.importorskip("handmade")
    table = pairs(30, (6, 7), "u1")
    schema = Schema.fit(table, {"template": la.Template()})
    model = runtime.load(handmade.made(schema), device="cpu")
    want = -handmade.energies(schema.encode(table)).sum(1)
    assert_allclose(model.score_samples(table), want)
    assert {value.name for value in model._contents.inputs} == {"image", "template"}
    with pytest.raises(la.ArtifactError, match="draws images that it knows by differences alone"):
        runtime.load(handmade.made(schema, "generate"), device="cpu")


# ---- folders -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "digits"
    la.write_images(PIXELS[:120], folder, labels=LABELS[:120])
    return folder


@pytest.fixture(scope="module")
def saved(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "digits.lookalike"
    options = [f"{name}={value}" for name, value in QUICK.items() if name != "random_state"]
    line = ["-q", "fit", str(pictures), "-o", str(path), "--family", "diffusion", "--seed", "0"]
    assert main([*line, *(word for one in options for word in ("--set", one))]) == 0
    return path


def test_folders_of_pictures_are_learned_scored_drawn_and_filled(pictures, saved, tmp_path):
    model = la.load(saved)
    table = la.read_images(pictures)
    fitted = la.Diffusion(**QUICK).fit(table)
    assert_array_equal(model.score_samples(table), fitted.score_samples(table))

    assert main(["-q", "score", str(saved), str(pictures), "-o", str(tmp_path / "scored.csv")]) == 0
    lines = (tmp_path / "scored.csv").read_text().splitlines()
    assert lines[0] == "file,label,anomaly_score,p_value,is_anomaly"
    assert lines[1].startswith("0/000.png,0,")
    found = [float(line.split(",")[2]) for line in lines[1:]]
    assert_array_equal(found, model.anomaly_score(table))

    made = tmp_path / "made"
    line = ["-q", "generate", str(saved), "-n", "12", "--seed", "1", "--chunk", "5", "-o", str(made)]
    assert main([*line, "--given", "label=3|7"]) == 0
    drawn, want = (
        la.read_images(made),
        model.generate(12, given={"label": la.OneOf(["3", "7"])}, random_state=1),
    )
    order = np.lexsort((np.arange(12), want["label"]))
    assert_array_equal(drawn["image"], want["image"][order])
    assert_array_equal(drawn["label"], want["label"][order])

    hole = np.zeros((1, 8, 8), np.uint8)
    hole[:, 2:5] = 255
    (mask,) = la.write_images(hole, tmp_path / "hole")
    line = ["-q", "impute", str(saved), str(pictures), "--mask", str(mask), "--seed", "0"]
    assert main([*line, "-o", str(tmp_path / "whole")]) == 0
    whole = la.read_images(tmp_path / "whole")
    assert_array_equal(whole["label"], table["label"])
    kept = hole[0] == 0
    assert_array_equal(whole["image"][:, kept], table["image"][:, kept])
    assert (whole["image"] != table["image"]).any()


def test_what_a_folder_of_pictures_cannot_be_is_said_in_one_line(pictures, saved, tmp_path, capsys):
    small = tmp_path / "small"
    la.write_images(PIXELS[:3, :4], small, labels=LABELS[:3])
    (mask,) = la.write_images(PIXELS[:1, :4], tmp_path / "mask")
    model, out = str(saved), str(tmp_path / "out")
    for line, words in [
        (["generate", model, "-n", "3"], "images are written to a folder, and --out is -. Name one."),
        (["generate", model, "-n", "3", "-o", f"{out}.csv"], "images are written to a folder"),
        (["score", model, str(small)], "held images of shape (8, 8) in fit, but now holds"),
        (["score", model, str(pictures), "--size", "8"], "--size 8: HEIGHTxWIDTH was expected"),
        (["score", model, str(tmp_path / "x.csv"), "--size", "8x8"], "is for one folder of pictures"),
        (
            [
                "impute",
                model,
                str(pictures),
                "--mask",
                str(mask),
                "-o",
                out,
            ],
            "is of 4 x 8 pixels, and the images are of 8 x 8. A mask is white",
        ),
    ]:
        assert main(line) == 1
        said = capsys.readouterr().err
        assert words in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(la.SchemaError, match=r"the label '\.\./up' cannot be the name of a sub-folder"):
        la.write_images(PIXELS[:1], tmp_path / "made", labels=["../up"])
    assert main(["-q", "score", model, str(small), "--size", "8x8", "-o", str(tmp_path / "s.csv")]) == 0
