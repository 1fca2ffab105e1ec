"""Generators of other projects as the judge of `generation.py` wants them: fit(frame), generate(n).

They run in build/generators, an environment of their own. All are told which columns are categories, which
ours find out. Numbers that are missing are a category beside the column, whose holes the median fills, and
missing categories a level, as SDV's transformers have them; numbers come back with as many decimals as in the
table, as SDV's do. What else a peer needs is said at its class. Parameters are the defaults of its authors
where nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

MISSING = "(missing)"


class Peer:
    """What all peers share: a frame without holes, in floats and text.

    Parameters
    ----------
    categorical : sequence of str
        Columns that are categories.
    target : str, optional
        The column that a peer which generates class by class goes by.
    """

    seed = 0

    def __init__(self, categorical: Sequence[str], target: str | None = None) -> None:
        self.categorical, self.target = list(categorical), target

    def fit(self, frame: pd.DataFrame) -> Self:
        self.numbers = [name for name in frame if name not in self.categorical]
        self.holes = [name for name in self.numbers if frame[name].isna().any()]
        self.decimals = {name: _decimals(frame[name].dropna().to_numpy(float)) for name in self.numbers}
        # Text for the peer, the values themselves afterwards.
        self.levels = {
            name: {str(value): value for value in frame[name].dropna().unique()} for name in self.categorical
        }
        plain = pd.DataFrame(index=frame.index)
        for name in frame:
            if name in self.numbers:
                plain[name] = frame[name].astype(float).fillna(frame[name].median())
            else:
                plain[name] = frame[name].map(str, na_action="ignore").astype(object).fillna(MISSING)
        for name in self.holes:
            plain[_hole(name)] = np.where(frame[name].isna(), MISSING, "known")
        self.columns = list(frame)
        self.discrete = [*self.categorical, *map(_hole, self.holes)]
        self._fit(plain)
        return self

    def generate(self, n: int) -> pd.DataFrame:
        plain = self._generate(n).reset_index(drop=True)
        frame = pd.DataFrame(index=plain.index)
        for name in self.columns:
            if name in self.categorical:
                frame[name] = plain[name].map(self.levels[name])
                continue
            values = plain[name].astype(float)
            if self.decimals[name] is not None:
                values = values.round(self.decimals[name]) + 0.0  # no -0
            frame[name] = values.mask(plain[_hole(name)] == MISSING) if name in self.holes else values
        return frame

    def _fit(self, plain: pd.DataFrame) -> None:
        raise NotImplementedError

    def _generate(self, n: int) -> pd.DataFrame:
        raise NotImplementedError


class CTGAN(Peer):
    """Xu, Skoularidou, Cuesta-Infante and Veeramachaneni, NeurIPS 2019 (ctgan); 300 epochs."""

    network = "CTGAN"

    def _fit(self, plain: pd.DataFrame) -> None:
        import ctgan
        import torch

        torch.manual_seed(self.seed)  # noqa: TID251 - ctgan draws from it, and from numpy's
        torch.set_num_threads(1)
        seed_numpy(self.seed)
        self.model = getattr(ctgan, self.network)(enable_gpu=False)
        self.model.fit(plain, self.discrete)

    def _generate(self, n: int) -> pd.DataFrame:
        return self.model.sample(n)


class TVAE(CTGAN):
    """The variational autoencoder of the same paper and package; 300 epochs."""

    network = "TVAE"


class GaussianCopula(Peer):
    """A Gaussian copula of beta marginals (copulas, rdt), put together as SDV's GaussianCopulaSynthesizer is.

    Patki, Wedge and Veeramachaneni, "The synthetic data vault", DSAA 2016. Categories are spread evenly over
    intervals of [0, 1]; numbers stay between their least and greatest value.
    """

    def _fit(self, plain: pd.DataFrame) -> None:
        from copulas.multivariate import GaussianMultivariate
        from copulas.univariate import BetaUnivariate
        from rdt.transformers import UniformEncoder

        seed_numpy(self.seed)
        self.range = {name: (plain[name].min(), plain[name].max()) for name in self.numbers}
        self.encoders, coded = {}, plain.copy()
        for name in self.discrete:
            self.encoders[name] = UniformEncoder()
            coded[name] = self.encoders[name].fit_transform(plain[[name]], name)[name].astype(float)
        self.model = GaussianMultivariate(distribution=BetaUnivariate, random_state=self.seed)
        self.model.fit(coded)

    def _generate(self, n: int) -> pd.DataFrame:
        plain = self.model.sample(n)
        for name, (low, high) in self.range.items():
            plain[name] = plain[name].clip(low, high)
        for name, encoder in self.encoders.items():
            plain[name] = encoder.reverse_transform(plain[[name]].clip(0, 1))[name]
        return plain


class SMOTENC(Peer):
    """Points between a row and one of its 5 nearest of the same class (imbalanced-learn).

    Chawla, Bowyer, Hall and Kegelmeyer, JAIR 16, 2002. It oversamples classes; as a generator it makes of
    each class as many rows as its share asks for, and the rows it started from are left out (Kotelnikov,
    Baranchuk, Rubachev and Babenko, "TabDDPM", ICML 2023, whose baseline TabSyn's benchmark has too). All
    its rows lie close to training rows: read it with dcr_share.
    """

    def _fit(self, plain: pd.DataFrame) -> None:
        self.plain = plain

    def _generate(self, n: int) -> pd.DataFrame:
        from imblearn.over_sampling import SMOTE, SMOTEN, SMOTENC

        X, y = self.plain.drop(columns=self.target), self.plain[self.target]
        categories = [name for name in self.discrete if name != self.target]
        counts = y.value_counts()
        goal = np.diff(np.floor(np.r_[0, counts.cumsum()] * n / len(y) + 1e-9)).astype(int)
        strategy = {level: count + new for (level, count), new in zip(counts.items(), goal, strict=True)}
        if not categories:
            sampler = SMOTE(sampling_strategy=strategy, random_state=self.seed)
        elif len(categories) == X.shape[1]:
            sampler = SMOTEN(sampling_strategy=strategy, random_state=self.seed)
        else:
            sampler = SMOTENC(categories, sampling_strategy=strategy, random_state=self.seed)
        rows, target = sampler.fit_resample(X, y)
        made = rows.assign(**{self.target: target}).iloc[len(X) :]
        return made.sample(frac=1, random_state=self.seed)


class ForestDiffusion(Peer):
    """Flow matching by boosted trees (ForestDiffusion), rows of each class by trees of their own.

    Jolicoeur-Martineau, Fatras and Kachman, AISTATS 2024. Each row is repeated 10 times, not 100, and there
    are 20 noise levels, not 50: the authors ask for as many as time and memory have room for.
    """

    def _fit(self, plain: pd.DataFrame) -> None:
        from ForestDiffusion import ForestDiffusionModel

        seed_numpy(self.seed)
        by_class = self.target in self.categorical
        self.order = [name for name in plain if not (by_class and name == self.target)]
        self.codes = {name: sorted(plain[name].unique()) for name in self.discrete}
        coded = plain.copy()
        for name, levels in self.codes.items():
            coded[name] = pd.Categorical(plain[name], categories=levels).codes.astype(float)
        sizes = {name: len(self.codes[name]) for name in self.order if name in self.codes}

        class Writable(ForestDiffusionModel):  # pandas 3 gives it views that are read-only
            def clip_extremes(self, X: Any) -> Any:
                return super().clip_extremes(np.array(X))

        self.model = Writable(
            coded[self.order].to_numpy(float),
            label_y=coded[self.target].to_numpy() if by_class else None,
            duplicate_K=10,
            n_t=20,
            bin_indexes=[self.order.index(name) for name, size in sizes.items() if size == 2],
            cat_indexes=[self.order.index(name) for name, size in sizes.items() if size > 2],
            int_indexes=[i for i, name in enumerate(self.order) if self.decimals.get(name) == 0],
            diffusion_type="flow",
            n_jobs=1,
            seed=self.seed,
        )

    def _generate(self, n: int) -> pd.DataFrame:
        made = pd.DataFrame(self.model.generate(batch_size=n))
        made.columns = [*self.order, *([self.target] if len(made.columns) > len(self.order) else [])]
        for name, levels in self.codes.items():
            code = made[name].astype(float).round().clip(0, len(levels) - 1).astype(int)
            made[name] = np.array(levels, object)[code]
        return made


def seed_numpy(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002 - peers draw from it


def _hole(name: str) -> str:
    return f"{name} {MISSING}"


def _decimals(values: np.ndarray[Any, Any]) -> int | None:
    """How many decimals values have; None where more than 6."""
    return next((k for k in range(7) if np.array_equal(values.round(k), values)), None)
