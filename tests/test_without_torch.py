"""Files that `export` has written give the estimator's numbers, here and where nothing else is installed."""

import ctypes
import importlib.metadata
import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, TINY
from numpy.testing import assert_allclose, assert_array_equal

import lookalike as la
from lookalike import runtime

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

# A family a task; an export takes seconds, but for that of another entry. Any family is tried in test_export.
FAMILIES = {"score": "VAE", "generate": "GAN", "impute": "Diffusion"}
ENTRIES = "columns", "core"
FILES = [(task, inputs) for task in FAMILIES for inputs in ENTRIES]


def table(n, seed):
    """Every kind of column, in lists and arrays: what can be made where pandas is not installed."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=n)
    return {
        "income": np.round(30_000 * np.exp(0.5 * u), 2),
        "age": (40 + 12 * u + 5 * rng.normal(size=n)).round().astype("int64"),
        "debt": np.where(rng.random(n) < 0.1, np.nan, np.where(rng.random(n) < 0.4, 0.0, np.abs(u))),
        "big": 2**60 + rng.integers(0, 10**6, n),
        "city": [None if v == "-" else str(v) for v in rng.choice(["Bern", "Köln", "Oslo", "-"], n)],
        "children": rng.integers(0, 4, n),
        "member": u + rng.normal(size=n) > 0,
        "since": np.datetime64("2020-03-01T00:00:00") + rng.integers(0, 10**8, n).astype("m8[s]"),
        "wait": rng.integers(0, 3600, n).astype("m8[s]"),
        "country": ["CH"] * n,
        "key": [f"k{i:05d}" for i in rng.permutation(n)],
    }


OTHERS = table(700, 1)
GIVEN = {"city": "Oslo", "income": 30_000.0, "debt": None, "member": True}


def holey(rows):
    holes = dict(rows)
    holes["income"] = np.where(np.arange(len(rows["age"])) % 2, np.nan, rows["income"])
    holes["city"] = [None if i % 3 else v for i, v in enumerate(rows["city"])]
    return holes


@pytest.fixture(scope="module")
def models():
    kinds = {"children": la.Categorical()}
    return {
        task: getattr(la, name)(**TINY, n_steps=3, schema=kinds).fit(table(400, 0))
        for task, name in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for task, inputs in FILES:
        models[task].export(folder / f"{task}-{inputs}.onnx", task=task, inputs=inputs)
    return folder


def close(model):
    return {"rtol": 1e-5, "atol": 1e-5 * model.calibration_.scores.std()}


@pytest.mark.parametrize("inputs", ENTRIES)
def test_scores_are_the_estimators(inputs, models, files):
    model, served = models["score"], runtime.load(files / f"score-{inputs}.onnx", device="cpu")
    odd = {**OTHERS, "city": ["Paris"] * 700, "income": OTHERS["income"] * 10.0 ** (np.arange(700) % 9)}
    for rows in (OTHERS, odd):
        scores = served.score_samples(rows)
        assert_allclose(scores, model.score_samples(rows), **close(model))
        assert_array_equal(served.p_values(rows), model.calibration_.p_values(scores))
        assert_array_equal(served.predict(rows), np.where(scores < model.offset_, -1, 1))
        explained, want = served.explain(rows), model.explain(rows)
        assert_allclose(explained.shares, want.shares, **close(model))
        assert explained.columns == want.columns
        same = [
            np.mean(np.asarray(explained.expected[k], object) == np.asarray(want.expected[k], object))
            for k in ("city", "member", "children", "country")
        ]
        assert min(same) > 0.99
        frame = pd.DataFrame(rows).astype({"city": object})
        assert_array_equal(served.score_samples(frame), scores)
        for size in (1, 3, 64, 513):  # bit for bit
            parts = [
                served.score_samples(frame.iloc[i : i + size]) for i in range(0, min(700, 40 * size), size)
            ]
            assert_array_equal(np.concatenate(parts), scores[: sum(map(len, parts))])
    assert served.offset_ == model.offset_
    assert served.verify() == 0


def cells_apart(got, want):
    """Share of the cells that differ by more than a millionth, text and levels by anything."""
    apart = []
    for key, column in want.items():
        a, b = np.asarray(got[key]), np.asarray(column)
        assert a.dtype == b.dtype
        if a.dtype.kind == "f":
            apart.append(~np.isclose(a, b, rtol=1e-5, atol=1e-2, equal_nan=True))
        elif a.dtype.kind in "mM":
            apart.append(np.abs((a - b).astype("i8")) > 2000)  # seconds, of three years
        elif key == "big":
            apart.append(np.abs(a - b) > 50)  # of a million
        else:
            apart.append(a != b)
    return float(np.mean(apart))


@pytest.mark.parametrize("inputs", ENTRIES)
def test_rows_drawn_are_the_estimators(inputs, models, files):
    model, served = models["generate"], runtime.load(files / f"generate-{inputs}.onnx", device="cpu")
    for given in (None, GIVEN):
        new, want = (m.generate(600, given=given, random_state=7) for m in (served, model))
        assert cells_apart(new, want) < 0.002
        assert list(new["key"]) == list(want["key"])
    assert (new["income"] == 30_000).all()
    assert set(new["city"]) == {"Oslo"}
    again = served.generate(5, given=GIVEN, random_state=7)
    assert all(list(again[key]) == list(new[key][:5]) for key in ("age", "since", "big", "children"))
    assert served.verify() == 0


@pytest.mark.parametrize("inputs", ENTRIES)
def test_holes_are_filled_as_the_estimator_fills_them(inputs, models, files):
    model, served = models["impute"], runtime.load(files / f"impute-{inputs}.onnx", device="cpu")
    rows = holey(OTHERS)
    filled, want = (m.impute(rows, random_state=3) for m in (served, model))
    pick = ("income", "debt", "city")
    assert cells_apart({k: filled[k] for k in pick}, {k: want[k] for k in pick}) < 0.002
    assert filled["age"] is rows["age"]
    assert not any(v is None for v in filled["city"])
    assert len(served.impute(rows, n_draws=2, random_state=3)) == 2
    assert served.verify() == 0


# ---- where nothing else is installed ----

SCRIPT = """
import importlib.util, json, sys
import numpy as np
import lookalike
from lookalike import runtime

