"""Refined rows: what the critic knows, how it chooses, and that nothing asked for is lost by it."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import TINY, TINY_MIXTURE
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

import lookalike as la
from lookalike.critic import FOLDS, Critic
from lookalike.errors import ArtifactError
from lookalike.raking import FEWEST_TOGETHER, Margins, without_replacement
from lookalike.schema import Table

# ---- the critic ----


@pytest.fixture(scope="module")
def critic():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(6000, 2)), rng.normal(1, 1, size=(9000, 2))
    folds = rng.integers(FOLDS, size=6000), rng.integers(FOLDS, size=9000)
    return Critic.fit(real, generated, folds, 0)


def test_log_odds_are_those_of_the_densities(critic):
    x = np.random.default_rng(1).normal(0.5, 0.7, size=(2000, 2))
    exact = 1 - x.sum(1)  # of N(0, 1) to N(1, 1) in each of two dimensions
    assert np.corrcoef(critic.log_odds(x), exact)[0, 1] > 0.95
    assert np.abs(critic.log_odds(x) - exact).mean() < 0.25


def test_a_critic_comes_back_from_its_arrays(critic):
    x = np.random.default_rng(1).normal(size=(300, 2))
    x[::7, 0] = np.nan
    assert_array_equal(Critic.from_arrays(critic.to_arrays(), 2).log_odds(x), critic.log_odds(x))


def test_a_split_of_the_missing_from_all_others_is_kept():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(1500, 2)), rng.normal(size=(1500, 2))
    generated[::2, 0] = np.nan
    folds = rng.integers(FOLDS, size=1500), rng.integers(FOLDS, size=1500)
    critic = Critic.fit(real, generated, folds, 0)
    arrays = critic.to_arrays()
    assert np.isfinite(arrays["num_threshold"]).all()
    assert_array_equal(Critic.from_arrays(arrays, 2).log_odds(generated), critic.log_odds(generated))


def test_trees_take_turns_and_alternatives_are_judged_by_the_same(critic):
    x = np.random.default_rng(1).normal(size=(30, 2))
    alike = critic.log_odds(np.repeat(x[:1], 2 * FOLDS, axis=0))
    assert len(set(alike)) == FOLDS
    assert_array_equal(alike[:FOLDS], alike[FOLDS:])
    assert_array_equal(critic.log_odds(np.stack([x, x])), np.tile(critic.log_odds(x), (2, 1)))


@pytest.mark.parametrize(
    "name, change",
    [
        ("left", lambda a: a * 0),  # a loop
        ("right", lambda a: a + 10_000),
        ("feature_idx", lambda a: a + 2),
        ("feature_idx", lambda a: a - 5),
        ("value", lambda a: a * np.nan),
        ("num_threshold", lambda a: a.astype(np.float32)),
        ("nodes", lambda a: a + 1),
        ("nodes", lambda a: -a),
        ("trees", lambda a: a[::-1] * 2),
        ("start", lambda a: a[:1]),
    ],
)
def test_a_critic_that_would_read_what_is_not_its_own_is_refused(critic, name, change):
    arrays = critic.to_arrays()
    with pytest.raises(la.ArtifactError, match="critic"):
        Critic.from_arrays({**arrays, name: change(arrays[name])}, 2)


# ---- choosing ----


def test_rows_are_drawn_by_their_weights_and_none_twice():
    weight = np.r_[np.full(50, 1.0), np.full(40, 3.0), np.full(10, 500.0)]
    drawn = np.zeros(100)
    for seed in range(400):
        chosen = without_replacement(weight.copy(), 40, np.random.default_rng(seed).random(101))
        assert len(np.unique(chosen)) == 40
        drawn[chosen] += 1 / 400
    assert drawn[90:].min() > 0.9999  # heavier than one place: always there, and no more than once
    assert drawn[50:90].mean() == pytest.approx(3 * drawn[:50].mean(), rel=0.05)


def test_raking_gives_columns_their_shares():
    rng = np.random.default_rng(0)
    real = Table(rng.normal(size=(5000, 1)), rng.integers(3, size=(5000, 1)))
    pool = Table(rng.normal(0.3, 1.2, size=(8000, 1)), np.minimum(rng.integers(5, size=(8000, 1)), 2))
    pool.numbers[:400] = np.nan
    margins = Margins.fit(real, [3])
    weight = margins.rake(np.ones(8000), pool, 4000)
    for value, share in zip(margins.values(pool), margins.shares, strict=True):
        found = np.bincount(value, weight, minlength=len(share)) / weight.sum()
        assert np.abs(found - share).max() < 0.01


def test_rows_that_are_chosen_have_the_shares_where_some_would_be_chosen_twice():
    rng = np.random.default_rng(0)
    level = rng.permutation(np.repeat([0, 1], [3000, 5000]))[:, None]
    pool = Table(np.zeros((8000, 0)), level)
    margins = Margins.fit(Table(np.zeros((100, 0)), np.repeat([0, 1], [60, 40])[:, None]), [2])
    odds = np.where(level[:, 0] == 0, rng.lognormal(0, 2, 8000), 1)
    chosen = without_replacement(margins.rake(odds, pool, 4000), 4000, rng.random(8001))
    assert (level[chosen] == 0).mean() == pytest.approx(0.6, abs=0.025)


def test_raking_keeps_what_columns_hold_together():
    rng = np.random.default_rng(0)
    level = rng.integers(3, size=4000)
    real = Table((level + 0.5 * rng.normal(size=4000))[:, None], np.c_[level, rng.integers(4, size=4000)])
    margins = Margins.fit(real, [3, 4])
    assert margins.pairs[0].columns == (0, 1)  # what tells the most comes first
    pool = Table(rng.normal(1, 1.2, size=(16000, 1)), rng.integers([3, 4], size=(16000, 2)))
    chosen = pool.rows(without_replacement(margins.rake(np.ones(16000), pool, 4000), 4000, rng.random(16001)))
    coarse = margins.coarse(margins.values(chosen))
    for pair in margins.pairs:
        found = np.bincount(pair.values(coarse), minlength=len(pair.shares)) / 4000
        assert np.abs(found - pair.shares).sum() / 2 < 0.03
    correlation = np.corrcoef(chosen.numbers[:, 0], chosen.ids[:, 0])[0, 1]
    assert correlation == pytest.approx(np.corrcoef(real.numbers[:, 0], level)[0, 1], abs=0.05)


def test_values_that_few_rows_hold_together_are_counted_as_one():
    ids = np.repeat([[0, 0], [1, 1], [2, 2], [2, 3]], [60, 30, 6, 4], axis=0)
    (pair,) = Margins.fit(Table(np.zeros((100, 0)), ids), [3, 4]).pairs
    assert len(pair.cells) == 2
    assert pair.shares.tolist() == pytest.approx([0.1, 0.6, 0.3])
    assert (pair.shares[1:] * 100 >= FEWEST_TOGETHER).all()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("cells", 32 * 32),
        ("columns", 3),
        ("counts", 99),
        ("together", -0.1),
        ("edges", np.nan),
        ("shares", -1),
    ],
)
def test_shares_come_back_from_their_arrays_if_sound(part, value):
    rng = np.random.default_rng(0)
    table = Table(rng.normal(size=(500, 2)), rng.integers(3, size=(500, 1)))
    margins = Margins.fit(table, [3])
    arrays = margins.to_arrays()
    again = Margins.from_arrays(arrays, 2, [3])
    assert_array_equal(again.rake(np.ones(500), table, 250), margins.rake(np.ones(500), table, 250))
    arrays[part] = arrays[part].copy()
    arrays[part].flat[0] = value
    with pytest.raises(ArtifactError, match="margins"):
        Margins.from_arrays(arrays, 2, [3])


# ---- the synthesizer ----


@pytest.fixture(scope="module")
def synthesizer(people):
    return la.Synthesizer(la.Mixture(**TINY_MIXTURE), random_state=0).fit(people)


def told_apart(real, made):
    X = pd.get_dummies(pd.concat([real, made], ignore_index=True)).to_numpy(float)
    y = np.repeat([0, 1], [len(real), len(made)])
    return roc_auc_score(
        y, cross_val_predict(HistGradientBoostingClassifier(), X, y, method="predict_proba")[:, 1]
    )


def test_refined_rows_are_harder_to_tell_from_real_ones():
    rng = np.random.default_rng(0)
    kind = rng.integers(4, size=4000)
    x = np.array([-3.0, -1, 1, 3])[kind] + 0.3 * rng.normal(size=4000)
    frame = pd.DataFrame(
        {"x": x, "y": x**2 + 0.3 * rng.normal(size=4000), "kind": np.array(list("abcd"))[kind]}
    )
    model = la.Mixture(n_components=6, random_state=0)
    plain, refined = (la.Synthesizer(model, refine=k, random_state=0).fit(frame) for k in (0, 3))
    before, after = (told_apart(frame, m.generate(4000, random_state=1)) for m in (plain, refined))
    assert before > 0.7
    assert after < 0.55
    gains = [critic.gain for critic in refined.critics_]
    assert gains[0] > 4 * gains[1]  # what one has chosen by, the next finds no more,
    assert len(gains) == 2  # and a third would find next to nothing
    shares = refined.generate(4000, random_state=1)["kind"].value_counts(normalize=True)
    assert (shares - frame["kind"].value_counts(normalize=True)).abs().max() < 0.02


def test_rows_are_legal_and_of_the_frames_types(synthesizer, people):
    made = synthesizer.generate(300, random_state=0)
    assert len(made) == 300
    assert made.dtypes.equals(people.dtypes[made.columns])
    assert made["income"].between(people["income"].min(), people["income"].max()).all()
    assert set(made["city"].dropna()) <= set(people["city"].dropna())


@pytest.mark.parametrize("n", [0, 1, 5])
def test_few_rows_are_as_many_as_asked(synthesizer, n):
    assert len(synthesizer.generate(n, random_state=0)) == n


def test_what_is_given_is_exact_one_value_or_one_a_row(synthesizer, people):
    cities = people["city"].dropna().unique()
    made = synthesizer.generate(200, given={"city": cities[0], "children": None}, random_state=0)
    assert (made["city"] == cities[0]).all()
    assert made["children"].isna().all()
    asked = np.resize(cities, 200)
    made = synthesizer.generate(
        200, given={"city": asked, "age": np.resize([30, 40, 50], 200)}, random_state=0
    )
    assert_array_equal(made["city"], asked)
    assert_array_equal(made["age"], np.resize([30, 40, 50], 200))


def test_equal_seeds_give_equal_models_and_rows(people):
    a, b, other = (
        la.Synthesizer(la.Mixture(max_steps=5, n_components=4), random_state=s).fit(people) for s in (1, 1, 2)
    )
    assert_frame_equal(a.generate(50, random_state=3), b.generate(50, random_state=3))
    assert not a.generate(50, random_state=3).equals(a.generate(50, random_state=4))
    assert not a.generate(50, random_state=3).equals(other.generate(50, random_state=3))


def test_a_saved_synthesizer_draws_the_same_rows(synthesizer, tmp_path, people):
    digest = synthesizer.save(tmp_path / "s.lookalike")
    loaded = la.load(tmp_path / "s.lookalike", sha256=digest)
    assert isinstance(loaded, la.Synthesizer)
    for given in ({}, {"city": "Oslo"}):
        assert_frame_equal(
            loaded.generate(60, given=given, random_state=5),
            synthesizer.generate(60, given=given, random_state=5),
        )
    holed = people.head(20).assign(income=np.nan)
    assert_frame_equal(loaded.impute(holed, random_state=1), synthesizer.impute(holed, random_state=1))
    assert loaded.impute(holed, random_state=1)["income"].notna().all()


def test_any_family_that_generates_can_draw_and_any_container_comes_back():
    frame = pl.DataFrame({"a": np.arange(210) % 7 + 0.5, "b": list("xyz") * 70})
    for model in (la.VAE(**TINY), la.GAN(**TINY), la.Diffusion(**TINY, n_steps=2), la.Hybrid(**TINY)):
        made = la.Synthesizer(model, random_state=0).fit(frame).generate(30, random_state=0)
        assert isinstance(made, pl.DataFrame)
        assert made.schema == frame.schema


def test_several_models_draw_in_equal_parts_and_are_saved_together(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=600), "kind": rng.choice(list("ab"), 600)})
    models = [la.Mixture(**TINY_MIXTURE), la.VAE(**TINY), la.Mixture(max_steps=40, n_components=12)]
    pool = la.Synthesizer(models, refine=0, random_state=0).fit(frame)
    made = pool.generate(300, random_state=1)
    lone = la.Synthesizer(models[0], refine=0, random_state=0).fit(frame).generate(100, random_state=1)
    assert_frame_equal(made.head(100), lone)
    assert not np.isin(made["x"][200:], made["x"][:100]).any()  # equal models, but not equal draws
    refined = la.Synthesizer(models, random_state=0).fit(frame)
    refined.save(tmp_path / "s.lookalike")
    loaded = la.load(tmp_path / "s.lookalike")
    assert [type(m) for m in loaded.models_] == [la.Mixture, la.VAE, la.Mixture]
    assert_frame_equal(*(m.generate(50, random_state=1) for m in (loaded, refined)))
    with pytest.raises(ValueError, match="estimators of equal schema"):
        la.Synthesizer([la.Mixture(), la.VAE(schema={"x": la.Categorical()})]).fit(frame)


def test_a_small_diffusion_model_helps_where_the_mixture_does_not_suffice():
    rng = np.random.default_rng(0)
    apart = pd.DataFrame(rng.normal(size=(2500, 3)), columns=["x", "y", "z"])
    bound = apart.assign(z=apart["x"] * apart["y"] + 0.02 * apart["z"])
    for frame, families in ((apart, [la.Mixture]), (bound, [la.Mixture, la.Diffusion])):
        model = la.Synthesizer(refine=1, random_state=0).fit(frame)
        assert [type(m) for m in model.models_] == families


def test_few_rows_are_drawn_sharper_than_critics_could_make_a_mixtures(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 2)), columns=["x", "y"])
    frame["z"] = frame["x"] + frame["y"] + 0.1 * rng.normal(size=300)
    models = None, la.Mixture()
    few, blurred = (la.Synthesizer(model, refine=1, random_state=0).fit(frame) for model in models)
    made, other = (model.generate(300, random_state=1) for model in (few, blurred))
    assert [type(m) for m in few.models_] == [la.Diffusion]
    assert (made["z"] - made["x"] - made["y"]).std() < 0.6 * (other["z"] - other["x"] - other["y"]).std()
    few.save(tmp_path / "s.lookalike")
    assert_frame_equal(la.load(tmp_path / "s.lookalike").generate(300, random_state=1), made)


def test_what_it_cannot_do_is_refused_and_says_what_can(synthesizer, people):
    with pytest.raises(la.ConditionError, match=r"Synthesizer generates and imputes\. Its model_ scores"):
        synthesizer.score_samples(people)
    assert synthesizer.model_.score_samples(people.head(3)).shape == (3,)
    with pytest.raises(la.ConditionError, match="Detector scores and explains, and cannot generate"):
        la.Synthesizer(la.Detector(max_steps=3)).fit(people)
    wanted = "model must be an estimator of lookalike, not fitted, a list of them, or None, got 'vae'"
    with pytest.raises(ValueError, match=wanted):
        la.Synthesizer("vae").fit(people)
    with pytest.raises(ValueError, match="refine must be a whole number from 0 to 10, got -1"):
        la.Synthesizer(refine=-1).fit(people)


def test_it_is_cloned_as_scikit_learn_does(synthesizer):
    again = clone(synthesizer)
    assert not hasattr(again, "model_")
    assert again.refine == synthesizer.refine
    words = "".join(repr(again).split())
    assert words == "Synthesizer(model=Mixture(max_steps=40,n_components=12,random_state=0),random_state=0)"


# ---- copies ----


def few_values(n):
    """So few that most rows drawn are those of any table of their kind."""
    rng = np.random.default_rng(0)
    a = rng.integers(6, size=n)
    return pd.DataFrame(
        {
            "a": a,
            "b": np.array(list("uvwxyz"))[(a + rng.integers(3, size=n)) % 6],
            "c": rng.integers(30, size=n) / 2,
        }
    )


def copies_in(made, frame):
    return made.merge(frame.drop_duplicates(), how="inner")


def test_copies_are_forbidden_after_a_file_too_and_what_is_given_stays(tmp_path):
    frame = few_values(200)
    model = la.Mixture(**TINY_MIXTURE, schema={"a": la.Categorical()})
    free, strict = (la.Synthesizer(model, copies=c, random_state=0).fit(frame) for c in ("allow", "forbid"))
    assert len(copies_in(free.generate(200, random_state=0), frame)) > 20
    made = strict.generate(200, random_state=0)
    assert len(made) == 200
    assert copies_in(made, frame).empty
    strict.save(tmp_path / "s.lookalike")
    loaded = la.load(tmp_path / "s.lookalike")
    assert loaded.copies == "forbid"
    assert_frame_equal(loaded.generate(200, random_state=0), made)
    given = loaded.generate(50, given={"b": "w"}, random_state=0)
    assert (given["b"] == "w").all()
    assert copies_in(given, frame).empty


def test_where_nothing_but_copies_is_possible_it_says_so():
    frame = few_values(200)
    strict = la.Synthesizer(la.Mixture(**TINY_MIXTURE), copies="forbid", random_state=0).fit(frame)
    with pytest.raises(la.ConditionError, match=r'copies="forbid", but row 0 came out as a copy'):
        strict.generate(1, given=frame.iloc[0].to_dict(), random_state=0)
    with pytest.raises(ValueError, match='copies must be "allow" or "forbid", got True'):
        la.Synthesizer(copies=True).fit(frame)
