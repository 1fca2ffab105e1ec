"""Constraints: refused where the data break them, and true of every row that is generated or filled in."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import TINY_MIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal

import lookalike as la
from lookalike.formulas import Expression
from lookalike.rewriting import Rewriting
from lookalike.schema import Table
from lookalike.sheet import Sheet

CITIES = {"NO": ["Oslo", "Bergen"], "SE": ["Lund", "Malmö"], "IT": ["Rome", "Turin"]}
ALL = [
    la.Inequality("start", "<=", "end"),
    la.Formula("total", "price * quantity"),
    la.Inequality("total", ">=", "paid"),
    la.FixedCombinations("country", "city"),
    la.Unique("start", "desk"),
    la.Unique("order_key"),
]


def orders(n, seed=0):
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 200, n), "D")
    country = rng.choice(list(CITIES), n, p=[0.5, 0.3, 0.2])
    price, quantity = np.round(rng.lognormal(3, 0.5, n), 2), rng.integers(1, 6, n)
    frame = pd.DataFrame(
        {
            "order_key": [f"o{i:05d}" for i in rng.permutation(n)],
            "start": start,
            "desk": rng.integers(1, 60, n),
            "end": start + pd.to_timedelta(rng.gamma(2, 5, n).round(), "D"),
            "country": country,
            "city": [CITIES[c][rng.integers(2)] for c in country],
            "price": price,
            "quantity": quantity,
            "total": np.round(price * quantity, 2),
            "paid": np.round(price * quantity * rng.beta(2, 2, n), 2),
        }
    )
    frame.loc[rng.random(n) < 0.1, "end"] = None
    return frame.drop_duplicates(["start", "desk"]).reset_index(drop=True)


def fitted(frame, *constraints, **options):
    model = la.Mixture(**TINY_MIXTURE)
    return la.Synthesizer(model, constraints=constraints, random_state=0, **options).fit(frame)


def broken(frame):
    """Rows that break each of ALL."""
    seen = {(country, city) for country, cities in CITIES.items() for city in cities}
    return {
        "end": (frame["end"] < frame["start"]).sum(),
        "total": ((frame["total"] - frame["price"] * frame["quantity"]).abs() > 0.005 + 1e-9).sum(),
        "paid": (frame["paid"] > frame["total"]).sum(),
        "city": len(set(zip(frame["country"], frame["city"], strict=True)) - seen),
        "desk": frame.duplicated(["start", "desk"]).sum(),
        "key": frame.duplicated("order_key").sum(),
    }


def farthest(a, b):
    """Kolmogorov's distance."""
    at = np.sort(np.concatenate([a, b]))
    return np.abs(
        np.searchsorted(np.sort(a), at, "right") / len(a) - np.searchsorted(np.sort(b), at, "right") / len(b)
    ).max()


@pytest.fixture(scope="module")
def frame():
    return orders(900)


@pytest.fixture(scope="module")
def model(frame):
    model = la.Mixture(n_components=40, max_steps=150, random_state=0)
    return la.Synthesizer(model, constraints=ALL, random_state=0).fit(frame)


# ---- all of them together ----


def test_all_rows_meet_all_constraints_and_columns_keep_their_shapes(model, frame):
    made = model.generate(2000, random_state=1)
    assert not any(broken(made).values())
    assert made.dtypes.equals(frame.dtypes)
    assert made.columns.tolist() == frame.columns.tolist()
    days = [(f["end"] - f["start"]).dt.days.dropna().to_numpy() for f in (made, frame)]
    assert farthest(*days) < 0.06
    assert farthest(made["total"].to_numpy(), frame["total"].to_numpy()) < 0.06
    assert farthest(*((f["paid"] / f["total"]).to_numpy() for f in (made, frame))) < 0.08
    shares = [f.value_counts(["country", "city"], normalize=True) for f in (made, frame)]
    assert (shares[0] - shares[1]).abs().max() < 0.03
    assert abs(made["end"].isna().mean() - frame["end"].isna().mean()) < 0.03