assert lookalike.__file__.startswith(sys.prefix), lookalike.__file__
for absent in ("torch", "onnx", "sklearn", "pandas", "polars", "pyarrow", "safetensors", "scipy"):
    assert importlib.util.find_spec(absent) is None, absent
folder, rows = sys.argv[1], json.load(open(sys.argv[2]))
for key, dtype in rows.pop("dtypes").items():
    rows[key] = np.array(rows[key]).astype(dtype)
holey, given = rows.pop("holey"), rows.pop("given")
found = {}
for stem in sys.argv[3:]:
    model = runtime.load(f"{folder}/{stem}.onnx")
    found[stem] = said = {"worst": model.verify()}
    if model.task == "score":
        said["scores"] = model.score_samples(rows).tolist()
        said["p"] = model.p_values(rows).tolist()
        said["labels"] = model.predict(rows).tolist()
        said["shares"] = model.explain(rows).shares.tolist()
    elif model.task == "generate":
        said["generated"] = {
            key: (column.dtype.str, (column.view("i8") if column.dtype.kind in "Mm" else column).tolist())
            for key, column in model.generate(20, given=given, random_state=7).items()
        }
    else:
        filled = model.impute({**rows, **holey}, random_state=3)
        said["filled"] = [str(value) for value in filled["city"]]
json.dump(found, sys.stdout)
"""


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needed(names):
    """Distributions, and what they need in turn."""
    from packaging.requirements import Requirement

    found, left = {}, list(names)
    while left:
        name = left.pop()
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            wants = map(Requirement, found[name].requires or ())
            left += [w.name for w in wants if w.marker is None or w.marker.evaluate({"extra": ""})]
    return found.values()


def bare(folder, wheel, *packages):
    """A Python with our wheel and packages that are installed here."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Without an index: linked from the environment of the tests.
    for base in needed(packages):
        entries = {file.parts[0] for file in base.files or ()} - {"..", "__pycache__"}
        for entry in entries - {path.name for path in site.iterdir()}:
            (site / entry).symlink_to(Path(str(base.locate_file(entry))))
    return python


