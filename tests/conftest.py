"""Settings that hold for every test, and the table and models that several files share."""

import functools
import gc
import os
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import NamedTuple

# Read by torch and numpy when they are first imported; subprocesses inherit it. Models this small gain
# nothing from a second thread, and lose much where the cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# The same examples on every run and machine, however slow that is: a failure is then seen again.
settings.register_profile(
    "lookalike", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lookalike")


def pytest_collection_modifyitems(items):
    """Files with slow tests first: with a file a worker, one that comes last keeps the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What thousands of tests are made of stays: the collector need not walk over it again and again."""
    gc.collect()
    gc.freeze()


def people_table(n, seed):
    """A table with every kind of column; some have holes, and the index repeats."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    u = rng.normal(size=n)
    income = np.round(30_000 * np.exp(0.5 * u), 2)
    debt = np.where(rng.random(n) < 0.4, 0.0, np.round(income * rng.random(n), 2))
    since = pd.Timestamp("2020-03-01", tz="Europe/Berlin") + pd.to_timedelta(rng.integers(0, 40_000, n), "h")
    frame = pd.DataFrame(
        {
            "income": income,
            "age": (40 + 12 * u + 5 * rng.normal(size=n)).round().clip(17, 90).astype("int64"),
            "debt": debt,
            "children": pd.array(rng.poisson(1.5, n), dtype="Int64"),
            "steps": pd.array(rng.integers(0, 20_000, n), dtype="Int64"),
            "city": rng.choice(["Bern", "Köln", "Oslo", "Rome"], n, p=[0.5, 0.3, 0.15, 0.05]),
            "size": pd.Categorical(
                np.select([income > 4e4, income > 2e4], ["big", "mid"], "small"),
                categories=["small", "mid", "big", "huge"],
                ordered=True,
            ),
            "member": u + rng.normal(size=n) > 0,
            "since": pd.Series(since).dt.as_unit("s"),
            "wait": pd.to_timedelta(rng.integers(0, 3600, n), unit="s"),
            "country": "CH",
            "key": [f"k{i:05d}" for i in rng.permutation(n)],
        }
    )
    for name in ("debt", "children", "steps", "city", "since"):
        frame.loc[rng.random(n) < 0.1, name] = None
    return frame.set_index(rng.integers(0, n, n))


@pytest.fixture(scope="session")
def people():
    return people_table(400, 0)


@pytest.fixture(scope="session")
def others():
    """More rows of the same kind."""
    return people_table(150, 1)


@pytest.fixture(scope="session")
def rows(others):
    """Rows with a column that no model knows."""
    return others.assign(note=[f"note {i}" for i in range(len(others))])


TINY = {"max_steps": 40, "width": 32, "depth": 1, "random_state": 0}
TINY_MIXTURE = {"max_steps": 40, "n_components": 12, "random_state": 0}


@pytest.fixture(scope="session", params=["VAE", "GAN", "Diffusion", "Hybrid", "Mixture"])
def family(request):
    """A family whose fits take a moment unless told otherwise."""
    return tiny(request.param)


def tiny(name):
    import lookalike as la

    return functools.partial(getattr(la, name), **(TINY_MIXTURE if name == "Mixture" else TINY))


@pytest.fixture(scope="session")
def model_of_people(people):
    """The model of a family, fitted when it is first asked for."""
    return functools.cache(lambda name: tiny(name)().fit(people))


@pytest.fixture(scope="session")
def model(family, model_of_people):
    return model_of_people(family.func.__name__)


@pytest.fixture(scope="session")
def file_of_people(model_of_people, tmp_path_factory):
    """The file of such a model and a task, which takes seconds: exported once for all of pytest's workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def exported(name, task="score"):
        path = folder / f"{name}-{task}.onnx"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                model_of_people(name).export(path, task=task)
        return path

    return exported


@pytest.fixture(scope="session")
def people_file(file_of_people, tmp_path_factory):
    """An exported model that scores people."""
    return copy(file_of_people("Mixture"), tmp_path_factory.mktemp("exported") / "people.onnx")


@pytest.fixture(scope="session")
def people_generator(file_of_people, tmp_path_factory):
    """An exported model that generates people."""
    path = tmp_path_factory.mktemp("exported") / "people-generate.onnx"
    return copy(file_of_people("Mixture", "generate"), path)


class Built(NamedTuple):
    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The source archive, and the wheel built from it, of a copy of the tree."""
    tree, out = tmp_path_factory.mktemp("build") / "tree", tmp_path_factory.mktemp("dist")
    made = (
        ".git",
        ".venv",
        ".*_cache",
        ".hypothesis",
        "__pycache__",
        "*.egg-info",
        "build",
        "dist",
        "output",
    )
    copytree(ROOT, tree, ignore=ignore_patterns(*made))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(next(out.glob("*.tar.gz")), next(out.glob("*.whl")))