@pytest.mark.parametrize("convert", [pl.from_pandas, pa.Table.from_pandas])
def test_any_container_comes_back_with_its_dtypes(frame, convert):
    table = convert(frame.head(600))
    made = fitted(table, *ALL).generate(2000, random_state=1)
    assert type(made) is type(table)
    assert made.schema == table.schema.remove_metadata() if convert is not pl.from_pandas else table.schema
    assert not any(broken(made.to_pandas()).values())


def test_columns_of_an_array_are_named_by_position():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    x[:, 1] = x[:, 0] + rng.exponential(size=300)
    x[:, 2] = x[:, 0] * x[:, 1]
    made = fitted(x, la.Inequality("x0", "<", "x1"), la.Formula("x2", "x0 * x1")).generate(500)
    assert (made[:, 0] < made[:, 1]).all()
    assert_allclose(made[:, 2], made[:, 0] * made[:, 1])


def test_a_saved_synthesizer_draws_the_same_rows(model, tmp_path):
    digest = model.save(tmp_path / "s.lookalike")
    loaded = la.load(tmp_path / "s.lookalike", sha256=digest)
    assert list(loaded.constraints) == ALL
    for asked in ({}, {"country": "IT"}, {"start": "2024-02-01", "end": "2024-02-05"}):
        assert_frame_equal(
            loaded.generate(50, given=asked, random_state=5), model.generate(50, given=asked, random_state=5)
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[0].update(arguments=["start", "<=", "nowhere"]),
        lambda entries: entries[0].update(kind="lambda"),
        lambda entries: entries[1].update(arguments=["total", "__import__('os').remove"]),
        lambda entries: entries[1].update(may_be_missing=1),
        lambda entries: entries[3]["seen"].__setitem__(0, [99] * 6),
        lambda entries: entries[3]["seen"].__setitem__(0, [0] * 5),
        lambda entries: entries[3].update(seen=[[], []]),
        lambda entries: entries[4].update(arguments=[None]),
    ],
)
def test_a_file_that_says_what_no_fit_would_is_refused(model, change):
    data = model.rewriting_.to_dict()
    assert Rewriting.from_dict(data).agrees_with(model.model_.schema_)
    assert not Rewriting.from_dict({**data, "constraints": []}).agrees_with(model.model_.schema_)
    change(data["constraints"])
    with pytest.raises((la.SchemaError, la.ArtifactError, LookupError)):
        Rewriting.from_dict(data)


def test_the_schema_is_the_users(model):
    shown = repr(model.schema_)
    assert "'end'        datetime    2024-01-" in shown
    assert "'total'      number" in shown


# ---- what is given ----


@pytest.mark.parametrize(
    "asked",
    [
        {"start": "2024-03-01"},
        {"end": "2024-03-01"},
        {"start": "2024-03-01", "end": "2024-03-01"},
        {"start": "2024-03-01", "end": None},
        {"country": "SE"},
        {"city": "Turin", "quantity": 2},
        {"country": "IT", "city": "Rome", "end": "2024-05-05"},
        {"paid": 20.0},
        {"paid": 20.0, "price": 30.0, "quantity": 1},
    ],
)
def test_what_is_given_holds_beside_the_constraints(model, asked):
    made = model.generate(40, given=asked, random_state=2)
    assert not any(broken(made).values())
    for name, value in asked.items():
        same = made[name].isna() if value is None else made[name] == value
        assert same.all()


def test_an_end_alone_leaves_its_distance_as_it_is(model, frame):
    made = model.generate(50, given={"end": "2024-04-15"}, random_state=0)
    days = (frame["end"] - frame["start"]).dt.days
    assert abs((made["end"] - made["start"]).dt.days.mean() - days.mean()) < 4


