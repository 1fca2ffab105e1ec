"""Mixture of products of distributions over mixed rows: the latent-class model, fitted by stepwise EM.

A row's latent is one of K classes, and given it the columns are independent: a variational autoencoder with
a discrete latent, an exact posterior and a prior that is fitted. So the bound is the likelihood, what is
missing is summed out, and a row is completed by one draw from its exact conditional distribution.

Lazarsfeld and Henry, "Latent structure analysis", 1968; Cappe and Moulines, "On-line expectation-maximization
algorithm for latent data models", Journal of the Royal Statistical Society B 71(3), 2009 (arXiv 0712.4273).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Rows, add_up, pick
from lookalike.memory import Memory
from lookalike.models.family import Family

N_BINS = 48  # of a number, about; no value is cut by their borders
PIECES = 8  # of a bin, in each of which normal scores are spread evenly
FORGETTING = 0.6  # step t weighs (t + 2)^-0.6: Cappe and Moulines ask for an exponent in (1/2, 1]
OWN = 0.25  # share that one row has in the class that starts from it
SMOOTHING = 0.004  # of a class of usual size: what it is lent of the whole table
NEVER = 1e-9  # least share of a level in the table
TINY = 1e-30  # a probability that is none
MANY = 100  # cells: up to here a graph has operations for each, and beyond that products with all levels
NOWHERE = 1e9  # a normal score beyond all


class Mixture(Family):
    """Classes, in each of which columns are independent.

    Numbers are cut into bins of about equal share; inside a bin all values are as likely as in the table.

    Parameters
    ----------
    layout : Layout
    n_components : int
        K, the number of classes.
    """

    n_steps = 1
    inner: Tensor
    quantiles: Tensor
    centres: Tensor
    first: Tensor
    last: Tensor
    spot: Tensor
    prior: Tensor
    level: Tensor
    share: Tensor

    def __init__(self, layout: Layout, *, n_components: int) -> None:
        super().__init__()
        self.layout, self.n_components = layout, n_components
        with torch.device("cpu"):  # what follows from the layout is wanted even where weights are not
            self._cut(layout)
        # Expected shares of rows: of each class, of the levels in each class, of the levels in the table.
        self.class_share = _fixed(torch.full((n_components,), 1 / n_components))
        self.level_share = _fixed(torch.zeros(self.cells.width, n_components))
        self.table_share = _fixed(torch.zeros(self.cells.width))
        self.steps = _fixed(torch.zeros(()))
        # What follows from them: log-probabilities of classes, and of levels in each, which are 0 for what is
        # unknown; and the levels' shares.
        self.register_buffer("prior", torch.zeros(n_components), persistent=False)
        self.register_buffer("level", torch.zeros(self.cells.width + 1, n_components), persistent=False)
        self.register_buffer("share", torch.zeros(n_components, self.cells.width), persistent=False)

    def _cut(self, layout: Layout) -> None:
        """Make bins of the numbers, and a layout of bins and levels."""
        d = layout.n_numbers
        edges, n_bins = bins(layout.borders, N_BINS)
        share = edges[:, :-1, None] + torch.arange(PIECES + 1) / PIECES * edges.diff(dim=1)[..., None]
        inner = torch.special.ndtri(edges[:, 1:-1])
        beyond = torch.arange(inner.shape[1]) >= n_bins[:, None] - 1
        self.register_buffer("inner", inner.masked_fill(beyond, NOWHERE).float(), persistent=False)
        quantiles = torch.special.ndtri(share).float()
        self.register_buffer("quantiles", quantiles, persistent=False)
        none = torch.arange(quantiles.shape[1]) >= n_bins[:, None]
        centres = quantiles[:, :, PIECES // 2].masked_fill(none, NOWHERE)
        # One more, so that there is always one on each side.
        centres = nn.functional.pad(centres, (0, 1), value=2 * NOWHERE)
        self.register_buffer("centres", centres, persistent=False)
        sizes = [*n_bins.tolist(), *layout.sizes]
        self.cells = Layout(0, sizes, range(len(sizes)))
        first = self.cells.first_feature()
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("last", first[:d] + n_bins - 1, persistent=False)
        # Where the levels of a category stand among the scores of the row's; of bins, one beyond the last.
        spot = torch.full((self.cells.width,), layout.width - d)
        starts = zip(layout.first_feature().tolist(), first[d:].tolist(), layout.sizes, strict=True)
        for there, here, size in starts:
            spot[here : here + size] = there - d + torch.arange(size)
        self.register_buffer("spot", spot, persistent=False)

    # ---- learning --------------------------------------------------------------------------------------

    def prepare(self, memory: Memory, n: int, unseen: Rows) -> None:
        """Start each class from the whole table and from one remembered row."""
        index = self._index(self.layout.unmeasure(memory.rows / memory.scale))
        weight = memory.count / memory.count.sum()
        self.table_share.copy_(self._shares(index, weight[:, None])[:, 0])
        chosen = index[torch.arange(self.n_components, device=index.device) % len(index)]
        own = chosen.new_zeros(self.n_components, self.cells.width + 1).scatter_(1, chosen, 1)[:, :-1].T
        start = (1 - OWN) * self.table_share[:, None] + OWN * own
        self.level_share.copy_(start / self.n_components)
        self.settle()

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Surprise a cell; the step of EM (Cappe and Moulines, section 2.3) needs no gradient of it."""
        with torch.no_grad():
            index = self._index(rows)
            joint = self._joint(index)
            posterior = torch.softmax(joint, 1)
            rate = (self.steps + 2) ** -FORGETTING
            self.class_share.lerp_(posterior.mean(0), rate)
            self.level_share.lerp_(self._shares(index, posterior / rows.n), rate)
            ones = torch.full_like(posterior[:, :1], 1 / rows.n)
            self.table_share.lerp_(self._shares(index, ones)[:, 0], rate)
            self.steps.add_(1)
            self.settle()
        yield -joint.logsumexp(1).mean() / self.layout.n_cells, []

    def fidelity(self, rows: Rows, generator: torch.Generator) -> Tensor:
        parts = range(0, rows.n, 1024)
        joint = [self._joint(self._index(rows.take(slice(i, i + 1024)))).logsumexp(1) for i in parts]
        return -torch.cat(joint).mean() / self.layout.n_cells

    def _shares(self, index: Tensor, weight: Tensor) -> Tensor:
        """Add up the weights, (n, k), of the rows that hold each level, (L, k)."""
        total = weight.new_zeros(self.cells.width + 1, weight.shape[1])
        for column in index.T:
            total.index_add_(0, column, weight)
        return total[:-1]

    # ---- what the statistics say -----------------------------------------------------------------------

    def settle(self) -> None:
        """Turn the statistics into what rows ask for."""
        with torch.no_grad():
            lent = SMOOTHING / self.n_components
            blocks = [block for block, _ in self.cells.parts(self.table_share[None])]
            valid = torch.cat([(block.bias == 0).flatten() for block in blocks]).float()
            whole = self._normalised(((self.table_share + NEVER) * valid)[:, None])
            share = self._normalised((self.level_share + lent * whole) * valid[:, None])
            self.share.copy_(share.T)
            self.level[:-1].copy_(share.clamp(min=TINY).log())
            self.prior.copy_(((self.class_share + lent) / (self.class_share + lent).sum()).log())

    def _normalised(self, share: Tensor) -> Tensor:
        """Shares (L, k) that add up to 1 in each cell."""
        parts = []
        for block, part in self.cells.parts(share.T):
            apart = part.unflatten(1, (-1, block.levels))
            parts.append((apart / apart.sum(2, keepdim=True)).flatten(1))
        return torch.cat(parts, 1).T

    def _index(self, rows: Rows) -> Tensor:
        """Where the level of each cell stands, (n, n_cells); one beyond the last where there is none."""
        bin_ = (rows.clean[..., None] >= self.inner).sum(-1)
        levels = torch.cat([bin_, rows.ids], 1)
        return torch.where(self.layout.known(rows), levels + self.first, self.cells.width)

    def _joint(self, index: Tensor) -> Tensor:
        """Log-probability of each row with each class, (n, K)."""
        return nn.functional.embedding_bag(index, self.level, mode="sum") + self.prior

    def _between(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Where the levels stand, each number between two bins, (n, n_cells + n_numbers), and their weights.

        So surprise has no steps at the borders of bins, where two runtimes may not agree on the bin.
        """
        d = self.layout.n_numbers
        index, clean = self._index(rows), rows.clean
        right = (clean[..., None] >= self.centres).sum(-1).clamp(min=1)
        at = torch.arange(d, device=right.device) * self.centres.shape[1] + right
        low, high = self.centres.flatten()[at - 1], self.centres.flatten()[at]
        # Level around the centres, where values that are bins of their own stand.
        share = (2 * (clean - low) / (high - low) - 0.5).clamp(0, 1) * rows.present
        ones = rows.present.to(share)
        nothing, first = self.cells.width, self.first[:d]
        left = torch.where(rows.present, first + right - 1, nothing)
        right = torch.where(rows.present, (first + right).minimum(self.last), nothing)
        weight = torch.cat([ones - share, torch.ones_like(rows.ids, dtype=share.dtype), share], 1)
        return torch.cat([left, index[:, d:], right], 1), weight

    def _log_posterior(self, index: Tensor, weight: Tensor) -> Tensor:
        """Log-probability of each class given the row, (n, K).

        Summed in float64: classes that are nearly as likely are told apart.
        """
        level, prior = self.level.double(), self.prior.double()
        if torch.compiler.is_exporting() and index.shape[1] > MANY:
            spread = level.new_zeros(index.shape[0], len(level)).scatter_add(1, index, weight.double())
            joint = spread @ level + prior
        elif torch.compiler.is_exporting():  # which knows no bags
            parts = (level[i] * w[:, None] for i, w in zip(index.T, weight.T.double(), strict=True))
            joint = sum(parts, prior)
        else:
            joint = (
                nn.functional.embedding_bag(index, level, mode="sum", per_sample_weights=weight.double())
                + prior
            )
        return torch.log_softmax((joint - joint.amax(1, keepdim=True)).float(), 1)

    # ---- using -----------------------------------------------------------------------------------------

    @property
    def noise_size(self) -> tuple[int, int]:
        return 0, 1 + self.layout.n_cells + self.layout.n_numbers

    def step(
        self, k: Tensor, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor
    ) -> Rows:
        """Draw a class given what is known, and all that is not known given the class."""
        layout, d = self.layout, self.layout.n_numbers
        which, what, where = uniforms.split([1, layout.n_cells, d], 1)
        allowed, joint = self.share, self.prior[None]
        # A graph does the same for all rows; here it can be seen where there is nothing to do.
        if torch.compiler.is_exporting() or layout.known(given).any() or (barred != 0).any():
            allowed = allowed * (pick(torch.cat([barred, barred.new_zeros(1)])[None], self.spot) == 0)
            unknown = (~layout.known(given)).float()
            joint = self._log_posterior(*self._between(given))
            joint = joint + unknown @ self.cells.sum_by_cell(allowed).clamp(min=TINY).log().T
        cumulative = torch.softmax(joint, 1).cumsum(1)
        u = which * cumulative[:, -1:]
        if torch.compiler.is_exporting() or len(cumulative) > 1:
            chosen = (cumulative < u).sum(1)
        else:  # all rows have the same classes to choose from: search, do not count
            chosen = torch.searchsorted(cumulative[0], u[:, 0])
        drawn = []
        for block, part in self.cells.parts(allowed.index_select(0, chosen)):
            sums = part.unflatten(1, (-1, block.levels)).cumsum(-1)
            drawn.append((sums < pick(what, block.cells)[..., None] * sums[..., -1:]).sum(-1))
        levels = self.cells.in_order(drawn)
        numbers = self._inside(levels[:, :d], where)
        return Rows(
            torch.where(given.present, given.clean, numbers),
            torch.where(given.ids >= 0, given.ids, levels[:, d:]),
        )

    def _inside(self, bin_: Tensor, u: Tensor) -> Tensor:
        """The normal score at the share u of each bin, (n, n_numbers)."""
        d, n_bins, points = self.quantiles.shape
        at = u * PIECES
        piece = at.floor().clamp(max=PIECES - 1)
        here = (torch.arange(d, device=u.device) * n_bins + bin_) * points + piece.long()
        flat = self.quantiles.flatten()
        low, high = flat[here], flat[here + 1]
        return low + (at - piece) * (high - low)

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """Minus the log-likelihood: each cell's surprise in the row's classes, and theirs in the table.

        Exactly, for the bound is tight at the posterior.
        """
        layout, d = self.layout, self.layout.n_numbers
        index, weight = self._between(rows)
        log_posterior = self._log_posterior(index, weight)
        posterior = log_posterior.exp()
        divergence = add_up(posterior * (log_posterior - self.prior))
        if torch.compiler.is_exporting() and index.shape[1] > MANY:
            level = (posterior @ self.level.T).gather(1, index)
        else:
            level = torch.stack([add_up(posterior * self.level[column]) for column in index.T], 1)
        surprise = -level * weight
        surprise = surprise[:, : layout.n_cells] + nn.functional.pad(
            surprise[:, layout.n_cells :], (0, layout.n_categories)
        )
        cells = surprise + divergence[:, None].clamp(min=0) / layout.n_cells
        likely = self.cells.parts(posterior @ self.share)
        mode = self.cells.in_order([part.unflatten(1, (-1, b.levels)).argmax(-1) for b, part in likely])
        numbers = self._inside(mode[:, :d], torch.full_like(rows.numbers, 0.5))
        return [cells], Rows(numbers, mode[:, d:])


def bins(borders: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Cut numbers into bins that hold about one nth of the rows each.

    Parameters
    ----------
    borders : Tensor of shape (n_numbers, 2 * k), float64
        Normal scores at which values begin and end: no bin ends inside a value.
    n : int

    Returns
    -------
    edges : Tensor of shape (n_numbers, m + 1), float64
        Shares of rows below the ends of the bins, rising; the last is repeated.
    n_bins : Tensor of shape (n_numbers,), int64
    """
    found = []
    for column in torch.special.ndtr(borders.double()):
        low, high = column[::2], column[1::2]
        wide = high - low >= 1 / n
        # Between values, never on one.
        places = torch.cat([low[:1], (high[:-1] + low[1:]) / 2, high[-1:]]).unique()
        goal = places[0] + (places[-1] - places[0]) * torch.arange(n + 1) / n
        right = torch.searchsorted(places, goal).clamp(1, len(places) - 1)
        nearer = torch.where(goal - places[right - 1] < places[right] - goal, right - 1, right)
        before = torch.searchsorted(places, low[wide], right=True) - 1
        after = torch.searchsorted(places, high[wide]).clamp(max=len(places) - 1)
        found.append(places[torch.cat([nearer, before, after]).unique()])
    size = max([2, *map(len, found)])
    edges = [nn.functional.pad(ends, (0, size - len(ends)), value=float(ends[-1])) for ends in found]
    rows = torch.stack(edges) if edges else borders.new_zeros(0, size)
    return rows, torch.tensor([max(len(ends) - 1, 1) for ends in found], dtype=torch.long)


def _fixed(values: Tensor) -> nn.Parameter:
    """A part of the model's state that no gradient moves."""
    return nn.Parameter(values, requires_grad=False)
