"""The numeric half of the table codec: plain arrays to a model's rows and back.

A number becomes its normal score, the standard normal quantile of its rank: every column has the same smooth
shape, whatever its tails. A value that holds a large share of its column (zeros, caps, values of a discrete
column) is an *atom*: it owns an interval of the score, is drawn anew inside it for every training batch, and
whatever lands in the interval decodes to exactly that value. Ranks forget distances, so the standard score is
kept beside it, as `units` of the layout, and detectors measure in both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lookalike.layout import ImageLayout, Layout, Rows
from lookalike.piecewise import Even, Knotted, Searched, interpolate

Floats = NDArray[np.float64]

MAX_KNOTS = 512  # of a column whose values hardly repeat
MAX_VALUES = 8192  # of one whose values repeat: all are kept, for nobody has seen any between them
UNIT_CELLS = 256
ENCODED = 8192  # rows to train on that are encoded at once
ATOM_SHARE = 0.01  # of the column's rows
TABLES = ("value", "low", "high", "location", "scale")
OF_PIXELS = ("location", "scale", "least", "most", "step")
FARTHEST_PIXEL = 4.0  # standard scores of the farthest pixel of an image, in the mean over images
FINEST_PIXELS = 2.0**-20  # of the range: where they hardly differ, the spread that their scores go by
LINEAR_TO = 3.0  # standard scores beyond it grow like a logarithm
FARTHEST = 1e38  # standard scores are told apart up to it: so far does float32 reach


def squash(z: Tensor) -> Tensor:
    """Identity up to `LINEAR_TO`, a logarithm beyond: monotone, smooth in its first derivative."""
    near = z.clamp(-LINEAR_TO, LINEAR_TO)
    far = z - near
    return near * (1 + far.abs().log1p() / LINEAR_TO)  # near is LINEAR_TO, of either sign, where far is not 0


class _Knots(NamedTuple):
    """One column's table: value, distribution function below and at it."""

    value: Floats
    low: Floats
    high: Floats


def _knots(column: Floats, limit: int, most_values: int) -> _Knots:
    """Tabulate the distribution of a column without missing values.

    At all of its values where they repeat and are not more than `most_values`, else at about `limit` of them.
    They repeat if at least half of the rows share theirs with another row; lumps say nothing of the rest.
    """
    value, count = np.unique(column, return_counts=True)
    n = count.sum()
    top = np.cumsum(count) / n
    bottom = top - count / n
    lump = count / n >= ATOM_SHARE
    shared, rest = count[(count > 1) & ~lump].sum(), count[~lump].sum()
    discrete = len(value) <= most_values and shared >= rest / 2
    atom = lump | discrete
    if len(value) > limit and not discrete:
        grid = np.searchsorted(top, np.linspace(0, 1, limit)).clip(0, len(value) - 1)
        keep = np.unique(np.concatenate([grid, np.flatnonzero(atom), [0, len(value) - 1]]))
        value, bottom, top, atom = value[keep], bottom[keep], top[keep], atom[keep]
    middle = (bottom + top) / 2
    low, high = np.where(atom, bottom, middle), np.where(atom, top, middle)
    # The ends stand half a row inside 0 and 1, where the normal quantile is finite.
    return _Knots(value, *np.clip([low, high], 0.5 / n, 1 - 0.5 / n))


def _location_and_scale(column: Floats) -> tuple[float, float]:
    """Mean and standard deviation without the outermost thousandth; of all where that has no spread."""
    if np.abs(column).max() > np.finfo(float).max / 2:  # differences would overflow
        location, scale = _location_and_scale(column / 2)
        return 2 * location, 2 * scale
    for share in (0.001, 0.0):
        low, high = np.quantile(column, [share, 1 - share])
        inner = np.clip(column, low, high)
        largest = np.abs(inner).max() or 1.0  # scaled by it, squares cannot overflow
        mean, deviation = (inner / largest).mean() * largest, (inner / largest).std() * largest
        if deviation > 1e-12 * largest:
            return float(mean), float(deviation)
    return float(mean), float(largest)


