"""A saved model comes back the same, and a file that describes something else is refused."""

import copy
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal

import lookalike as la
from lookalike import archive


def as_numbers(frame):
    return frame[["income", "age", "debt"]].to_numpy(float)


CONTAINERS = {
    "pandas": lambda frame: frame,
    "polars": lambda frame: pl.from_pandas(frame.reset_index(drop=True)),
    "pyarrow": lambda frame: pl.from_pandas(frame.drop(columns="wait").reset_index(drop=True)).to_arrow(),
    "numpy": as_numbers,
    "objects": lambda frame: frame[["income", "city", "member"]].astype(object).to_numpy(),
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        pd.testing.assert_frame_equal(pd.DataFrame(a), pd.DataFrame(b), check_exact=True)
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    else:
        assert a.equals(b)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_loaded_model_does_what_the_saved_one_did(family, people, others, container, tmp_path):
    train, new = CONTAINERS[container](people), CONTAINERS[container](others)
    path = tmp_path / "model.lookalike"
    model = family(contamination=0.1).fit(train)
    digest = model.save(path)
    loaded = la.load(path, sha256=digest)
    assert type(loaded) is type(model)
    assert loaded.get_params() == {**model.get_params(), "device": "auto"}
    for name in ("score_samples", "p_values", "predict", "decision_function"):
        assert_array_equal(getattr(loaded, name)(new), getattr(model, name)(new))
    same(loaded.generate(40, random_state=1), model.generate(40, random_state=1))
    same(loaded.impute(new, random_state=1), model.impute(new, random_state=1))
    assert_array_equal(loaded.explain(new).shares, model.explain(new).shares)
    same(loaded.explain(new).expected, model.explain(new).expected)
    for name in ("offset_", "loss_curve_", "n_iter_", "n_features_in_", "n_train_", "width_", "history_"):
        assert getattr(loaded, name) == getattr(model, name)
    assert repr(loaded.schema_) == repr(model.schema_)
    assert loaded.save(tmp_path / "again.lookalike") == digest


def test_a_loaded_model_can_be_fitted_again(model, people, tmp_path):
    model.save(tmp_path / "m.lookalike")
    again = la.load(tmp_path / "m.lookalike").fit(people)
    assert_array_equal(again.score_samples(people), model.score_samples(people))


@pytest.mark.parametrize("family", ["Diffusion", "Mixture"], indirect=True)
def test_a_process_that_never_saw_the_model_scores_the_same(model, people, tmp_path):
    model.save(tmp_path / "m.lookalike")
    people.head(20).to_pickle(tmp_path / "rows.pkl")
    code = f"""
import lookalike as la, numpy as np, pandas as pd
rows = pd.read_pickle({str(tmp_path / "rows.pkl")!r})
np.save({str(tmp_path / "scores.npy")!r}, la.load({str(tmp_path / "m.lookalike")!r}).score_samples(rows))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert_array_equal(np.load(tmp_path / "scores.npy"), model.score_samples(people.head(20)))


def test_what_cannot_be_written_down_is_left_out(family, tmp_path):
    X = np.random.default_rng(0).normal(size=(200, 2))
    model = family(
        max_steps=3,
        callbacks=[print_nothing],
        random_state=np.random.default_rng(0),
        contamination=np.float64(0.01),
    ).fit(X)
    model.save(tmp_path / "m.lookalike")
    loaded = la.load(tmp_path / "m.lookalike")
    assert loaded.callbacks is None
    assert loaded.random_state is None
    assert loaded.contamination == 0.01
    assert_array_equal(loaded.score_samples(X), model.score_samples(X))


def print_nothing(progress):
    return None


# ---- files that are not what they seem ----


def test_foreign_and_damaged_files_are_refused(model, tmp_path):
    path = tmp_path / "m.lookalike"
    for content, words in ((b"", "it is empty"), (b"\x80\x04pickle", "not a lookalike file")):
        path.write_bytes(content)
        with pytest.raises(la.ArtifactError, match=words):
            la.load(path)
    model.save(path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:1000], whole[:500] + b"?" + whole[501:]):
        path.write_bytes(content)
        with pytest.raises(la.ArtifactError, match="damaged or not whole"):
            la.load(path)
    path.write_bytes(whole)
    with pytest.raises(la.ArtifactError, match="not the 0000"):
        la.load(path, sha256="0" * 64)
    with pytest.raises(la.ArtifactError, match="max_bytes"):
        la.load(path, max_bytes=1000)
    with pytest.raises(FileNotFoundError):
        la.load(tmp_path / "absent.lookalike")
    archive.write(path, kind="checkpoint", manifest={}, tensors={})
    with pytest.raises(la.ArtifactError, match="checkpoint"):
        la.load(path)


def test_a_device_that_is_not_there_is_the_callers_fault(model, tmp_path):
    model.save(tmp_path / "m.lookalike")
    with pytest.raises(ValueError, match='device must be "auto", "cpu" or "cuda", got \'tpu9\'') as caught:
        la.load(tmp_path / "m.lookalike", device="tpu9")
    assert not isinstance(caught.value, la.ArtifactError)


@pytest.fixture(scope="module")
def content(model, tmp_path_factory):
    """What a good file holds."""
    path = tmp_path_factory.mktemp("saved") / "m.lookalike"
    model.save(path)
    return archive.read(path, kind="model")


@pytest.fixture(scope="module")
def one_content(people, tmp_path_factory):
    """That of one family, for faults that have nothing to do with it."""
    path = tmp_path_factory.mktemp("saved") / "m.lookalike"
    la.VAE(max_steps=3, width=16, random_state=0).fit(people).save(path)
    return archive.read(path, kind="model")


DELETE = "delete"
HUGE = 10**9
MANIFESTS = [
    ("family", "svm", "which this version does not know"),
    ("family", ["vae"], "which this version does not know"),
    ("parameters", DELETE, "does not describe"),
    ("parameters", [], "does not describe"),
    ("parameters.width", HUGE, "width must be a whole number from 1 to 65,536, got 1000000000"),
    ("parameters.width", "32", "width must be"),
    ("parameters.depth", HUGE, "depth must be a whole number from 1 to 1,000"),
    ("parameters.depth", 90, "its network has other tensors"),
    ("parameters.n_steps", HUGE, "n_steps must be"),
    ("parameters.max_levels", 0, "max_levels must be"),
    ("parameters.contamination", 7, "contamination must lie in"),
    ("parameters.device", 7, "device must"),
    ("parameters.callbacks", ["os.system"], "its parameters are not those"),
    ("parameters.n_jobs", 2, "its parameters are not those"),
    ("random_state", "x", "its random_state"),
    ("random_state", -1, "its random_state"),
    ("width", HUGE, "its width is 1000000000"),
    ("width", 60_000, "has shape"),
    ("width", None, "its width is None"),
    ("n_train", -2, "it learned from -2 rows"),
    ("n_train", 1.5, "it learned from 1.5 rows"),
    ("offset", "0", "its offset is '0'"),
    ("offset", None, "its offset is None"),
    ("history", {}, "does not describe"),
    ("history.step", [0.5], "its history"),
    ("history.loss", "x", "its history"),
    ("history.ended", 3, "its history"),
    ("history.colour", "red", "does not describe"),
    ("schema", None, "does not describe"),
    ("schema.container", "excel", "description of a schema"),
    ("schema.columns", {}, "does not describe"),
    ("schema.columns", [], "does not describe"),
    ("schema.columns.0.kind", "os", "os"),
    ("schema.columns.0.name", 1.5, "name"),
    ("schema.columns.0.name", "age", "distinct names"),
    ("schema.columns.0.low", "zero", "low of column 'income'"),
    ("schema.columns.0.high", -1, "empty range"),
    ("schema.columns.0.step", 0, "step of column 'income'"),
    ("schema.columns.0.missing", 2, "missing of column 'income'"),
    ("schema.columns.0.nullable", "no", "nullable of column 'income'"),
    ("schema.columns.0.decimals", 10**6, "decimals of column 'income'"),
    ("schema.columns.0.storage", {}, "does not describe"),
    ("schema.columns.0.storage.family", "code", "storage of column 'income'"),
    ("schema.columns.0.storage.native", "<U999999999", "storage of column 'income'"),
    ("schema.columns.0.storage.native", 8, "storage of column 'income'"),
    ("schema.columns.8.storage.zone", 8, "storage of column 'since'"),
    ("schema.columns.8.storage.unit", "eon", "storage of column 'since'"),
    ("schema.columns.5.levels", ["Bern"], "column 'city'"),
    ("schema.columns.5.levels", [["Bern"], "a", "b", "c"], "levels of column 'city'"),
    ("schema.columns.5.levels", ["a", "a", "b", "c"], "levels of column 'city'"),
    ("schema.columns.5.counts", [1, 2, 3, -4], "counts of column 'city'"),
    ("codec", [], "does not describe"),
    ("codec.counts", [[HUGE]], "its codec"),
    ("codec.counts.0", "12", "its codec"),
    ("codec.nullable", [0, 0], "its codec"),
    ("codec.nullable", [99], "its codec"),
    ("codec.nullable", [0], "other tensors|has shape"),
    ("codec.missing", [HUGE], "its codec"),
    ("codec.columns", [HUGE] * 11, "its codec"),
    ("codec.max_levels", 10**8, "its codec"),
    ("codec.max_levels", 2, "has shape"),
]  # fmt: skip


@pytest.mark.parametrize("where, what, words", MANIFESTS, ids=lambda v: str(v)[:30])
def test_a_manifest_that_does_not_hold_together_is_refused(one_content, where, what, words, tmp_path):
    manifest = copy.deepcopy(one_content[0])
    *path, last = [int(key) if key.isdigit() else key for key in where.split(".")]
    spot = manifest
    for key in path:
        spot = spot[key]
    if what is DELETE:
        del spot[last]
    else:
        spot[last] = what
    archive.write(tmp_path / "m.lookalike", kind="model", manifest=manifest, tensors=one_content[1])
    with pytest.raises(la.ArtifactError, match=rf"m\.lookalike .*{words}"):
        la.load(tmp_path / "m.lookalike")


def changed(name, change):
    return lambda tensors: {**tensors, name: change(tensors[name])}


TENSORS = {
    "none": lambda tensors: {},
    "one fewer": lambda tensors: dict(list(tensors.items())[:-1]),
    "one more": lambda tensors: {**tensors, "model.extra": np.zeros(3)},
    "a foreign one": lambda tensors: {**tensors, "other": np.zeros(3)},
    "weights of another shape": lambda tensors: {
        k: v[:-1] if k.startswith("model.") and v.ndim == 2 else v for k, v in tensors.items()
    },
    "weights of another type": lambda tensors: {
        k: v.astype(float) if k.startswith("model.") else v for k, v in tensors.items()
    },
    "no knots": changed("numbers.value", lambda v: v[:, :0]),
    "flat knots": changed("numbers.value", lambda v: v.ravel()),
    "knots of another column": changed("numbers.value", lambda v: np.vstack([v, v[:1]])),
    "falling knots": changed("numbers.value", lambda v: v[:, ::-1]),
    "no distribution": changed("numbers.high", lambda v: v + 2),
    "no spread": changed("numbers.scale", lambda v: v * 0),
    "no calibration": changed("calibration.scores", lambda v: v[:0]),
    "a square calibration": changed("calibration.scores", lambda v: v[:4].reshape(2, 2)),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_the_manifest_are_refused(content, case, tmp_path):
    path = tmp_path / "m.lookalike"
    archive.write(path, kind="model", manifest=content[0], tensors=TENSORS[case](dict(content[1])))
    with pytest.raises(la.ArtifactError, match=r"m\.lookalike does not describe a fitted"):
        la.load(path)


@pytest.mark.parametrize("family", ["VAE"], indirect=True)  # whose width may be anything
def test_refusing_takes_little_memory(content, tmp_path):
    manifest = copy.deepcopy(content[0])
    manifest["width"], manifest["parameters"]["depth"] = 65_536, 50  # 2 TB at least
    archive.write(tmp_path / "m.lookalike", kind="model", manifest=manifest, tensors=content[1])
    code = f"""
import resource, lookalike as la
la.VAE
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
limit = resource.getrlimit(resource.RLIMIT_AS)[1]
with open("/proc/self/statm") as f:
    used = int(f.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limit))
try:
    la.load({str(tmp_path / "m.lookalike")!r})
except la.ArtifactError as error:
    print(error)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "does not describe a fitted" in done.stdout
