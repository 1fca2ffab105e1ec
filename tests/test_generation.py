"""Laws of generating and imputing, over every family: legal rows, conditions met, nothing known lost."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal, assert_index_equal, assert_series_equal
from sklearn.datasets import load_wine

import lookalike as la

MODELLED = [
    "income",
    "age",
    "debt",
    "children",
    "steps",
    "city",
    "size",
    "member",
    "since",
    "wait",
    "country",
]


def four(max_steps):
    """One of each family that generates, not fitted."""
    networks = (
        kind(random_state=0, max_steps=max_steps, width=64) for kind in (la.VAE, la.GAN, la.Diffusion)
    )
    return [*networks, la.Mixture(random_state=0)]


# ---- new rows ----


def test_row_i_does_not_depend_on_how_many_are_asked_for(model):
    many = model.generate(1200, random_state=3)
    for n in (1, 2, 511, 512, 513):
        assert_frame_equal(model.generate(n, random_state=3), many.head(n))


def test_rows_are_new_on_every_call_unless_seeded(model):
    assert not model.generate(20).equals(model.generate(20))
    assert not model.generate(20, random_state=1).equals(model.generate(20, random_state=2))


def test_generated_rows_are_legal(model, people):
    made = model.generate(1500, random_state=0)
    assert_index_equal(made.columns, people.columns)
    assert_series_equal(made.dtypes, people.dtypes)
    for name in ("income", "age", "debt", "children", "steps", "since", "wait"):
        assert made[name].min() >= people[name].min()
        assert made[name].max() <= people[name].max()
    for name in ("city", "size", "member", "country", "children"):
        assert set(made[name].dropna()) <= set(people[name].dropna())
    for name in ("income", "debt"):  # in cents, as they came
        assert_array_equal(made[name].round(2), made[name])
    assert made["key"].is_unique
    assert not set(made["key"]) & set(people["key"])
    assert not made[["income", "age", "size", "member", "wait", "country"]].isna().any(axis=None)
    for name in ("debt", "children", "steps", "city", "since"):
        assert made[name].isna().any()
    assert (made["debt"] == 0).mean() > 0.05


def test_a_model_of_a_real_table_generates_its_like(family):
    wine = load_wine(as_frame=True).frame.rename(columns=lambda name: name.replace("/", " "))
    wine["target"] = wine["target"].map({0: "Barolo", 1: "Grignolino", 2: "Barbera"}).astype("category")
    wine["proline"] = wine["proline"].astype(int)
    made = family().fit(pd.concat([wine, wine])).generate(400, random_state=0)
    assert_series_equal(made.dtypes, wine.dtypes)
    numbers = wine.columns[:-1]
    assert (made[numbers] >= wine[numbers].min()).all(axis=None)
    assert (made[numbers] <= wine[numbers].max()).all(axis=None)
    assert set(made["target"]) == set(wine["target"])


def test_no_rows_have_the_columns_and_dtypes(model, people):
    none = model.generate(0)
    assert len(none) == 0
    assert_series_equal(none.dtypes, people.dtypes)


# ---- conditions ----


def holds(made, name, value):
    cells = made[name]
    return cells.isna().all() if pd.isna(value) else bool((cells == value).all())


@pytest.mark.parametrize("name", MODELLED)
def test_a_condition_on_any_column_holds_in_every_row(model, people, name):
    for value in [*people[name].dropna().unique()[:3], *([None] if people[name].isna().any() else [])]:
        made = model.generate(70, given={name: value}, random_state=0)
        assert holds(made, name, value)
        assert_series_equal(made.dtypes, people.dtypes)
        others = made.drop(columns=[name, "key"])
        assert len(others.drop_duplicates()) > 60


def test_conditions_on_all_columns_at_once_hold(model, people):
    for row in (0, 7, 200):
        given = {name: people[name].iloc[row] for name in MODELLED}
        made = model.generate(3, given=given, random_state=0)
        assert all(holds(made, name, value) for name, value in given.items())


def test_conditions_on_several_columns_hold(model):
    given = {"city": "Rome", "debt": 0.0, "member": True, "since": None, "children": 2}
    made = model.generate(600, given=given, random_state=0)
    assert all(holds(made, name, value) for name, value in given.items())


def test_a_level_that_fit_declared_but_never_saw_can_be_given(model):
    assert holds(model.generate(20, given={"size": "huge"}, random_state=0), "size", "huge")


def test_a_time_can_be_given_as_text(model):
    made = model.generate(5, given={"since": "2021-05-01T12:00:00+02:00"}, random_state=0)
    assert holds(made, "since", pd.Timestamp("2021-05-01T10:00:00Z"))


def test_a_sequence_gives_one_value_a_row(model):
    cities = ["Rome", None, "Bern", "Köln"] * 150
    made = model.generate(600, given={"city": cities, "age": np.arange(600) % 40 + 30}, random_state=0)
    assert made["city"].astype(object).where(made["city"].notna(), None).tolist() == cities
    assert made["age"].tolist() == (np.arange(600) % 40 + 30).tolist()


def test_a_given_row_does_not_depend_on_how_many_are_asked_for(model):
    given = {"city": "Oslo"}
    assert_frame_equal(
        model.generate(5, given=given, random_state=1),
        model.generate(700, given=given, random_state=1).head(5),
    )


def test_conditions_change_what_depends_on_them():
    rng = np.random.default_rng(0)
    u = rng.normal(size=2000)
    frame = pd.DataFrame(
        {"u": u, "v": u + 0.1 * rng.normal(size=2000), "sign": np.where(u > 0, "plus", "minus")}
    )
    for model in four(400):
        model.fit(frame)
        low, high = (model.generate(300, given={"v": v}, random_state=0) for v in (-1.5, 1.5))
        assert high["u"].median() - low["u"].median() > 1.5
        assert (low["sign"] == "minus").mean() > 0.8
        assert (high["sign"] == "plus").mean() > 0.8


@pytest.mark.parametrize(
    "given, words",
    [
        ({"citty": "Rome"}, "'citty' is not a column. Did you mean 'city'? Columns are 'income', 'age'"),
        ({"city": "Paris"}, "'city' cannot be 'Paris': fit saw 'Bern', 'Köln', 'Oslo', 'Rome'"),
        ({"city": "Romme"}, "Did you mean 'Rome'?"),
        ({"size": "medium"}, "fit saw 'mid', 'big', 'small', 'huge'"),
        ({"age": 200}, "'age' cannot be 200: fit saw 17 to 78"),
        (
            {"age": 40.5},
            "'age' cannot be 40.5: fit saw 17 to 78, and the nearest that can be generated is 40",
        ),
        ({"age": None}, "'age' cannot be missing: it never was in fit"),
        ({"income": "a lot"}, "'income'"),
        ({"since": "soon"}, "'since' holds dates or times"),
        ({"key": "k00001"}, "'key' is of kind identifier: it is not modelled, so it cannot be given"),
        ({"city": ["Rome", "Bern"]}, "'city' is given values of shape (2,) for 3 rows"),
        ("Rome", "given must map columns to values"),
    ],
    ids=str,
)
def test_a_condition_that_no_row_can_meet_says_what_can_be(model, given, words):
    with pytest.raises(la.ConditionError) as caught:
        model.generate(3, given=given)
    assert words in str(caught.value)


@pytest.mark.parametrize("n", [-3, 2.5, "ten", True])
def test_a_number_of_rows_that_is_none_is_refused(model, n):
    with pytest.raises(ValueError, match=f"n must be a whole number of at least 0, got {n!r}"):
        model.generate(n)


# ---- imputing ----


def with_holes(people, seed=0):
    """Every modelled column with holes, in the dtype that pandas gives it then; and what fit did not see."""
    rng = np.random.default_rng(seed)
    table = people.head(120).copy()
    table["city"] = table["city"].where(rng.random(120) > 0.1, "Paris")
    table["size"] = table["size"].cat.add_categories("giant").where(rng.random(120) > 0.1, "giant")
    table["income"] = table["income"] * np.where(rng.random(120) > 0.9, 1e6, 1)
    for name in MODELLED:
        holes = rng.random(120) < 0.3
        table[name] = table[name].mask(holes)
    table.insert(3, "note", 1.5)
    table["note"] = table["note"].mask(rng.random(120) < 0.5)
    return table


@pytest.fixture(scope="module")
def noted(family, people):
    """A model of the people and a column that it leaves alone."""
    return family(schema={"note": la.Ignored()}).fit(people.assign(note=0.0))


def test_impute_fills_every_hole_and_keeps_all_else(noted, people):
    table = with_holes(people)
    before = table.copy()
    filled = noted.impute(table, random_state=0)
    assert_frame_equal(table, before)
    assert not filled[MODELLED].isna().any(axis=None)
    assert_index_equal(filled.index, table.index)
    assert_series_equal(filled.dtypes, table.dtypes)
    for name in table:
        known = table[name].notna().to_numpy()
        assert_array_equal(filled[name].to_numpy()[known], table[name].to_numpy()[known])
    assert_series_equal(filled["note"], table["note"])
    for name in ("city", "size", "member", "country"):
        drawn = filled[name].array[table[name].isna().to_numpy()]
        assert set(drawn) <= set(people[name].dropna())
    for name in ("income", "age", "debt", "since", "wait"):
        drawn = filled[name].array[table[name].isna().to_numpy()]
        assert people[name].min() <= min(drawn) <= max(drawn) <= people[name].max()


def test_draws_are_many_seeded_and_differ(noted, people):
    table = with_holes(people)
    draws = noted.impute(table, n_draws=3, random_state=0)
    assert len(draws) == 3
    assert_frame_equal(draws[0], noted.impute(table, random_state=0))
    assert not draws[0].equals(draws[1])
    assert not draws[1].equals(draws[2])
    for again, draw in zip(noted.impute(table, n_draws=3, random_state=0), draws, strict=True):
        assert_frame_equal(again, draw)


def test_a_table_without_holes_comes_back_as_it_is(model, people):
    whole = people.dropna()
    assert_frame_equal(model.impute(whole), whole)


@pytest.mark.parametrize("name", MODELLED)
def test_a_column_without_any_value_is_filled(model, people, name):
    table = people.head(9).copy()
    table[name] = None
    filled = model.impute(table, random_state=0)
    assert not filled[name].isna().any()
    assert filled[name].dtype == people[name].dtype
    frame = pl.from_pandas(people.head(9).reset_index(drop=True)).with_columns(pl.lit(None).alias(name))
    assert model.impute(frame, random_state=0)[name].null_count() == 0
    rows = {column: people[column].head(9).tolist() for column in people} | {name: [None] * 9}
    filled = model.impute(rows, random_state=0)
    model.score_samples(filled)  # times are times, and no counts of seconds
    assert not any(value is None for value in filled[name])


def test_a_row_without_any_value_is_filled(model, people):
    table = people.head(3).copy().astype({"age": float, "member": object})
    for name in MODELLED:
        table[name] = table[name].mask([False, True, False])
    assert not model.impute(table)[MODELLED].isna().any(axis=None)


def test_any_container_is_filled_whatever_was_fitted(family, people):
    plain = people.drop(columns="wait").reset_index(drop=True)
    tables = {"pandas": plain, "polars": pl.from_pandas(plain), "pyarrow": pa.Table.from_pandas(plain)}
    for fitted in tables.values():
        model = family(max_steps=3).fit(fitted)
        for container, table in tables.items():
            filled = model.impute(table, random_state=0)
            assert type(filled) is type(table)
            assert (filled if container == "pandas" else filled.to_pandas()).notna().all(axis=None)
            if container != "pandas":
                assert filled.schema == table.schema


def test_arrays_and_lists_are_filled(family):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    for dtype in (np.float64, np.float32):
        table = X.astype(dtype)
        table[::3, 1] = np.nan
        filled = family(max_steps=3).fit(X).impute(table)
        assert filled.dtype == dtype
        assert not np.isnan(filled).any()
        assert_array_equal(filled[~np.isnan(table)], table[~np.isnan(table)])
    rows = [[1.5, "a", None], [2.5, None, "x"], [3.5, "a", "y"]] * 70
    for table in (rows, np.array(rows, dtype=object)):
        filled = family(max_steps=3).fit(table).impute(table)
        assert filled.shape == (210, 3)
        assert all(value is not None for row in filled for value in row)


def test_imputation_knows_the_rest_of_the_row():
    rng = np.random.default_rng(0)
    u = rng.normal(size=2000)
    X = np.column_stack([u, u + 0.1 * rng.normal(size=2000)])
    holed = np.column_stack([u[:300], np.full(300, np.nan)])
    for model in four(400):
        filled = model.fit(X).impute(holed, random_state=0)
        assert np.corrcoef(filled.T)[0, 1] > 0.8


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_a_number_of_draws_that_is_none_is_refused(model, people, n):
    with pytest.raises(ValueError, match=f"n_draws must be a whole number of at least 1, got {n}"):
        model.impute(people, n_draws=n)


@pytest.mark.parametrize("model", four(5), ids=lambda model: type(model).__name__)
def test_no_rows_are_a_table_too_and_conditions_on_them_are_checked(model) -> None:
    frame = pd.DataFrame({"a": np.arange(210) % 7 + 0.5, "b": list("xyz") * 70})
    model.fit(frame)
    none = model.generate(0, given={"b": "x"})
    assert len(none) == 0
    assert none.dtypes.equals(frame.dtypes)
    with pytest.raises(la.ConditionError, match="'c' is not a column"):
        model.generate(0, given={"c": 1})
