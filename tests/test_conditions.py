"""Conditions on generated rows: held by every row, right on average, refused where no row can hold them."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import TINY, TINY_MIXTURE
from handmade import made
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal, assert_series_equal

import lookalike as la
from lookalike import noise, runtime
from lookalike.allowed import Interval
from lookalike.conditions import POOL, ROUNDS


def served(people):
    """A file that generates, run by onnxruntime; its numbers and levels know nothing of each other."""
    pytest.importorskip("onnxruntime")
    return runtime.load(made(la.Schema.fit(people), task="generate"))


MAKERS = {
    "Mixture": lambda people: la.Mixture(**TINY_MIXTURE).fit(people),
    "Diffusion": lambda people: la.Diffusion(**TINY, n_steps=2).fit(people),
    "Synthesizer": lambda people: la.Synthesizer(la.Mixture(**TINY_MIXTURE), random_state=0).fit(people),
    "served": served,
}


@pytest.fixture(scope="module")
def models(people):
    return {name: make(people) for name, make in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def generator(request, models):
    return models[request.param]


def holds(cells, condition):
    """Which cells of a series meet a condition, by pandas' own words."""
    match condition:
        case la.OneOf(values):
            known = [value for value in values if value is not None]
            return cells.isin(known) | (cells.isna() & (len(known) < len(values)))
        case la.Between(low, high):
            inside = cells.notna()
            inside &= True if low is None else cells.ge(low).fillna(False).astype(bool)
            return inside & (True if high is None else cells.le(high).fillna(False).astype(bool))
        case la.Present():
            return cells.notna()
        case None:
            return cells.isna()
        case value:
            return cells == value


def assert_all_hold(made, asked):
    for name, condition in asked.items():
        held = holds(made[name], condition)
        assert held.all(), (name, condition, made[name][~held].head())


# ---- each kind, by each kind of generator ----