@pytest.mark.parametrize(
    "asked, message",
    [
        (
            {"start": "2024-03-02", "end": "2024-03-01"},
            r"given does not meet Inequality\('start', '<=', 'end'\)",
        ),
        ({"country": "NO", "city": "Rome"}, r"'country' is 'NO', 'city' is 'Rome'"),
        ({"total": 30.0}, r"'total' is computed by Formula\(.*give 'price', 'quantity' in its place"),
        ({"total": 50.0, "price": 20.0, "quantity": 2}, r"'quantity' is 2; computed it is 40"),
        (
            {"price": [20.0, 30.0] * 5, "quantity": 1, "paid": 25.0},
            "only 5 of 10 rows that meet what is given",
        ),
    ],
)
def test_what_cannot_be_is_refused(model, asked, message):
    with pytest.raises(la.ConditionError, match=message):
        model.generate(10, given=asked)


def test_more_rows_than_can_differ_are_refused_and_as_many_are_made():
    frame = pd.DataFrame({"a": list("xyz") * 80, "b": list("pqrst") * 48})
    frame["k"] = frame.groupby(["a", "b"]).cumcount()  # 16 of each pair
    model = fitted(frame, la.Unique("a", "b", "k"))
    made = model.generate(240, random_state=0)
    assert not made.duplicated().any()
    with pytest.raises(
        la.ConditionError, match=r"Unique\('a', 'b', 'k'\) allows 240 rows at most .* 241 are"
    ):
        model.generate(241)
    with pytest.raises(la.ConditionError, match="allows 16 rows at most"):
        model.generate(17, given={"a": "x", "b": "p"})
    pairs = fitted(frame, la.FixedCombinations("a", "b"), la.Unique("b", "a", "k"))
    assert len(pairs.generate(0)) == 0


@st.composite
def asked_of(draw, frame):
    """Conditions that a row of the table meets, so that rows can be had: a few of all kinds."""
    row = frame.dropna().iloc[draw(st.integers(0, len(frame.dropna()) - 1))]

    def around(name):
        values = np.sort(frame[name].dropna().to_numpy())
        at = np.searchsorted(values, row[name] if name not in ("start", "end") else row[name].to_datetime64())
        low, high = values[max(at - len(values) // 5, 0)], values[min(at + len(values) // 5, len(values) - 1)]
        return st.sampled_from([la.Between(low, high), la.Between(None, high), la.Between(low, None)])

    kinds = {name: around(name) for name in ("start", "end", "price", "total", "paid", "desk")}
    kinds["end"] |= st.sampled_from([la.Present(), la.OneOf([None, row["end"]]), None])
    kinds["desk"] |= st.just(la.OneOf([row["desk"], 1, 2, 3]))
    kinds["quantity"] = st.sampled_from([la.Balanced([1, row["quantity"]]), row["quantity"]])
    kinds["country"] = st.sampled_from([la.Balanced([row["country"]]), la.OneOf({row["country"], "SE"})])
    kinds["city"] = st.sampled_from([la.OneOf([row["city"], "Lund", "Rome"]), row["city"]])
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=3, unique=True))
    return {name: draw(kinds[name]) for name in chosen}


def held(cells, asked):
    match asked:
        case la.Between(low, high):
            return cells.between(cells.min() if low is None else low, cells.max() if high is None else high)
        case la.OneOf(values):
            return cells.isin(list(values))
        case la.Present():
            return cells.notna()
        case la.Balanced(levels):
            counts = cells.value_counts()
            return cells.isin(levels) & (counts.max() - counts.min() <= 1)
        case None:
            return cells.isna()
    return cells == asked


@settings(max_examples=25)
@given(st.data())
def test_any_conditions_hold_beside_all_constraints(model, frame, data):
    asked = data.draw(asked_of(frame))
    made = model.generate(60, given=asked, random_state=0)
    assert len(made) == 60
    assert not any(broken(made).values())
    for name, condition in asked.items():
        assert held(made[name], condition).all(), (name, condition)


