"""What may be added to a training table, and how it is made from the rows of one fold.

References
----------
L. Breiman, N. Shang. Born again trees. Technical report, University of California, Berkeley, 1996, and
P. Domingos. Knowledge acquisition from examples via multiple models. ICML 1997 (new rows labelled by a
committee, and one model fitted to them).
C. Bucila, R. Caruana, A. Niculescu-Mizil. Model compression. KDD 2006 (rows generated for it). Here the
committee's probabilities are weights, and the real rows stay.
N. Chawla, K. Bowyer, L. Hall, W. Kegelmeyer. SMOTE: Synthetic minority over-sampling technique. Journal of
Artificial Intelligence Research 16, 2002.
C. Meng, Y. He, Y. Song, J. Song, J. Wu, J. Zhu, S. Ermon. SDEdit: Guided image synthesis and editing with
stochastic differential equations. ICLR 2022 (rows and images led into noise and drawn anew from there).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from lookalike import noise
from lookalike.ensemble import unseeded
from lookalike.errors import LookalikeWarning
from lookalike.frames import open_frame
from lookalike.schema import Schema, Table
from lookalike.streaming import joined, taken

COMMITTEE = 10  # members, each fitted to a bootstrap of the rows
MOST_GENERATED = 50_000  # rows of all classes that a candidate adds
LEAST_SHARE = 0.005  # of a label that the committee holds possible; less is left out
NEIGHBOURS = 5  # of SMOTE
TARGET = "lookalike_target"  # the column beside the others that a generator sees

Floats = NDArray[np.float64]
Array = NDArray[Any]


# ---- rows to learn from ------------------------------------------------------------------------------------


class Target(NamedTuple):
    """What to predict: codes of `labels`, int64, or where these are None numbers, float64; shape (n,)."""

    y: Array
    labels: Array | None

    def told(self, y: Array) -> Array:
        """Codes or numbers as an estimator is given them."""
        return y if self.labels is None else self.labels[y]


class Made(NamedTuple):
    """Training rows: a table, what to predict, (n,), and how often each row counts, (n,)."""

    X: Any
    y: Array
    weight: Floats

    def repeated(self, u: float) -> Made:
        """Repeat rows as often as they count, rounded so that any run of rows keeps its total."""
        times = np.diff(np.floor(np.cumsum(self.weight) + u), prepend=0).astype(np.int64)
        index = np.repeat(np.arange(len(times)), times)
        return Made(taken(self.X, index), self.y[index], np.ones(len(index)))


class Training:
    """The rows of one fold, and what candidates make of them, each made once and when it is asked for.

    Parameters
    ----------
    X : table of n rows
    target : Target
        Of these rows.
    generator, estimator : estimators, not fitted
    seed : int
    """

    def __init__(self, X: Any, target: Target, generator: Any, estimator: Any, seed: int) -> None:
        self.X, self.target, self.seed = X, target, seed
        self._generator, self._estimator = generator, estimator

    @property
    def real(self) -> Made:
        """The rows as they are."""
        return Made(self.X, self.target.y, np.ones(len(self.target.y)))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each class."""
        assert self.target.labels is not None
        return np.bincount(self.target.y, minlength=len(self.target.labels))

    @cached_property
    def generator(self) -> Any:
        """Fitted to the rows and, as one more column, what to predict; codes as text, to be levels."""
        return learned(self._generator, _with_column(self.X, self._told(self.target.y)), self.seed)

    def _told(self, y: Array) -> Array:
        return y if self.target.labels is None else y.astype(str).astype(object)

    def draw(self, n: int, code: int | None = None) -> tuple[Any, Array]:
        """Generate n rows, of one class if it is given, as a table like X and what to predict."""
        given = None if code is None else {TARGET: str(code)}
        # Another seed for each class: their rows would otherwise be alike.
        seed = (self.seed + 1 + (0 if code is None else code + 1)) % 2**64
        rows, y = _without_column(self.generator.generate(n, given=given, random_state=seed), self.X)
        return rows, np.asarray(y).astype(self.target.y.dtype)

    def with_more(self, counts: Mapping[int, int]) -> Made:
        """The rows, and below them as many generated ones of each class, by its code, as are asked for."""
        return _added(self.real, [self.draw(n, code) for code, n in counts.items() if n > 0])

    def vary(self, n: int, strength: float) -> tuple[Any, Array]:
        """Make n variations of the rows in turn, a table like X and what to predict, which stays."""
        if not hasattr(self.generator, "vary"):
            raise ValueError(
                f"{self.generator!r} has no vary, as la.Diffusion and la.Hybrid have. Pass one as generator, "
                "or leave Varied out of the candidates."
            )
        index = np.arange(n) % len(self.target.y)
        y = self.target.y[index]
        rows = _with_column(taken(self.X, index), self._told(y))
        seed = (self.seed + 1) % 2**64
        return _without_column(self.generator.vary(rows, strength, random_state=seed), self.X)[0], y

    @cached_property
    def committee(self) -> list[Any]:
        """The estimator fitted to bootstraps of the rows, of each class as many as there are."""
        y, of_class = self.target.y, np.zeros(len(self.target.y), np.int64)
        if self.target.labels is not None:
            of_class = y
        members = []
        for k in range(COMMITTEE):
            u = noise.uniforms((self.seed + k) % 2**64, 0, len(y), 1)[:, 0]
            index = np.empty(len(y), np.int64)
            for code in np.unique(of_class):
                own = np.flatnonzero(of_class == code)
                index[own] = own[(u[own] * len(own)).astype(np.int64)]
            model = seeded(clone(self._estimator), self.seed + k)
            members.append(model.fit(taken(self.X, index), self.target.told(y[index])))
        return members

    def label(self, X: Any) -> Made:
        """Rows with the committee's mean of numbers, or once for each class that it holds possible."""
        if self.target.labels is None:
            mean = np.mean([member.predict(X) for member in self.committee], axis=0)
            return Made(X, mean, np.ones(len(mean)))
        p = np.mean([self._probability(member, X) for member in self.committee], axis=0)
        p = np.where(p < LEAST_SHARE, 0, p)
        p /= p.sum(1, keepdims=True)
        # By rising probability: where weights become repeats, as many rows of any certainty as it says.
        order = np.argsort(p, axis=0, kind="stable").T.ravel()
        codes = np.repeat(np.arange(p.shape[1]), len(p))
        weight = p[order, codes]
        some = weight > 0
        return Made(taken(X, order[some]), codes[some], weight[some])

    def _probability(self, member: Any, X: Any) -> Floats:
        """Of each class, (n, n_classes); what only predicts is certain."""
        labels = self.target.labels
        if hasattr(member, "predict_proba"):
            return np.asarray(member.predict_proba(X), np.float64)
        return np.asarray(np.asarray(member.predict(X))[:, None] == labels, np.float64)


