"""`report`: a page that says how good synthetic rows are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from lookalike import noise
from lookalike.columns import Column, Encoded
from lookalike.evaluation import drawing, page, svg
from lookalike.evaluation.comparison import MOST_NEAR, MOST_ROWS, Comparison
from lookalike.evaluation.fidelity import BINS, MOST_PAIRS
from lookalike.evaluation.page import Report
from lookalike.evaluation.svg import percent

DRAWN, PAIRS_DRAWN, LISTED = 30, 8, 200  # columns and pairs with a picture, and in tables


def report(
    real: Any,
    synthetic: Any,
    holdout: Any = None,
    *,
    target: Any = None,
    schema: Mapping[Any, Column] | None = None,
    path: str | os.PathLike[str] | None = None,
    random_state: noise.RandomState = 0,
) -> Report:
    """Say how good synthetic rows are: how near to real ones, how useful, and what they give away.

    Each figure stands beside its floor: the same figure of as many real rows that were held out, as if they
    were synthetic. Better than the floor is luck.

    Parameters
    ----------
    real : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        The rows that the generator was fitted to.
    synthetic : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        What it drew, from wherever: it need not be ours.
    holdout : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns), optional
        Real rows that were not fitted. Without them half of the real rows are the floor for the other half,
        and what rows give away is not known but for exact copies.
    target : column name, optional
        What a model is to predict that learns from synthetic rows; without it usefulness is not measured.
    schema : mapping of column name to kind, optional
        Such as ``{"zip": la.Categorical()}``; other columns are inferred from the real rows. Identifiers and
        ignored columns are not compared.
    path : str or PathLike, optional
        Where to write the page, as `Report.save` does.
    random_state : int, Generator, RandomState or None
        Which rows are compared, where there are more than 20,000 of a kind, and how the judge deals them.

    Returns
    -------
    Report
        `numbers`, `verdict` in words and the page as `html`.

    Raises
    ------
    SchemaError
        If a table cannot be read, lacks a column or has another, or is too short.

    References
    ----------
    N. Patki, R. Wedge, K. Veeramachaneni. The Synthetic Data Vault. DSAA 2016 (shape and trend as in
    SDMetrics).
    D. Lopez-Paz, M. Oquab. Revisiting Classifier Two-Sample Tests. ICLR 2017, arXiv:1610.06545.
    B. van Breugel, H. Sun, Z. Qian, M. van der Schaar. Membership Inference Attacks against Synthetic Data
    through Overfitting Detection. AISTATS 2023, arXiv:2302.12580.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> real, held_out, other = np.random.default_rng(0).normal(size=(3, 500, 2))
    >>> la.report(real, other, held_out).alarms
    []
    >>> len(la.report(real, real, held_out).alarms) > 0
    True
    """
    found = Comparison.of(real, synthetic, holdout, target, schema, random_state)
    n = found.n_rows
    counts = [f"{n['synthetic']:,} synthetic rows", f"{n['real']:,} real ones"]
    lead = ", ".join([*counts, *([f"{n['holdout']:,} held out"] if "holdout" in n else [])])
    lead += f"; {len(found.columns)} columns."
    title, verdict = "Synthetic rows beside real ones", found.verdict()
    html = page.page(title, lead, verdict, _sections(found))
    made = Report(title, verdict, {**found.numbers, "verdict": [list(one) for one in verdict]}, html)
    if path is not None:
        made.save(path)
    return made


def _sections(found: Comparison) -> list[str]:
    return [
        _figures(found),
        _columns(found),
        _pairs(found),
        _judge(found),
        _use(found),
        _privacy(found),
        _method(found),
    ]


def _figures(found: Comparison) -> str:
    numbers = found.numbers
    shares, use = numbers["privacy"], numbers["utility"]
    rows: list[tuple[Any, ...]] = [
        ("Shape error", _share(numbers["shape"]["synthetic"]), _share(numbers["shape"]["floor"]), "0 %",
         "distance of each column's distribution from the real one, on average"),
        ("Trend error", _share(numbers["trend"]["synthetic"]), _share(numbers["trend"]["floor"]), "0 %",
         "the same for each pair of columns"),
        ("C2ST", f"{numbers['c2st']['synthetic']:.2f}", f"{numbers['c2st']['floor']:.2f}", "1",
         "1 where a judge cannot tell synthetic rows from real ones, 0 where it always can"),
    ]  # fmt: skip
    if use is not None and use["ratio"] is not None:
        rows.append(
            ("Usefulness", f"{use['ratio']:.2f}", "1.00", "1", "of a model that learned from synthetic rows, "
             "as a share of what one can that learned from real rows")
        )  # fmt: skip
    rows.append(
        ("Exact copies", percent(shares["copies"]["synthetic"], 2), percent(shares["copies"]["floor"], 2),
         "the floor", "rows that equal a real row in every column")
    )  # fmt: skip
    if shares["dcr_share"] is not None:
        auc = shares["membership"]["auc"]["value"]
        caught = shares["membership"]["found_at_1_percent"]["value"]
        rows += [
            ("Nearer to fitted rows", percent(shares["dcr_share"]["value"]), "50 %", "50 %",
             "synthetic rows that are nearer to a fitted row than to one held out"),
            ("Membership AUC", f"{auc:.2f}", "0.50", "0.5",
             "how well an attacker who has the synthetic rows tells who was fitted"),
            ("Members found", percent(caught), "1 %", "1 %", "by that attacker, at 1 % false alarms"),
        ]  # fmt: skip
    return page.section(
        "Figures",
        f"Beside each figure its floor: what {found.floor_words} reach, as if they were synthetic. No "
        "generator does better but by luck.",
        page.table(
            f"{len(found.synthetic):,} rows of each kind beside {len(found.real):,} real rows.",
            ("Figure", "Synthetic", "Floor", "Best", "What it is"),
            rows,
            right=(1, 2, 3),
            meaning=4,
        ),
    )


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


# ---- columns -----------------------------------------------------------------------------------------------


def _columns(found: Comparison) -> str:
    columns = found.numbers["shape"]["columns"]
    order = sorted(range(len(columns)), key=lambda i: columns[i]["floor"] - columns[i]["synthetic"])
    drawn = sorted(order[:DRAWN], key=lambda i: found.schema.names.index(columns[i]["column"]))
    pictures = [drawing.column(found, i) for i in drawn]
    words = "Real rows filled, synthetic ones as a line or the lower bar."
    if len(order) > DRAWN:
        words += f" The {DRAWN} columns that are furthest off, of {len(order)}."
    rows = [
        (
            str(c["column"]),
            c["kind"],
            percent(c["synthetic"]),
            percent(c["floor"]),
            percent(c["missing"]["real"]),
            percent(c["missing"]["synthetic"]),
        )
        for c in (columns[i] for i in order[:LISTED])
    ]
    return page.section(
        "Columns",
        words,
        page.key(real="real", synthetic="synthetic"),
        page.grid(pictures),
        page.details(
            "All columns, those furthest off first" + (f" ({LISTED} of them)" if len(order) > LISTED else ""),
            page.table(
                "Shape error: Kolmogorov-Smirnov distance of numbers, total variation of categories.",
                ("Column", "Kind", "Error", "Floor", "Missing", "Missing, synthetic"),
                rows,
                right=(2, 3, 4, 5),
            ),
        ),
    )


# ---- pairs -------------------------------------------------------------------------------------------------


def _pairs(found: Comparison) -> str:
    names = [column.name for column in found.columns]
    off = sorted(found.numbers["trend"]["pairs"], key=lambda pair: pair["floor"] - pair["synthetic"])
    if not off:
        return ""
    drawn = []
    for pair in off[:PAIRS_DRAWN]:
        a, b = (names.index(name) for name in pair["columns"])
        words = f"error {percent(pair['synthetic'])}, floor {percent(pair['floor'])}"
        drawn.append(page.figure(f"{names[a]} × {names[b]}", words, *drawing.maps(found, a, b)))
    rows = [
        (" × ".join(map(str, pair["columns"])), percent(pair["synthetic"]), percent(pair["floor"]))
        for pair in off[:LISTED]
    ]
    many = f"The {len(drawn)} pairs that are furthest off" if len(off) > len(drawn) else "Pairs of columns"
    return page.section(
        "Pairs of columns",
        f"{many}: where rows lie, the darker the more; real rows first, then synthetic ones.",
        page.key(real="real", synthetic="synthetic"),
        page.grid(drawn, "pairs"),
        page.details(
            f"{len(rows)} of {len(off)} pairs, those furthest off first"
            if len(off) > LISTED
            else "All pairs",
            page.table(
                "Trend error: half the difference of correlations of two numbers, total variation of others "
                f"(numbers in {BINS} bins).",
                ("Pair", "Error", "Floor"),
                rows,
                right=(1, 2),
            ),
        ),
    )


# ---- the rest ----------------------------------------------------------------------------------------------


def _judge(found: Comparison) -> str:
    judged, floor = found.judged
    falls = found.judged[0].falls
    top = max(float(falls.max()), 1e-12)
    order = [i for i in np.argsort(-falls).tolist() if falls[i] >= 0.0005][:20]
    rows = [(str(found.columns[i].name), f"{falls[i]:.3f}", page.meter(float(falls[i]) / top)) for i in order]
    words = (
        f"Boosted trees were shown real and synthetic rows, and asked about others: AUC {judged.auc:.3f}, "
        f"where 0.5 is chance, and {floor.auc:.3f} for {found.floor_words}. Below, how far that falls when a "
        "column is shuffled. Columns that say the same stand in for each other, and each then seems to "
        "matter little."
    )
    if not rows or judged.auc <= max(floor.auc, 0.5) + 0.01:
        return page.section(
            "What tells them apart", words.split(" Below")[0], page.paragraph("Nothing does.")
        )
    return page.section(
        "What tells them apart",
        words,
        page.table("What the judge went by.", ("Column", "Fall of AUC", ""), rows, right=(1,), fill=2),
    )


def _use(found: Comparison) -> str:
    use = found.numbers["utility"]
    if use is None:
        return page.section("Usefulness", "Name a target column to measure it: la.report(..., target=...).")
    if use["ratio"] is None:
        return page.section("Usefulness", f"Not measured: {use['target']} does not vary.")
    measure = (
        "the area under the ROC curve (AUC), 1 at best"
        if use["measure"] == "AUC"
        else "the root of the mean squared error, in standard deviations, 0 at best"
    )
    return page.section(
        "Usefulness",
        f"Boosted trees learned to predict {use['target']} from synthetic rows, and from as many real ones. "
        f"Both were asked about {found.floor_words}; the figure is {measure}.",
        page.table(
            f"Predicting {use['target']}.",
            ("Learned from", use["measure"]),
            [
                ("real rows", f"{use['real']:.3f}"),
                ("synthetic rows", f"{use['synthetic']:.3f}"),
                ("nothing (guessing)", f"{use['guessing']:g}"),
            ],
            right=(1,),
        ),
    )


def _privacy(found: Comparison) -> str:
    told = found.numbers["privacy"]
    words = (
        "Rows held out have the same distribution as the rows fitted. Where synthetic rows are nearer to "
        "those fitted, the generator has learned rows by heart. These figures raise alarms; none of them "
        "proves that nobody can be recognised."
    )
    copies, near, attack = told["copies"], told["dcr_share"], told["membership"]
    rows: list[tuple[Any, ...]] = [
        (
            "Exact copies",
            percent(copies["synthetic"], 2),
            percent(copies["floor"], 2),
            "",
            _mark(copies["level"]),
        )
    ]
    if attack is None:
        words += " Without rows held out only copies can be counted."
        curve = ""
    else:
        auc, caught = attack["auc"], attack["found_at_1_percent"]
        rows += [
            ("Nearer to fitted rows (DCR share)", percent(near["value"]), "50 %",
             f"{percent(near['low'])} to {percent(near['high'])}", _mark(near["level"])),
            ("Membership attack, AUC", f"{auc['value']:.3f}", "0.5",
             f"{auc['low']:.3f} to {auc['high']:.3f}", _mark(auc["level"])),
            ("Membership attack, found at 1 % false alarms", percent(caught["value"]), "1 %",
             f"{percent(caught['low'])} to {percent(caught['high'])}", _mark(caught["level"])),
        ]  # fmt: skip
        points = attack["curve"]
        curve = page.figure(
            "Membership attack",
            "Right: false alarms among rows held out. Up: fitted rows found. Dashed: chance.",
            svg.curve(
                f"ROC curve of the membership attack, area {auc['value']:.2f}",
                np.array(points["false_alarms"]),
                np.array(points["found"]),
                ("0 %", "100 %"),
                "100 % found",
            ),
            kind="one",
        )
    return page.section(
        "Privacy",
        words,
        page.table(
            "An alarm is more than chance does, by enough to matter.",
            ("Figure", "Synthetic", "By chance", "95 % interval", ""),
            rows,
            right=(1, 2, 3),
        ),
        *([page.grid([curve])] if curve else []),
    )


def _mark(level: page.Level) -> page.Html:
    return page.marked(level, {"good": "as by chance", "look": "a little more", "alarm": "alarm"}[level])


def _method(found: Comparison) -> str:
    left = [
        f"{column.name} ({column.kind})" for column in found.schema.columns if not isinstance(column, Encoded)
    ]
    lines = [
        f"Compared: {len(found.synthetic):,} synthetic rows and {len(found.held_out):,} of "
        f"{found.floor_words}, each beside {len(found.real):,} real rows; at most {MOST_ROWS:,} of a kind, "
        f"chosen at random. Copies were looked for among all, nearest rows from at most {MOST_NEAR:,}.",
        "Shape and trend are the errors, 1 minus the score, of SDMetrics' column shapes and column pair "
        "trends; C2ST is 1 - 2 (AUC - 1/2) of boosted trees on rows that they were not fitted to.",
        "The attack compares the nearest synthetic row with the nearest row held out (density ratio of van "
        "Breugel et al., AISTATS 2023). Distances: numbers by rank, levels of a category equally far apart.",
    ]
    if left:
        lines.append(f"Not compared: {', '.join(left[:20])}{' and more' * (len(left) > 20)}.")
    if len(found.pairs) == MOST_PAIRS:
        lines.append(f"Of all pairs of columns {MOST_PAIRS:,} were compared, chosen at random.")
    return page.section("How it was measured", "", *map(page.paragraph, lines))