@pytest.mark.parametrize("seed", range(6))
def test_partial_rows_are_filled_beside_all_constraints(model, frame, seed):
    rng = np.random.default_rng(seed)
    rows = frame.drop(columns=["order_key", "total"]).sample(50, random_state=seed)
    rows = rows.mask(rng.random(rows.shape) < [0.2, 0.7, 0.5, 0.5, 0.5, 0.5, 0.3, 0.7])
    made = model.generate(given=rows, random_state=seed)
    assert not any(broken(made).values())
    for name in rows:
        known = rows[name].notna().to_numpy()
        assert (made[name].to_numpy()[known] == rows[name].to_numpy()[known]).all()


# ---- rows that repeat ----


def test_rows_do_not_repeat_across_rounds_and_blocks(model, monkeypatch):
    asked = {"price": la.Between(10, 20), "desk": la.Between(1, 12)}
    made = model.generate(300, given=asked, random_state=1)
    assert not made.duplicated(["start", "desk"]).any()
    assert_frame_equal(made, model.generate(300, given=asked, random_state=1))
    monkeypatch.setattr("lookalike.face.BLOCK", 80)
    whole = model.generate(160, given=asked, random_state=1)
    assert not whole.duplicated(["start", "desk"]).any()
    batches = list(model.generate_batches(160, 70, given=asked, random_state=1))
    assert_frame_equal(pd.concat(batches, ignore_index=True), whole)


def test_what_is_given_may_not_repeat_itself(model):
    rows = pd.DataFrame({"start": pd.to_datetime(["2024-03-01"] * 3), "desk": [4, None, 4]})
    with pytest.raises(
        la.ConditionError,
        match=r"given does not meet Unique\('start', 'desk'\): .*'desk' is 4 in row 2, as in row 0",
    ):
        model.generate(given=rows)
    made = model.generate(given=rows.head(2), random_state=0)
    assert not made.duplicated(["start", "desk"]).any()
    with pytest.raises(la.ConditionError, match="allows 16 rows at most with what is given, but 17 are"):
        model.generate(17, given={"start": la.OneOf(["2024-03-01", "2024-03-02"]), "desk": la.Between(1, 8)})


# ---- imputing ----


def test_filled_rows_meet_the_constraints(model, frame):
    holed = frame.head(240).copy()
    for k, name in enumerate(["start", "end", "city", "country", "total", "paid"]):
        holed.loc[40 * k : 40 * k + 39, name] = None
    made = model.impute(holed, random_state=0)
    assert made.notna().all().all()
    assert not any(broken(made.drop(columns="desk").assign(desk=np.arange(240))).values())


def test_holes_that_nothing_fits_are_filled_with_a_warning(model, frame):
    holed = frame.head(3).assign(total=[-5.0, 1e-3, 2e3], price=np.nan)
    with pytest.warns(la.LookalikeWarning, match="only 0 of 3 rows with holes could be filled so that"):
        assert model.impute(holed, random_state=0)["price"].notna().all()


# ---- one at a time ----


@pytest.mark.parametrize(
    "constraint, change, message",
    [
        (
            la.Inequality("start", "<=", "end"),
            {"end": pd.Timestamp("2023-01-01")},
            r"Inequality\('start', '<=', 'end'\) does not hold in 1 of .* rows, first in row 7: 'start' is "
            r"2024-.*, 'end' is 2023-01-01 00:00:00\. Correct or drop these rows, or leave",
        ),
        (
            la.Formula("total", "price * quantity"),
            {"total": 0.5},
            "in row 7: 'total' is 0.5, .*; computed it is",
        ),
        (la.Unique("order_key"), {"order_key": "o00000"}, "in row .*'order_key' is 'o00000', as in row"),
    ],
)
def test_data_that_break_a_constraint_are_refused(frame, constraint, change, message):
    wrong = frame.copy()
    for name, value in change.items():
        wrong.loc[7, name] = value
    with pytest.raises(la.SchemaError, match=message):
        fitted(wrong, constraint)