NOON = pd.Timestamp("2021-06-01T12:00", tz="Europe/Berlin")
ASKED = [
    {"city": la.OneOf(["Rome", "Oslo"])},
    {"city": la.OneOf(["Rome", None]), "children": la.OneOf([0, 3])},
    {"member": la.OneOf([True]), "age": la.OneOf(np.array([20, 30, 77]))},
    {"size": la.OneOf(["huge"])},  # declared, and never seen
    {"income": la.Between(20_000, 20_100.5)},
    {"age": la.Between(61.5, None), "income": la.Between(None, 30_000)},
    {"steps": la.Between(5000, 5400), "children": la.Between(2, 4), "city": "Rome"},
    {"debt": la.Between(0.01, float("inf")), "since": None},
    {"since": la.Between(NOON, NOON + pd.Timedelta("1D"))},
    {"wait": la.Between(dt.timedelta(minutes=58), None), "country": la.Present()},
    {name: la.Present() for name in ("debt", "children", "steps", "city", "since")},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_row_holds_what_is_asked_for(generator, people, asked):
    made = generator.generate(130, given=asked, random_state=0)
    assert len(made) == 130
    assert_series_equal(made.dtypes, people.dtypes)
    assert_all_hold(made, asked)
    assert len(made.drop(columns=[*asked, "key"]).drop_duplicates()) > 60


def test_levels_come_equally_often(generator):
    asked = {"size": la.Balanced(), "city": la.Balanced(["Rome", "Bern", None]), "age": la.Between(30, 50)}
    made = generator.generate(100, given=asked, random_state=0)
    assert sorted(made["size"].value_counts()) == [0, 33, 33, 34]  # of "huge" fit saw none
    assert sorted(made["city"].value_counts(dropna=False)) == [33, 33, 34]
    assert made["age"].between(30, 50).all()
    assert len(made[["city", "size"]].drop_duplicates()) == 9  # one is dealt whatever the other is
    assert generator.generate(2, given={"age": la.Balanced([30, 40])})["age"].nunique() == 2


def test_equal_seeds_give_equal_rows_and_a_row_does_not_depend_on_their_number(models, people):
    asked = {"age": la.Between(65, None), "city": la.OneOf(["Rome", "Oslo"]), "size": la.Balanced()}
    for name in ("Mixture", "Diffusion", "served"):
        rows = models[name].generate(150, given=asked, random_state=3)
        assert_frame_equal(rows, models[name].generate(150, given=asked, random_state=3))
        assert_frame_equal(rows.head(40), models[name].generate(40, given=asked, random_state=3))
        assert not rows.equals(models[name].generate(150, given=asked, random_state=4))
        always = {"age": la.Between(0, 1000), "member": la.OneOf([False, True])}
        assert_frame_equal(
            models[name].generate(60, given=always, random_state=3),
            models[name].generate(60, random_state=3),
        )
    twice = [models["Synthesizer"].generate(50, given=asked, random_state=3) for _ in range(2)]
    assert_frame_equal(*twice)


# ---- any conditions on any columns ----

VALUES = {  # as fine as the columns have them, so that any range holds one
    "income": st.integers(4600_00, 130_000_00).map(lambda cents: cents / 100),
    "age": st.integers(17, 78),
    "debt": st.integers(0, 90_000_00).map(lambda cents: cents / 100),
    "children": st.integers(0, 4),
    "steps": st.integers(100, 19_800),
    "since": st.integers(0, 38_000).map(lambda hours: NOON - pd.Timedelta(10_000 - hours, "h")),
    "wait": st.integers(10, 3500).map(lambda seconds: dt.timedelta(seconds=seconds)),
}
LEVELS = {"city": ["Bern", "Köln", "Oslo", "Rome", None], "size": ["small", "mid", "big", "huge"]}


def ranges(values):
    def between(ends, open_end):
        low, high = sorted(ends)
        return la.Between(None if open_end == 0 else low, None if open_end == 1 else high)

    return st.builds(between, st.tuples(values, values), st.integers(0, 5))


def conditions():
    sets = {n: st.lists(st.sampled_from(v), min_size=1, unique=True).map(la.OneOf) for n, v in LEVELS.items()}
    numbers = {name: ranges(values) for name, values in VALUES.items()}
    sets["age"] = numbers["age"] | st.lists(VALUES["age"], min_size=1, unique=True).map(la.OneOf)
    sets["member"] = st.sampled_from([True, False, la.OneOf([True, False])])
    sets["debt"] = numbers["debt"] | st.sampled_from([None, la.Present()])
    return st.fixed_dictionaries({}, optional=numbers | sets)


@settings(max_examples=15)
@given(conditions(), st.integers(0, 1000))
def test_any_conditions_are_held_by_all_rows(models, asked, seed):
    for model in (models["Mixture"], models["served"]):
        made = model.generate(20, given=asked, random_state=seed)
        assert len(made) == 20
        assert_all_hold(made, asked)


def test_ranges_hold_in_the_precision_of_the_column():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "single": rng.normal(size=300).astype(np.float32),
            "tenths": (rng.integers(0, 100, 300) / 10).astype(np.float32),
            "large": 2**60 + 10 * rng.integers(0, 10**6, 300),
            "day": np.datetime64("2024-01-01") + rng.integers(0, 300, 300),
        }
    )
    model = la.Mixture(**TINY_MIXTURE).fit(frame)
    low = 2**60 + 5_000_003
    asked = {
        "single": la.Between(0.1, 0.1001),
        "tenths": la.Between(0.3, 0.4),
        "large": la.Between(low, low + 1000),
        "day": la.Between("2024-03-01", dt.date(2024, 3, 2)),
    }
    made = model.generate(200, given=asked, random_state=0)
    assert made.schema == frame.schema
    assert made["single"].is_between(np.float32(0.1), np.float32(0.1001)).all()
    assert set(made["tenths"].to_list()) == {np.float32(0.3), np.float32(0.4)}
    assert made["large"].is_between(low, low + 1000).all()
    assert set(made["day"].to_list()) <= {dt.date(2024, 3, 1), dt.date(2024, 3, 2)}
    for end in (2**60 + 5_000_003, 2**60 + 5_000_009):  # between two ticks
        with pytest.raises(la.ConditionError, match="'large' cannot lie from"):
            model.generate(given={"large": la.Between(end, end)})