def _with_column(X: Any, y: Array) -> Any:
    """The table with one more column; an array becomes a dict of columns, of which images are one."""
    if isinstance(X, np.ndarray):
        return {**dict(zip(open_frame(X).names, [X] if X.ndim > 2 else X.T, strict=True)), TARGET: y}
    frame = nw.from_native(X, eager_only=True)
    return frame.with_columns(nw.new_series(TARGET, y.tolist(), backend=frame.implementation)).to_native()


def _without_column(rows: Any, like: Any) -> tuple[Any, Any]:
    """What `_with_column` put together, apart again."""
    if isinstance(like, np.ndarray):
        columns = [np.asarray(rows[name]) for name in open_frame(like).names]
        table = columns[0] if like.ndim > 2 else np.column_stack(columns)
        return table.astype(like.dtype), rows[TARGET]
    frame = nw.from_native(rows, eager_only=True)
    return frame.drop(TARGET).to_native(), frame[TARGET].to_numpy()


def seeded(estimator: Any, seed: int) -> Any:
    """The estimator with a seed wherever it, or a part of it, has none of its own."""
    return estimator.set_params(**dict.fromkeys(unseeded(estimator), seed % 2**32))


def learned(generator: Any, X: Any, seed: int) -> Any:
    """A clone of the generator, seeded and fitted."""
    with warnings.catch_warnings():
        # It warns of too few rows to calibrate scores by, and nothing is scored here.
        warnings.simplefilter("ignore", LookalikeWarning)
        return seeded(clone(generator), seed).fit(X)


# ---- candidates --------------------------------------------------------------------------------------------


class Candidate:
    """A way to make training rows."""

    classes_only: ClassVar[bool] = True
    # The gain expected before anything is seen, mean and spread, as a share of the score of real rows alone.
    prior: ClassVar[tuple[float, float]] = 0.0, 0.05

    def make(self, training: Training) -> Made:
        """Make rows to fit to."""
        raise NotImplementedError


@dataclass(frozen=True)
class Nothing(Candidate):
    """The real rows alone."""

    classes_only: ClassVar[bool] = False

    def __str__(self) -> str:
        return "real rows alone"

    def make(self, training: Training) -> Made:
        """Make no change."""
        return training.real


@dataclass(frozen=True)
class ClassWeights(Candidate):
    """Each class as heavy as the largest."""

    def __str__(self) -> str:
        return "class weights"

    def make(self, training: Training) -> Made:
        """Weigh rows."""
        counts = training.counts
        return training.real._replace(weight=counts.max() / counts[training.target.y])


