"""Holes filled: the one best table, intervals of many draws, and draws that a critic chooses."""

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_MIXTURE
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal

import lookalike as la


@pytest.fixture(scope="module")
def synthesizer():
    return la.Synthesizer(la.Mixture(n_components=8, random_state=0), random_state=0).fit(curve(1500, 0))


def curve(n, seed):
    """A line with noise, a parabola without, and a level."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame(
        {"x": x, "y": x + 0.5 * rng.normal(size=n), "z": x**2, "side": np.where(x > 0, "+", "-")}
    )


def test_one_table_of_draws_is_their_mean_and_what_most_of_them_hold(people):
    model = la.Mixture(**TINY_MIXTURE).fit(people)
    holey = people.head(80).copy()
    holey.loc[holey.index[::2], ["income", "age", "city", "since"]] = None
    draws = model.impute(holey, n_draws=9, random_state=0)
    best = model.impute(holey, n_draws=9, combine=True, random_state=0)
    assert best.notna().all(axis=None)
    assert_frame_equal(best[holey.notna()], holey, check_dtype=False)
    mean = np.mean([draw["income"] for draw in draws], axis=0)
    assert np.abs(best["income"] - mean).max() < 0.011  # in cents
    assert (best["age"] % 1 == 0).all()
    votes = pd.concat([draw["city"].reset_index(drop=True) for draw in draws], axis=1)
    most = votes.apply(
        lambda row: row.value_counts().iloc[0] == (row == best["city"].iloc[row.name]).sum(), axis=1
    )
    assert most.all()


def test_what_has_no_holes_stays_as_it_is(synthesizer):
    whole = curve(20, 1)
    assert_frame_equal(synthesizer.impute(whole, n_draws=3, combine=True), whole)
    assert all(draw.equals(whole) for draw in synthesizer.impute(whole, n_draws=2))


def test_the_central_part_of_many_draws_holds_as_many_of_the_truths():
    synthesizer, whole = la.Synthesizer(random_state=0).fit(curve(1500, 0)), curve(400, 2)
    draws = synthesizer.impute(whole.assign(y=np.nan), n_draws=19, random_state=0)
    rank = (np.array([draw["y"] for draw in draws]) < whole["y"].to_numpy()).sum(0)
    assert np.mean((rank >= 2) & (rank < 18)) == pytest.approx(0.8, abs=0.06)  # three standard errors of 400


def test_a_critic_chooses_draws_that_are_nearer_to_what_was_lost(synthesizer):
    whole = curve(400, 3)
    holey = whole.assign(z=np.nan)
    refined, plain = (m.impute(holey, random_state=0) for m in (synthesizer, synthesizer.model_))
    error = [np.sqrt(np.mean((filled["z"] - whole["z"]) ** 2)) for filled in (refined, plain)]
    assert error[0] < 0.9 * error[1]
    assert_array_equal(refined[["x", "y", "side"]], whole[["x", "y", "side"]])
    assert_frame_equal(synthesizer.impute(holey, random_state=0), refined)
