"""Pictures show what they are given, and say what is wrong where they cannot."""

import numpy as np
import pandas as pd
import pytest

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
    assert any("threshold" in word for word in words)
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
