"""Reasons that hold: what is said to be normal is, and the energy falls as far as is said."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import lookalike as la
from lookalike.replacing import ENERGIES

RNG = np.random.default_rng(0)
CITY = RNG.choice(["Oslo", "Rome", "Cairo"], 900)
WEATHER = pd.DataFrame(
    {
        "city": CITY,
        "celsius": pd.Series(CITY).map({"Oslo": 5.0, "Rome": 16.0, "Cairo": 28.0}) + RNG.normal(size=900),
        "visits": RNG.poisson(40, 900),
        "wind": np.round(RNG.gamma(2.0, 3.0, 900), 1),
        "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(RNG.integers(300, size=900), "D"),
        "open": RNG.random(900) < 0.5,
    }
)
USUAL = WEATHER.iloc[:1].assign(city="Rome", celsius=16.0, visits=40, wind=4.0)


def odd(**values):
    return USUAL.assign(**values)


ODD = pd.concat([odd(visits=400), odd(celsius=28.5), odd(celsius=-60.0), USUAL, odd(visits=400, wind=90.0)])


@pytest.fixture(scope="module")
def weather():
    return la.Diffusion(width=64, depth=2, max_steps=500, random_state=0).fit(WEATHER)


# ---- falls and expected values -----------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [None, {"money": ["income", "debt", "size"], "when": ["since", "wait"]}])
def test_the_energy_falls_as_far_as_is_said_if_the_value_expected_is_put_in(model, people, groups):
    rows = people.head(40).reset_index(drop=True)
    why = model.explain(rows, groups=groups, tested=3)
    energy = model.anomaly_score(rows)
    assert_allclose(why.shares.sum(1), energy, rtol=1e-12, atol=1e-9)
    assert list(why.expected.dtypes) == list(rows.dtypes)
    assert_array_equal((~np.isnan(why.falls)).sum(1), 3)
    assert_array_equal(
        np.argsort(-why.shares, axis=1)[:, 0],
        np.nanargmax(np.where(np.isnan(why.falls), np.nan, why.shares), axis=1),
    )
    for j, unit in enumerate(why.columns):
        tried = ~np.isnan(why.falls[:, j])
        if tried.any():
            members = why.groups.get(unit, [unit])
            put = rows[tried].copy()
            put[members] = why.expected.loc[tried, members]
            assert_allclose(
                energy[tried] - why.falls[tried, j], model.anomaly_score(put), rtol=1e-9, atol=1e-9
            )


def test_expected_is_what_the_other_values_speak_for(weather):
    why = weather.explain(ODD)
    assert [row[0][0] for row in why.top(1)][:1] == ["visits"]
    assert {name for name, *_ in why.top(2)[1]} == {"city", "celsius"}  # odd together alone
    assert why.expected["city"].iloc[1] == "Cairo"
    assert why.expected["celsius"].iloc[1] == pytest.approx(16, abs=4)
    assert 20 < why.expected["visits"].iloc[0] < 60
    at = why.columns.index("celsius")
    assert weather.anomaly_score(ODD)[2] - why.falls[2, at] < -weather.offset_


def test_a_group_is_blamed_and_replaced_as_one(weather):
    groups = {"place": ["celsius", "city"]}
    why, apart = weather.explain(ODD, groups=groups), weather.explain(ODD)
    assert set(why.columns) == {"place", "visits", "wind", "day", "open"}
    j, members = why.columns.index("place"), [apart.columns.index(name) for name in groups["place"]]
    assert_allclose(why.shares[:, j], apart.shares[:, members].sum(1))
    name, _, seen, usual = why.top(1)[2][0]
    assert (name, seen) == ("place", {"celsius": -60.0, "city": "Rome"})
    degrees = {"Oslo": 5, "Rome": 16, "Cairo": 28}[usual["city"]]
    assert usual["celsius"] == pytest.approx(degrees, abs=4)
    assert "place=(celsius=-60, city=Rome)" in repr(why)


@pytest.mark.parametrize(
    "groups, words",
    [
        ({"g": ["celcius"]}, "group 'g' holds 'celcius', which is not modelled. Did you mean 'celsius'"),
        ({"g": ["wind", "day"], "h": ["day"]}, "column 'day' is in group 'g' and again in 'h'"),
        ({"wind": ["day", "open"]}, "group 'wind' has the name of a column that is not in it"),
        ({"g": "wind"}, "group 'g' must be a list of columns, such as groups="),
    ],
)
def test_a_group_that_cannot_be_is_refused(weather, groups, words):
    with pytest.raises(la.SchemaError, match=words):
        weather.explain(ODD, groups=groups)


def test_explaining_takes_the_energies_it_says(weather, monkeypatch):
    rows, inner = [], la.Diffusion._shares
    monkeypatch.setattr(
        la.Diffusion, "_shares", lambda self, X, first: rows.append(len(X)) or inner(self, X, first)
    )
    why = weather.explain(WEATHER.head(20))
    assert sum(rows) <= 20 * 20
    assert sum(rows) == 20 * (1 + 6 * ENERGIES)
    rows.clear()
    shares = weather.explain(WEATHER.head(20), tested=0)
    assert sum(rows) == 20
    assert np.isnan(shares.falls).all()
    assert_array_equal(shares.shares, why.shares)


def test_a_row_is_explained_as_it_is_alone(model, people):
    together, alone = model.explain(people.head(30)), model.explain(people.iloc[7:8])
    assert_array_equal(alone.falls[0], together.falls[7])


# ---- counterfactuals ---------------------------------------------------------------------------------------


def test_the_nearest_normal_row_is_normal_and_changes_what_was_spoilt(weather):
    found = weather.counterfactual(ODD, random_state=0)
    assert_array_equal(weather.predict(found.rows), 1)
    assert found.normal.all()
    assert_array_equal(weather.score_samples(found.rows), found.scores)
    names = [set(change) for change in found.changes()]
    assert names[0] == {"visits"}
    assert names[1] in ({"city"}, {"celsius"})
    assert names[2] == {"celsius"}
    assert names[3] == set()
    assert names[4] == {"visits", "wind"}
    same = [name not in names[0] for name in ODD]
    pd.testing.assert_series_equal(found.rows.iloc[0][same], ODD.iloc[0][same])
    pd.testing.assert_frame_equal(found.rows.iloc[3:4], ODD.iloc[3:4])
    assert found.changes()[0]["visits"][0] == 400
    text = repr(found)
    assert text.startswith("Counterfactual of 5 rows: 4 odd, of which 4 made normal")
    assert "visits 400 -> " in text
    assert "normal as it is" in text.splitlines()[4]


def test_a_counterfactual_is_a_function_of_its_seed(weather):
    first, second = (weather.counterfactual(ODD, random_state=3).rows for _ in "ab")
    pd.testing.assert_frame_equal(first, second)


def test_what_is_fixed_stays_and_a_row_that_stays_odd_is_said_to(weather):
    found = weather.counterfactual(ODD, fixed=["visits"], random_state=0)
    assert (found.rows["visits"].to_numpy() == ODD["visits"].to_numpy()).all()
    assert not found.normal[0]
    assert found.scores[0] >= found.before[0]
    assert "not made normal" in repr(found)
    one = weather.counterfactual(ODD, max_columns=1, random_state=0)
    assert one.changed.sum(1).max() == 1
    assert one.normal.tolist() == [True, True, True, True, False]
    with pytest.raises(la.SchemaError, match=r"fixed holds 'wint', .* Did you mean 'wind'"):
        weather.counterfactual(ODD, fixed=["wint"])


@pytest.mark.parametrize(
    "wrap",
    [pl.from_pandas, pa.Table.from_pandas, lambda frame: frame.to_dict("list")],
    ids=["polars", "arrow", "dict"],
)
def test_counterfactuals_come_in_the_container_they_were_asked_in(weather, wrap):
    table = wrap(ODD.reset_index(drop=True))
    found = weather.counterfactual(table, random_state=0)
    assert type(found.rows) is type(table)
    assert_array_equal(weather.predict(found.rows), 1)
    assert_array_equal(found.changed, weather.counterfactual(ODD, random_state=0).changed)


def test_matrices_of_single_precision_have_counterfactuals(family):
    X = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    found = family(max_steps=200).fit(X).counterfactual(np.float32([[0.0, 40.0, 0.1]]), random_state=0)
    assert found.rows.dtype == np.float32
    assert found.normal.all()
    assert found.changed.tolist() == [[False, True, False]]


@pytest.mark.parametrize("case", ["people", "unseen"])
def test_any_row_gets_an_answer(model, people, case):
    rows = people.head(60).assign(income=1e7, city="Paris" if case == "unseen" else people["city"].head(60))
    found = model.counterfactual(rows, n_draws=2, max_columns=2, random_state=0)
    assert list(found.rows.dtypes) == list(rows.dtypes)
    assert (found.changed.sum(1) <= 2).all()
    assert (found.scores >= found.before).all()
    assert_array_equal(found.normal, model.predict(found.rows) == 1)


# ---- exported files ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_exported_files_give_the_same_reasons(model_of_people, file_of_people, others, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("lookalike.runtime")
    model, rows = model_of_people("VAE"), others.head(40).assign(income=1e6)
    model.export(tmp_path / "impute.onnx", task="impute", inputs="core")
    paths = file_of_people("VAE"), tmp_path / "impute.onnx"
    served, imputer = (runtime.load(path, device="cpu", threads=1) for path in paths)
    for groups in (None, {"money": ["income", "debt", "city"]}):
        got, want = served.explain(rows, groups=groups), model.explain(rows, groups=groups)
        assert got.columns == want.columns
        slack = 1e-4 * model.calibration_.scores.std()
        both = ~np.isnan(want.falls)
        assert (both == ~np.isnan(got.falls)).mean() > 0.99  # but for ties
        assert np.quantile(np.abs(got.falls - want.falls)[both], 0.99) < slack
    with pytest.raises(la.ArtifactError, match=r"a counterfactual has to be drawn\. Export another"):
        served.counterfactual(rows)
    got, want = (
        served.counterfactual(rows, imputer=imputer, random_state=0),
        model.counterfactual(rows, random_state=0),
    )
    assert (got.changed == want.changed).mean() > 0.99
    assert_array_equal(served.predict(got.rows) == 1, got.normal)
