"""What rows to be generated should hold, and how such rows are drawn by whatever completes rows.

Values are given to the model, which draws the rest of the row. Sets and ranges are met by rejection, which is
exact conditioning: whole rows are drawn, and those that meet every condition are kept. For rows that a few
rounds leave over, the column whose condition is met least often is drawn by itself, as the generator spreads
it within what is allowed, and is given from then on. So the work is bounded and no row is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike import noise
from lookalike.allowed import Allowed
from lookalike.arrays import pictures_of
from lookalike.columns import Encoded
from lookalike.errors import ConditionError, SchemaError
from lookalike.parameters import Range
from lookalike.replacing import Cells, put
from lookalike.schema import Schema, Table, given_shape, given_values
from lookalike.streaming import rows_of
from lookalike.values import Array, Values

ROUNDS = 8  # draws of whole rows before a column is drawn by itself
POOL = 2048  # rows that tell how a column is spread within what is allowed
ENOUGH = 3  # of these, to tell it given the other conditions

Complete = Callable[[Table, Cells, int], Table]
"""Rows, which of their cells are known and a seed, to whole rows."""


class Condition:
    """What a column of generated rows may hold, where that is more than one value."""

    def allowed(self, column: Encoded) -> Allowed:
        """The cells of a column that meet it, or raise ConditionError where there is none."""
        raise NotImplementedError


@dataclass(frozen=True)
class OneOf(Condition):
    """A condition of `generate`: the column holds one of these values, as often as fits the rest of the row.

    Parameters
    ----------
    values : iterable
        Levels, numbers, truth values or times; None among them allows missing.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> model = la.Mixture(random_state=0).fit(np.arange(400.0).reshape(200, 2) % 7)
    >>> set(model.generate(50, given={"x0": la.OneOf([1, 3])}, random_state=0)[:, 0].tolist())
    {1.0, 3.0}
    """

    values: Iterable[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _listed(self.values, "OneOf"))

    def allowed(self, column: Encoded) -> Allowed:
        """The cells of a column that hold one of the values."""
        return column.among(_some(column, self.values))


@dataclass(frozen=True)
class Between(Condition):
    """A condition of `generate`: the column holds a value from `low` to `high`, both of them included.

    Parameters
    ----------
    low, high : number, date, time or duration, optional
        None leaves an end open. Times may be ISO 8601 text; a date is its midnight.
    """

    low: Any = None
    high: Any = None

    def allowed(self, column: Encoded) -> Allowed:
        """The cells of a column that lie between the ends."""
        return column.between(_end(column, self.low, -math.inf), _end(column, self.high, math.inf))


@dataclass(frozen=True)
class Present(Condition):
    """A condition of `generate`: the column is not missing; None as a value asks that it is."""

    def allowed(self, column: Encoded) -> Allowed:
        """The cells of a column that hold something."""
        return column.between(None, None)


@dataclass(frozen=True)
class Balanced:
    """A condition of `generate`: each level of the column comes equally often, up to one row.

    Parameters
    ----------
    levels : iterable, optional
        By default the levels that fit saw. Columns of numbers and times need them named.
    """

    levels: Iterable[Any] | None = None

    def __post_init__(self) -> None:
        if self.levels is not None:
            object.__setattr__(self, "levels", _listed(self.levels, "Balanced"))

    def deal(self, column: Encoded, start: int, n: int, seed: int) -> Array:
        """A cell for each of n rows from row `start`: all of them in random order, and again."""
        named = self.levels
        cells = column.common() if named is None else np.unique(column.condition(_some(column, named)))
        first, skipped = divmod(start, len(cells))
        rounds = noise.uniforms(seed, first, -(-(skipped + n) // len(cells)), len(cells))
        return cells[np.argsort(rounds, axis=1, kind="stable").ravel()[skipped : skipped + n]]


def _listed(values: Iterable[Any], what: str) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"la.{what} takes a list of values, such as la.{what}([{values!r}]), got {values!r}.")
    return tuple(values)


def _some(column: Encoded, values: Iterable[Any]) -> Values:
    if not values:
        raise ConditionError(f"{column.name!r} cannot be one of no values: fit saw {column.describe()}.")
    return given_values(column.name, list(values))


def _end(column: Encoded, end: Any, farthest: float) -> Values | None:
    """An end of a range; None where it is open."""
    if end is None or (isinstance(end, float) and end == farthest):
        return None
    read = given_values(column.name, [end])
    if read.any_missing:
        raise ConditionError(f"la.Between for {column.name!r} has {end!r} for an end. None leaves it open.")
    return read


@dataclass(frozen=True, eq=False)
class Wanted:
    """A condition on a column, and where tables have it: in their numbers, part 0, or in their ids."""

    column: Encoded
    part: int
    position: int
    allowed: Allowed

    def cells(self, table: Table) -> Array:
        """What the column will hold, (n,), once it is decoded."""
        return self.column.held(_parts(table)[self.part][:, self.position])

    def hold(self, table: Table) -> NDArray[np.bool_]:
        """Which rows, (n,), meet it."""
        return self.allowed.hold(self.cells(table))


@dataclass(frozen=True, eq=False)
class Request:
    """What rows to be generated should hold.

    Parameters
    ----------
    table : Table
        The values that are given.
    known : Cells
        Where they are.
    shared : tuple of ndarray of shape (n_numbers,) and (n_categories,), bool
        Columns in which every row is given the same value.
    wanted : tuple of Wanted
        Conditions on other columns.
    """

    table: Table
    known: Cells
    shared: Cells
    wanted: tuple[Wanted, ...]

    @classmethod
    def read(
        cls, schema: Schema, given: Any, n: int | None, seed: int, size: int, first: int = 0
    ) -> Iterator[Request]:
        """Read what `generate` was given, at most `size` rows at a time, or raise ConditionError at once.

        The requests before number `first` are left out.
        """
        if n is not None:
            Range(0, math.inf, whole=True).check("n", n)
        if given is None or isinstance(given, Mapping):
            asked = dict(given or {})
            for name in asked:
                schema.place(name)
            shapes = (given_shape(v) for v in asked.values() if not isinstance(v, Condition | Balanced))
            total = n if n is not None else next((shape[0] for shape in shapes if shape), 1)

            def read(start: int) -> Request:
                return cls._of_columns(schema, asked, total, seed, start, min(start + size, total))
        else:
            table, known = partial(schema, given)
            total = len(table)
            if n not in (None, total):
                raise ConditionError(
                    f"given holds {total} rows, and n is {n}. Leave n out: each row of a table makes one."
                )

            def read(start: int) -> Request:
                part = slice(start, start + size)
                return cls(table.rows(part), (known[0][part], known[1][part]), _nowhere(schema), ())

        if first and first * size >= total:
            return iter(())
        return itertools.chain([read(first * size)], map(read, range((first + 1) * size, total, size)))

    @classmethod
    def _of_columns(
        cls, schema: Schema, given: dict[Any, Any], total: int, seed: int, start: int, stop: int
    ) -> Request:
        """Read what rows `start` to `stop` of a total were given."""
        n = stop - start
        exact = {
            name: rows_of(value, start, stop) if given_shape(value, name, total) else value
            for name, value in given.items()
            if not isinstance(value, Condition | Balanced)
        }
        table = schema.condition(exact, n)
        known, shared, wanted = _nowhere(schema), _nowhere(schema), []
        for k, (name, value) in enumerate(given.items()):
            column, part, position = schema.place(name)
            if isinstance(value, Condition):
                wanted.append(Wanted(column, part, position, value.allowed(column)))
                continue
            known[part][position] = True
            if isinstance(value, Balanced):
                _parts(table)[part][:, position] = value.deal(column, start, n, noise.child(seed, -1 - k))
            else:
                shared[part][position] = not given_shape(value)
        return cls(table, _everywhere(known, n), shared, tuple(wanted))

    def rows(self, index: NDArray[Any]) -> Request:
        """The request for some of the rows."""
        known = self.known[0][index], self.known[1][index]
        return replace(self, table=self.table.rows(index), known=known)

    def draw(self, complete: Complete, seed: int) -> Table:
        """Draw rows that hold what is asked for, each of them.

        Parameters
        ----------
        complete : callable
            Draws what is not known of rows.
        seed : int
            Row i depends on it and on rows up to i, not on how many there are.
        """
        given, known, waiting, pool = self.table, self.known, list(self.wanted), None
        n, seeds = len(given), (noise.child(seed, k) for k in itertools.count())
        done, left = Table(np.empty_like(given.numbers), np.empty_like(given.ids)), np.arange(n)
        while len(left):
            for own in itertools.islice(seeds, _rounds(waiting, pool)):
                new = put(given, known, complete(given, known, own))
                met = _meets(waiting, new)
                done.numbers[left[met]], done.ids[left[met]] = new.numbers[met], new.ids[met]
                left, given, known = left[~met], given.rows(~met), (known[0][~met], known[1][~met])
                if not len(left):
                    break
            if len(left):
                pool = pool or self._pool(complete, seeds)
                one = min(waiting, key=lambda wanted: int(wanted.hold(pool).sum()))
                met = _meets(self.wanted, pool)
                seen = one.cells(pool)[met if met.sum() >= ENOUGH else one.hold(pool)]
                drawn = one.allowed.draw(seen, noise.uniforms(next(seeds), 0, n, 1)[left, 0])
                _parts(given)[one.part][:, one.position] = one.column.held(drawn)
                known[one.part][:, one.position] = True
                waiting.remove(one)
        return done

    def _pool(self, complete: Complete, seeds: Iterator[int]) -> Table:
        """Rows that hold what every row is given."""
        rows, known = self.table.rows(np.zeros(POOL, dtype=np.int64)), _everywhere(self.shared, POOL)
        return put(rows, known, complete(rows, known, next(seeds)))


def partial(schema: Schema, data: Any) -> tuple[Table, Cells]:
    """Encode rows of which a part is there, and where; or raise ConditionError."""
    try:
        frame, position_of = schema.open(data, whole=False)
        pictures = {image.name: (image, place) for image, place in schema.images}
        columns = {name: frame.column(at) for name, at in position_of.items() if name not in pictures}
        shown = [
            (place, image.encode(pictures_of(frame, position_of[name]), allow_missing=True))
            for name, (image, place) in pictures.items()
            if name in position_of
        ]
    except SchemaError as error:
        raise ConditionError(
            "given must map columns to values, such as {'column': value}, or be a table of partial rows: "
            f"{error}"
        ) from error
    table, known = schema.condition({}, frame.n_rows), _everywhere(_nowhere(schema), frame.n_rows)
    known = known[0].copy(), known[1].copy()
    for place, pixels in shown:
        table.numbers[:, place], known[0][:, place] = pixels, ~np.isnan(pixels)
    for name, values in columns.items():
        if not len(values.present):
            continue
        column, part, position = schema.place(name)
        there = ~values.missing
        some = np.where(there, values.data, values.present[0])
        cells = column.condition(replace(values, data=some, missing=np.zeros(len(values), bool)))
        _parts(table)[part][there, position], known[part][there, position] = cells[there], True
    return table, known


def _rounds(waiting: list[Wanted], pool: Table | None) -> int:
    """How often to draw whole rows: not at all where none is likely to meet all that waits."""
    if not waiting:
        return 1
    hopeless = pool is not None and len(waiting) > 1 and not _meets(waiting, pool).any()
    return 0 if hopeless else ROUNDS


def _meets(waiting: Iterable[Wanted], table: Table) -> NDArray[np.bool_]:
    met = np.ones(len(table), dtype=bool)
    for wanted in waiting:
        met &= wanted.hold(table)
    return met


def _parts(table: Table) -> tuple[Array, Array]:
    return table.numbers, table.ids


def _nowhere(schema: Schema) -> Cells:
    return np.zeros(len(schema.number_columns), bool), np.zeros(len(schema.category_columns), bool)


def _everywhere(columns: Cells, n: int) -> Cells:
    """Whole columns as cells of n rows."""
    numbers, ids = (np.broadcast_to(part, (n, len(part))) for part in columns)
    return numbers, ids
