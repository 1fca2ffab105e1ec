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


def check_picture(path: Path) -> None:
    picture = imread(path)
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20


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
    check_picture(tmp_path / "flights.png")
    rows = pd.read_csv(tmp_path / "generated.csv")
    assert len(rows) == 5000
    assert {"carrier", "dest", "dep_delay"} <= set(rows)
    assert isinstance(la.load(tmp_path / "flights.lookalike"), la.Diffusion)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("anomalies", ["at most 10% false", "Explanation of 5 rows"]),
        ("augmentation", ["real rows alone", "on the hours that nobody has seen"]),
        ("holes", ["column mean", "pressure"]),
    ],
)
def test_a_notebook_runs_as_a_script_and_draws_a_picture(name: str, words: list[str], tmp_path: Path) -> None:
    script = SAMPLES / f"{name}.py"
    assert script.read_text("utf-8").startswith("# %% [markdown]\n# # ")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [word for word in words if word not in done.stdout] == []
    check_picture(tmp_path / "output" / f"{name}.png")
