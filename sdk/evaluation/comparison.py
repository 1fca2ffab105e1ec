"""Synthetic rows beside real ones: all figures, each with its floor, and what they say in words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike import noise
from lookalike.columns import Encoded
from lookalike.errors import SchemaError, did_you_mean
from lookalike.evaluation import fidelity, privacy
from lookalike.evaluation.page import Finding, Level
from lookalike.evaluation.svg import percent
from lookalike.frames import open_frame
from lookalike.schema import Schema, Table

Floats = NDArray[np.float64]

MOST_ROWS = 20_000  # of each kind that are compared
MOST_NEAR = 4_000  # rows whose nearest are looked for
FEWEST_ROWS = 20
NAMED = 3  # columns in a sentence


@dataclass(frozen=True, eq=False)
class Comparison:
    """Rows that are compared, and the figures.

    Attributes
    ----------
    schema : Schema
        Of the real rows.
    real, synthetic, held_out : Table
        The rows compared: as many synthetic ones as rows held out. Without any held out, half of the real
        rows stand in for them.
    every : tuple of Table
        The same three, with all rows that there are.
    n_rows : dict of str to int
        How many there were of each.
    target : int or None
        The column to predict, by its number among those encoded.
    stands_in : bool
        Whether `held_out` are real rows that were fitted.
    """

    schema: Schema
    real: Table
    synthetic: Table
    held_out: Table
    every: tuple[Table, Table, Table]
    n_rows: dict[str, int]
    target: int | None
    stands_in: bool
    seed: int

    @classmethod
    def of(
        cls, real: Any, synthetic: Any, holdout: Any, target: Any, overrides: Any, random_state: Any
    ) -> Comparison:
        """Read the tables, or say what is wrong with which.

        Raises
        ------
        SchemaError
            If a table cannot be read, lacks a column or has another, or is too short; if there is no such
            target.
        """
        seed = noise.seed_from(random_state)
        schema = Schema.fit(real, overrides)
        if schema.image is not None:
            raise SchemaError("a report compares tables, got images: see lookalike.evaluation.manifolds.")
        tables = {"real": schema.encode(real), "synthetic": _encoded(schema, synthetic, "synthetic")}
        if holdout is not None:
            tables["holdout"] = _encoded(schema, holdout, "holdout")
        n_rows = {name: len(table) for name, table in tables.items()}
        for name, n in n_rows.items():
            if n < FEWEST_ROWS * (1 + (name == "real" and holdout is None)):
                raise SchemaError(f"{name} holds {n} rows, which are too few to say anything about them.")
        ours, theirs = _shuffled(tables["real"], seed), _shuffled(tables["synthetic"], seed + 1)
        if holdout is None:
            half = len(ours) // 2
            others, ours = ours.rows(slice(half)), ours.rows(slice(half, None))
        else:
            others = _shuffled(tables["holdout"], seed + 2)
        n = min(len(theirs), len(others), MOST_ROWS)
        rows = ours.rows(slice(MOST_ROWS)), theirs.rows(slice(n)), others.rows(slice(n))
        every = ours, theirs, others
        return cls(schema, *rows, every, n_rows, _target(schema, target), holdout is None, seed)

    @property
    def columns(self) -> list[Encoded]:
        """The columns compared, numbers first."""
        return [*self.schema.number_columns, *self.schema.category_columns]

    @property
    def sizes(self) -> list[int]:
        """Ids of each category: its levels, the unseen and the missing."""
        return [len(column.levels) + 2 for column in self.schema.category_columns]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of columns that are compared."""
        return fidelity.pairs_of(len(self.columns), self.seed)

    @cached_property
    def shapes(self) -> tuple[Floats, Floats]:
        """Error of each column, and its floor."""
        ours, floor = (fidelity.shape(self.real, side, self.sizes) for side in self._sides)
        return ours, floor

    @cached_property
    def trends(self) -> tuple[Floats, Floats]:
        """Error of each pair, and its floor."""
        ours, floor = (fidelity.trend(self.real, side, self.sizes, self.pairs) for side in self._sides)
        return ours, floor

    @cached_property
    def judged(self) -> tuple[fidelity.Judged, fidelity.Judged]:
        """What the judge makes of synthetic rows, and of those held out."""
        n = min(len(self.real), len(self.synthetic))
        real = self.real.rows(slice(n))
        ours, floor = (
            fidelity.judge(real, side.rows(slice(n)), self.sizes, self.seed) for side in self._sides
        )
        return ours, floor

    @property
    def _sides(self) -> tuple[Table, Table]:
        return self.synthetic, self.held_out

    # ---- numbers -----------------------------------------------------------------------------------------

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """All figures, as JSON has them; None where one cannot be had."""
        names = [column.name for column in self.columns]
        blanks = [fidelity.missing(side, self.sizes) for side in (self.real, *self._sides)]
        judged, floor = self.judged
        columns = [
            {
                "column": names[i],
                "kind": self.columns[i].kind,
                "synthetic": float(self.shapes[0][i]),
                "floor": float(self.shapes[1][i]),
                "missing": {
                    who: float(share[i])
                    for who, share in zip(("real", "synthetic", "floor"), blanks, strict=True)
                },
                "judge": float(judged.falls[i]),
            }
            for i in range(len(names))
        ]
        pairs = [
            {"columns": [names[a], names[b]], "synthetic": float(ours), "floor": float(held)}
            for (a, b), ours, held in zip(self.pairs, *self.trends, strict=True)
            if np.isfinite(ours) and np.isfinite(held)
        ]
        return {
            "rows": self.n_rows,
            "compared": {
                "real": len(self.real), "synthetic": len(self.synthetic), "floor": len(self.held_out)
            },
            "floor": "half of the real rows" if self.stands_in else "holdout",
            "shape": {**_means(columns), "columns": columns},
            "trend": {**_means(pairs), "pairs": pairs},
            "c2st": {
                "synthetic": judged.c2st, "floor": floor.c2st, "auc": judged.auc, "floor_auc": floor.auc
            },
            "utility": self._utility(),
            "privacy": self._privacy(),
        }  # fmt: skip

    def _utility(self) -> dict[str, Any] | None:
        if self.target is None:
            return None
        column = self.columns[self.target]
        is_number = self.target < len(self.schema.number_columns)
        n = min(len(self.real), len(self.synthetic))
        figures = [
            fidelity.predicts(train.rows(slice(n)), self.held_out, self.sizes, self.target, self.seed)
            for train in (self.synthetic, self.real)
        ]
        ours, real = figures
        ratio = None
        if ours and real:
            ratio = real / ours if is_number else ours / real
        return {
            "target": column.name,
            "measure": "error" if is_number else "AUC",
            "synthetic": ours,
            "real": real,
            "guessing": 1.0 if is_number else 0.5,
            "ratio": ratio,
        }

    def _privacy(self) -> dict[str, Any]:
        ours, floor, level = privacy.copies(*self.every)
        found: dict[str, Any] = {
            "copies": {"synthetic": ours, "floor": floor, "level": level},
            "dcr_share": None,
            "membership": None,
        }
        if self.stands_in:
            return found
        n = min(len(self.real), len(self.held_out))
        space = privacy.Space(self.real, self.sizes)
        real, held_out = (space(side.rows(slice(n))) for side in (self.real, self.held_out))
        synthetic = space(self.synthetic)
        near = privacy.closeness(real, held_out, synthetic[:MOST_NEAR])
        found["dcr_share"] = near._asdict()
        attack = privacy.attack(real[:MOST_NEAR], held_out[:MOST_NEAR], synthetic, self.seed)
        found["membership"] = {
            "auc": attack.auc._asdict(),
            "found_at_1_percent": attack.found._asdict(),
            "curve": {"false_alarms": attack.curve[0].tolist(), "found": attack.curve[1].tolist()},
        }
        return found

    # ---- words -------------------------------------------------------------------------------------------

    @property
    def floor_words(self) -> str:
        """What the floor is made of."""
        return "the other half of the real rows" if self.stands_in else "rows held out"

    def verdict(self) -> list[Finding]:
        """What the figures say."""
        numbers = self.numbers
        return [
            self._beside("shape", "Columns by themselves are", numbers["shape"]["columns"], "column"),
            self._beside("trend", "Columns together, two by two, are", numbers["trend"]["pairs"], "columns"),
            self._told_apart(),
            *self._missing(),
            *self._useful(),
            *self._guarded(),
        ]

    def _beside(self, figure: str, what: str, parts: list[dict[str, Any]], name: str) -> Finding:
        ours, floor = self.numbers[figure]["synthetic"], self.numbers[figure]["floor"]
        if ours is None:
            return Finding("note", f"{what}: there is nothing to compare.")
        figures = f"error {percent(ours)}; {self.floor_words}: {percent(floor)}"
        excess = [part["synthetic"] - 1.5 * part["floor"] for part in parts]
        chance = 2 / len(self.synthetic) ** 0.5  # the worst of many errors strays so far
        if ours <= 1.5 * floor + 0.002 and max(excess) <= 0.05 + chance:
            return Finding("good", f"{what} as near to real rows as {self.floor_words} ({figures}).")
        level: Level
        level, how = ("look", "a little")
        if ours > 3 * floor + 0.02 or max(excess) > 0.2 + chance:
            level, how = ("alarm", "far")
        worst = [parts[i] for i in np.argsort(excess, kind="stable")[::-1][:NAMED].tolist()]
        named = ", ".join(f"{_name(part[name])} ({percent(part['synthetic'])})" for part in worst)
        return Finding(level, f"{what} {how} off ({figures}), most of all {named}.")

    def _told_apart(self) -> Finding:
        judged, floor = self.judged
        level, how = next((level, how) for most, level, how in _TOLD if floor.c2st - judged.c2st <= most)
        by = "" if level == "good" else f" It goes by {self._clues()}."
        return Finding(
            level,
            f"A judge, boosted trees, tells synthetic rows from real ones {how} than it tells "
            f"{self.floor_words} (AUC {judged.auc:.2f} and {floor.auc:.2f}; 0.5 is chance).{by}",
        )

    def _clues(self) -> str:
        falls = self.judged[0].falls
        order = [i for i in np.argsort(-falls)[:NAMED].tolist() if falls[i] > 0.1 * falls.max() > 0]
        return ", ".join(_name(self.columns[i].name) for i in order) or "no column by itself"

    def _missing(self) -> list[Finding]:
        off = [
            (abs(gaps["synthetic"] - gaps["real"]), column["column"], gaps)
            for column in self.numbers["shape"]["columns"]
            if abs((gaps := column["missing"])["synthetic"] - gaps["real"])
            > 3 * abs(gaps["floor"] - gaps["real"]) + 0.02
        ]
        if not off:
            return []
        _, name, gaps = max(off, key=lambda one: one[0])
        return [
            Finding(
                "look",
                f"Values are missing elsewhere than in real rows: of {_name(name)} "
                f"{percent(gaps['synthetic'])} instead of {percent(gaps['real'])}.",
            )
        ]

    def _useful(self) -> list[Finding]:
        use = self.numbers["utility"]
        if use is None:
            return [Finding("note", "No target was named, so usefulness was not measured.")]
        if use["ratio"] is None:
            return [Finding("note", f"{_name(use['target'])} does not vary, so usefulness was not measured.")]
        # What so few rows cannot tell apart is the same.
        same = abs(use["synthetic"] - use["real"]) <= 1 / len(self.held_out) ** 0.5
        ratio = 1.0 if same else use["ratio"]
        level, how = next((level, how) for least, level, how in _USE if ratio >= least)
        return [
            Finding(
                level,
                f"A model that learned from synthetic rows predicts {_name(use['target'])} of "
                f"{self.floor_words} {how} one that learned from real rows ({use['measure']} "
                f"{use['synthetic']:.3f} and {use['real']:.3f}).",
            )
        ]

    def _guarded(self) -> list[Finding]:
        found = self.numbers["privacy"]
        ours, floor, level = found["copies"].values()
        verdict = [
            Finding(
                level,
                f"Synthetic rows are exact copies of real rows {'no ' * (level == 'good')}more often than "
                f"{self.floor_words} are ({percent(ours, 2)}; {percent(floor, 2)}).",
            )
        ]
        if self.stands_in:
            more = "Whether they are near to rows that were fitted takes rows that were not: give a holdout."
            return [*verdict, Finding("note", more)]
        near, attack = found["dcr_share"], found["membership"]
        auc, caught = attack["auc"], attack["found_at_1_percent"]
        worse = max((auc["level"], caught["level"]), key=list(_ATTACK).index)
        return [
            *verdict,
            Finding(
                near["level"],
                f"{percent(near['value'])} of synthetic rows are nearer to a fitted row than to one held out "
                f"(50 % by chance; interval {percent(near['low'])} to {percent(near['high'])}).",
            ),
            Finding(
                worse,
                f"An attacker who has the synthetic rows {_ATTACK[worse]} who was fitted: AUC "
                f"{auc['value']:.2f} (0.5 by chance), {percent(caught['value'])} of fitted rows found at 1 % "
                "false alarms (1 % by chance).",
            ),
            Finding("note", "No alarm is no proof: stronger attacks may find what these do not."),
        ]


