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


def run(name: str, *options: object) -> str:
    command = [sys.executable, SAMPLES / name, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


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