@dataclass(frozen=True)
class Rare(Candidate):
    """Generated rows of each class that has fewer than `ratio` times as many as the largest."""

    ratio: float

    def __str__(self) -> str:
        return f"generated rows of rare classes, to {self.ratio:g} of the largest"

    def make(self, training: Training) -> Made:
        """Add rows, given their class."""
        missing = np.ceil(self.ratio * training.counts.max() - training.counts).astype(np.int64)
        return training.with_more(dict(enumerate(missing.tolist())))


@dataclass(frozen=True)
class Rows(Candidate):
    """Generated rows, `times` as many as real ones, with what is to be predicted generated too."""

    times: float
    classes_only: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"generated rows x{self.times:g}"

    def make(self, training: Training) -> Made:
        """Add rows."""
        return _added(training.real, [training.draw(_n_added(training, self.times))])


@dataclass(frozen=True)
class Varied(Candidate):
    """Variations of the real rows, `times` as many, with their labels: see `vary` of `la.Diffusion`.

    `strength` in (0, 1] is how much of a row is lost in noise and drawn anew.
    """

    times: float
    strength: float

    def __str__(self) -> str:
        return f"rows varied by {self.strength:g}, x{self.times:g}"

    def make(self, training: Training) -> Made:
        """Add variations."""
        return _added(training.real, [training.vary(_n_added(training, self.times), self.strength)])


@dataclass(frozen=True)
class Taught(Candidate):
    """Generated rows, `times` as many as real ones, labelled by a committee of the user's own estimator.

    With ``generated=False`` the committee labels the real rows once more: what it is worth without a
    generator.
    """

    times: float
    generated: bool = True
    classes_only: ClassVar[bool] = False
    prior: ClassVar[tuple[float, float]] = 0.02, 0.02

    def __str__(self) -> str:
        return f"{'generated' if self.generated else 'real'} rows x{self.times:g} labelled by a committee"

    def make(self, training: Training) -> Made:
        """Add rows, with a committee's labels."""
        n, real = _n_added(training, self.times), training.real
        rows = training.draw(n)[0] if self.generated else taken(real.X, np.arange(n) % len(real.y))
        made = training.label(rows)
        y, weight = np.concatenate([real.y, made.y]), np.concatenate([real.weight, made.weight])
        return Made(joined([real.X, made.X]), y, weight)


@dataclass(frozen=True)
class Smote(Candidate):
    """imbalanced-learn's SMOTENC, or SMOTE or SMOTEN where columns are of one sort; medians where missing."""

    def __str__(self) -> str:
        return "SMOTENC"

    def make(self, training: Training) -> Made:
        """Add rows between neighbours of one class."""
        from imblearn.over_sampling import SMOTE, SMOTEN, SMOTENC

        schema = Schema.fit(training.X)
        table = schema.encode(training.X)
        middle = [float(np.nanmedian(column)) for column in table.numbers.T]
        x = np.column_stack([np.where(np.isnan(table.numbers), middle, table.numbers), table.ids])
        n_numbers = table.numbers.shape[1]
        present = training.counts[training.counts > 0]
        options = {
            "random_state": training.seed % 2**32,
            "k_neighbors": int(min(NEIGHBOURS, present.min() - 1)),
        }
        if not options["k_neighbors"]:
            return training.real  # a class of one row has no neighbours
        if n_numbers in (0, x.shape[1]):
            sampler = (SMOTE if n_numbers else SMOTEN)(**options)
        else:
            sampler = SMOTENC(list(range(n_numbers, x.shape[1])), **options)
        x, y = sampler.fit_resample(x, training.target.y)
        new = slice(len(table), None)
        rows = Table(x[new, :n_numbers], x[new, n_numbers:].astype(np.int64))
        return _added(training.real, [(schema.decode(rows, seed=training.seed), y[new])])


def _n_added(training: Training, times: float) -> int:
    return min(math.ceil(times * len(training.target.y)), MOST_GENERATED)


def _added(real: Made, parts: Sequence[tuple[Any, Array]]) -> Made:
    parts = [part for part in parts if len(part[1])]
    y = np.concatenate([real.y, *(y for _, y in parts)])
    return Made(joined([real.X, *(rows for rows, _ in parts)]), y, np.ones(len(y)))


CANDIDATES: tuple[Candidate, ...] = (
    ClassWeights(),
    Rare(1),
    Taught(1),
    Taught(4),
    Taught(2, generated=False),
    Smote(),
)
"""By default; those for classes alone are left out where numbers are predicted."""

OF_IMAGES: tuple[Candidate, ...] = (Rare(2), Varied(2, 0.5))
"""By default for images, which a classifier moves, lights and cuts in any case."""
