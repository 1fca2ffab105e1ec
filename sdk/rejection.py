"""What constraints forbid to meet column by column is met by drawing whole rows again.

`Unique` speaks of all rows together, so that those that are kept count, and no others. And where whole rows
seldom meet a condition, `Request.draw` draws its column by itself. It must not where constraints tie it to
another that is asked for: a start and an end drawn apart may be in the wrong order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lookalike import noise
from lookalike.allowed import Allowed, Options
from lookalike.columns import Encoded
from lookalike.conditions import Request
from lookalike.constraints import Constraint, FixedCombinations, Formula, Unique, of_type
from lookalike.errors import ConditionError
from lookalike.levelled import Levelled
from lookalike.measured import Measured
from lookalike.schema import Schema, Table
from lookalike.sheet import Mask, Sheet, alike, codes
from lookalike.values import Name

ROUNDS = 24  # of draws, before rows that cannot be had are given up
FEWEST, MOST = 256, 16_384  # rows drawn in a round but the first: more where less than half of it was found
STALE = 6  # rounds without a row that will do, before the others are given up


class Rejection:
    """Rows drawn until they meet what a request asks for and, with all rows drawn before, `Unique`.

    Parameters
    ----------
    constraints : sequence of Constraint
        Fitted. All but `Unique` hold in what is drawn.
    schema : Schema
        The user's columns.
    draw : callable
        Draws the rows of a request, from a seed.
    """

    def __init__(
        self, constraints: Sequence[Constraint], schema: Schema, draw: Callable[[Request, int], Table]
    ) -> None:
        self.constraints, self.schema, self._draw = constraints, schema, draw
        self.unique: list[Unique] = list(of_type(constraints, Unique))
        self._kept: list[Table] = []

    def draw(self, request: Request, seed: int) -> Table:
        """Draw the rows of a request; they repeat none of those that were drawn before.

        Raises
        ------
        ConditionError
            If fewer rows can be had than asked for.
        """
        self._possible(request)
        tied = self._tied(request)
        checked = [wanted for wanted in request.wanted if wanted.column.name in tied]
        free = replace(request, wanted=tuple(w for w in request.wanted if w not in checked))
        n = len(request.table)
        found = Table(request.table.numbers.copy(), request.table.ids.copy())
        done, any_will_do = np.zeros(n, bool), alike(request.table, request.known)
        stale, size = 0, FEWEST
        for round_ in range(ROUNDS):
            left = np.flatnonzero(~done)
            if not len(left) or stale == STALE:
                break
            times = max(2, size // len(left)) if round_ else 1
            every = np.tile(left, times)
            new = self._draw(free.rows(every), noise.child(seed, round_ << 24))
            fine = np.flatnonzero(np.all([np.ones(len(new), bool), *(w.hold(new) for w in checked)], axis=0))
            fine = fine[self._fresh(found.rows(done), new.rows(fine))]
            if any_will_do:
                fine = fine[: len(left)]
                place = left[: len(fine)]
            else:
                place, first = np.unique(every[fine], return_index=True)
                fine = fine[first]
            found.numbers[place], found.ids[place] = new.numbers[fine], new.ids[fine]
            done[place] = True
            stale = 0 if len(place) else stale + 1
            size = size if 2 * len(place) > len(left) else min(2 * size, MOST)
        if not done.all():
            raise ConditionError(
                f"only {done.sum():,} of {n:,} rows that meet what is given and "
                f"{', '.join(map(str, self.constraints))} could be drawn. Ask for fewer rows, or give less."
            )
        if self.unique:
            self._kept.append(found)
        return found

    def _fresh(self, found: Table, new: Table) -> Mask:
        """Which new rows repeat none that was kept or found, and none of each other before them."""
        sheet = Sheet.of(self.schema, Table.join([*self._kept, found, new]))
        fresh = np.ones(sheet.n_rows, bool)
        for unique in self.unique:
            fresh &= unique.holds(sheet)
        return fresh[sheet.n_rows - len(new) :]

    def _tied(self, request: Request) -> set[Name]:
        """Columns that must not be drawn by themselves."""
        wanted = {w.column.name for w in request.wanted}
        given = Sheet(self.schema, *request.known)
        asked = wanted | {name for name in given.columns if given[name].any()}
        computed = {f.columns[0] for f in of_type(self.constraints, Formula)}
        groups: list[set[Name]] = []
        for constraint in self.constraints:
            if not isinstance(constraint, Unique):
                touching = [group for group in groups if not group.isdisjoint(constraint.columns)]
                groups = [group for group in groups if group not in touching]
                groups.append(set(constraint.columns).union(*touching))
        return (computed & wanted).union(*(group for group in groups if len(group & asked) > 1))

    def _possible(self, request: Request) -> None:
        """Refuse what is given where it repeats itself, or lets too few rows differ."""
        n, sheet = len(request.table), Sheet.of(self.schema, request.table)
        known = Sheet(self.schema, *request.known)
        given = {name for name in sheet.columns if n and known[name].all()}
        allowed = {wanted.column.name: wanted.allowed for wanted in request.wanted}
        for unique in self.unique:
            most = self._most(unique, sheet, given, allowed)
            if n > most and not given >= set(unique.columns):
                raise ConditionError(
                    f"{unique} allows {most:,.0f} rows at most with what is given, but {n:,} are asked for."
                )
            repeated = ~unique.holds(sheet)  # what is not given is missing here, and equals nothing
            if repeated.any():
                row = int(repeated.argmax())
                raise ConditionError(
                    f"what is given does not meet {unique}: {sheet.show(unique.columns, row)} in row {row}"
                    f"{unique.why(sheet, row)}. Give it once."
                )

    def _most(self, unique: Unique, sheet: Sheet, given: set[Name], allowed: Mapping[Name, Allowed]) -> float:
        """How many rows can differ in some columns; infinite where nothing limits them."""
        most: float = 1
        for name in unique.columns:
            column = sheet.columns.get(name)
            if column is None or column.may_be_missing:
                return math.inf
            most *= len(np.unique(sheet[name])) if name in given else _n_values(column, allowed.get(name))
        for constraint in of_type(self.constraints, FixedCombinations):
            if set(unique.columns) <= set(constraint.columns):
                fits = np.ones(len(constraint.seen[unique.columns[0]]), bool)
                for name in given & set(constraint.columns):
                    fits &= np.isin(constraint.seen[name], sheet[name])
                most = min(most, len(set(codes([constraint.seen[name][fits] for name in unique.columns]))))
        return most


def _n_values(column: Encoded, allowed: Allowed | None) -> float:
    """How many values a column can hold, or those that are allowed."""
    if isinstance(allowed, Options):
        return len(allowed.cells)
    if isinstance(column, Levelled):
        return len(column.levels)
    assert isinstance(column, Measured)
    room = (column.high - column.low) / column.step if allowed is None else allowed.high - allowed.low
    return round(room / column.grain) + 1 if column.grain else math.inf
