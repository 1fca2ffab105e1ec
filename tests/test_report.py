"""Reports: figures against known cases, alarms where rows were copied, and a page that a browser shows."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose
from sklearn.ensemble import IsolationForest

import lookalike as la
from lookalike.evaluation import fidelity, privacy
from lookalike.schema import Schema, Table

HOSTILE = '<script>document.title = "run"</script>'


def rows(n, seed):
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)
    kind = np.where(size + rng.normal(size=n) > 0, "big", np.where(rng.random(n) < 0.4, HOSTILE, "small"))
    return pd.DataFrame(
        {
            "size": size,
            "weight": np.where(rng.random(n) < 0.1, np.nan, 2 * size + rng.normal(size=n)),
            "kind": kind,
            HOSTILE: rng.integers(0, 90, n),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, n), "D"),
        }
    )


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """For speed; what these rows have to tell is simple."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "TREES", 40)
        yield


@pytest.fixture(scope="module")
def real():
    return rows(1500, 0)


@pytest.fixture(scope="module")
def held_out():
    return rows(1200, 1)


@pytest.fixture(scope="module")
def like(real, held_out):
    """What cannot be told from real rows, as it is of their distribution."""
    return la.report(real, rows(1300, 2), held_out, target="kind")


@pytest.fixture(scope="module")
def apart(real, held_out):
    """Columns as they should be, and nothing that holds them together."""
    mixed = rows(1300, 2)
    for i, name in enumerate(("size", "kind", "when")):
        mixed[name] = mixed[name].sample(frac=1, random_state=i).to_numpy()
    return la.report(real, mixed, held_out, target="kind")


@pytest.fixture(scope="module")
def copied(real, held_out):
    """Half of the rows are copies of rows that were fitted."""
    made = pd.concat([rows(650, 2), real.sample(650, random_state=0)], ignore_index=True)
    return la.report(real, made, held_out)


# ---- figures ----


def test_shape_and_trend_are_what_their_definitions_say(real, held_out):
    schema = Schema.fit(real)
    tables = [schema.encode(frame) for frame in (real, held_out)]
    sizes = [len(column.levels) + 2 for column in schema.category_columns]
    names = [column.name for column in (*schema.number_columns, *schema.category_columns)]
    shape = dict(zip(names, fidelity.shape(*tables, sizes), strict=True))
    grid = np.sort(np.r_[real["size"], held_out["size"]])
    gap = [(frame["size"].to_numpy() <= grid[:, None]).mean(1) for frame in (real, held_out)]
    assert shape["size"] == pytest.approx(np.abs(gap[0] - gap[1]).max())
    shares = [frame["kind"].value_counts(normalize=True) for frame in (real, held_out)]
    assert shape["kind"] == pytest.approx((shares[0] - shares[1]).abs().sum() / 2)

    pairs = fidelity.pairs_of(len(names), 0)
    trend = {
        (names[a], names[b]): e
        for (a, b), e in zip(pairs, fidelity.trend(*tables, sizes, pairs), strict=True)
    }
    rho = [frame[["size", "weight"]].corr().iloc[0, 1] for frame in (real, held_out)]
    assert trend["size", "weight"] == pytest.approx(abs(rho[0] - rho[1]) / 2)
    edges = np.histogram_bin_edges(real["size"], fidelity.BINS)
    joint = [
        pd.crosstab(np.digitize(frame["size"], edges), frame["kind"], normalize=True).stack()
        for frame in (real, held_out)
    ]
    assert trend["size", "kind"] == pytest.approx(joint[0].sub(joint[1], fill_value=0).abs().sum() / 2)


def test_correlations_are_over_the_rows_that_have_both():
    x = np.random.default_rng(0).normal(size=(200, 4)) + 1e6
    x[:, 1] += x[:, 0]
    x[::3, 0], x[1::5, 1], x[:, 3] = np.nan, np.nan, 7.0
    assert_allclose(fidelity.correlation(x), pd.DataFrame(x).corr(), atol=1e-9)


def test_rows_of_one_distribution_reach_the_floor(like):
    numbers = like.numbers
    assert numbers["compared"] == {"real": 1500, "synthetic": 1200, "floor": 1200}
    for figure in ("shape", "trend"):
        assert numbers[figure]["synthetic"] == pytest.approx(numbers[figure]["floor"], abs=0.012)
    assert numbers["c2st"]["synthetic"] > 0.9
    assert numbers["utility"]["ratio"] == pytest.approx(1, abs=0.06)
    assert not like.alarms
    assert {level for level, _ in like.verdict} <= {"good", "note"}


