"""What remembered rows say of a new one: a diffusion model without training, and how it joins a trained one.

For rows blurred by Gaussian noise of spread sigma the ideal denoiser is known: the mean of the rows, weighted
by exp(-|x - row|^2 / 2 sigma^2) (Karras et al., "Elucidating the design space of diffusion-based
generative models", NeurIPS 2022, arXiv 2206.00364, appendix B.3). How far it moves a row is sigma squared
times the length of the score of the blurred data: it sees each neighbour that a network smooths over, and a
network sees the structure between neighbours. A row's energy is a mean of what both say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Rows, add_up
from lookalike.patches import Patches, scales
from lookalike.preprocessing import squash

SIGMA = 0.5  # of the blur, on columns of unit spread
BLIND = 0.1  # rows nearer than this are one: a row's own copy is no evidence for it
POOL = 4096  # rows among which the trusted are looked for
MISTRUSTED = 0.2  # of the pool
DOUBT = 4.0  # by which a squared distance from a mistrusted row counts: it stands twice as far as it is
NEIGHBOURS, CANDIDATES = 5, 16  # of a row: the nearest, and those that have a weight in denoising
LAST = 1e-3  # of its weight, that the farthest candidate keeps
SAMPLE, PART = 128, 0.1  # of the remembered rows, and of this sample the nearest
STRAY = 4.0  # robust spreads above the median, from which a distance from many is a stray's
ROBUST = 1.4826  # of the median absolute deviation: the spread of normal numbers
GROUPS, GROUP = 32, 16
CLIPPED = (0.02, 0.98)  # quantiles of energies beyond which their spread is not measured
LEAST_SPREAD = 1e-3
BY_HEART = 3.0  # spreads between rows of the fit and others, from which a model has learned rows by heart
PRIOR_LABELS = 5  # known anomalies that weigh as much as knowing of none
NOWHERE = 1e9  # a squared distance
TINY = 1e-12  # an energy that is none
SAME = 1e-6  # of an energy, by which two may differ and be equal
FLOOR = 1e-3  # of a usual energy: below it roots would tell rounding errors apart
CHUNK = 2048


def scale_of(layout: Layout, rows: Rows) -> Tensor:
    """Scale of each feature, (width,), on which two rows differ by one category as by one number, on average.

    Indicators of levels with frequencies p are stretched by 1 / sqrt(1 - sum p^2).
    """
    features = layout.measure(rows)
    alike = layout.sum_by_cell((features.double().mean(0) ** 2)[None])[0, layout.n_numbers :]
    stretch = squash((1 - alike).clamp(min=1e-6).rsqrt().float())
    ones = torch.ones(layout.n_numbers, device=stretch.device)
    return layout.spread(torch.cat([ones, stretch])[None])[0]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Between rows of x (n, k) and of y (m, k), shape (n, m)."""
    return add_up(x * x)[:, None] + add_up(y * y) - 2 * (x @ y.T)


