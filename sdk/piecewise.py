"""Piecewise linear maps, one a column, of few operations: they are run for every cell and exported with it.

A value's piece is read from a table with one entry a cell of an even grid. Where the knots are not even
themselves, a few rounds of bisection follow. All tables are flat and all indices point into them: onnxruntime
gathers so several times as fast as from rows of tables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEEPEST = 1e8  # pieces steeper than this are steps: float64 could not place a value on them
SLACK = 1e-5  # of a guide's size: by so much two machines may differ on it
GUIDE_CELLS = 2**17  # of all columns together; 64 to 1,024 a column


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate column by column, linearly, flat beyond the ends.

    Parameters
    ----------
    x : Tensor of shape (n, columns)
    knots, values : Tensor of shape (columns, k)
        Knots ascend; equal knots make a step.
    """
    query = x.T.contiguous()
    right = torch.searchsorted(knots, query, right=True).clamp(1, knots.shape[1] - 1)
    left = right - 1
    x0, x1 = knots.gather(1, left), knots.gather(1, right)
    y0, y1 = values.gather(1, left), values.gather(1, right)
    # Halved, the difference of two of the largest floats is finite; numbers of usual size keep their bits.
    gap = x1 / 2 - x0 / 2
    share = ((query / 2 - x0 / 2) / torch.where(gap > 0, gap, 1.0)).clamp(0, 1).masked_fill(query >= x1, 1.0)
    half_step = share * (y1 / 2 - y0 / 2)
    return (y0 + half_step + half_step).T


def _lines(knots: Tensor, values: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Intercept and slope of each piece, (columns, k + 1) each; the first and last lie beyond the knots."""
    rise, run = values.diff(dim=1), knots.diff(dim=1)
    inner = (rise / run).nan_to_num(0.0, torch.inf)
    inner = inner.masked_fill(inner > STEEPEST, 0.0)
    slopes = nn.functional.pad(inner, (1, 1), value=slope)
    return torch.cat([values[:, :1], values], 1) - slopes * torch.cat([knots[:, :1], knots], 1), slopes


class Knotted(nn.Module):
    """`interpolate` between fixed knots.

    Parameters
    ----------
    knots, values : Tensor of shape (columns, k)
        Knots ascend.
    """

    knots: Tensor
    values: Tensor

    def __init__(self, knots: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("knots", knots, persistent=False)
        self.register_buffer("values", values, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map values, (n, columns), of the knots' dtype."""
        return interpolate(x, self.knots, self.values)


class Even(nn.Module):
    """A map with even knots in each column; of slope one beyond them.

    Parameters
    ----------
    low, high : Tensor of shape (columns,)
        The first knot and the last.
    values : Tensor of shape (columns, k)
    """

    per_cell: Tensor
    shift: Tensor
    first: Tensor
    intercept: Tensor
    slope: Tensor

    def __init__(self, low: Tensor, high: Tensor, values: Tensor) -> None:
        super().__init__()
        self.cells = values.shape[1] - 1
        high = torch.maximum(high, low + 1e-9)
        knots = low[:, None] + torch.linspace(0, 1, self.cells + 1, dtype=low.dtype) * (high - low)[:, None]
        intercept, slope = _lines(knots, values, 1.0)
        per_cell = self.cells / (high - low)
        for name, tensor in (
            ("per_cell", per_cell.float()),
            ("shift", (1 - low * per_cell).float()),
            ("first", torch.arange(len(low)) * intercept.shape[1]),
            ("intercept", intercept.flatten().float()),
            ("slope", slope.flatten().float()),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map float32 values, (n, columns), of which none is NaN."""
        place = (z * self.per_cell + self.shift).clamp(0, self.cells + 1)
        piece = (place.long() + self.first).flatten()
        intercept, slope = (table.gather(0, piece).view_as(z) for table in (self.intercept, self.slope))
        return intercept + z * slope


class Searched(nn.Module):
    """A map whose knots lie anywhere, found with the help of a guide; flat beyond them.

    Parameters
    ----------
    knots : Tensor of shape (columns, k), float64
        Ascending; short rows repeat their last.
    guide : Tensor of shape (columns, k), float32
        The knots on a scale on which they lie more evenly. It need not tell all of them apart.
    at : Tensor of shape (columns, k), float64
        The knots on the scale on which the map is linear.
    values : Tensor of shape (columns, k), float64
    """

    knots: Tensor
    per_cell: Tensor
    shift: Tensor
    first: Tensor
    starts: Tensor
    intercept: Tensor
    slope: Tensor

    def __init__(self, knots: Tensor, guide: Tensor, at: Tensor, values: Tensor) -> None:
        super().__init__()
        columns, k = knots.shape
        self.cells = min(max(GUIDE_CELLS // max(columns, 1), 64), 1024)
        fresh = nn.functional.pad(knots.diff(dim=1) > 0, (1, 0), value=True)
        low, high = guide[:, :1], guide[:, -1:]
        per_cell = self.cells / (high - low).clamp(min=1e-6)
        slack = SLACK * (1 + guide.abs())

        def before(guide: Tensor) -> Tensor:
            """How many knots lie before each cell, and before the end."""
            cell = ((guide - low) * per_cell).clamp(0, self.cells - 1).long()
            count = torch.zeros(columns, self.cells + 1, dtype=torch.long)
            return count.scatter_add(1, cell + 1, fresh.long()).cumsum(1)

        # A knot that may lie in either of two cells is looked for in both.
        starts, ends = before(guide + slack)[:, :-1], before(guide - slack)[:, 1:]
        self.rounds = int((ends - starts).max()).bit_length() if columns else 0
        width = k + 2**self.rounds
        own = torch.arange(columns)[:, None]
        # float32 counts faster, as far as it can count.
        starts = (starts + own * width).to(torch.float32 if columns * width < 2**24 else torch.float64)
        largest = torch.finfo(knots.dtype).max
        table = nn.functional.pad(knots.masked_fill(~fresh, largest), (0, width - k), value=largest)
        intercept, slope = (
            torch.cat([part, part[:, -1:].expand(-1, width - k - 1)], 1) for part in _lines(at, values, 0.0)
        )
        for name, tensor in (
            ("per_cell", per_cell[:, 0]),
            ("shift", -(low * per_cell)[:, 0]),
            ("first", own[:, 0] * self.cells),
            ("starts", starts.flatten()),
            ("knots", table.flatten()),
            ("intercept", intercept.flatten()),
            ("slope", slope.flatten()),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor, guide: Tensor, at: Tensor) -> Tensor:
        """Map values x, (n, columns), told on all three scales; what is NaN on the scale `at` stays NaN.

        The guide has no NaN: it becomes an index.
        """
        cell = (guide * self.per_cell + self.shift).clamp(0, self.cells - 1).long() + self.first
        place, x = self.starts.gather(0, cell.flatten()), x.flatten()
        for step in (2**i for i in reversed(range(self.rounds))):
            ahead = self.knots.gather(0, (place + (step - 1)).long())
            place = place + (ahead <= x).to(place.dtype) * step
        piece = place.long()
        intercept, slope = (table.gather(0, piece).view_as(at) for table in (self.intercept, self.slope))
        return intercept + slope * at