def test_columns_that_do_not_hang_together_are_named(apart):
    numbers = apart.numbers
    assert numbers["shape"]["synthetic"] == pytest.approx(numbers["shape"]["floor"], abs=0.012)
    worst = max(numbers["trend"]["pairs"], key=lambda pair: pair["synthetic"])
    assert worst["columns"] == ["size", "weight"]
    assert worst["synthetic"] > 10 * worst["floor"]
    assert numbers["c2st"]["synthetic"] < 0.5
    by = sorted(numbers["shape"]["columns"], key=lambda column: -column["judge"])
    assert {column["column"] for column in by[:2]} == {"size", "weight"}
    assert numbers["utility"]["ratio"] < 0.9
    assert any("size × weight" in words for words in apart.alarms)


def test_a_number_is_predicted_too_and_a_target_that_does_not_vary_is_not(real, held_out):
    schema = Schema.fit(real)
    train, test = schema.encode(real), schema.encode(held_out)
    (size,) = (i for i, column in enumerate(schema.number_columns) if column.name == "weight")
    error = fidelity.predicts(train, test, [5], size, 0)
    assert error == pytest.approx(1 / 5**0.5, rel=0.25)  # of 2 size + noise, the noise is left
    flat = Table(test.numbers * 0 + 1.0, test.ids)
    assert fidelity.predicts(train, flat, [5], size, 0) is None


# ---- what rows give away ----


def test_copies_raise_every_alarm(copied):
    told = copied.numbers["privacy"]
    assert told["copies"]["synthetic"] == pytest.approx(0.5, abs=0.03)
    assert told["copies"]["floor"] == 0
    assert told["dcr_share"]["low"] > 0.55
    assert told["membership"]["auc"]["value"] > 0.6
    assert told["membership"]["found_at_1_percent"]["low"] > 0.2
    assert len(copied.alarms) == 3


def test_closeness_strays_from_a_half_as_far_as_its_interval_says():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(60):
        real, held_out, made = rng.normal(size=(3, 150, 2))
        share = privacy.closeness(real, held_out, made)
        inside += share.low <= 0.5 <= share.high
    assert 52 <= inside <= 60


def test_the_attack_finds_rows_that_were_blurred_a_little_and_not_those_blurred_much():
    rng = np.random.default_rng(0)
    real, held_out = rng.normal(size=(2, 600, 4))
    near, far = (
        privacy.attack(real, held_out, real + s * rng.normal(size=real.shape), 0) for s in (0.02, 3.0)
    )
    assert near.auc.value > 0.9
    assert near.found.value > 0.5
    assert near.auc.level == near.found.level == "alarm"
    assert far.auc.value == pytest.approx(0.5, abs=0.05)
    assert far.found.value < 0.04
    assert (np.diff(near.curve) >= 0).all()


def test_rows_are_equal_whatever_their_zeros_and_holes():
    real = Table(np.array([[0.0, np.nan], [1.0, 2.0]]), np.zeros((2, 1), np.int64))
    same = Table(np.array([[-0.0, -np.nan], [1.0, 2.0], [1.0, 2.0]]), np.array([[0], [0], [1]]))
    assert privacy.copied(real, same).tolist() == [True, True, False]


# ---- tables ----


def test_frames_of_other_kinds_give_the_same_numbers(real, held_out):
    made = rows(300, 2)
    some = real.head(400), made, held_out.head(300)
    ours = la.report(*some)
    others = la.report(*(pl.from_pandas(frame) for frame in some))
    assert json.dumps(others.numbers) == json.dumps(ours.numbers)