def trusted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Which of these rows, (n, k), may vouch for others, (n,) bool.

    A few anomalies that resemble each other vouch for each other. They are far from most rows and yet near
    some: their place by the distance to sparse random groups of rows (Sugiyama and Borgwardt, "Rapid
    distance-based outlier detection via sampling", NeurIPS 2013) is worse than by that to their nearest
    neighbours. The fifth of the rows of which this is most so is not trusted: where data are clean, these are
    usual rows of small groups, so that they are doubted and not forgotten.
    """
    n = len(x)
    if n < 2 * GROUP:
        return torch.ones(n, dtype=torch.bool, device=x.device)
    groups = torch.stack(
        [torch.randperm(n, generator=generator, device=x.device)[:GROUP] for _ in range(GROUPS)]
    )
    near, far = torch.empty(n, device=x.device), torch.empty(n, device=x.device)
    for part in torch.arange(n, device=x.device).split(CHUNK):
        distance = squared_distances(x[part], x).clamp(min=0).sqrt()
        distance[torch.arange(len(part)), part] = torch.inf  # no row vouches for itself
        near[part] = distance.topk(NEIGHBOURS, largest=False)[0].mean(1)
        nearest = distance[:, groups].topk(3, largest=False)[0].mean(2)
        far[part] = (nearest + 1e-3).log().mean(1)
    worse = _normal_ranks(far) - _normal_ranks(near)
    return worse <= worse.quantile(1 - MISTRUSTED)


def _normal_ranks(values: Tensor) -> Tensor:
    rank = values.argsort().argsort().double()
    return torch.special.ndtri((rank + 0.5) / len(values))


class Memory(nn.Module):
    """The exact denoiser of remembered rows.

    Parameters
    ----------
    layout : Layout
    scale : Tensor of shape (width,)
        Of the features.
    rows : Tensor of shape (m, width)
        Remembered features, scaled.
    count : Tensor of shape (m,)
        How many fitted rows each stands for.
    doubt : Tensor of shape (m,)
        By how much squared distances from each are multiplied: 1 for a row that is trusted.
    anomalies : Tensor of shape (a, width)
        Features of rows that are known to be anomalies, scaled; there may be none.
    patches : sequence of Patches
        Of the rows, where they are images, at each scale.
    """

    scale: Tensor
    rows: Tensor
    count: Tensor
    doubt: Tensor
    anomalies: Tensor
    weight: Tensor
    weight_without: Tensor
    from_each: Tensor

    def __init__(
        self,
        layout: Layout,
        scale: Tensor,
        rows: Tensor,
        count: Tensor,
        doubt: Tensor,
        anomalies: Tensor,
        patches: Sequence[Patches] = (),
    ) -> None:
        super().__init__()
        self.layout = layout
        self.patches = nn.ModuleList(patches)
        tensors = {"scale": scale, "rows": rows, "count": count, "doubt": doubt, "anomalies": anomalies}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        # Log-weights of each remembered row: as it stands, and for a row that it may itself stand for.
        self.register_buffer("weight", count.log(), persistent=False)
        self.register_buffer("weight_without", (count - 1).log().clamp(min=-1e9), persistent=False)
        # (x, 1, |x|^2) @ from_each are squared distances, doubted. No linear layer: int8 would round what are
        # small differences of large numbers.
        one = torch.ones_like(rows[:, :1])
        from_each = torch.cat([-2 * rows, (rows * rows).sum(1, keepdim=True), one], 1) * doubt[:, None]
        self.register_buffer("from_each", from_each.T.contiguous(), persistent=False)

    @classmethod
    def learn(
        cls, layout: Layout, rows: Rows, anomalies: Rows, size: int, generator: torch.Generator
    ) -> Memory:
        """Remember up to `size` of the rows, which come in random order, and of the known anomalies."""
        scale = scale_of(layout, rows)
        known = (layout.measure(anomalies) * scale)[:size]
        x = layout.measure(rows) * scale
        doubt = torch.where(trusted(x, generator), 1.0, DOUBT)
        first, count = (part[:size] for part in _leaders(x).unique(return_counts=True))
        images = x[doubt == 1][:size, : layout.n_numbers]
        patches = [Patches.learn(layout.shape, k, images, size, generator) for k in scales(layout)]
        return cls(layout, scale, x[first], count.float(), doubt[first], known, patches)

    def place(self, rows: Rows) -> Tensor:
        """Where rows stand, (n, width)."""
        return self.layout.measure(rows) * self.scale

    def draw(self, n: int, generator: torch.Generator) -> Rows:
        """Draw rows of the blurred distribution."""
        i = torch.randint(len(self.rows), (n,), generator=generator, device=self.rows.device)
        noise = torch.randn(n, self.rows.shape[1], generator=generator, device=self.rows.device)
        return self.layout.unmeasure((self.rows[i] + SIGMA * noise) / self.scale)

    def energies(self, rows: Rows) -> list[Tensor]:
        """Tell how odd each cell is, in two ways, (n, n_cells), and in one more where anomalies are known.

        How far denoising moves it, squared; and how far it is, in the mean square, from the nearest
        remembered rows, which estimates the diffusion time at which the row would be usual (Livernoche, Jain,
        Hezaveh and Ravanbakhsh, "On diffusion modeling for anomaly detection", ICLR 2024, arXiv 2305.18593).
        The last is the distance from the nearest as a share of that from the nearest known anomaly. Images
        have one more for each scale of their patches.
        """
        x = self.place(rows)
        # One product and one selection over all that is remembered; the rest is done with the few selected.
        index = _doubted(x, self.from_each).topk(min(CANDIDATES, len(self.rows)), largest=False)[1]
        gap = x[:, None] - self.rows[index]
        square = gap**2  # of which distances are exact, as differences of large numbers are not
        distance, weight = self._weighed(add_up(square), self.weight[index], self.weight_without[index])
        doubt = self.doubt[index]
        distance = distance * doubt
        moved = _mixed(_denoised(distance, weight) * doubt.sqrt(), gap) ** 2
        near = _mixed(_nearest(distance, weight, NEIGHBOURS) * doubt, square)
        found = [self._cells(part, rows.present) for part in (moved, near)]
        for patches in cast(Iterable[Patches], self.patches):
            found.append(nn.functional.pad(patches.energies(rows), (0, self.layout.n_categories)))
        if len(self.anomalies):
            known = squared_distances(x, self.anomalies)
            known = torch.where(known > BLIND**2, known, NOWHERE).amin(1, keepdim=True)
            found.append(self._cells(near, rows.present) / (known + SIGMA**2))
        return found

    def afar(self, rows: Rows) -> Tensor:
        """Mean square distance from the nearest tenth of a sample of what is remembered, (n,).

        Anomalies that are alike are near each other, and yet not near so many.
        """
        x = self.place(rows)
        doubt = self.doubt[:SAMPLE]
        distance = _doubted(x, self.from_each[:, :SAMPLE]) / doubt
        distance, weight = self._weighed(distance, self.weight[:SAMPLE], self.weight_without[:SAMPLE])
        distance = distance * doubt
        share = _nearest(distance, weight, max(round(PART * distance.shape[1]), 1))
        return add_up(share * distance)

    @staticmethod
    def _weighed(distance: Tensor, weight: Tensor, weight_without: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances, not below 0, and which log-weight counts at each."""
        distance = distance.clamp(min=0)
        return distance, torch.where(distance > BLIND**2, weight, weight_without)

    def _cells(self, features: Tensor, present: Tensor) -> Tensor:
        cells = self.layout.sum_by_cell(features)
        d = self.layout.n_numbers
        return torch.cat([cells[:, :d] * present, cells[:, d:]], 1)


def strays(energy: Tensor, among: Tensor | None = None) -> Tensor:
    """Which rows have an energy, (n,), far above the median of the fourth roots, (n,) bool.

    The median is that of these rows, or of those that they are `among`.

    Hampel's identifier (Davies and Gather, "The identification of multiple outliers", Journal of the American
    Statistical Association 88, 1993): up to half of the rows may be odd without hiding each other.
    """
    root, usual = (e.double().sqrt().sqrt() for e in (energy, energy if among is None else among))
    middle = usual.median()
    spread = ROBUST * (usual - middle).abs().median()
    # Where most rows are alike there is no scale to tell by.
    return (root - middle > STRAY * spread) & (spread > LEAST_SPREAD * middle)


def _doubted(x: Tensor, from_each: Tensor) -> Tensor:
    """Squared distances, (n, m), as far as they are known: large numbers have been subtracted."""
    return torch.cat([x, torch.ones_like(x[:, :1]), add_up(x * x)[:, None]], 1) @ from_each


def _denoised(distance: Tensor, weight: Tensor) -> Tensor:
    """Shares of candidates, (n, m), in the mean that denoises: that of the farthest is next to none.

    Which of several that are equally far is the last candidate is for rounding to say.
    """
    logit = weight - distance / (2 * SIGMA**2)
    of_last = weight - distance.amax(1, keepdim=True) / (2 * SIGMA**2)
    most = logit.amax(1, keepdim=True)
    # Weights below exp(-60) are none; products with numbers that small are slow.
    share, last = ((part - most).clamp(min=-60).exp() for part in (logit, of_last))
    share = share - (1 - LAST) * last
    return share / add_up(share)[:, None]


def _nearest(distance: Tensor, weight: Tensor, k: int) -> Tensor:
    """Equal shares of the k nearest, (n, m); a row's own copy that stands for no other is the farthest.

    Those that are tied for the last places share them: where rounding tells ties apart, the mean stays.
    """
    reached = distance - weight.clamp(max=0)
    k = min(k, reached.shape[1])
    last = reached.topk(k, largest=False)[0][:, -1:]
    nearer, tied = (reached < last).float(), (reached == last).float()
    left = (k - add_up(nearer)) / add_up(tied)
    return (nearer + tied * left[:, None]) / k


def _mixed(share: Tensor, features: Tensor) -> Tensor:
    """Candidates' features, (n, m, width), added up by their shares, (n, m).

    No batched product: with AVX-512 MKL's goes by where in memory a row's begins, and the last bit would tell
    its place in the batch.
    """
    return (share[..., None] * features).sum(1)


def _leaders(x: Tensor) -> Tensor:
    """For each row the first row that stands for it: one nearer than `BLIND`, or itself; shape (n,)."""
    leader = torch.arange(len(x), device=x.device)
    close = torch.cat([squared_distances(part, x) <= BLIND**2 for part in x.split(CHUNK)])
    close.fill_diagonal_(False)
    free = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for i in close.any(1).nonzero()[:, 0].tolist():
        if free[i]:
            led = close[i] & free
            led[: i + 1] = False
            leader[led] = i
            free[led] = False
    return leader


class Blend(nn.Module):
    """Several energies of a row as one: a mean of their fourth roots, 1 for a usual row.

    Fourth roots of sums of squares are nearly normal whatever the number of columns (as the cube roots of
    Wilson and Hilferty, 1931; square roots are rounded alike everywhere), so that no far tail of one energy
    drowns the others.

    Parameters
    ----------
    usual : Tensor of shape (k,), float64
        Of each energy.
    weight : Tensor of shape (k,), float64
        They add up to 1.
    """

    usual: Tensor
    weight: Tensor

    def __init__(self, usual: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("usual", usual)
        self.register_buffer("weight", weight)

    @classmethod
    def learn(
        cls,
        fitted: Sequence[Tensor],
        unseen: Sequence[Tensor],
        anomalies: Sequence[Tensor],
        forged: Sequence[Tensor],
    ) -> Blend:
        """Choose the weights.

        Energies are brought to one spread, so that each has one vote. A model that explains the rows it was
        fitted on better than others has learned them by heart, and loses its say: by 1 / (1 + (gap / 2)^4),
        for a gap in units of the spread. Known anomalies move the votes by how well each energy tells them
        from rows not seen, the more the more they are; they alone give likeness to them a vote. So do forged
        ones, where the kind of data can be forged.

        Parameters
        ----------
        fitted, unseen, anomalies, forged : sequence of Tensor of shape (n,), float64
            Each energy of rows of the fit, of rows that it has not seen, of known anomalies and of forged
            ones; there may be none of these three.
        """
        usual, weight = [], []
        told = zip(fitted, unseen, anomalies, forged, strict=True)
        for k, (energy, other, odd, made) in enumerate(told):
            middle = energy.median().clamp(min=TINY)
            root, root_unseen = (e / middle * _slope(e / middle) for e in (energy, other))
            low, high = root.quantile(torch.tensor(CLIPPED, dtype=root.dtype, device=root.device))
            spread = root.clamp(low, high).std(correction=0).clamp(min=LEAST_SPREAD)
            gap = (root_unseen.median() - root.median()).clamp(min=0) / spread if len(other) else spread * 0
            vote = 1 / (1 + (gap / BY_HEART) ** 4)
            if len(made):
                tells = _gini(made, other if len(other) else energy) ** 2
                vote = vote * (PRIOR_LABELS + len(made) * tells) / (PRIOR_LABELS + len(made))
            if len(odd):
                alike = len(fitted) - 1  # likeness to known anomalies is told last
                tells = _gini(odd, other if len(other) else energy) ** 2
                vote = vote * ((k < alike) * PRIOR_LABELS + len(odd) * tells) / (PRIOR_LABELS + len(odd))
            usual.append(middle)
            weight.append(vote / spread)
        total = torch.stack(weight)
        return cls(torch.stack(usual), total / total.sum())

    def forward(self, *cells: Tensor) -> Tensor:
        """Blend energies told cell by cell, k of shape (n, n_cells), to cells that add up to the blend."""
        parts = []
        for energy, usual, weight in zip(cells, self.usual, self.weight, strict=True):
            part = energy.double() / usual
            total = add_up(part)[:, None]
            parts.append(part * (weight * _slope(total)))
        return sum(parts[1:], parts[0])


def _gini(odd: Tensor, usual: Tensor) -> Tensor:
    """2 AUROC - 1 of telling odd from usual by what is higher, not below 0; rounding tells nothing."""
    higher, lower = (odd[:, None] > usual * end for end in (1 + SAME, 1 - SAME))
    above = (higher.double() + lower.double()) / 2
    return (2 * above.mean() - 1).clamp(min=0)


def _slope(energy: Tensor) -> Tensor:
    """What an energy, of which 1 is usual, is multiplied by to become its fourth root."""
    return (energy + FLOOR).sqrt().sqrt() / (energy + FLOOR)
