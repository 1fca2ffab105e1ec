"""The samples run as a user would run them, on less."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

import lookalike as la

SAMPLES = Path(__file__).parents[1] / "samples"


def check_picture(path: Path) -> None:
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
    said = run("flights.py", "--rows", 2000, "--steps", 60, "--out", tmp_path)
    for words in (
        "336,776 flights",
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


@pytest.mark.slow
def test_serve_http_answers_and_stops() -> None:
    said = run("serve_http.py", "--rows", 1500, "--steps", 60)
    for words in (
        "because of",
        "of 200 others are anomalies",
        "400: column 'air_time' holds 'long' in row 0",
        'lookalike_rows_total{model="flights"} 201.0',
        "The server ended with 0.",
    ):
        assert words in said


@pytest.mark.slow
def test_kafka_scores_sets_aside_what_cannot_be_scored() -> None:
    said = run("kafka_scores.py", "--rows", 1500, "--steps", 60)
    for words in (
        "999 flights scored",
        "1 refused",
        "the oddest",
        "refused: number 500, the record has no column",
    ):
        assert words in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, package, options, words",
    [
        ("spark_scores", "pyspark", ["--rows", 5000], ["5,000 flights scored", "100,000 flights drawn in 2"]),
        ("ray_scores", "ray", ["--rows", 5000], ["5,000 flights scored", "100,000 flights drawn"]),
        (
            "mlflow_registry",
            "mlflow",
            [],
            ["losses logged", "mean radius", "A runtime model of the same file"],
        ),
    ],
)
def test_samples_of_other_systems(name: str, package: str, options: list[object], words: list[str]) -> None:
    pytest.importorskip(package, reason=f"installed by an extra of its own, as samples/{name}.py says")
    said = run(f"{name}.py", *options)
    for word in (*words, "Done."):
        assert word in said


@pytest.mark.slow
def test_the_same_flights_are_odd_to_arrow_polars_duckdb_and_dask(tmp_path: Path) -> None:
    said = run("frames.py", "--rows", 20_000, "--learn", 2000, "--out", tmp_path)
    assert "20,000 in" in said
    assert said.endswith("All four agree.\n")
    assert len(pd.read_parquet(tmp_path / "scored.parquet", columns=["p_value"])) == 20_000


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
