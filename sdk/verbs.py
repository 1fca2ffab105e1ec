"""What a fitted model does with the arrays of a table: score them, complete them.

Estimators run these modules and exporters trace them, so what is exported is what was fitted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lookalike.layout import Rows, add_up
from lookalike.memory import Blend, Memory
from lookalike.models.family import Family, Model
from lookalike.preprocessing import TableCodec

_FIRST = 1e-6  # the uniform that draws the most frequent of the levels that share the pooled one


class Verb(nn.Module):
    """A codec and a model, which may be on a device of its own: float64 stays on the CPU."""

    def __init__(self, codec: TableCodec, model: Model) -> None:
        super().__init__()
        self.codec, self.model = codec, model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


class Energies(Verb):
    """How odd each cell is to the model and to the memory, and what was expected in its place.

    Parameters
    ----------
    codec : TableCodec
    model : Model
    memory : Memory
    n_train : int
        Rows the model was trained on.
    """

    surprise_of_new: Tensor

    def __init__(self, codec: TableCodec, model: Model, memory: Memory, n_train: int) -> None:
        super().__init__(codec, model)
        self.memory = memory
        # What training never held gets the surprise of a new kind of row, by the rule of succession.
        surprise = torch.tensor(math.log(n_train + 1))
        self.register_buffer("surprise_of_new", surprise, persistent=False)

    def apart(self, numbers: Tensor, ids: Tensor) -> tuple[list[Tensor], Rows]:
        """Energies of each cell, (n, n_cells), of the model and then of the memory; and the rows expected."""
        rows = self.codec(numbers, ids)
        novel, here = self.codec.novel(rows), rows.to(self.device)
        own, expected = self.model.energies(here)
        found = (*own, *self.memory.energies(here))
        return [torch.where(novel, self.surprise_of_new, cells.cpu()) for cells in found], expected.to("cpu")

    def totals(self, numbers: Tensor, ids: Tensor) -> list[Tensor]:
        """Each energy of whole rows, (n,), float64; in the more parts, the more work a feature is."""
        size = max(math.ceil(len(ids) / self.codec.layout.weight), 1)
        found = []
        with torch.inference_mode():
            for part in zip(numbers.split(size), ids.split(size), strict=True):
                cells, _ = self.apart(*part)
                found.append([energy.double().sum(1) for energy in cells])
        return [torch.cat(totals) for totals in zip(*found, strict=True)]


class Scorer(Energies):
    """One energy of each cell, and what was expected in its place.

    Parameters
    ----------
    codec, model, memory, n_train
        As of `Energies`.
    blend : Blend
        Makes one energy of several.
    """

    def __init__(self, codec: TableCodec, model: Model, memory: Memory, n_train: int, blend: Blend) -> None:
        super().__init__(codec, model, memory, n_train)
        self.blend = blend

    def energies(self, numbers: Tensor, ids: Tensor) -> tuple[Tensor, Rows]:
        """Energy of each cell, (n, n_cells) float64, and the rows expected."""
        parts, expected = self.apart(numbers, ids)
        return self.blend(*parts), expected

    def expected(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Decode expected rows; what shares the pooled level is told by the most frequent of it."""
        return self.codec.decode(
            rows, torch.full_like(rows.ids[:, : len(self.codec.counts)], _FIRST, dtype=torch.float32)
        )

    def forward(self, numbers: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Score, each column's share of the energy, numbers and levels expected."""
        cells, rows = self.energies(numbers, ids)
        return -add_up(cells), self.codec.layout.sum_by_column(cells), *self.expected(rows)


class Completer(Verb):
    """Rows of which a part is known, the rest drawn as a function of the noise.

    Parameters
    ----------
    codec : TableCodec
    model : Family
    impute : bool
        Nothing that is drawn is missing.
    """

    bar: Tensor
    unseen: Tensor

    def __init__(self, codec: TableCodec, model: Family, impute: bool) -> None:
        super().__init__(codec, model)
        self.model: Family = model
        self.impute = impute
        layout = codec.layout
        bar = codec.bar_missing() if impute else torch.zeros(layout.width - layout.n_numbers)
        self.register_buffer("bar", bar, persistent=False)
        unseen = torch.tensor([len(c) for c in codec.counts], dtype=torch.long)
        self.register_buffer("unseen", unseen, persistent=False)

    @property
    def noise_size(self) -> tuple[int, int]:
        """Normal and uniform numbers a row."""
        normals, uniforms = self.model.noise_size
        return normals, uniforms + len(self.codec.counts)

    def forward(
        self,
        numbers: Tensor,
        ids: Tensor,
        known_numbers: Tensor,
        known_ids: Tensor,
        normals: Tensor,
        uniforms: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Complete rows; what is known stays as it is.

        Parameters
        ----------
        numbers, ids : Tensor of shape (n, n_numbers) float64 and (n, n_categories) int64
        known_numbers, known_ids : Tensor of the same shapes, bool
        normals, uniforms : Tensor of shape (n, noise_size[0]) and (n, noise_size[1]), float32
        others : Tensor
            More noise, if `sample` takes some.
        """
        given = self.given(numbers, ids, known_numbers, known_ids)
        own = uniforms[:, : self.model.noise_size[1]]
        normals, own, bar, *more = (x.to(self.device) for x in (normals, own, self.bar, *others))
        rows = self.sample(normals, own, given, bar, *more)
        new_numbers, new_ids = self.decode(rows, uniforms)
        return torch.where(known_numbers, numbers, new_numbers), torch.where(known_ids, ids, new_ids)

    def sample(self, normals: Tensor, uniforms: Tensor, given: Rows, bar: Tensor, *others: Tensor) -> Rows:
        """Draw what is not given."""
        return self.model.sample(normals, uniforms, given, bar, *others)

    def given(self, numbers: Tensor, ids: Tensor, known_numbers: Tensor, known_ids: Tensor) -> Rows:
        """Encode what is known."""
        levels = torch.where(known_ids, ids, self.unseen)  # an unseen level is unknown to the model
        return self.codec.given(numbers, levels, known_numbers, self.impute).to(self.device)

    def decode(self, rows: Rows, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and levels of sampled rows; the last of the uniforms choose among pooled levels."""
        return self.codec.decode(rows.to("cpu"), uniforms[:, self.model.noise_size[1] :])