@pytest.mark.parametrize(
    "constraints, message",
    [
        ([la.Unique("strt")], r"Unique\('strt'\) names column 'strt', .* lack. Did you mean 'start'"),
        ([la.Inequality("start", "<", "price")], "'start', which holds dates or times, with 'price', which"),
        ([la.Inequality("city", "<", "price")], "names column 'city', which is of kind category"),
        ([la.FixedCombinations("order_key", "city")], "'order_key', which is of kind identifier"),
        ([la.Formula("total", "price * city")], "names column 'city', which holds text"),
        (
            [la.Inequality("price", "<=", "total"), la.Inequality("total", "<=", "price")],
            "the inequalities contradict each other: 'total' -> 'price' -> 'total'",
        ),
        (
            [la.Formula("total", "price * quantity"), la.FixedCombinations("total", "price")],
            r"'total' cannot be both of FixedCombinations\('total', 'price'\) and Formula",
        ),
        (
            [la.Formula("total", "price * quantity"), la.Formula("price", "total / quantity")],
            "need each other's columns: ",
        ),
        (["start <= end"], "constraints must be a list of la.Unique"),
    ],
)  # fmt: skip
def test_declarations_that_cannot_be_are_refused(frame, constraints, message):
    one = frame.assign(total=frame["price"], quantity=1)
    with pytest.raises(la.SchemaError, match=message):
        fitted(one, *constraints)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: la.Inequality("a", "<=", 3.5), "declare it for its column: schema="),
        (lambda: la.Inequality("a", "<=", "b", ">", "c"), "points both ways"),
        (lambda: la.Inequality("a", "=", "b"), "between them, such as Inequality"),
        (lambda: la.Unique(), "at least one column"),
        (lambda: la.FixedCombinations("a"), "two columns or more"),
        (lambda: la.Unique("a", "a"), "names a column twice"),
        (lambda: la.Formula("a", "b *"), "is not an expression"),
        (lambda: la.Formula("a", "2 * 3"), "names no column"),
        (lambda: la.Formula("a", "b.__class__"), r"holds 'b.__class__', which is not allowed. It may hold"),
        (lambda: la.Formula("a", "open(b)"), r"holds 'open\(b\)', which is not allowed"),
        (lambda: la.Formula("a", "max(b)"), r"holds 'max\(b\)', which is not allowed"),
        (lambda: la.Formula("a", "(" * 600 + "b" + ")" * 600), "must be text of at most 1000 characters"),
        (lambda: la.Formula("a", lambda t: t["b"]), "must be text"),
    ],
)  # fmt: skip
def test_what_is_no_declaration_is_refused(make, message):
    with pytest.raises(la.SchemaError, match=message):
        make()


def test_formulas_compute_as_numpy_does():
    a, b = np.array([1.5, -2.0, np.nan, 4.0]), np.array([0.0, 3.0, 1.0, 2.0])
    columns = {"a": a, "unit price": b}
    assert_array_equal(Expression("-a ** 2 + 'unit price' // 2")(columns), -(a**2) + b // 2)
    assert_array_equal(Expression("a / 'unit price'")(columns), [np.nan, -2 / 3, np.nan, 2])
    assert_array_equal(Expression("where(a > 0, max(a, 2), 0) + (a >= 4)")(columns), [2, 0, np.nan, 5])


def test_truth_values_are_computed_too_and_missing_ones_stay(frame):
    frame = frame.head(500)
    holed = frame.assign(large=pd.array(frame["price"] * frame["quantity"] > 50, dtype="boolean"))
    holed.loc[::4, "large"] = None
    made = fitted(
        holed[["price", "quantity", "large"]], la.Formula("large", "price * quantity > 50")
    ).generate(400, random_state=0)
    assert abs(made["large"].isna().mean() - 0.25) < 0.08
    there = made["large"].notna()
    assert (made["large"] == (made["price"] * made["quantity"] > 50))[there].all()


def test_columns_between_two_others_stay_between():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 50, 300)
    high = low + rng.integers(0, 30, 300)
    mode = low + np.round((high - low) * rng.random(300)).astype(int)
    table = pl.DataFrame({"high": high, "mode": mode, "low": low}).with_columns(total=pl.col("high") * 2)
    chain = la.Inequality("low", "<=", "mode", "<=", "high")
    for constraints in (
        [la.Inequality("high", ">=", "mode"), la.Inequality("mode", ">=", "low")],
        [chain, la.FixedCombinations("low", "high")],
        [la.Formula("total", "high * 2"), la.Inequality("mode", "<=", "total"), chain],
    ):
        made = fitted(table, *constraints).generate(500, random_state=0)
        assert (made["low"] <= made["mode"]).all()
        assert (made["mode"] <= made["high"]).all()