_ATTACK: dict[Level, str] = {
    "good": "tells no better than chance",
    "look": "tells a little better than chance",
    "alarm": "can tell",
}
_TOLD: tuple[tuple[float, Level, str], ...] = (
    (0.1, "good", "hardly better"),
    (0.4, "look", "a little better"),
    (0.7, "look", "better"),
    (2.0, "alarm", "much better"),
)
_USE: tuple[tuple[float, Level, str], ...] = (
    (0.97, "good", "as well as"),
    (0.9, "look", "a little worse than"),
    (-1.0, "alarm", "much worse than"),
)


def _means(parts: list[dict[str, Any]]) -> dict[str, float | None]:
    return {
        who: float(np.mean([part[who] for part in parts])) if parts else None
        for who in ("synthetic", "floor")
    }


def _name(name: Any) -> str:
    return " × ".join(map(str, name)) if isinstance(name, list) else str(name)


def _shuffled(table: Table, seed: int) -> Table:
    return table.rows(np.argsort(noise.uniforms(seed % 2**64, 0, len(table), 1)[:, 0]))


def _encoded(schema: Schema, data: Any, who: str) -> Table:
    """Read a table with the columns of the real rows, or say what it lacks."""
    try:
        frame = open_frame(data)
        if frame.container != "numpy" and schema.container != "numpy":
            known, given = set(schema.names), set(frame.names)
            for name in frame.names:
                if name not in known:
                    near = did_you_mean(name, known - given)
                    raise SchemaError(f"column {name!r} is not among the real rows'.{near}")
            for column in schema.columns:
                if isinstance(column, Encoded) and column.name not in given:
                    raise SchemaError(f"column {column.name!r} of the real rows is missing.")
        return schema.encode(data, allow_missing=True, owner="real")
    except SchemaError as error:
        raise SchemaError(f"in {who}, {error}") from error


def _target(schema: Schema, target: Any) -> int | None:
    if target is None:
        return None
    names = [column.name for column in (*schema.number_columns, *schema.category_columns)]
    if target not in names:
        raise SchemaError(f"target {target!r} is not a column that is compared.{did_you_mean(target, names)}")
    return names.index(target)
