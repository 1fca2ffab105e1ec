"""The samples run as a user would run them, on less."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from extras import BRIDGES

import lookalike as la

SAMPLES = Path(__file__).parents[1] / "samples"


def check_picture(path: Path) -> None:
    from matplotlib.image import imread

    picture = imread(path)
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20


def run(name: str, *options: object) -> str:
    command = [sys.executable, SAMPLES / name, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_flights_finds_generates_draws_and_saves(tmp_path: Path) -> None:
    said = run("flights.py", "--rows", 2000, "--steps", 60, "--every", 8, "--out", tmp_path)
    for words in (
        "42,097 flights",
        "The ten oddest",
        "expected:",
        "generated",
        "bit for bit",
        "torch not loaded",
        "Done.",
    ):
        assert words in said
    check_picture(tmp_path / "flights.png")
    rows = pd.read_csv(tmp_path / "generated.csv")
    assert len(rows) == 5000
    assert {"carrier", "dest", "dep_delay"} <= set(rows)
    assert isinstance(la.load(tmp_path / "flights.lookalike"), la.Diffusion)


# What each sample of an extra's table (`extras.BRIDGES`) is run with here, and some of what it then says.
OF_EXTRAS = {
    "frames.py": (["--rows", 20_000, "--learn", 2000], ["20,000 in", "All four agree."]),
    "kafka_scores.py": (
        ["--rows", 1500, "--steps", 60],
        ["999 flights scored", "1 refused", "the oddest", "refused: number 500, the record has no column"],
    ),
    "mlflow_registry.py": ([], ["losses logged", "mean radius", "A runtime model of the same file", "Done."]),
    "ray_scores.py": (["--rows", 5000], ["5,000 flights scored", "100,000 flights drawn", "Done."]),
    "serve_http.py": (
        ["--rows", 1500, "--steps", 60],
        [
            "because of",
            "of 200 others are anomalies",
            "400: column 'air_time' holds 'long' in row 0",
            'lookalike_rows_total{model="flights"} 201.0',
            "The server ended with 0.",
        ],
    ),
    "spark_scores.py": (["--rows", 5000], ["5,000 flights scored", "100,000 flights drawn in 2", "Done."]),
}


@pytest.mark.slow
@pytest.mark.extras
@pytest.mark.parametrize("name", OF_EXTRAS)
def test_a_sample_of_an_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options, words = OF_EXTRAS[name]
    said = run(name, *options)
    assert [word for word in words if word not in said] == []


def test_the_samples_of_extras_run_with_them() -> None:
    assert {name for bridge in BRIDGES.values() for name in bridge.samples} == OF_EXTRAS.keys()


@pytest.mark.slow
def test_a_pipeline_goes_on_with_an_ordinary_day_and_stops_at_a_spoiled_one(tmp_path: Path) -> None:
    said = run("orchestrated.py", "--rows", 3000, "--out", tmp_path)
    assert "of 1001 flights are odd. Go on." in said
    assert re.search(r"spoiled: stopped\. (9\d|100)\.\d\d% of the rows of .* may be\.", said)
    more = pd.read_parquet(tmp_path / "late-more.parquet")
    assert list(more) == ["distance", "dep_delay", "late"]
    assert len(more) >= 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("anomalies", ["at most 10% false", "Explanation of 5 rows"]),
        ("augmentation", ["real rows alone", "on the hours that nobody has seen"]),
        ("holes", ["column mean", "pressure"]),
    ],
)
def test_a_notebook_runs_as_a_script_and_draws_a_picture(
    name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = SAMPLES / f"{name}.py"
    assert script.read_text("utf-8").startswith("# %% [markdown]\n# # ")
    monkeypatch.chdir(tmp_path)
    said = run(script.name)
    assert [word for word in words if word not in said] == []
    check_picture(tmp_path / "output" / f"{name}.png")
