"""The samples run as a user would run them, on less."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

import lookalike as la

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.mark.slow
def test_flights_finds_generates_draws_and_saves(tmp_path: Path) -> None:
    command = [sys.executable, SAMPLES / "flights.py", "--rows", "2000", "--steps", "60", "--out", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for words in (
        "336,776 flights",
        "The ten oddest",
        "expected:",
        "generated",
        "bit for bit",
        "torch not loaded",
        "Done.",
    ):
        assert words in done.stdout
    picture = imread(tmp_path / "flights.png")
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20
    rows = pd.read_csv(tmp_path / "generated.csv")
    assert len(rows) == 5000
    assert {"carrier", "dest", "dep_delay"} <= set(rows)
    assert isinstance(la.load(tmp_path / "flights.lookalike"), la.Diffusion)


def printed_by(sample: str) -> str:
    command = [sys.executable, str(SAMPLES / sample), "--rows", "1500", "--steps", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_serve_http_answers_and_stops() -> None:
    said = printed_by("serve_http.py")
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
    said = printed_by("kafka_scores.py")
    for words in (
        "999 flights scored",
        "1 refused",
        "the oddest",
        "refused: number 500, the record has no column",
    ):
        assert words in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, package, arguments, words",
    [
        (
            "spark_scores",
            "pyspark",
            ["--rows", "5000"],
            ["5,000 flights scored", "100,000 flights drawn in 2"],
        ),
        ("ray_scores", "ray", ["--rows", "5000"], ["5,000 flights scored", "100,000 flights drawn"]),
        (
            "mlflow_registry",
            "mlflow",
            [],
            ["losses logged", "mean radius", "A runtime model of the same file"],
        ),
    ],
)
def test_samples_of_other_systems(name: str, package: str, arguments: list[str], words: list[str]) -> None:
    pytest.importorskip(package, reason=f"installed by an extra of its own, as samples/{name}.py says")
    command = [sys.executable, str(SAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for word in (*words, "Done."):
        assert word in done.stdout
