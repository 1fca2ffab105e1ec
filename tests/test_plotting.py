"""Pictures show what they are given, and say what is wrong where they cannot."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import lookalike as la


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "amount": np.where(rng.random(300) < 0.1, np.nan, rng.normal(size=300)),
            "kind": rng.choice(["a", "b"], 300),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(100, size=300), "D"),
            "took": pd.to_timedelta(rng.integers(600, size=300), "min"),
        }
    )


def test_scores_mark_the_threshold_and_count_the_alarms(frame: pd.DataFrame) -> None:
    model = la.VAE(max_steps=20, width=16, random_state=0).fit(frame)
    axes = la.plot_scores(model, frame)
    alarms = int((model.predict(frame) == -1).sum())
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(word.startswith(f"{alarms:,} called anomalies") for word in words)
    assert any(word.startswith("threshold") and "of normal rows" in word for word in words)
    assert len(la.plot_loss(model).lines) >= 1


def test_marginals_have_a_panel_a_column_and_tell_what_is_missing(frame: pd.DataFrame) -> None:
    figure = la.plot_marginals(frame, frame.head(100))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [title.split(" ")[0] for title in titles] == list(frame.columns)
    assert "missing" in titles[0]
    figure.canvas.draw()


def test_an_unknown_column_is_named(frame: pd.DataFrame) -> None:
    with pytest.raises(
        la.SchemaError, match=r"column 'amout' is not among the real rows'. Did you mean 'amount'"
    ):
        la.plot_marginals(frame, frame, columns=["amout"])


def test_an_explanation_shows_each_column_with_what_was_expected(frame: pd.DataFrame) -> None:
    model = la.VAE(max_steps=150, width=16, random_state=0).fit(frame)
    odd = frame.head(3).assign(amount=[0.1, 1e6, 0.2])
    why = model.explain(odd, tested=2)
    axes = la.plot_explanation(why, row=1, k=3)
    words = [tick.get_text() for tick in axes.get_yticklabels()]
    assert words[0].startswith("amount = 1e+06\nexpected ")
    assert words[-1] == "1 other column"
    shares, falls = ([bar.get_width() for bar in bars] for bars in axes.containers)
    assert sum(shares) == pytest.approx(model.anomaly_score(odd)[1])
    assert falls[0] == pytest.approx(np.nanmax(why.falls[1]))
    assert f"energy {model.anomaly_score(odd)[1]:.3g}, odd" in axes.get_title(loc="left")
    groups = la.plot_explanation(model.explain(odd, groups={"times": ["when", "took"]}), row=-1)
    assert any("times = (" in tick.get_text() for tick in groups.get_yticklabels())
    groups.figure.canvas.draw()
    with pytest.raises(IndexError, match="row must be one of the 3 that were explained, from 0, got 3"):
        la.plot_explanation(why, row=3)


@pytest.mark.parametrize("coded", [(-1, 1), (1, 0), (True, False)])
def test_curves_have_the_areas_that_scikit_learn_computes(coded: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    odd = rng.random(500) < 0.1
    scores = {"sharp": np.round(rng.normal(size=500) - 2 * odd, 1), "blunt": rng.normal(size=500) - odd}
    figure = la.plot_curve(np.where(odd, *coded), scores)
    for axes, area in zip(figure.axes, (roc_auc_score, average_precision_score), strict=True):
        words = [text.get_text() for text in axes.get_legend().get_texts()]
        for name, values in scores.items():
            assert any(word.startswith(name) and word.endswith(f"{area(odd, -values):.3f}") for word in words)
    assert f"chance: {odd.mean():.1%} are anomalies" in words
    figure.canvas.draw()


@pytest.mark.parametrize(
    "labels, scores, words",
    [
        ([1, 1, 1], [1.0, 2.0, 3.0], "y_true must say of each row .* with both kinds"),
        ([0, 1, 2], [1.0, 2.0, 3.0], "y_true must say of each row"),
        (
            [0, 1, 0],
            [1.0, 2.0],
            r"scores must be one finite number for each of the 3 labels, got shape \(2,\)",
        ),
        ([0, 1, 0], {"a": [1.0, np.nan, 2.0]}, "scores of 'a' must be one finite number .* with nan"),
    ],
)
def test_curves_of_what_cannot_be_judged_are_refused(labels: list[int], scores: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        la.plot_curve(labels, scores)
