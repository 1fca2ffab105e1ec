"""What a fitted model offers to a user, whether torch runs it or, from an exported file, onnxruntime."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike import noise, parquet
from lookalike.columns import Encoded, Ignored
from lookalike.conditions import Request
from lookalike.costs import Meter, PredictReport
from lookalike.counterfactual import Counterfactual, Search
from lookalike.errors import SchemaError, did_you_mean
from lookalike.explanation import Explanation, Groups, ranked, units
from lookalike.filling import Holes, fill
from lookalike.parameters import Range
from lookalike.replacing import Cells, by_unit, put, replace, split
from lookalike.schema import Schema, Table
from lookalike.streaming import parts, streamed
from lookalike.thresholds import Thresholded

ENCODED = 65_536  # rows encoded at once
BLOCK = 32_768  # rows generated at once, from a seed of their own
TESTED = 6  # columns that `explain` replaces: three energies each, and one for the shares
# By so much a counterfactual scores better than it has to: a column of float32 rounds what is put in it.
MARGIN = 1e-5

Known = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Where numbers and where categories are given: shapes (n, n_numbers) and (n, n_categories)."""


class Face(Thresholded):
    """Score, explain, generate and impute, by the few methods at the end that a subclass has to give.

    Methods that score take an iterator of tables too, such as batches of a file, and then yield the result of
    each.
    """

    schema_: Schema

    # ---- scoring ---------------------------------------------------------------------------------------

    @streamed
    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Score rows by how well the model explains them.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table, ndarray of shape (n_rows, n_columns) or dict of columns
            Columns as in `fit`, matched by name. Missing values are allowed where `fit` saw some. A dict of
            single values is one row; an iterator of tables gives an iterator of results.

        Returns
        -------
        ndarray of shape (n_rows,), float64
            Higher is more normal; minus an energy, -1 for a usual row. It depends on the row alone.

        Raises
        ------
        NotFittedError
            Before `fit`.
        SchemaError
            If a column is missing, unknown, of another type than in `fit`, or holds infinity.
        """
        self._check("score")
        scores: list[NDArray[np.float64]] = []
        for first, rows in self._parts(X):
            scores.append(self._scores(rows, first))
        return np.concatenate(scores)

    @streamed
    def predict_report(self, X: Any) -> PredictReport:
        """Score rows, and tell what that took.

        What other work takes, `Meter` measures: ``with la.Meter() as meter: model.generate(1_000)``.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table, ndarray of shape (n_rows, n_columns) or dict of columns
            As of `score_samples`. A first call takes longer than those after it.

        Returns
        -------
        PredictReport
            Seconds, CPU seconds, memory at the peak, energy where it can be read; milliseconds a row.
        """
        with Meter() as meter:
            rows = len(self.score_samples(X))
        return PredictReport(**meter.cost.to_dict(), rows=rows, **self._size())

    @streamed
    def heatmap(self, X: Any) -> NDArray[np.float64]:
        """Tell where images are odd.

        Parameters
        ----------
        X : ndarray of shape (n, height, width) or (n, height, width, channels), or dict of columns
            As of `score_samples`.

        Returns
        -------
        ndarray of shape (n, height, width), float64
            Energy of each pixel. Over an image they add up to its `anomaly_score`, 1 for a usual one, less
            the share of labels that were learned with it.

        Raises
        ------
        SchemaError
            As `score_samples`, or if the model is of no images.
        """
        self._check("score")
        if self.schema_.image is None:
            raise SchemaError(
                f"{self._owner} learned from a table, not from images: explain(X) says which columns."
            )
        height, width = self.schema_.image.shape[:2]
        found = [self._shares(rows, first)[0] for first, rows in self._parts(X)]
        d = len(self.schema_.number_columns)
        return np.concatenate(found)[:, :d].reshape(-1, height, width, d // (height * width)).sum(3)

    @streamed
    def explain(self, X: Any, *, groups: Groups | None = None, tested: int = TESTED) -> Explanation:
        """Tell which columns make each row odd, what would have been normal there, and the energy then.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table, ndarray of shape (n_rows, n_columns) or dict of columns
            As of `score_samples`.
        groups : mapping of name to list of columns, optional
            Columns that are blamed and replaced together: ``{"address": ["city", "zip"]}``.
        tested : int
            Columns or groups of each row, those of the largest shares, that are replaced by what is expected
            given the other values. Each costs three energies a row, and the shares one: 19 as it is. 0 gives
            shares alone.

        Returns
        -------
        Explanation
            `shares` (n_rows, n_columns) add up to `anomaly_score`, `falls` tell how far it would fall if the
            column held what is `expected`, a table like X. An image is one column; `heatmap` says where. Of
            an image that has a template the difference is replaced, and the template stays.

        Raises
        ------
        SchemaError
            As `score_samples`, or if a group cannot be made.
        """
        self._check("score")
        Range(0, math.inf, whole=True).check("tested", tested)
        schema = self.schema_
        blamed, members, unit_of = units(self._owners(), groups)
        found = []
        for first, rows in self._parts(X):
            shares, expected = self._shares(rows, first)
            falls, expected = replace(self, rows, first, shares, expected, unit_of, tested)
            found.append((by_unit(shares, unit_of), falls, expected))
        shown = [column.name for column in schema.columns if not isinstance(column, Ignored)]
        return Explanation(
            blamed,
            np.concatenate([shares for shares, _, _ in found]),
            np.concatenate([falls for _, falls, _ in found]),
            schema.decode(Table.join([expected for _, _, expected in found]), like=X),
            X,
            members,
            self.offset_,
            (schema.names, shown),
        )

    @streamed
    def counterfactual(
        self,
        X: Any,
        *,
        max_columns: int = 5,
        fixed: Sequence[Any] = (),
        n_draws: int = 16,
        imputer: Face | None = None,
        random_state: noise.RandomState = None,
    ) -> Counterfactual:
        """Find the nearest normal rows: what would have to be otherwise for each row not to be an anomaly.

        The columns to blame are hidden one after the other and drawn anew given the rest, until a draw scores
        at least `offset_`; of such draws the nearest is taken, and what need not change goes back.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table, ndarray of shape (n_rows, n_columns) or dict of columns
            As of `score_samples`.
        max_columns : int
            Columns of a row that may change.
        fixed : list of column names
            What must not change.
        n_draws : int
            Draws for each column that is hidden. More of them find nearer rows.
        imputer : model, optional
            What draws; a fitted estimator does it itself, an exported file that scores needs one exported
            from the same estimator to impute.
        random_state : int, Generator, RandomState or None

        Returns
        -------
        Counterfactual
            `rows` like X, `changed` (n_rows, n_columns), `scores`, and which are `normal`. Rows that are
            normal come back as they are; those that could not be made normal with the best scores found.

        Raises
        ------
        SchemaError
            As `score_samples`, or if a fixed column is not modelled.
        ArtifactError
            If an exported file that scores is given no imputer.
        """
        self._check("score")
        self._refuse_images("counterfactual", "heatmap(X) says where they are odd")
        drawing = self._imputer(imputer)
        for name, value in (("max_columns", max_columns), ("n_draws", n_draws)):
            Range(1, math.inf, whole=True).check(name, value)
        schema, names, kept = self.schema_, [column.name for column in self._modelled()], set(fixed)
        for name in kept:
            if name not in names:
                advice = did_you_mean(name, names)
                raise SchemaError(f"fixed holds {name!r}, which is not a column that is modelled.{advice}")
        free = np.array([name not in kept for name in names])
        seed, table = noise.seed_from(random_state), schema.encode(X, owner=self._owner)
        before = self.score_samples(X)
        changed = np.zeros((len(table), len(names)), dtype=bool)
        found = Table(table.numbers.copy(), table.ids.copy())
        goal = self.offset_ + MARGIN * max(abs(self.offset_), 1.0)
        for first, rows in self._parts(X):
            odd = first + np.flatnonzero(before[first : first + len(rows)] < self.offset_)
            if not len(odd):
                continue
            rows = rows.rows(odd - first)
            shares, expected = self._shares(rows, first)
            falls, _ = replace(self, rows, first, shares, expected, np.arange(len(names)), TESTED)
            search = Search(self, drawing, rows, table.rows(odd), goal, max_columns, free, n_draws, seed)
            blame = -np.argsort(ranked(falls, shares), axis=1).astype(np.float64)
            new, changed[odd] = search.run(blame)
            found.numbers[odd], found.ids[odd] = new.numbers, new.ids
        nearest = fill(X, schema, found, split(changed, schema))
        scores = self.score_samples(nearest) if changed.any() else before
        return Counterfactual(nearest, names, changed, scores, before, self.offset_, X, schema.names)

    def _refuse_images(self, verb: str, instead: str) -> None:
        if self.schema_.image is not None:
            raise SchemaError(f"{verb} is for tables, and {self._owner} learned from images: {instead}.")

    def _modelled(self) -> list[Encoded]:
        """The columns the model sees, in the order of its layout."""
        return [*self.schema_.number_columns, *self.schema_.category_columns]

    def _owners(self) -> list[Any]:
        """The user's column to which each that the model sees belongs: pixels are their image's."""
        image, names = self.schema_.image, [column.name for column in self._modelled()]
        return names if image is None else [image.name] * image.size + names[image.size :]

    def _parts(self, X: Any) -> Iterator[tuple[int, Any]]:
        """Encode a part of the rows at a time; yields the number of its first row with it."""
        first = 0
        try:
            for part in parts(X, ENCODED):
                rows = self._rows(part)
                yield first, rows
                first += len(rows)
        except SchemaError:
            self._rows(X)  # says the same, with the row counted from the first
            raise

    def _refuse(self, shares: NDArray[np.float64], first: int) -> None:
        """A score that is no number must not pass for one."""
        row, k = np.argwhere(~np.isfinite(shares))[0].tolist()
        raise SchemaError(
            f"row {first + row} has no finite score: its value of column {self._modelled()[k].name!r} is too "
            "far from those of fit. Correct it, or make it missing."
        )

    # ---- generation ------------------------------------------------------------------------------------

    def generate(
        self, n: int | None = None, given: Any = None, random_state: noise.RandomState = None
    ) -> Any:
        """Draw new rows.

        Parameters
        ----------
        n : int, optional
            How many. By default as many as are given values one a row, or 1.
        given : mapping of column name to condition, or table of partial rows, optional
            What every row holds, exactly: ``{"income": ">50K", "age": la.Between(30, 40)}``. The other
            columns are drawn given this. A condition is a value, None for missing, or a sequence of one value
            a row; or `OneOf`, `Between` (a range), `Present` (not missing), `Balanced` (equal counts).

            Of a table (DataFrame, pyarrow.Table or ndarray) each row makes one row, in order: what it holds
            stays as it is, what is missing or absent is drawn. It cannot ask for a missing value, as a
            mapping can.
        random_state : int, Generator, RandomState or None
            Row i depends on the seed and on i, not on n. None draws fresh rows at every call.

        Returns
        -------
        DataFrame, pyarrow.Table, ndarray or dict
            n rows with the columns, dtypes and categories of `fit`, numbers within the range of `fit`.

        Raises
        ------
        ConditionError
            If no row can meet a condition: it names an unknown column or level, or lies out of the range of
            `fit`. Fewer rows than asked for never come.
        """
        self._check("generate")
        seed = noise.seed_from(random_state)
        return self.schema_.decode(Table.join(list(self._blocks(n, given, seed))), seed=seed)

    def generate_batches(
        self,
        n: int,
        chunk: int = ENCODED,
        given: Any = None,
        random_state: noise.RandomState = None,
        *,
        start: int = 0,
    ) -> Iterator[Any]:
        """Draw new rows a few at a time, in memory that does not grow with their number.

        Parameters
        ----------
        n : int
            How many in all.
        chunk : int
            Rows of each table; the last may have fewer.
        given : mapping of column name to condition, or table of partial rows, optional
            As of `generate`.
        random_state : int, Generator, RandomState or None
            Below each other the tables are those of `generate`, to the last bit, whatever `chunk` is.
        start : int
            The row to begin with: of n rows, those before are left to others, who may draw them elsewhere
            from the same seed.

        Yields
        ------
        DataFrame, pyarrow.Table, ndarray or dict
            As `generate` returns.

        Raises
        ------
        ConditionError
            As of `generate`, before the first table is drawn; or if rows have to be `Unique`, and so know of
            those before.
        """
        self._check("generate")
        Range(1, math.inf, whole=True).check("chunk", chunk)
        Range(0, math.inf, whole=True).check("start", start)
        seed = noise.seed_from(random_state)
        blocks = self._blocks(n, given, seed, start)
        tables = zip(itertools.count(start, chunk), Table.cut(blocks, chunk), strict=False)
        return (self.schema_.decode(table, row_start=first, seed=seed) for first, table in tables)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        n: int,
        *,
        chunk: int = ENCODED,
        given: Any = None,
        random_state: noise.RandomState = None,
        progress: bool = True,
    ) -> Path:
        """Draw new rows into a Parquet file, whole or not at all, in memory that does not grow with them.

        Parameters
        ----------
        path : str or PathLike
            Where the file goes. An older file of that name is replaced once the new one is complete.
        n : int
            How many rows.
        chunk : int
            Rows of a row group, drawn and written together.
        given : mapping of column name to condition, or table of partial rows, optional
            As of `generate`.
        random_state : int, Generator, RandomState or None
            The rows are those of `generate`.
        progress : bool
            Whether to show a bar.

        Returns
        -------
        Path
            Of the file. Its columns are of the types of `fit`: categories, times, their zones and all.

        Raises
        ------
        ConditionError
            As of `generate`.
        MissingExtraError
            Without pyarrow.
        """
        self._refuse_images("to_parquet", "generate_batches draws them, write_images keeps them")
        batches = self.generate_batches(n, chunk, given, random_state)
        names = [column.name for column in self.schema_.columns if not isinstance(column, Ignored)]
        return parquet.write(path, batches, names, self.schema_.example(), n, progress)

    def _blocks(self, n: int | None, given: Any, seed: int, start: int = 0) -> Iterator[Table]:
        """Rows from `start` on, as `generate` draws them, encoded."""
        first, before = divmod(start, BLOCK)
        draw, requests = (
            self._drawing(alone=first > 0),
            Request.read(self.schema_, given, n, seed, BLOCK, first),
        )

        def blocks() -> Iterator[Table]:
            skipped = before
            for k, request in enumerate(requests, first):
                # Far apart, for the seeds between are those of draws that conditions ask for.
                table = draw(request, noise.child(seed, k << 32))
                yield table.rows(slice(skipped, None))
                skipped = 0

        return blocks()

    def impute(
        self,
        X: Any,
        n_draws: int = 1,
        random_state: noise.RandomState = None,
        *,
        combine: bool = False,
        mask: NDArray[np.bool_] | None = None,
    ) -> Any:
        """Fill in missing values by draws given the rest of the row.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table, ndarray of shape (n_rows, n_columns) or dict of columns
            Any column may have missing values, whether or not it had any in `fit`.
        n_draws : int
            Independent completions. That they differ tells how sure they are: the central 80 % of many hold
            about 80 % of what was lost.
        random_state : int, Generator, RandomState or None
        combine : bool
            Whether to make one table of the draws: the mean of numbers, and the level that most hold. It is
            nearest to what was lost, and less varied; 20 draws are enough.
        mask : ndarray of bool, of the shape of an array X, or of images X without their channels, optional
            True where to draw anew, whatever is there. In a dict of columns hide pixels by
            ``numpy.ma.masked_array(images, mask)``.

        Returns
        -------
        table like X, or list of `n_draws` of them
            A single table for ``n_draws=1`` or `combine`. What was known is as it was.
        """
        self._check("impute")
        Range(1, math.inf, whole=True).check("n_draws", n_draws)
        X = X if mask is None else _masked(X, mask)
        given = self._rows(X, allow_missing=True)
        table = given if isinstance(given, Table) else self.schema_.encode(X, allow_missing=True)
        blank = np.array([column.blank for column in self.schema_.category_columns], dtype=np.int64)
        holes: Holes = np.isnan(table.numbers), table.ids == blank
        rows = np.flatnonzero(holes[0].any(1) | holes[1].any(1))
        known = ~holes[0][rows], ~holes[1][rows]
        seed = noise.seed_from(random_state)

        def filled(new: Table) -> Any:
            drawn = Table(table.numbers.copy(), table.ids.copy())
            drawn.numbers[rows], drawn.ids[rows] = new.numbers, new.ids
            return fill(X, self.schema_, drawn, holes)

        draws = (
            self._complete(given.rows(rows), known, (seed + k) % 2**64, impute=True)
            if len(rows)
            else table.rows(rows)
            for k in range(n_draws)
        )
        if combine:
            return filled(_combined(list(draws)))
        tables = [filled(new) for new in draws]
        return tables[0] if n_draws == 1 else tables

    # ---- what runs the model ---------------------------------------------------------------------------

    def _check(self, task: str) -> None:
        """Refuse to "score", "generate" or "impute" where that cannot be done."""
        raise NotImplementedError

    @property
    def _owner(self) -> str:
        """Who expects the columns, for errors."""
        raise NotImplementedError

    def _rows(self, X: Any, allow_missing: bool = False) -> Any:
        """Encode a table for the methods below: a `Table`, or what else has a length and `rows(index)`."""
        return self.schema_.encode(X, allow_missing, owner=self._owner)

    def _given(self, table: Table) -> Any:
        """Turn a table of conditions into what `_complete` takes."""
        return table

    def _drawing(self, alone: bool = False) -> Callable[[Request, int], Table]:
        """What draws the blocks of one call of `generate`, one after the other, each from a seed.

        `alone`: without those that come before.
        """

        def complete(table: Table, known: Known, own: int) -> Table:
            return self._complete(self._given(table), known, own, impute=False)

        return lambda request, seed: request.draw(complete, seed)

    def _size(self) -> dict[str, Any]:
        """How large the model is, as `PredictReport` has it."""
        raise NotImplementedError

    def _imputer(self, imputer: Face | None) -> Face:
        """What draws for `counterfactual`."""
        if imputer is None:
            return self
        imputer._check("impute")
        if imputer.schema_.to_dict() != self.schema_.to_dict():
            raise SchemaError("the imputer was fitted to other columns than the model: export both from one.")
        return imputer

    def _scores(self, rows: Any, first: int) -> NDArray[np.float64]:
        """Score rows, the first of which is number `first` to the user."""
        raise NotImplementedError

    def _shares(self, rows: Any, first: int) -> tuple[NDArray[np.float64], Table]:
        """Energy of each modelled column, and what was expected there."""
        raise NotImplementedError

    def _replaced(self, rows: Any, new: Table, cells: Cells) -> Any:
        """Rows with the values of a table in some cells; NaN and a level never seen hide what was there."""
        return put(new, cells, rows)

    def _complete(self, rows: Any, known: Known, seed: int, impute: bool) -> Table:
        """Draw what is not known, row i with row i of the noise. `impute`: nothing is left missing."""
        raise NotImplementedError


def _masked(X: Any, mask: Any) -> Any:
    """An array of which a part is hidden."""
    hidden = np.asarray(mask, dtype=bool)
    if not isinstance(X, np.ndarray) or hidden.shape not in (X.shape, X.shape[:3]):
        found = f"an array of shape {X.shape}" if isinstance(X, np.ndarray) else f"a {type(X).__qualname__}"
        raise ValueError(f"mask goes with an array of its shape, {hidden.shape}, got {found}.")
    if hidden.ndim < X.ndim:
        hidden = np.broadcast_to(hidden[..., None], X.shape)
    return np.ma.masked_array(X, hidden | np.ma.getmaskarray(X))


def _combined(draws: Sequence[Table]) -> Table:
    """The mean of drawn numbers, and the level that was drawn most often: of several, the most frequent."""
    ids = np.empty_like(draws[0].ids)
    for j in range(ids.shape[1]):
        drawn = np.stack([table.ids[:, j] for table in draws], axis=1)
        size = int(drawn.max(initial=0)) + 1
        cells = np.arange(len(drawn))[:, None] * size + drawn
        ids[:, j] = np.bincount(cells.ravel(), minlength=len(drawn) * size).reshape(-1, size).argmax(1)
    return Table(np.mean([table.numbers for table in draws], axis=0), ids)
