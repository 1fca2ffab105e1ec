"""What a model sees: a row as coordinates and categories, and the blocks that give them meaning.

A batch is `Rows`: compact, as the codec leaves it. A network reads and writes one
float vector a row, `Layout.width` wide: the coordinates first, then one block of
scores for each group of categories. Only this file knows the offsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rows(NamedTuple):
    """A batch of encoded rows.

    Attributes
    ----------
    numbers : Tensor of shape (n, n_numbers), float32
        Coordinates of about unit spread; NaN where there is none.
    ids : Tensor of shape (n, n_categories), int64
        Level of each category; -1 where unknown.
    units : Tensor of shape (n, n_numbers), float32, optional
        The coordinates on the scale in which distances are measured, if somebody knows them.
    """

    numbers: Tensor
    ids: Tensor
    units: Tensor | None = None

    def take(self, index: Tensor | slice) -> Rows:
        """Select rows."""
        return self._map(lambda part: part[index])

    @property
    def n(self) -> int:
        return self.numbers.shape[0]

    @property
    def present(self) -> Tensor:
        """Which coordinates there are, shape (n, n_numbers), bool."""
        return ~self.numbers.isnan()

    @property
    def clean(self) -> Tensor:
        """The coordinates, 0 where there is none: what becomes of NaN in onnxruntime's Clip is undefined."""
        return self.numbers.masked_fill(self.numbers.isnan(), 0.0)

    def to(self, device: torch.device | str) -> Rows:
        return self._map(lambda part: part.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Rows:
        units = None if self.units is None else change(self.units)
        return Rows(change(self.numbers), change(self.ids), units)


class Noise(NamedTuple):
    """Gaussian noise of random spread, the logarithm of which is normal.

    Attributes
    ----------
    mean, deviation : float
        Of the logarithm.
    least, most : float
        In noise of these spreads nothing is left to find out, and nothing to see.
    """

    mean: float
    deviation: float
    least: float
    most: float

    def time_of(self, sigma: float) -> float:
        """Share of the noise below `sigma`: the time t in [0, 1) at which it is reached."""
        return (
            math.erfc((self.mean - math.log(sigma)) / (self.deviation * math.sqrt(2))) / 2 if sigma else 0.0
        )

    def at(self, t: Tensor) -> Tensor:
        """The spread that is reached at these times, in (0, 1)."""
        return (self.mean + self.deviation * torch.special.ndtri(t)).exp()


def pick(x: Tensor, columns: Tensor) -> Tensor:
    """Columns of a matrix; exported as one operation, where indexing takes three."""
    return x.index_select(1, columns)


def add_up(x: Tensor) -> Tensor:
    """Sum over the last axis, as a product: the order in which onnxruntime sums up varies with the batch."""
    return x @ x.new_ones(x.shape[-1])


class Categorical(nn.Module):
    """Categories of similar size, padded to one width so that each operation runs once for all of them.

    Parameters
    ----------
    cells : sequence of int
        Positions of these categories among all categories of the row.
    sizes : sequence of int
        Number of levels of each.
    """

    bias: Tensor
    cells: Tensor

    def __init__(self, cells: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.levels = max(sizes)
        self.width = self.levels * len(cells)
        level = torch.arange(self.levels)
        # A level that only pads gets no probability.
        bias = torch.where(level[None, :] < torch.tensor(sizes)[:, None], 0.0, -1e9)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("cells", torch.tensor(cells), persistent=False)

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """Normalise scores of shape (n, width) to log-probabilities of shape (n, categories, levels)."""
        return torch.log_softmax(scores.unflatten(1, (-1, self.levels)) + self.bias, -1)

    def one_hot(self, ids: Tensor) -> Tensor:
        """Indicators of shape (n, width); an unknown level is all zeros."""
        level = torch.arange(self.levels, device=ids.device)
        return (pick(ids, self.cells)[..., None] == level).flatten(1).float()

    def nll(self, scores: Tensor, ids: Tensor) -> Tensor:
        """Surprise of each category in nats, shape (n, categories); 0 where unknown."""
        own = pick(ids, self.cells)
        picked = self.log_probabilities(scores).gather(-1, own.clamp(min=0)[..., None])[..., 0]
        return -picked * (own >= 0)

    def draw(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        """Invert the distribution function at `uniforms` (n, categories) in (0, 1)."""
        cumulative = self.log_probabilities(scores).exp().cumsum(-1)
        # Scaled by the total, so that rounding in the sum cannot push a draw past the last level.
        return (cumulative < uniforms[..., None] * cumulative[..., -1:]).sum(-1)

    def relax(self, scores: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
        """Draw one-hot rows that pass gradients straight through a Gumbel softmax (Jang et al. 2017)."""
        gumbel = -torch.log(-torch.log(uniforms.unflatten(1, (-1, self.levels))))
        logits = (self.log_probabilities(scores) + gumbel) / temperature
        soft = torch.softmax(logits, -1)
        hard = torch.zeros_like(soft).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        return (hard + soft - soft.detach()).flatten(1)


class Layout(nn.Module):
    """The blocks of a row, and where each stands.

    A *cell* is one coordinate or one category. A *column* of the user's table owns one
    cell or, where it can be missing, a coordinate and a category that says so.

    Parameters
    ----------
    n_numbers : int
    sizes : sequence of int
        Levels of each category.
    columns : sequence of int
        Column that owns each cell, coordinates first.
    units : Module, optional
        Map from coordinates (n, n_numbers) to the scale in which distances are measured; by default the same.
    scores : Module, optional
        The way back.
    borders : Tensor of shape (n_numbers, 2 * k), optional
        Coordinates at which each value begins and ends; by default values are points, spread evenly.

    Attributes
    ----------
    shape : tuple of int
        How the coordinates lie beside each other: by its length networks know what kind of data they see.
    noise : Noise
        What a denoiser of such coordinates learns from.
    learning_rate : float
        That suits it.
    orthogonal : bool
        Whether a denoiser of it learns faster by `Muon`'s steps.
    weight : int
        How much work a feature is to a network, beside one of a row.
    guidance, autoguidance : float
        That are worth their price when drawing.
    narrow : bool
        Whether networks of it learn as well in bfloat16, and faster where a device has it.
    prior_steps : int
        Of the diffusion that fits a latent's Gaussian prior to such rows; 0 leaves it Gaussian.
    buried : bool
        Whether nothing of a row is left in the most noise.
    grain : bool
        Whether a draw shows the noise that a decoder leaves in each coordinate, or what it expects.
    n_turns : int
        In which the columns of a row are hidden, to be completed from the rest.
    reach : float
        Spread of a whole row's coordinates, turned around: what a step from level to level is beside it.
    """

    noise = Noise(-1.2, 1.2, 0.01, 10.0)  # Table 1 of EDM; coordinates of unit spread are buried in 10
    learning_rate = 2e-3
    orthogonal = False
    weight = 1
    guidance = autoguidance = 1.0
    narrow = False
    prior_steps = 0
    buried = True
    grain = True
    n_turns = 4
    reach = 1.0
    cell_of_feature: Tensor
    column_of_cell: Tensor
    own_order: Tensor

    def __init__(
        self,
        n_numbers: int,
        sizes: Sequence[int],
        columns: Sequence[int],
        units: nn.Module | None = None,
        scores: nn.Module | None = None,
        borders: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.units, self.scores = units or nn.Identity(), scores or nn.Identity()
        if borders is None:
            borders = torch.special.ndtri(torch.linspace(1e-4, 1 - 1e-4, 1025, dtype=torch.float64))
            borders = borders.repeat_interleave(2).expand(n_numbers, -1)
        self.borders = borders
        self.n_numbers, self.sizes, self.columns = n_numbers, list(sizes), list(columns)
        self.shape: tuple[int, ...] = (n_numbers,)
        self.n_columns = max(columns) + 1
        # Widths within a factor of two share a block: little padding, few operations.
        groups: dict[int, list[int]] = {}
        for cell, size in enumerate(sizes):
            groups.setdefault((size - 1).bit_length(), []).append(cell)
        self.blocks = nn.ModuleList(
            Categorical(cells, [sizes[c] for c in cells]) for _, cells in sorted(groups.items())
        )
        order = [c for block in self._blocks for c in block.cells.tolist()]
        owners = list(range(n_numbers)) + [
            n_numbers + c for block in self._blocks for c in block.cells.tolist() for _ in range(block.levels)
        ]
        self.width = len(owners)
        self.register_buffer("cell_of_feature", torch.tensor(owners), persistent=False)
        self.register_buffer("column_of_cell", torch.tensor(list(columns)), persistent=False)
        self.register_buffer(
            "own_order", torch.argsort(torch.tensor(order, dtype=torch.long)), persistent=False
        )

    @property
    def _blocks(self) -> list[Categorical]:
        return list(self.blocks)  # type: ignore[arg-type]

    @property
    def n_categories(self) -> int:
        return len(self.sizes)

    @property
    def n_cells(self) -> int:
        return self.n_numbers + len(self.sizes)

    def first_feature(self) -> Tensor:
        """Where the levels of each category begin among the features, (n_categories,)."""
        starts, start = [torch.empty(0, dtype=torch.long)], self.n_numbers
        for block in self._blocks:
            starts.append(start + block.levels * torch.arange(len(block.cells)))
            start += block.width
        return torch.cat(starts)[self.own_order]

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Join what was made block by block, in the order of the categories."""
        return pick(torch.cat(list(parts), 1), self.own_order)

    def parts(self, scores: Tensor) -> list[tuple[Categorical, Tensor]]:
        """Take what was made of the categories, (n, width - n_numbers), apart by blocks."""
        parts = scores.split([block.width for block in self._blocks], 1) if self.sizes else ()
        return list(zip(self._blocks, parts, strict=True))

    def expand(self, rows: Rows) -> Tensor:
        """Write rows as one vector each, shape (n, width); what is unknown is 0."""
        return self.join(rows.clean, rows.ids)

    def join(self, numbers: Tensor, ids: Tensor) -> Tensor:
        """Write coordinates, none of them NaN, and indicators of levels side by side, shape (n, width)."""
        return torch.cat([numbers, *(block.one_hot(ids) for block in self._blocks)], 1)

    def measure(self, rows: Rows) -> Tensor:
        """Write rows as `expand` does, numbers on the scale in which distances are measured."""
        units = self.units(rows.clean) if rows.units is None else rows.units
        return self.join(units * rows.present, rows.ids)

    def unmeasure(self, features: Tensor) -> Rows:
        """The rows nearest to what `measure` wrote, or to an estimate of it, (n, width)."""
        numbers, levels = features[:, : self.n_numbers], features[:, self.n_numbers :]
        return Rows(self.scores(numbers), self.mode(levels))

    def sum_by_cell(self, features: Tensor) -> Tensor:
        """Add up a value a feature, (n, width), within each cell, (n, n_cells)."""
        d = self.n_numbers
        if not self.sizes:
            return features
        parts = [add_up(part.unflatten(1, (-1, block.levels))) for block, part in self.parts(features[:, d:])]
        return torch.cat([features[:, :d], self.in_order(parts)], 1)

    def known(self, rows: Rows) -> Tensor:
        """Which cells hold something, shape (n, n_cells), bool."""
        return torch.cat([rows.present, rows.ids >= 0], 1)

    def hide(self, rows: Rows, cells: Tensor) -> Rows:
        """Make the given cells, (n, n_cells) bool, unknown."""
        d = self.n_numbers
        return Rows(rows.numbers.masked_fill(cells[:, :d], torch.nan), rows.ids.masked_fill(cells[:, d:], -1))

    def nothing(self, n: int, device: torch.device | str) -> Rows:
        """Rows of which nothing is known."""
        ids = torch.full((n, self.n_categories), -1, device=device)
        return Rows(torch.full((n, self.n_numbers), torch.nan, device=device), ids)

    def reveal(self, given: Rows, drawn: Rows, columns: Tensor) -> Rows:
        """Take over what was drawn in the given columns, (n, n_columns) bool, where nothing is known yet."""
        take = pick(columns, self.column_of_cell) & ~self.known(given)
        d = self.n_numbers
        return Rows(
            torch.where(take[:, :d], drawn.numbers, given.numbers),
            torch.where(take[:, d:], drawn.ids, given.ids),
        )

    def spread(self, cells: Tensor) -> Tensor:
        """Repeat a value a cell, (n, n_cells), over the features of the cell, (n, width)."""
        return pick(cells, self.cell_of_feature)

    def category_nll(self, scores: Tensor, ids: Tensor) -> Tensor:
        """Surprise of each category in nats, shape (n, n_categories); 0 where unknown."""
        if not self.sizes:
            return scores[:, :0]
        return self.in_order([block.nll(part, ids) for block, part in self.parts(scores)])

    def draw(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        """Draw a level of each category, shape (n, n_categories), at the given uniforms of that shape."""
        if not self.sizes:
            return torch.empty(scores.shape[0], 0, dtype=torch.long, device=scores.device)
        return self.in_order(
            [block.draw(part, pick(uniforms, block.cells)) for block, part in self.parts(scores)]
        )

    def mode(self, scores: Tensor) -> Tensor:
        """The likeliest level of each category, shape (n, n_categories)."""
        if not self.sizes:
            return torch.empty(scores.shape[0], 0, dtype=torch.long, device=scores.device)
        return self.in_order([block.log_probabilities(part).argmax(-1) for block, part in self.parts(scores)])

    def activate(self, x: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
        """Turn outputs (n, width) into a row: coordinates as they are, categories drawn and differentiable.

        `uniforms` of shape (n, width - n_numbers) in (0, 1) draw the levels.
        """
        parts = [
            block.relax(part, chance, temperature)
            for (block, part), (_, chance) in zip(
                self.parts(x[:, self.n_numbers :]), self.parts(uniforms), strict=True
            )
        ]
        return torch.cat([x[:, : self.n_numbers], *parts], 1)

    def gap(self, rows: Rows, expected: Tensor) -> Tensor:
        """Distance in `units` of the coordinates expected, (n, n_numbers), from those of the rows."""
        return self.units(expected) - (self.units(rows.clean) if rows.units is None else rows.units)

    def bar(self, levels: Sequence[int]) -> Tensor:
        """Scores, shape (width - n_numbers,), that rule out one level of each category; -1 rules out none."""
        out = []
        for block in self._blocks:
            barred = torch.tensor([levels[c] for c in block.cells.tolist()])[:, None] == torch.arange(
                block.levels
            )
            out.append(torch.where(barred, -1e9, 0.0).flatten())
        return torch.cat([torch.zeros(0), *out])

    def sum_by_column(self, cells: Tensor) -> Tensor:
        """Add up a value a cell, (n, n_cells), within each column, (n, n_columns)."""
        out = cells.new_zeros(cells.shape[0], self.n_columns)
        return out.index_add(1, self.column_of_cell, cells)

    def turns(self) -> Tensor:
        """In which turn each cell is hidden, (n_cells,)."""
        return self.column_of_cell % self.n_turns

    def random_observed(self, n: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Draw which cells are observed, (n, n_cells) bool: none for half the rows, else a random share.

        Whole columns at a time; the shares are uniform, so that every size of subset is learned
        (VAEAC, Ivanov et al., ICLR 2019).
        """
        share = torch.rand(n, 1, generator=generator, device=device) * 2 - 1
        columns = torch.rand(n, self.n_columns, generator=generator, device=device) < share
        return pick(columns, self.column_of_cell)

    def forged(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Make anomalies of numbers, (n, n_numbers), where it is known how: (m, n_numbers)."""
        return numbers[:0]


HIDES = 0.18  # the most noise of images, beside how far away one is that is lighter all over by a spread


class ImageLayout(Layout):
    """An image, and categories beside it.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    sizes : sequence of int
        Levels of each category.
    columns : sequence of int
        Column that owns each cell, pixels first.
    """

    # Neighbours say the same, so it takes more noise to hide an image than to hide each of its pixels.
    noise = Noise(0.0, 1.4, 0.1, 5.0)
    learning_rate = 8e-3
    orthogonal = True
    weight = 20
    guidance, autoguidance = 2.0, 1.5
    narrow = True
    prior_steps = 6
    buried = False
    # Pixels' noise is white, and what a decoder misses of an image is not: it would look like sand on a lens.
    grain = False
    n_turns = 2

    def __init__(self, shape: tuple[int, int, int], sizes: Sequence[int], columns: Sequence[int]) -> None:
        super().__init__(math.prod(shape), sizes, columns)
        self.shape, self.reach = shape, math.prod(shape) ** -0.5
        self.noise = self.noise._replace(most=max(self.noise.most, HIDES / self.reach))

    def turns(self) -> Tensor:
        """Two by two pixels like the fields of a chessboard: every hole has known neighbours."""
        height, width, channels = self.shape
        device = self.column_of_cell.device
        rows, columns = (torch.arange(side, device=device) // 2 for side in (height, width))
        fields = (rows[:, None] + columns) % 2
        labels = torch.arange(self.n_categories, device=device) % 2
        return torch.cat([fields.flatten().repeat_interleave(channels), labels])

    def random_observed(self, n: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Draw which cells are observed, (n, n_cells) bool: each category nine times of ten.

        Of 17 of 20 images nothing is, of the others all but a rectangle, or scattered pixels.
        """
        height, width, channels = self.shape

        def uniform(*shape: int) -> Tensor:
            return torch.rand(n, *shape, generator=generator, device=device)

        sides = []
        for length, ends in zip((height, width), uniform(2, 2).sort(-1)[0].unbind(1), strict=True):
            at = (torch.arange(length, device=device) + 0.5) / length
            sides.append((at > ends[:, :1]) & (at < ends[:, 1:]))
        outside = ~(sides[0][:, :, None] & sides[1][:, None, :])
        scattered = uniform(height, width) < uniform(1, 1)
        kind = uniform(1, 1)
        pixels = ((kind < 0.1) & outside) | ((kind > 0.95) & scattered)
        labels = uniform(self.n_categories) < 0.9
        return torch.cat([pixels[..., None].expand(-1, -1, -1, channels).flatten(1), labels], 1)

    def forged(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Paste a small rectangle of another image into each, elsewhere than it stood.

        CutPaste: Li, Sohn, Yoon and Pfister, CVPR 2021, arXiv 2104.04015.
        """
        images, n = numbers.unflatten(1, self.shape), len(numbers)
        inside = []
        for length in self.shape[:2]:
            size, start = torch.rand(2, n, 1, generator=generator)
            extent = length * (1 + 2 * size) / 8
            at = torch.arange(length) + 0.5 - start * (length - extent)
            inside.append((at > 0) & (at < extent))
        box = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        others = images.roll((n // 2, self.shape[0] // 2, self.shape[1] // 2), (0, 1, 2))
        return torch.where(box, others, images).flatten(1)