# ---- right on average ----


@pytest.fixture(scope="module")
def joint():
    """A mixture of a known joint, and very many of its rows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    kind = np.where(rng.random(4000) < 1 / (1 + np.exp(-2 * x)), "up", "down")
    frame = pd.DataFrame({"x": x, "y": x + 0.5 * rng.normal(size=4000), "kind": kind})
    model = la.Mixture(random_state=0).fit(frame)
    return model, frame, model.generate(60_000, random_state=9)


@pytest.mark.parametrize(
    "asked, query",
    [
        ({"x": la.Between(-0.5, 0.5)}, "-0.5 <= x <= 0.5"),
        ({"x": la.Between(1.8, None)}, "x >= 1.8"),
        ({"kind": la.OneOf(["down"]), "x": la.Between(1.2, None)}, "kind == 'down' and x >= 1.2"),
        ({"x": la.Between(-1, 1), "y": la.Between(1.5, None)}, "-1 <= x <= 1 and y >= 1.5"),
        ({"kind": "down", "y": la.Between(1.2, 2)}, "kind == 'down' and 1.2 <= y <= 2"),
    ],
    ids=str,
)
def test_the_rest_of_the_row_is_drawn_given_the_conditions(joint, asked, query):
    model, _, every = joint
    made, wanted = model.generate(2000, given=asked, random_state=0), every.query(query)
    assert len(made.query(query)) == 2000
    for name in ("x", "y"):
        assert made[name].mean() == pytest.approx(wanted[name].mean(), abs=0.2 * every[name].std())
        assert made[name].std() == pytest.approx(wanted[name].std(), abs=0.2 * every[name].std())
    assert (made["kind"] == "up").mean() == pytest.approx((wanted["kind"] == "up").mean(), abs=0.07)


def test_shares_are_those_of_the_table_within_a_range(joint):
    model, frame, _ = joint
    made = model.generate(4000, given={"x": la.Between(0, 1)}, random_state=0)
    share = (frame.query("0 <= x <= 1")["kind"] == "up").mean()
    assert (made["kind"] == "up").mean() == pytest.approx(share, abs=0.05)
    one = model.generate(2000, given={"kind": la.Balanced()}, random_state=0).groupby("kind")["x"].mean()
    real = frame.groupby("kind")["x"].mean()
    assert (one - real).abs().max() < 0.15


def test_what_was_never_drawn_is_drawn_within_the_range():
    x = np.concatenate([np.arange(300) % 10, [1000]]).astype(float)
    model = la.Mixture(**TINY_MIXTURE).fit(pd.DataFrame({"x": x, "c": list("ab") * 150 + ["a"]}))
    made = model.generate(300, given={"x": la.Between(400, 599)}, random_state=0)["x"]
    assert made.between(400, 599).all()
    assert (made % 1 == 0).all()
    assert made.nunique() > 100
    assert abs(made.mean() - 500) < 20


def test_draws_within_a_range_stay_in_it_however_large_or_narrow_it_is():
    u = np.concatenate([np.linspace(1e-9, 1 - 1e-16, 1001), np.random.default_rng(0).random(10_000)])
    for low, high in ((-1.7e308, 1.7e308), (0.1, 0.1 + 3e-17), (1 / 3, 0.7), (5.0, 5.0)):
        seen = np.array([low, high, high, (low / 2 + high / 2)])
        for part in (seen, seen[:0]):
            drawn = Interval(low, high).draw(part, u)
            assert ((drawn >= low) & (drawn <= high)).all()


def test_rare_levels_come_as_often_as_they_did_in_fit():
    frame = pd.DataFrame({"level": ["often"] * 6000 + ["r"] * 9 + ["s"], "x": np.arange(6010) % 7 + 0.5})
    made = la.Mixture(n_components=2, max_steps=5, random_state=0).fit(frame)
    levels = made.generate(1000, given={"level": la.OneOf(["r", "s"])}, random_state=0)["level"]
    assert 0.75 < (levels == "r").mean() < 0.99


def test_work_is_bounded_whatever_is_asked(models, people, monkeypatch):
    model, drawn = models["Mixture"], []
    complete = type(model)._complete
    monkeypatch.setattr(
        type(model),
        "_complete",
        lambda self, rows, *args, **more: drawn.append(len(rows)) or complete(self, rows, *args, **more),
    )
    asked = {name: la.OneOf([people[name].dropna().iloc[0]]) for name in people if name != "key"}
    made = model.generate(100, given=asked, random_state=0)
    assert_all_hold(made, asked)
    assert sum(drawn) <= POOL + 100 * ROUNDS * len(asked)


# ---- partial rows ----


def partial_rows(people, n=80):
    rows = people.drop(columns=["key", "wait"]).head(n).reset_index(drop=True)
    return rows.mask(np.random.default_rng(0).random(rows.shape) < 0.5)


def assert_kept(made, rows):
    for name in rows:
        known = rows[name].notna().to_numpy()
        assert_array_equal(made[name].to_numpy()[known], rows[name].to_numpy()[known])


def test_each_partial_row_makes_one_row_that_holds_it(generator, people):
    rows = partial_rows(people)
    before = rows.copy()
    made = generator.generate(given=rows, random_state=0)
    assert len(made) == len(rows)
    assert_series_equal(made.dtypes, people.dtypes)
    assert_kept(made, rows)
    assert_frame_equal(rows, before)
    assert not made[["income", "age", "size", "member", "wait", "country"]].isna().any(axis=None)
    assert_frame_equal(made, generator.generate(len(rows), given=rows, random_state=0))


def test_partial_rows_come_in_any_container(models, people):
    model = models["Mixture"]
    rows = partial_rows(people)[["income", "city", "age", "since"]]
    wanted = model.generate(given=rows, random_state=0)
    for table in (pl.from_pandas(rows), pa.Table.from_pandas(rows)):
        assert_frame_equal(model.generate(given=table, random_state=0), wanted)
    X = np.random.default_rng(0).normal(size=(200, 3))
    plain = la.Mixture(**TINY_MIXTURE).fit(X)
    holed = np.where(np.random.default_rng(1).random(X.shape) < 0.5, np.nan, X)
    made = plain.generate(given=holed, random_state=0)
    assert_array_equal(made[~np.isnan(holed)], X[~np.isnan(holed)])
    assert not np.isnan(made).any()
    assert_array_equal(plain.generate(given=holed.tolist(), random_state=0), made)


def test_without_a_number_there_are_as_many_rows_as_values(models):
    model = models["Mixture"]
    assert len(model.generate()) == 1
    assert len(model.generate(given={"city": "Rome"})) == 1
    made = model.generate(given={"city": ["Rome", None, "Bern"], "age": la.Between(30, 40)}, random_state=0)
    assert made["city"].astype(object).where(made["city"].notna(), None).tolist() == ["Rome", None, "Bern"]
    assert made["age"].between(30, 40).all()
    assert len(model.generate(0, given={"age": la.Between(70, None), "size": la.Balanced()})) == 0


# ---- what cannot be ----


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"citty": la.Present()}, "'citty' is not a column. Did you mean 'city'?"),
        ({"city": la.OneOf(["Romme"])}, "'city' cannot be 'Romme': fit saw 'Bern', 'Köln', 'Oslo', 'Rome'"),
        ({"city": la.OneOf([])}, "'city' cannot be one of no values: fit saw 4 levels"),
        ({"city": la.Between("A", "C")}, "'city' holds text, which no range divides. Name levels: la.OneOf"),
        ({"member": la.Between(0, 1)}, "'member' holds truth values, which no range divides"),
        (
            {"age": la.Between(79, None)},
            "'age' cannot lie from 79 on: fit saw 17 to 78, and the nearest to 79",
        ),
        (
            {"age": la.Between(None, 3)},
            "'age' cannot lie up to 3: fit saw 17 to 78, and the nearest to 3 that",
        ),
        (
            {"age": la.Between(40.2, 40.8)},
            "from 40.2 to 40.8: fit saw 17 to 78, and the nearest to 40.2 that",
        ),
        ({"age": la.Between("old")}, "column 'age' held whole numbers in fit, but now holds text"),
        ({"age": la.Between(float("nan"))}, "la.Between for 'age' has nan for an end. None leaves it open"),
        ({"debt": la.Between(np.nan)}, "la.Between for 'debt' has nan for an end"),
        ({"children": la.Between(9, 12)}, "'children' cannot lie from 9 to 12: fit saw"),
        ({"country": la.Between("A")}, "'country' holds text"),
        ({"age": la.OneOf([30, None])}, "'age' cannot be missing: it never was in fit"),
        ({"age": la.OneOf([30, 200])}, "'age' cannot be 200: fit saw 17 to 78"),
        ({"age": la.Balanced()}, "'age' is of kind number, which has no levels to balance. Name some values"),
        ({"size": la.Balanced([])}, "'size' cannot be one of no values"),
        ({"since": la.Between("soon")}, "'since' holds dates or times: Invalid isoformat string: 'soon'"),
        (
            {"since": la.Between("2021-01-01")},
            "'since' had the time zone Europe/Berlin in fit, but now has none",
        ),
        ({"key": la.Present()}, "'key' is of kind identifier: it is not modelled, so it cannot be given"),
        (
            {"city": {"Rome"}},
            "'city' is given [{'Rome'}], which is no list of values. Give one value, or one a",
        ),
        (pd.DataFrame({"agee": [3]}), "column 'agee' was not seen in fit. Did you mean 'age'?"),
        (pd.DataFrame({"age": [30, 200]}), "'age' cannot be 200: fit saw 17 to 78"),
        (pd.DataFrame({"city": ["Rome", "Romme"]}), "'city' cannot be 'Romme'"),
        (pd.DataFrame({"key": ["k00001", None]}), "'key' is of kind identifier"),
        (pd.DataFrame({"age": [30, 40, 50]}), "given holds 3 rows, and n is 2. Leave n out"),
        (7, "given must map columns to values, such as {'column': value}, or be a table of partial rows"),
    ],
    ids=str,
)
def test_a_condition_that_no_row_can_meet_says_what_can_be(models, asked, words):
    for model in (models["Mixture"], models["served"]):
        with pytest.raises(la.ConditionError) as caught:
            model.generate(2, given=asked)
        assert words in str(caught.value)


def test_a_column_without_any_value_cannot_be_present():
    frame = pd.DataFrame({"none": [None] * 400, "x": np.arange(400) % 7 + 0.5})
    model = la.Mixture(**TINY_MIXTURE).fit(frame)
    for asked, words in ((la.Present(), "be present"), (la.Balanced(), "be balanced")):
        with pytest.raises(la.ConditionError, match=f"'none' cannot {words}: fit saw no value"):
            model.generate(given={"none": asked})


@pytest.mark.parametrize("kind", [la.OneOf, la.Balanced])
@pytest.mark.parametrize("values", ["Rome", 7])
def test_one_value_is_no_list_of_values(kind, values):
    with pytest.raises(TypeError, match=rf"la.{kind.__name__} takes a list of values, such as"):
        kind(values)


def test_seeds_that_follow_from_one_differ():
    assert noise.child(7, 0) == 7
    assert len({noise.child(2**64 - 1, k) for k in range(-50, 1000)}) == 1050


@pytest.mark.slow
def test_an_exported_file_holds_conditions_as_the_model_does(people, model_of_people, file_of_people):
    pytest.importorskip("onnx")
    model, file = model_of_people("GAN"), runtime.load(file_of_people("GAN", "generate"))
    for asked in ASKED:
        made = file.generate(50, given=asked, random_state=0)
        assert_all_hold(made, asked)
        assert_frame_equal(made, model.generate(50, given=asked, random_state=0), rtol=1e-3)
    assert_kept(file.generate(given=partial_rows(people), random_state=0), partial_rows(people))