# ---- there and back ----


@st.composite
def tables(draw):
    """A table of any grids that meets the constraints, and these."""
    n = draw(st.integers(8, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    tick = np.timedelta64(draw(st.sampled_from([1, 60, 3600, 86400])), "s")
    start = np.datetime64("2024-01-01", "s") + rng.integers(0, 500, n) * tick
    strict = draw(st.booleans())
    end = start + rng.integers(strict, 50, n) * tick
    digits, dtype = draw(st.sampled_from([(0, "f8"), (2, "f8"), (9, "f8"), (9, "f4")]))
    low = np.round(rng.normal(size=n) * 100, digits).astype(dtype)
    high = np.round(low + np.round(rng.exponential(size=n) * 10, digits), digits).astype(dtype)
    frame = pd.DataFrame(
        {"start": start, "end": end, "low": low, "high": high, "fee": rng.integers(-9, 9, n)}
    )
    frame["sum"] = np.round(frame["high"] + 2 * frame["fee"], 2)
    frame["kind"], frame["code"] = (
        np.array(["a", "b", None])[rng.integers(3, size=n)],
        rng.integers(3, size=n),
    )
    # Not the last of those that bound others: what is above it would have no room.
    for name in draw(st.sets(st.sampled_from(["end", "high", "code", "fee", "sum"]))):
        holes = rng.random(n) < 0.2
        frame.loc[
            holes & (frame[name] < frame[name].max()), [name, "sum"] if name in "high fee" else name
        ] = None
    day = end.astype("M8[D]") + 1
    frame["day"] = day.astype("M8[s]")
    return frame, [
        la.Inequality("start", "<" if strict else "<=", "end", "<", "day"),
        la.Inequality("high", ">=", "low"),
        la.Formula("sum", "high + 2 * fee"),
        la.FixedCombinations("kind", "code"),
    ]


@settings(max_examples=15)
@given(tables())
def test_undo_undoes_rewrite(case):
    frame, constraints = case
    rewriting = Rewriting.fit(constraints, frame, {})
    table = rewriting.schema.encode(frame)
    everything = np.ones(table.numbers.shape, bool), np.ones(table.ids.shape, bool)
    nothing = ~everything[0], ~everything[1]
    inner, known, lost = rewriting.rewrite(table, everything)
    assert known[0].all()
    assert known[1].all()
    assert not lost.any()
    back, away = rewriting.undo(inner, table, nothing)
    assert not away.any()
    assert_array_equal(back.ids, table.ids)
    slack = 1e-5 if frame["high"].dtype == np.float32 else 1e-9
    assert_allclose(back.numbers, table.numbers, rtol=slack, atol=slack * 100)
    # Whatever a model draws within the ranges is made to hold.
    rng = np.random.default_rng(0)
    drawn = Table(*(rng.permuted(part, axis=0) for part in (inner.numbers, inner.ids)))
    made = Sheet.of(rewriting.schema, rewriting.undo(drawn, table, nothing)[0])
    for constraint in rewriting.constraints:
        assert isinstance(constraint, la.Formula) or constraint.holds(made).all()  # a sum has a range too
