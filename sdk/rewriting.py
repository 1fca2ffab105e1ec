"""Tables rewritten so that whatever a model draws meets the constraints, and back.

    the user's Table --rewrite--> the model's Table --model--> drawn rows --undo--> the user's Table

- `FixedCombinations`: its columns become one category, their combinations.
- `Inequality`: of each two columns one becomes its distance to the other. As a rule that is the higher; where
  the higher is computed or part of a combination, the lower.
- `Formula`: its column is left out, and computed.

What this cannot say to the model, such as an `end` that is given without its `start`, is met by drawing more
candidates and choosing: `complete`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

from lookalike.columns import Column
from lookalike.constraints import KINDS, Constraint, FixedCombinations, Formula, Inequality, Unique, of_type
from lookalike.errors import ConditionError, LookalikeWarning, SchemaError
from lookalike.frames import open_frame
from lookalike.levelled import Categorical
from lookalike.measured import Datetime, Duration, Measured, Number
from lookalike.schema import Schema, Table
from lookalike.sheet import Floats, Mask, Sheet, alike
from lookalike.steps import Bounded, Combined, Computed, Kept, Step
from lookalike.values import Array, Name
from lookalike.vetting import all_of, require, vetted_schema

ROUNDS = 24  # of draws, before rows that cannot be had are given up
CANDIDATES = 64  # a row, where one is chosen by what could not be said to the model
FEWEST = 256  # rows drawn in the first round that chooses, and twice as many in each that follows
DOUBLED = 6  # rounds
STALE = 6  # rounds without a row that will do, before the others are given up
AT_ONCE = 4096  # rows that are chosen together

Known = tuple[Mask, Mask]
Draw = Callable[[Table, Known, int, bool, bool], Table]
"""Rows and what is known of them, seed, whether nothing may be left missing, whether to take pains."""


class Rewriting:
    """Constraints that have learned from a table, and the table that a model sees in its place.

    Parameters
    ----------
    constraints : sequence of Constraint
        Fitted.
    schema : Schema
        The user's columns.
    shares : collection of column names
        Columns held as a share of the room that their bounds leave, not as a distance to one of them.

    Raises
    ------
    SchemaError
        If the constraints contradict each other, or a column is made by two of them.
    """

    def __init__(
        self, constraints: Sequence[Constraint], schema: Schema, shares: Collection[Name] = ()
    ) -> None:
        self.constraints, self.schema = tuple(constraints), schema
        self.combined = list(of_type(constraints, FixedCombinations))
        made: dict[Name, Constraint] = {}
        for constraint in (*self.combined, *of_type(constraints, Formula)):
            for name in constraint.columns[: None if constraint in self.combined else 1]:
                if name in made:
                    raise SchemaError(
                        f"column {name!r} cannot be both of {made[name]} and {constraint}. Leave one of them "
                        "out, or declare the columns of both in one."
                    )
                made[name] = constraint
        self.shares = frozenset(shares)
        self.steps = self._ordered(made)
        self._modelled = [(step, step.kind) for step in self.steps if step.kind is not None]
        self._always = [c for c in self.constraints if not isinstance(c, Unique)]

    @classmethod
    def fit(cls, constraints: Sequence[Constraint], X: Any, wishes: Mapping[Any, Column]) -> Rewriting:
        """Learn the columns of a table, and what constraints have to learn of it.

        Raises
        ------
        SchemaError
            If the table cannot be learned from or breaks a constraint: which one, the row and its values.
        """
        if not all(isinstance(constraint, Constraint) for constraint in constraints):
            raise SchemaError(
                "constraints must be a list of la.Unique, la.Inequality, la.Formula and "
                f"la.FixedCombinations, got {constraints!r}."
            )
        schema = Schema.fit(X, {**_measured(constraints, X), **wishes})
        sheet = Sheet.of(schema, schema.encode(X))
        plain = cls([constraint.fit(sheet) for constraint in constraints], schema)
        bounded = (step for step in plain.steps if isinstance(step, Bounded))
        return cls(plain.constraints, schema, [step.names[0] for step in bounded if step.is_share(sheet)])

    def _ordered(self, made: Mapping[Name, Constraint]) -> list[Step]:
        """What stands for each column, after what it looks at."""
        formulas = {f.columns[0]: f for f in of_type(self.constraints, Formula)}
        pairs = [pair for c in of_type(self.constraints, Inequality) for pair in c.pairs]
        needs: dict[Name, set[Name]] = {name: set(formula.columns[1:]) for name, formula in formulas.items()}
        _sorted(needs, "the formulas need each other's columns")
        rising: dict[Name, set[Name]] = {}
        for low, high, _ in pairs:
            rising.setdefault(high, set()).add(low)
        _sorted(rising, "the inequalities contradict each other")
        columns = {column.name: column for column in self.schema.number_columns}
        bounds: dict[Name, tuple[dict[Measured, bool], dict[Measured, bool]]] = {}
        for low, high, strict in pairs:
            # Where neither can be a distance, draws that break it are replaced.
            for side, name, other in ((0, high, low), (1, low, high)):
                if name not in made and not _reaches(needs, other, name):
                    needs.setdefault(name, set()).add(other)
                    mine, bound = bounds.setdefault(name, ({}, {}))[side], columns[other]
                    mine[bound] = mine.get(bound, False) or strict
                    break
        steps: dict[Name, Step] = {name: Computed(formula) for name, formula in formulas.items()}
        steps |= {name: Bounded(columns[name], *bound, name in self.shares) for name, bound in bounds.items()}
        combined: list[Step] = [Combined(constraint) for constraint in self.combined]
        encoded = (*self.schema.number_columns, *self.schema.category_columns)
        free = [Kept(c) for c in encoded if c.name not in made and c.name not in steps]
        return [*free, *combined, *(steps[name] for name in _sorted(needs, "") if name in steps)]

    # ---- the model's table -------------------------------------------------------------------------------

    def frame(self, table: Table) -> tuple[dict[Name, Array], dict[Name, Column]]:
        """The table that the model is to learn, as a dict of columns, and their kinds."""
        known = np.ones(table.numbers.shape, bool), np.ones(table.ids.shape, bool)
        rewritten = self.rewrite(table, known)[0]
        columns: dict[Name, Array] = {}
        kinds: dict[Name, Column] = {}
        cells = self._cells(rewritten)
        for step, kind in self._modelled:
            there = cells[step] < len(kind.levels) if isinstance(kind, Categorical) else True
            columns[step.names[0]], kinds[step.names[0]] = np.where(there, cells[step], np.nan), kind
        return columns, kinds

    def agrees_with(self, schema: Schema) -> bool:
        """Whether a model of this schema has learned the rewritten table."""
        return [c.name for c in schema.columns] == [step.names[0] for step, _ in self._modelled] and all(
            isinstance(column, Number) and column.is_plain
            if isinstance(kind, Number)
            else isinstance(column, Categorical) and column.levels == kind.levels
            for column, (_, kind) in zip(schema.columns, self._modelled, strict=True)
        )

    def _cells(self, table: Table) -> dict[Step, Array]:
        """The columns of the model's table."""
        numbers, ids = iter(table.numbers.T), iter(table.ids.T)
        return {step: next(numbers if isinstance(kind, Number) else ids) for step, kind in self._modelled}

    def rewrite(self, table: Table, known: Known) -> tuple[Table, Known, Mask]:
        """The model's table of the user's.

        Returns
        -------
        Table
        Known
            Which of its cells are known.
        ndarray of shape (n,), bool
            The rows of which more is known than these cells can say.
        """
        # Copies: what can be computed is written into them.
        sheet = Sheet(self.schema, table.numbers.copy(), table.ids.copy())
        known_of = Sheet(self.schema, known[0].copy(), known[1].copy())
        told = {step: step.tell(sheet, known_of) for step in self.steps}
        lost = np.any([each.lost for each in told.values()], axis=0)
        numbers = [told[step] for step, kind in self._modelled if isinstance(kind, Number)]
        ids = [told[step] for step, kind in self._modelled if isinstance(kind, Categorical)]
        n = len(table)
        return (
            Table(
                np.reshape([each.cells for each in numbers], (len(numbers), n)).T.astype(np.float64),
                np.reshape([each.cells for each in ids], (len(ids), n)).T.astype(np.int64),
            ),
            (
                np.reshape([each.known for each in numbers], (len(numbers), n)).T.astype(bool),
                np.reshape([each.known for each in ids], (len(ids), n)).T.astype(bool),
            ),
            lost,
        )

    # ---- and back ----------------------------------------------------------------------------------------

    def undo(self, drawn: Table, rows: Table, known: Known) -> tuple[Table, Floats]:
        """The user's table of rows that the model drew.

        Parameters
        ----------
        drawn : Table
            The model's.
        rows : Table
            The user's, with what is given.
        known : Known
            Where it is given.

        Returns
        -------
        Table
            What is given is as it was.
        ndarray of shape (n,)
            How far the draw was from what is given, in ranges of the columns; infinite where a combination or
            a missing value is another.
        """
        table = Table(np.full(rows.numbers.shape, np.nan), np.full(rows.ids.shape, -1, np.int64))
        sheet, wanted = Sheet.of(self.schema, table), Sheet.of(self.schema, rows)
        known_of, away = Sheet(self.schema, *known), np.zeros(len(rows))
        cells, nothing = self._cells(drawn), np.zeros(len(rows))
        for step in self.steps:
            step.make(cells.get(step, nothing), sheet)
            away += step.away(sheet, wanted, known_of)
            for name in step.names:
                sheet[name] = np.where(known_of[name], wanted[name], sheet[name])
        return table, away

    def holds(self, table: Table, impute: bool = False) -> Mask:
        """Which rows meet all constraints but `Unique`, which no row meets alone."""
        sheet = Sheet.of(self.schema, table)
        fine = np.ones(len(table), bool)
        for constraint in self._always:
            fine &= constraint.holds(sheet)
        for name in (name for c in self.combined for name in c.columns) if impute else ():
            fine &= ~sheet.missing(name)
        return fine

    # ---- drawing -----------------------------------------------------------------------------------------

    def complete(self, draw: Draw, rows: Table, known: Known, seed: int, impute: bool) -> Table:
        """Draw what is not known so that the constraints hold, but `Unique`; again where they do not.

        Returns
        -------
        Table

        Raises
        ------
        ConditionError
            If fewer rows can be had than asked for. Rows to be imputed are as they come then, with a warning.
        """
        if not impute:
            self._possible(rows, known)
        found = Table(rows.numbers.copy(), rows.ids.copy())
        done = np.zeros(len(rows), bool)
        untold = self.rewrite(rows, known)[2]
        # Where the same is known of all rows, a draw for one may be taken for another.
        any_will_do = alike(rows, known)
        blocks = [np.flatnonzero(~untold)]
        if untold.any():
            blocks += np.array_split(np.flatnonzero(untold), -(-untold.sum() // AT_ONCE))
        for k, block in enumerate(blocks):
            stale = 0
            for round_ in range(ROUNDS):
                left = block[~done[block]]
                if not len(left) or stale == STALE:
                    break
                first = k == round_ == 0
                most = (FEWEST << min(round_, DOUBLED)) // len(left)
                n = max(CANDIDATES, most) if k else 1 if first else max(2, most)
                every = np.tile(left, n)
                given, cells = rows.rows(every), (known[0][every], known[1][every])
                inner, told, _ = self.rewrite(given, cells)
                own = (seed + ((k * ROUNDS + round_) << 52)) % 2**64
                new, away = self.undo(draw(inner, told, own, impute, first), given, cells)
                away[~self.holds(new, impute)] = np.inf
                if any_will_do:
                    best = np.argsort(away, kind="stable")[: len(left)]
                else:
                    best = away.reshape(n, len(left)).argmin(0) * len(left) + np.arange(len(left))
                found.numbers[left], found.ids[left] = new.numbers[best], new.ids[best]
                done[left] = np.isfinite(away[best])
                stale = 0 if done[left].any() else stale + 1
        short = f"{done.sum():,} of {len(rows):,} rows"
        if not done.all() and not impute:
            raise ConditionError(
                f"only {short} that meet what is given and {', '.join(map(str, self.constraints))} could be "
                "drawn. Ask for fewer rows, or give less."
            )
        if not done.all():
            warnings.warn(
                f"only {short} with holes could be filled so that {', '.join(map(str, self.constraints))} "
                "hold: what is known of the others may allow nothing.",
                LookalikeWarning,
                stacklevel=4,
            )
        return found

    def _possible(self, rows: Table, known: Known) -> None:
        """Refuse what no row can meet."""
        sheet, known_of = Sheet.of(self.schema, rows), Sheet(self.schema, *known)
        given = {name for name in sheet.columns if len(rows) and known_of[name].all()}
        for constraint in self._always:
            broken = ~constraint.allows(sheet, given)
            if broken.any():
                row = int(broken.argmax())
                names = [name for name in constraint.columns if name in given]
                raise ConditionError(
                    f"what is given does not meet {constraint}: {sheet.show(names, row)}"
                    f"{constraint.why(sheet, row)}."
                )
        for formula in of_type(self.constraints, Formula):
            name, *inputs = formula.columns
            if name in given and not given >= set(inputs):
                raise ConditionError(
                    f"{name!r} is computed by {formula}: give {', '.join(map(repr, inputs))} in its place."
                )

    # ---- files -------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON needs to rebuild it."""
        return {
            "schema": self.schema.to_dict(),
            "constraints": [constraint.to_dict() for constraint in self.constraints],
            "shares": [name for name in self.schema.names if name in self.shares],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rewriting:
        """Rebuild it from `to_dict`, or raise ArtifactError for what no fit would have written."""
        schema, shares = vetted_schema(data["schema"]), data["shares"]
        sheet = Sheet.of(schema, schema.condition({}, 0))
        constraints = [KINDS[entry["kind"]].from_dict(entry, sheet) for entry in data["constraints"]]
        require(all_of(shares, lambda name: name in sheet.columns), "its shares are of no columns")
        return cls(constraints, schema, shares)


def _measured(constraints: Sequence[Constraint], X: Any) -> dict[Name, Column]:
    """What is compared or computed is no category, key or constant, however few values it has."""
    compared = {name for c in of_type(constraints, Inequality) for name in c.columns}
    computed = {c.columns[0] for c in of_type(constraints, Formula)}
    frame = open_frame(X)
    wishes: dict[Name, Column] = {}
    for i, name in enumerate(frame.names):
        if name in compared | computed:
            values = frame.column(i)
            kinds = (Number, Datetime, Duration) if name in compared else (Number,)
            kind = next((kind for kind in kinds if kind.suits(values, False)), None)
            if kind and values.storage.categories is None and len(values.present):
                wishes[name] = kind()
    return wishes


def _sorted(needs: Mapping[Name, set[Name]], otherwise: str) -> list[Name]:
    """Columns after those that they need."""
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        circle = " -> ".join(repr(name) for name in error.args[1])
        raise SchemaError(f"{otherwise}: {circle}. Leave one of them out.") from error


def _reaches(needs: Mapping[Name, set[Name]], name: Name, goal: Name) -> bool:
    """Whether a column needs another, directly or not."""
    return name == goal or any(_reaches(needs, other, goal) for other in needs.get(name, ()))
