"""The student draws what a denoiser can only expect: cells that belong together, in one step."""

import numpy as np
import pandas as pd
import pytest

import lookalike as la

SMALL = {"max_steps": 500, "width": 64, "random_state": 0}


def tied(n=2000):
    rng = np.random.default_rng(0)
    side = rng.choice([-1.0, 1.0], n, p=[0.3, 0.7])
    return pd.DataFrame(
        {
            "sign": np.where(side > 0, "plus", "minus"),
            "colour": np.where(side > 0, "red", "blue"),
            "x": side + 0.1 * rng.normal(size=n),
        }
    )


def agreement(rows):
    """Share of rows whose three cells tell of the same side."""
    side = rows["sign"] == "plus"
    return (((rows["colour"] == "red") == side) & ((rows["x"] > 0) == side)).mean()


def test_cells_that_belong_together_come_together():
    frame = tied()
    model = la.Hybrid(**SMALL).fit(frame)
    made = model.generate(2000, random_state=0)
    assert agreement(made) > 0.92
    assert (made["sign"] == "plus").mean() == pytest.approx(0.7, abs=0.06)
    given = model.generate(500, given={"colour": "blue"}, random_state=0)
    assert (given["colour"] == "blue").all()
    assert (given["sign"] == "minus").mean() > 0.92
    assert given["x"].median() == pytest.approx(-1, abs=0.1)


def test_one_step_draws_what_a_denoiser_draws_cell_by_cell():
    student, denoiser = (kind(**SMALL, n_steps=1).fit(tied()) for kind in (la.Hybrid, la.Diffusion))
    assert agreement(denoiser.generate(2000, random_state=0)) < 0.7
    assert agreement(student.generate(2000, random_state=0)) > 0.8