@pytest.fixture(scope="module")
def bare_python(built, tmp_path_factory):
    """A Python with our wheel, numpy, narwhals and onnxruntime."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    return bare(folder, built.wheel, "numpy", "narwhals", "onnxruntime")


def as_json(column):
    """A list; times as numbers of their unit."""
    if isinstance(column, list):
        return column
    return (column.astype("i8") if column.dtype.kind in "Mm" else column).tolist()


def test_files_run_where_only_numpy_narwhals_and_onnxruntime_are(bare_python, models, files, tmp_path):
    rows = {key: as_json(column) for key, column in OTHERS.items()}
    dtypes = {key: v.dtype.str for key, v in OTHERS.items() if isinstance(v, np.ndarray)}
    cities = {"city": holey(OTHERS)["city"]}
    (tmp_path / "rows.json").write_text(
        json.dumps({**rows, "dtypes": dtypes, "given": GIVEN, "holey": cities})
    )
    stems = [f"{task}-{inputs}" for task, inputs in FILES]
    command = (bare_python, "-I", "-W", "error", "-c", SCRIPT, files, tmp_path / "rows.json", *stems)
    for (task, _), got in zip(FILES, json.loads(run(*command)).values(), strict=True):
        model = models[task]
        assert got["worst"] == 0
        if task == "score":
            assert_allclose(got["scores"], model.score_samples(OTHERS), **close(model))
            assert_array_equal(got["p"], model.calibration_.p_values(got["scores"]))
            assert_array_equal(got["labels"], np.where(np.array(got["scores"]) < model.offset_, -1, 1))
            assert_allclose(got["shares"], model.explain(OTHERS).shares, **close(model))
        elif task == "generate":
            want = model.generate(20, given=GIVEN, random_state=7)
            new = {key: np.array(cells).astype(dtype) for key, (dtype, cells) in got["generated"].items()}
            assert cells_apart(new, want) < 0.01
        else:
            filled = model.impute({**OTHERS, **cities}, random_state=3)["city"]
            assert np.mean(np.array(got["filled"]) != filled.astype(str)) < 0.01


# ---- where onnxruntime is built for CUDA, and there is no GPU ----

ON_CUDA = """
import json, sys, time, warnings
import numpy as np
import onnxruntime as ort
from lookalike import errors, runtime

file, rows = sys.argv[1], json.load(open(sys.argv[2]))
for key, dtype in rows.pop("dtypes").items():
    rows[key] = np.array(rows[key]).astype(dtype)
found = {"available": ort.get_available_providers()}
found["plain"] = ort.InferenceSession(file, providers=["CUDAExecutionProvider"]).get_providers()
start = time.perf_counter()
try:
    runtime.load(file, device="cuda")
except errors.DeviceError as error:
    found["refused"] = str(error)
found["seconds"] = time.perf_counter() - start
for device in ("auto", "cpu"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = runtime.load(file, device=device)
    found[device] = {
        "warned": [str(warning.message) for warning in caught],
        "provider": model.info()["provider"],
        "scores": model.score_samples(rows).tolist(),
    }
print(json.dumps(found))
"""


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def install(python, *packages):
    """Install from the index, or skip the test."""
    quick = ["--no-deps", "--no-compile", "--quiet", "--retries", "1", "--timeout", "15"]
    command = [sys.executable, "-m", "pip", "--python", python, "install", *quick]
    constraints = ["-c", ROOT / "constraints.txt"]
    done = subprocess.run([*command, *constraints, *packages], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {packages}: {done.stderr.strip().splitlines()[-1]}")


@pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver: tests/test_cuda.py uses it")
def test_the_wheel_for_cuda_never_runs_on_a_cpu_unasked(built, models, files, tmp_path):
    """onnxruntime-gpu, as installed by who then has no GPU."""
    python = bare(tmp_path / "venv", built.wheel, "numpy", "narwhals", "flatbuffers", "packaging", "protobuf")
    install(python, "onnxruntime-gpu")  # not its CUDA libraries, gigabytes that would not help
    rows = {key: as_json(column) for key, column in OTHERS.items()}
    dtypes = {key: v.dtype.str for key, v in OTHERS.items() if isinstance(v, np.ndarray)}
    (tmp_path / "rows.json").write_text(json.dumps({**rows, "dtypes": dtypes}))
    command = (python, "-I", "-c", ON_CUDA, files / "score-columns.onnx", tmp_path / "rows.json")
    found = json.loads(run(*command).splitlines()[-1])
    assert "CUDAExecutionProvider" in found["available"]
    assert found["plain"] == ["CPUExecutionProvider"]  # what onnxruntime does without a word
    no_driver = "no NVIDIA driver is found (libcuda.so.1)"
    assert found["refused"] == f'device="cuda" was asked for, but {no_driver}.'
    assert found["seconds"] < 5
    assert found["auto"]["warned"] == [f"CUDA is not used, for {no_driver}."]
    assert found["cpu"]["warned"] == []
    for device in ("auto", "cpu"):
        assert found[device]["provider"] == "CPUExecutionProvider"
        assert_allclose(
            found[device]["scores"], models["score"].score_samples(OTHERS), **close(models["score"])
        )

    install(python, "onnxruntime")  # over the other, as requirements of two packages may do
    found = json.loads(run(*command).splitlines()[-1])
    assert "CUDAExecutionProvider" not in found["available"]
    assert "onnxruntime and onnxruntime-gpu are both installed" in found["refused"]
    assert "are both installed" in found["auto"]["warned"][0]