def test_without_a_holdout_half_of_the_rows_stand_in(real):
    found = la.report(
        real.to_numpy()[:, [0, 1, 3]].astype(float), rows(900, 3).to_numpy()[:, [0, 1, 3]].astype(float)
    )
    assert found.numbers["compared"] == {"real": 750, "synthetic": 750, "floor": 750}
    assert found.numbers["privacy"]["membership"] is None
    assert "give a holdout" in repr(found)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f.rename(columns={"weight": "wieght"}), "in synthetic, column 'wieght' is not among the "
         "real rows'. Did you mean 'weight'"),
        (lambda f: f.drop(columns="size"), "in synthetic, column 'size' of the real rows is missing"),
        (lambda f: f.assign(size="much"), "in synthetic, column 'size' held numbers in fit"),
        (lambda f: f.head(5), "synthetic holds 5 rows"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_match_is_refused(real, change, message):
    with pytest.raises(la.SchemaError, match=message):
        la.report(real, change(rows(200, 2)), rows(200, 3))


def test_an_unknown_target_is_named(real):
    with pytest.raises(
        la.SchemaError, match=r"target 'knid' is not a column that is compared. Did you mean 'kind'"
    ):
        la.report(real, rows(200, 2), target="knid")


# ---- a detector ----


@pytest.fixture(scope="module")
def found():
    model = la.Mixture(max_steps=60, random_state=0).fit(rows(800, 4))
    odd = rows(600, 5)
    odd.loc[7, "weight"] = 500.0
    return la.report_scores(model, odd, rows=5), model, odd


def test_the_oddest_rows_come_with_reasons(found):
    report, model, odd = found
    numbers = report.numbers
    assert numbers["anomalies"] == (model.predict(odd) == -1).sum()
    first = numbers["oddest"][0]
    assert (first["row"], first["anomaly"], first["reasons"][0]["column"]) == (7, True, "weight")
    assert first["reasons"][0]["value"] == "500"
    assert first["p"] == pytest.approx(model.p_values(odd)[7])
    assert len(numbers["oddest"]) == 5
    below = next(one for one in numbers["calibration"]["at_most"] if one["p"] == 0.05)
    assert below["share"] == pytest.approx((model.p_values(odd) <= 0.05).mean())
    assert below["share"] == pytest.approx(0.05, abs=0.05)


def test_detectors_of_others_are_reported_on_without_reasons():
    X = np.random.default_rng(0).normal(size=(400, 2))
    forest = IsolationForest(random_state=0).fit(X)
    alone = la.report_scores(forest, X)
    assert "no p-values" in repr(alone)
    assert alone.numbers["calibration"] is None
    both = la.Ensemble([IsolationForest(random_state=0)], random_state=0).fit(X)
    told = la.report_scores(both, X)
    assert told.numbers["calibration"]["rows"] == 20
    assert "none of isolationforest explains" in told.html
    with pytest.raises(TypeError, match="X must be one table"):
        la.report_scores(both, iter([X]))


# ---- the page ----


def pages(request):
    first, _, _ = request.getfixturevalue("found")
    return [*map(request.getfixturevalue, ("like", "apart", "copied")), first]


def test_numbers_are_json_and_pages_hold_no_markup_of_others(request):
    for report in pages(request):
        assert json.loads(json.dumps(report.numbers, allow_nan=False)) == report.numbers
        assert "<script" not in report.html
        assert html.escape(HOSTILE)[:14] in report.html
        assert not re.search(r"(src|href)=|url\(|@import", report.html)
        assert not re.search("anonym", report.html + repr(report), re.IGNORECASE)


def test_equal_seeds_give_equal_pages_and_files(real, tmp_path):
    made = rows(200, 2)
    one = la.report(real.head(300), made, path=tmp_path / "one.html")
    assert (tmp_path / "one.html").read_text("utf-8") == one.html == la.report(real.head(300), made).html
    assert html.escape(one.html) in one._repr_html_()


def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


# Put into a frame as wide as a phone, for windows have a least width; what it finds becomes the title.
PROBE = """<!doctype html><body style="margin:0">
<iframe style="border:0;width:{wide}px;height:800px"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const inner = frame.contentDocument, root = inner.documentElement;
  for (const more of inner.querySelectorAll("details")) more.open = true;
  const beyond = [...inner.querySelectorAll("main *")].filter(
    (one) => !one.closest(".wide, svg") && one.getBoundingClientRect().right > {wide} + 0.5);
  const rgb = (colour) => colour.match(/\\d+/g).map(Number).reduce((a, b) => a + b);
  const seen = frame.contentWindow.getComputedStyle(inner.body);
  document.title = JSON.stringify({{width: root.scrollWidth, beyond: beyond.length, title: inner.title,
    ink: rgb(seen.color), ground: rgb(seen.backgroundColor),
    pictures: inner.querySelectorAll("svg").length}});
}};
frame.srcdoc = {page};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="no Chromium on the path: apt-get install chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("wide", [1100, 390])
def test_a_browser_shows_the_page(request, tmp_path, wide, dark):
    for report in pages(request)[1::2]:  # one of each kind
        text = json.dumps(report.html).replace("</", "<\\/")
        file = tmp_path / "probe.html"
        file.write_text(PROBE.format(wide=wide, page=text), "utf-8")
        command = [
            browser(), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--enable-logging=stderr", "--v=0",
            f"--window-size={wide + 20},900", "--virtual-time-budget=2000", "--dump-dom",
            file.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert not re.findall(r".*CONSOLE.*", done.stderr)
        told = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
        assert told["title"] == report.title
        assert told["pictures"] >= 2
        assert (told["ink"] > told["ground"]) == dark
        assert told["width"] <= wide
        assert told["beyond"] == 0
