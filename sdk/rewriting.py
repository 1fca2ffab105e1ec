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

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.columns import Column, Encoded
from lookalike.constraints import KINDS, Constraint, FixedCombinations, Formula, Inequality, Unique, of_type
from lookalike.errors import ConditionError, SchemaError
from lookalike.frames import open_frame
from lookalike.levelled import Categorical, Levelled
from lookalike.measured import Measured, Number
from lookalike.schema import Schema, Table
from lookalike.sheet import Floats, Mask, Sheet, codes
from lookalike.steps import Bounded, Combined, Computed, Kept, Step
from lookalike.values import Array, Name, Values
from lookalike.vetting import all_of, require, vetted_schema

ROUNDS = 24  # of draws, before rows that cannot be had are given up
CANDIDATES = 64  # a row, where one is chosen by what could not be said to the model
FEWEST = 512  # rows drawn in a round that replaces rows
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
        self._modelled = [step for step in self.steps if step.kind is not None]
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
        schema = Schema.fit(X, {**_numeric(constraints, X), **wishes})
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
        for step, cells in self._cells(rewritten):
            assert step.kind is not None
            there = cells < len(step.kind.levels) if isinstance(step.kind, Categorical) else True
            columns[step.names[0]], kinds[step.names[0]] = np.where(there, cells, np.nan), step.kind
        return columns, kinds

    def agrees_with(self, schema: Schema) -> bool:
        """Whether a model of this schema has learned the rewritten table."""
        if [column.name for column in schema.columns] != [step.names[0] for step in self._modelled]:
            return False
        return all(
            isinstance(column, Number) and column.is_plain
            if isinstance(step.kind, Number)
            else isinstance(column, Categorical) and column.levels == step.kind.levels
            for column, step in zip(schema.columns, self._modelled, strict=True)
        )

    def _cells(self, table: Table) -> Iterator[tuple[Step, Array]]:
        """The columns of the model's table."""
        numbers, ids = iter(table.numbers.T), iter(table.ids.T)
        for step in self._modelled:
            yield step, next(numbers if isinstance(step.kind, Number) else ids)

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
        told = [(step, step.tell(sheet, known_of)) for step in self.steps]
        lost = np.any([each.lost for _, each in told], axis=0)
        numbers = [each for step, each in told if isinstance(step.kind, Number)]
        ids = [each for step, each in told if isinstance(step.kind, Categorical)]
        return (
            Table(
                _joined([t.cells for t in numbers], lost, float),
                _joined([t.cells for t in ids], lost, np.int64),
            ),
            (_joined([t.known for t in numbers], lost, bool), _joined([t.known for t in ids], lost, bool)),
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
        cells = dict(self._cells(drawn))
        nothing = np.zeros(len(rows))
        for step in self.steps:
            step.make(cells.get(step, nothing), sheet)
            away += step.away(sheet, wanted, known_of)
            for name in step.names:
                sheet[name] = np.where(known_of[name], wanted[name], sheet[name])
        return table, away

    def holds(self, table: Table, impute: bool = False) -> Mask:
        """Which rows meet all constraints; of rows that repeat each other the first does."""
        sheet = Sheet.of(self.schema, table)
        fine = np.ones(len(table), bool)
        for constraint in self._always if impute else self.constraints:
            fine &= constraint.holds(sheet)
        for name in (name for c in self.combined for name in c.columns) if impute else ():
            fine &= ~sheet.missing(name)
        return fine

    # ---- drawing -----------------------------------------------------------------------------------------

    def complete(self, draw: Draw, rows: Table, known: Known, seed: int, impute: bool) -> Table:
        """Draw what is not known so that the constraints hold, again where they do not.

        Returns
        -------
        Table
            For `impute` also rows that could not be had: what is known of them may allow none.

        Raises
        ------
        ConditionError
            If fewer rows than asked for can be had.
        """
        if not impute:
            self._possible(rows, known)
        found = Table(rows.numbers.copy(), rows.ids.copy())
        done = np.zeros(len(rows), bool)
        untold = self.rewrite(rows, known)[2]
        blocks = [np.flatnonzero(~untold)]
        if untold.any():
            blocks += np.array_split(np.flatnonzero(untold), -(-untold.sum() // AT_ONCE))
        for k, block in enumerate(blocks):
            for round_ in range(ROUNDS):
                left = block[~done[block]]
                if not len(left):
                    break
                first = k == round_ == 0
                n = CANDIDATES if k else 1 if first else max(FEWEST // len(left), 2)
                every = np.tile(left, n)
                given, cells = rows.rows(every), (known[0][every], known[1][every])
                inner, told, _ = self.rewrite(given, cells)
                own = (seed + ((k * ROUNDS + round_) << 52)) % 2**64
                new, away = self.undo(draw(inner, told, own, impute, first), given, cells)
                fine = self.holds(Table.join([found.rows(done), new]), impute)[done.sum() :]
                away[~fine] = np.inf
                best = away.reshape(n, len(left)).argmin(0) * len(left) + np.arange(len(left))
                found.numbers[left], found.ids[left] = new.numbers[best], new.ids[best]
                done[left] = np.isfinite(away[best])
        if not done.all() and not impute:
            raise ConditionError(
                f"only {done.sum():,} of {len(rows):,} rows that meet what is given and "
                f"{', '.join(map(str, self.constraints))} could be drawn in {ROUNDS} rounds. Ask for fewer "
                "rows, or give less."
            )
        return found

    def _possible(self, rows: Table, known: Known) -> None:
        """Refuse what no row can meet, or not so many."""
        sheet, known_of = Sheet.of(self.schema, rows), Sheet(self.schema, *known)
        given = {name for name in sheet.columns if len(rows) and known_of[name].all()}
        for constraint in self.constraints:
            if isinstance(constraint, Unique):
                most = self._most(constraint, sheet, given)
                if len(rows) > most:
                    raise ConditionError(
                        f"{constraint} allows {most:,.0f} rows at most with what is given, but {len(rows):,} "
                        "are asked for."
                    )
            elif given >= set(constraint.columns):
                broken = ~constraint.holds(sheet)
                if broken.any():
                    row = int(broken.argmax())
                    raise ConditionError(
                        f"what is given does not meet {constraint}: "
                        f"{sheet.show(constraint.columns, row)}{constraint.why(sheet, row)}."
                    )
            elif isinstance(constraint, Formula) and constraint.columns[0] in given:
                inputs = ", ".join(repr(name) for name in constraint.columns[1:])
                raise ConditionError(
                    f"{constraint.columns[0]!r} is computed by {constraint}: give {inputs} in its place."
                )

    def _most(self, unique: Unique, sheet: Sheet, given: set[Name]) -> float:
        """How many rows can differ in some columns; infinite where nothing limits them."""
        most: float = 1
        for name in unique.columns:
            column = sheet.columns.get(name)
            if column is None or column.may_be_missing:
                return np.inf
            if name in given:
                most *= len(np.unique(sheet[name]))
            elif isinstance(column, Levelled):
                most *= len(column.levels)
            else:
                most *= _n_values(column)
        for constraint in self.combined:
            names = [name for name in constraint.columns if name in unique.columns]
            others = [name for name in unique.columns if name not in names]
            if len(names) == len(unique.columns) and not others:
                fits = np.ones(len(constraint.seen[names[0]]), bool)
                for name in given & set(constraint.columns):
                    fits &= np.isin(constraint.seen[name], sheet[name])
                seen = [constraint.seen[name][fits] for name in names]
                most = min(most, len(np.unique(codes(seen))) if fits.any() else 0)
        return most

    # ---- files -------------------------------------------------------------------------------------------

    def pack(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Write it down as JSON values and arrays."""
        declared = [
            {**c.to_dict(), **({"missing": c.may_be_missing} if isinstance(c, Formula) else {})}
            for c in self.constraints
        ]
        arrays = {
            f"{i}.{k}": c.seen[name] for i, c in enumerate(self.combined) for k, name in enumerate(c.columns)
        }
        manifest = {
            "schema": self.schema.to_dict(),
            "declared": declared,
            "shares": [name for name in self.schema.names if name in self.shares],
        }
        return manifest, arrays

    @classmethod
    def unpack(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Rewriting:
        """Rebuild it, or raise ArtifactError for what no fit would have written."""
        schema, left = vetted_schema(data["schema"]), dict(arrays)
        constraints: list[Constraint] = []
        sheet = Sheet.of(schema, schema.condition({}, 0))
        for entry in data["declared"]:
            constraint = KINDS[entry["kind"]](*entry["arguments"])
            constraint.suits(sheet)
            if isinstance(constraint, Formula):
                require(isinstance(entry["missing"], bool), f"{constraint} does not say what may be missing")
                constraint = constraint.with_holes(entry["missing"])
            if isinstance(constraint, FixedCombinations):
                i = len(list(of_type(constraints, FixedCombinations)))
                seen = {name: left.pop(f"{i}.{k}") for k, name in enumerate(constraint.columns)}
                n = len(seen[constraint.columns[0]])
                fits = all(_are_cells(cells, n, sheet.columns[name]) for name, cells in seen.items())
                require(n > 0 and fits, f"{constraint} has combinations that its columns cannot hold")
                constraint = constraint.with_seen(seen)
            constraints.append(constraint)
        require(not left, "its constraints have foreign arrays")
        require(all_of(data["shares"], lambda name: name in sheet.columns), "its shares are of no columns")
        return cls(constraints, schema, data["shares"])


def _are_cells(cells: NDArray[Any], n: int, column: Encoded) -> bool:
    """Whether an array from a file holds n cells of a column."""
    if cells.shape != (n,):
        return False
    if isinstance(column, Levelled):
        return cells.dtype == np.int64 and bool(((cells >= 0) & (cells <= column.blank)).all())
    return cells.dtype == np.float64 and not np.isinf(cells).any()


def _numeric(constraints: Sequence[Constraint], X: Any) -> dict[Name, Column]:
    """Numbers that a constraint has to compute or compare are no categories or constants, however few."""
    names = {name for c in of_type(constraints, Inequality) for name in c.columns}
    names |= {c.columns[0] for c in of_type(constraints, Formula)}
    frame = open_frame(X)
    return {
        name: Number()
        for i, name in enumerate(frame.names)
        if name in names and _is_plain_number(frame.column(i))
    }


def _is_plain_number(values: Values) -> bool:
    return (
        values.family in ("float", "integer")
        and values.storage.categories is None
        and len(values.present) > 0
    )


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


def _joined(columns: Sequence[Array], rows: Array, dtype: Any) -> Array:
    """Columns as a matrix, also where there are none."""
    return np.array(columns, dtype).reshape(len(columns), len(rows)).T.copy()


def _n_values(column: Any) -> float:
    """How many values a column of numbers can hold."""
    if isinstance(column, Number) and column.decimals is None:
        return np.inf
    fineness = 10 ** (column.decimals or 0) if isinstance(column, Number) else 1
    return float(round((column.high - column.low) / column.step * fineness) + 1)