class Coordinates(nn.Module, ABC):
    """The map of numbers, (n, d) float64, to what a model sees of them, and back."""

    @abstractmethod
    def layout(self, sizes: Sequence[int], columns: Sequence[int]) -> Layout:
        """What a model sees of the numbers and of categories of these sizes."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, as `encode` gives them, and standard scores."""

    def encode(self, x: Tensor) -> Tensor:
        """Scores in float32; NaN stays."""
        return self(x)[0]

    @abstractmethod
    def standard(self, x: Tensor) -> Tensor:
        """Standard scores in float32."""

    @abstractmethod
    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where each value begins and where it ends, on the scale on which it is evenly spread between."""

    @staticmethod
    @abstractmethod
    def quantile(drawn: Tensor) -> Tensor:
        """Scores of what was drawn from intervals."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Values of scores, never outside those seen; the inverse of `encode` between them."""

    @abstractmethod
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest value of each number, (d,) float64."""

    @abstractmethod
    def centre(self) -> Tensor:
        """What to subtract from numbers, (d,) float64, before float32 holds them; mostly 0."""


class Numbers(Coordinates):
    """Every numeric column's map to its normal score and back.

    Parameters
    ----------
    value, low, high : Tensor of shape (columns, knots), float64
        Values, and the distribution function below and at each.
    location, scale : Tensor of shape (columns,), float64
        Of the standard scores.
    """

    value: Tensor
    low: Tensor
    high: Tensor
    location: Tensor
    scale: Tensor
    middle: Tensor
    edges: Tensor
    at_edges: Tensor
    farthest: Tensor
    ends: Tensor

    def __init__(self, value: Tensor, low: Tensor, high: Tensor, location: Tensor, scale: Tensor) -> None:
        super().__init__()
        for name, table in zip(TABLES, (value, low, high, location, scale), strict=True):
            self.register_buffer(name, table)
        edges = torch.special.ndtri(torch.stack([low, high], 2).flatten(1))
        farthest = torch.full((len(value),), FARTHEST, dtype=value.dtype)
        for name, table in (
            ("middle", torch.special.ndtri((low + high) / 2)),
            ("edges", edges),
            ("at_edges", value.repeat_interleave(2, 1)),
            ("farthest", torch.stack([-farthest, farthest])),
        ):
            self.register_buffer(name, table, persistent=False)
        linear, unit = self._linear(value.T).T, self.standard(value.T).T
        self.register_buffer("ends", unit[:, [0, -1]].T, persistent=False)
        self.scores = Searched(value, unit, linear, self.middle)

    @classmethod
    def fit(cls, numbers: Floats, most_values: int = MAX_KNOTS) -> Numbers:
        """Learn from an array of shape (n, columns); NaN is missing, every column has a value.

        A column of up to `most_values` that repeat keeps them all, where there are not too many columns.
        """
        columns = max(numbers.shape[1], 1)
        limit = int(np.clip(2**21 // columns, 32, MAX_KNOTS))
        most_values = max(min(2**18 // columns, most_values), limit)
        present = [column[~np.isnan(column)] for column in numbers.T]
        knots = [_knots(column, limit, most_values) for column in present]
        width = max([2, *(len(table.value) for table in knots)])
        # Short tables repeat their last knot.
        tables = [
            np.array([np.pad(rows, (0, width - len(rows)), mode="edge") for rows in column])
            for column in (list(zip(*knots, strict=True)) or [()] * 3)
        ]
        spread = [_location_and_scale(column) for column in present]
        location, scale = np.array(spread, np.float64).reshape(-1, 2).T
        shaped = [table.reshape(-1, width) for table in tables]
        return cls(*map(torch.tensor, (*shaped, location, scale)))

    def _linear(self, x: Tensor) -> Tensor:
        """Standard scores, finite even in float32; NaN stays NaN."""
        # Divided first: the difference of two values near the largest float would overflow. One clamp of two
        # ends is not for NaN: what onnxruntime's makes of it is not said.
        quotient = torch.minimum(torch.maximum(x / self.scale, self.farthest[0]), self.farthest[1])
        return quotient - self.location / self.scale

    def standard(self, x: Tensor) -> Tensor:
        """Standard scores in float32, far ones squashed; NaN, which belongs to no place, becomes 0."""
        return self._standard(self._linear(x))

    def _standard(self, linear: Tensor) -> Tensor:
        unit = linear.float()
        return squash(unit.masked_fill(unit.isnan(), 0.0))

    def units(self) -> Even:
        """The map from normal to standard scores; as far beyond the ends as `encode` goes on."""
        low, high = self.middle[:, 0], self.middle[:, -1]
        at = low + torch.linspace(0, 1, UNIT_CELLS + 1, dtype=low.dtype)[:, None] * (high - low)
        unit = self.standard(self.value.T).T.to(low.dtype).contiguous()
        return Even(low, high, interpolate(at, self.middle, unit).T)

    def layout(self, sizes: Sequence[int], columns: Sequence[int]) -> Layout:
        return Layout(len(self.value), sizes, columns, self.units(), self.unit_scores(), self.edges)

    def unit_scores(self) -> Knotted:
        """The map from standard to normal scores."""
        return Knotted(self.standard(self.value.T).T.contiguous(), self.middle.float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores, as `encode` gives them, and standard scores."""
        if not len(self.value):  # nothing to gather, which not every runtime can do
            return x.float(), x.float()
        linear = self._linear(x)
        unit = self._standard(linear)
        beyond = unit - torch.minimum(torch.maximum(unit, self.ends[0]), self.ends[1])
        return self.scores(x, unit, linear).float() + beyond, unit

    def encode(self, x: Tensor) -> Tensor:
        """Normal scores in float32; beyond the values seen they go on as standard scores do; NaN stays."""
        return self(x)[0]

    @staticmethod
    def quantile(drawn: Tensor) -> Tensor:
        return torch.special.ndtri(drawn)

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The distribution function below and at each value: equal unless the value is an atom."""
        knot = torch.searchsorted(self.value, x.T.contiguous()).clamp(max=self.value.shape[1] - 1)
        hit = x == self.value.gather(1, knot).T
        middle = interpolate(x, self.value, (self.low + self.high) / 2)
        return tuple(  # type: ignore[return-value]
            torch.where(hit, edge.gather(1, knot).T, middle) for edge in (self.low, self.high)
        )

    def decode(self, z: Tensor) -> Tensor:
        """Values of normal scores, never outside the values seen; the inverse of `encode` between them."""
        return interpolate(z, self.edges, self.at_edges)

    def bounds(self) -> tuple[Tensor, Tensor]:
        return self.value[:, 0], self.value[:, -1]

    def centre(self) -> Tensor:
        middle = self.middle.abs().argmin(1, keepdim=True)
        # What float32 holds as it is would be rounded without its centre.
        exact = (self.value == self.value.float()).all(1)
        return torch.where(exact, 0.0, self.value.gather(1, middle)[:, 0])


class Raster(Protocol):
    """What is known of images: height, width, channels; what values lie between; whether they are whole."""

    @property
    def grid(self) -> tuple[int, int, int]: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def whole(self) -> bool: ...


class Pixels(Coordinates):
    """All pixels' one linear map to scores of about unit spread, and back.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    location, scale, least, most : Tensor without dimensions, float64
        Of the scores; what values lie between.
    step : Tensor without dimensions, float64
        What lies between two values that follow each other, 0 if any may be.
    """

    location: Tensor
    scale: Tensor
    least: Tensor
    most: Tensor
    step: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        location: Tensor,
        scale: Tensor,
        least: Tensor,
        most: Tensor,
        step: Tensor,
    ) -> None:
        super().__init__()
        self.shape = shape
        for name, value in zip(OF_PIXELS, (location, scale, least, most, step), strict=True):
            self.register_buffer(name, value)

    @classmethod
    def fit(cls, numbers: Floats, image: Raster) -> Pixels:
        """Learn from an array of shape (n, pixels).

        The scale is the spread of what was seen, however little that is of what values may lie between. Where
        few pixels are light or dark, that would put them too far out for noise to hide.
        """
        least, most, step = image.low, image.high, float(image.whole)
        mean, spread = float(numbers.mean()), float(numbers.std())
        farthest = float(np.maximum(numbers.max(1) - mean, mean - numbers.min(1)).mean())
        scale = max(spread, max(farthest, step) / FARTHEST_PIXEL, FINEST_PIXELS * (most - least))
        found = (mean, scale, least, most, step)
        return cls(image.grid, *(torch.tensor(value, dtype=torch.float64) for value in found))

    def layout(self, sizes: Sequence[int], columns: Sequence[int]) -> Layout:
        return ImageLayout(self.shape, sizes, columns)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = ((x - self.location) / self.scale).float()
        return scores, scores.masked_fill(scores.isnan(), 0.0)

    def standard(self, x: Tensor) -> Tensor:
        """Standard scores in float32; NaN, which belongs to no place, becomes 0."""
        return self(x)[1]

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = self.step / 2
        low, high = ((x + side * half - self.location) / self.scale for side in (-1, 1))
        return low, high

    @staticmethod
    def quantile(drawn: Tensor) -> Tensor:
        return drawn

    def decode(self, z: Tensor) -> Tensor:
        return self.restore(z).clamp(self.least, self.most)

    def restore(self, z: Tensor) -> Tensor:
        """Values of scores in float64, those of noise beyond the range too."""
        return z.double() * self.scale + self.location

    def bounds(self) -> tuple[Tensor, Tensor]:
        size = math.prod(self.shape)
        return self.least.expand(size), self.most.expand(size)

    def centre(self) -> Tensor:
        return torch.zeros(math.prod(self.shape), dtype=torch.float64)


def fit_coordinates(numbers: Floats, most_values: int, image: Raster | None) -> Coordinates:
    """Learn from an array of shape (n, columns): those of a table, or the pixels of images."""
    return Numbers.fit(numbers, most_values) if image is None else Pixels.fit(numbers, image)


class TrainingRows(nn.Module):
    """Encoded training rows, compact; atoms are drawn anew inside their intervals for every batch.

    Parameters
    ----------
    quantile : callable
        Of the coordinates.
    low, high : Tensor of shape (n, n_numbers), float32
    ids : Tensor of shape (n, n_categories), int32
    units : Tensor of shape (n, n_numbers), float32, optional
    """

    low: Tensor
    high: Tensor
    ids: Tensor
    units: Tensor | None

    def __init__(
        self,
        quantile: Callable[[Tensor], Tensor],
        low: Tensor,
        high: Tensor,
        ids: Tensor,
        units: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.quantile = quantile
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("ids", ids)
        self.register_buffer("units", units)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: Tensor, generator: torch.Generator) -> Rows:
        index, device = index.to(self.low.device), generator.device  # rows may be too many for the device
        low, high, ids = (table[index].to(device) for table in (self.low, self.high, self.ids))
        u = torch.rand(low.shape, generator=generator, device=device)
        numbers = self.quantile(low + u * (high - low))
        return Rows(numbers, ids.long(), None if self.units is None else self.units[index].to(device))


class TableCodec(nn.Module):
    """Plain arrays of a table to rows and back.

    Categories keep their most frequent levels; the rest share one pooled level, from which decoding draws by
    their own frequencies. A column that had missing values has a level for them: its own if it is a category,
    and a category of two levels beside it if it is a number.

    Parameters
    ----------
    numbers : Coordinates
    nullable : sequence of int
        Numbers that were missing in some row.
    level_counts : sequence of array
        Training frequency of each level of each category, falling.
    missing_counts : sequence of int
        Training rows in which each category was missing.
    columns : sequence of int
        Column of the table that owns each number, then each category.
    max_levels : int
        Levels a category keeps for itself.
    """

    network_level: Tensor
    offset: Tensor
    flag_of_number: Tensor

    def __init__(
        self,
        numbers: Coordinates,
        nullable: Sequence[int],
        level_counts: Sequence[NDArray[np.int64]],
        missing_counts: Sequence[int],
        columns: Sequence[int],
        max_levels: int,
    ) -> None:
        super().__init__()
        self.numbers, self.nullable, self.max_levels = numbers, list(nullable), max_levels
        self.counts = [np.asarray(c, np.int64) for c in level_counts]
        d = len(columns) - len(self.counts)
        self.kept: list[int] = []
        self.missing_level: list[int] = []  # network level that means missing; -1 where none was seen
        tables: list[list[int]] = []
        sizes: list[int] = []
        for counts, missing in zip(self.counts, missing_counts, strict=True):
            seen = int((counts > 0).sum())
            kept = seen if seen <= max_levels else max_levels - 1
            size = kept + (seen > kept)
            table = [min(level, kept) if level < seen else -1 for level in range(len(counts))]
            self.kept.append(kept)
            self.missing_level.append(size if missing else -1)
            # After the levels: one never seen, and missing.
            tables.append([*table, -1, size if missing else -1])
            sizes.append(max(size + bool(missing), 1))
        start = np.cumsum([0, *(len(t) for t in tables)])[:-1]
        flat = [level for t in tables for level in t]
        self.register_buffer("network_level", torch.tensor(flat, dtype=torch.long), persistent=False)
        self.register_buffer("offset", torch.tensor(start, dtype=torch.long), persistent=False)
        flag_of = torch.full((d,), len(self.nullable))
        flag_of[self.nullable] = torch.arange(len(self.nullable))
        self.register_buffer("flag_of_number", flag_of, persistent=False)
        owners = [*columns, *(columns[i] for i in self.nullable)]
        sizes = [*sizes, *(2 for _ in self.nullable)]
        self.layout = numbers.layout(sizes, owners)

    def _ids(self, numbers: Tensor, ids: Tensor) -> Tensor:
        levels = self.network_level[ids + self.offset] if len(self.offset) else ids
        return torch.cat([levels, numbers[:, self.nullable].isnan().long()], 1)

    def forward(self, numbers: Tensor, ids: Tensor) -> Rows:
        """Encode numbers (n, d) float64 and levels (n, c) int64; a level the model cannot know is -1."""
        scores, units = self.numbers(numbers)
        return Rows(scores, self._ids(numbers, ids), units)

    def novel(self, rows: Rows) -> Tensor:
        """Cells, (n, n_cells) bool, that hold what training never held: the model has no say in them."""
        never_missing = self.flag_of_number == len(self.nullable)
        return torch.cat([rows.numbers.isnan() & never_missing, rows.ids < 0], 1)

    def given(self, numbers: Tensor, ids: Tensor, known: Tensor, complete: bool) -> Rows:
        """Encode rows of which a part is given.

        `known` of shape (n, d) tells which numbers are: a known NaN asks for a missing one. A level that is
        not known is one never seen. With `complete`, numbers that are not known are known not to be missing.
        """
        # A graph does the same for all rows; here it can be seen where there is nothing to encode.
        if torch.compiler.is_exporting() or known.any():
            z = self.numbers.encode(numbers).masked_fill(~known, torch.nan)
        else:
            z = torch.full(numbers.shape, torch.nan)
        flags = numbers[:, self.nullable].isnan().long()
        flags = torch.where(known[:, self.nullable], flags, 0 if complete else -1)
        levels = self.network_level[ids + self.offset] if len(self.offset) else ids
        return Rows(z, torch.cat([levels, flags], 1))

    def bar_missing(self) -> Tensor:
        """What to add to the scores of levels so that no category is drawn as missing."""
        return self.layout.bar([*self.missing_level, *(-1 for _ in self.nullable)])

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON needs to rebuild the codec, beside the tables of its numbers."""
        return {
            "nullable": self.nullable,
            "counts": [c.tolist() for c in self.counts],
            "missing": [int(level >= 0) for level in self.missing_level],
            "columns": self.layout.columns[: self.layout.n_numbers + len(self.counts)],
            "max_levels": self.max_levels,
        }

    @classmethod
    def from_dict(cls, numbers: Coordinates, data: Mapping[str, Any]) -> TableCodec:
        """Rebuild a codec from `to_dict`."""
        keys = ("nullable", "counts", "missing", "columns", "max_levels")
        return cls(numbers, *(data[key] for key in keys))

    def training_rows(self, numbers: Tensor, ids: Tensor, measured: bool = False) -> TrainingRows:
        """Encode rows to train on; those `measured` keep their standard scores too."""
        low, high = numbers.new_empty((2, *numbers.shape), dtype=torch.float32)
        units = torch.empty_like(low) if measured else None
        coded = ids.new_empty((len(ids), len(self.layout.sizes)), dtype=torch.int32)
        for start in range(0, len(ids), ENCODED):  # what it takes in float64 beside is for a few rows
            part = slice(start, start + ENCODED)
            low[part], high[part] = self.numbers.interval(numbers[part])
            coded[part] = self._ids(numbers[part], ids[part])
            if units is not None:
                units[part] = self.numbers.standard(numbers[part])
        return TrainingRows(self.numbers.quantile, low, high, coded, units)

    def decode(self, rows: Rows, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers (n, d) float64 and levels (n, c) int64, levels of the whole column again.

        `uniforms` of shape (n, c) in (0, 1) choose among the levels that share the pooled one.
        """
        c = len(self.counts)
        flags = nn.functional.pad(rows.ids[:, c:] == 1, (0, 1))  # the last says of other numbers: not missing
        missing = flags[:, self.flag_of_number]
        numbers = self.numbers.decode(rows.numbers.double()).masked_fill(missing, torch.nan)
        columns = []
        for i, (counts, kept) in enumerate(zip(self.counts, self.kept, strict=True)):
            level = rows.ids[:, i]
            rare = counts[kept:].cumsum()
            if len(rare) and rare[-1]:
                cumulative = torch.from_numpy(rare / rare[-1]).to(uniforms.device)
                u = uniforms[:, i].double().contiguous()
                drawn = kept + torch.searchsorted(cumulative, u).clamp(max=len(rare) - 1)
                level = torch.where(level == kept, drawn, level)
            if self.missing_level[i] >= 0:
                level = torch.where(rows.ids[:, i] == self.missing_level[i], len(counts) + 1, level)
            columns.append(level)
        return numbers, torch.stack(columns, 1) if columns else rows.ids[:, :0]
