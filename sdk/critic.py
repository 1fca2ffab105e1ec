"""A critic that tells real rows from generated ones, by whose odds generated rows are chosen from a pool.

The odds that a row is real rather than generated are the ratio of the two densities, where rows of both kinds
are as many (Azadi, Olsson, Darrell, Goodfellow and Odena, "Discriminator rejection sampling", ICLR 2019,
arXiv 1810.06758). Rows are chosen in proportion to them (`lookalike.raking`). Critics follow one another:
each learns what those before it left (Grover and Ermon, "Boosted generative models", AAAI 2018,
arXiv 1702.08484).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

# scikit-learn's own record of a tree and the loop that runs it: there is no public way to a file but pickle.
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

from lookalike.schema import Table
from lookalike.vetting import require

Floats = NDArray[np.float64]

FOLDS = 4
LEARNING_RATE = 0.2
MOST_TREES, PATIENCE = 800, 10
WATCHED = 0.15  # of the rows, by which a fold stops
CLIP = -6.0, 2.3  # of log-odds: no row counts for more than ten
NO_CATEGORIES = np.zeros((0, 8), np.uint32)
FIELDS = {
    "feature_idx": np.int32,
    "num_threshold": np.float64,
    "left": np.uint32,
    "right": np.uint32,
    "value": np.float64,
    "missing_go_to_left": np.uint8,
    "is_leaf": np.uint8,
}
"""Of a node: what a prediction takes."""


def features(table: Table) -> Floats:
    """What the critic sees of rows: numbers, and levels by falling frequency; shape (n, n_features)."""
    return np.column_stack([table.numbers, table.ids.astype(np.float64)])


class Critic:
    """Boosted trees, fitted once without each fold of the rows, that judge by turns.

    Where rows are chosen by odds, what is chosen has the mean of the densities that each set of trees on its
    own would give it: their errors average out as if all had judged every row, for a fraction of the time.

    Parameters
    ----------
    folds : sequence of (float, list of array)
        Log-odds to begin with, and the nodes of each tree.
    gain : float
        Nats by which it tells a row that it has not seen better than by chance.
    """

    def __init__(self, folds: Sequence[tuple[float, list[NDArray[Any]]]], gain: float = np.nan) -> None:
        self.gain = gain
        self.folds = [
            (start, [TreePredictor(nodes, NO_CATEGORIES, NO_CATEGORIES) for nodes in trees])
            for start, trees in folds
        ]

    @classmethod
    def fit(
        cls, real: Floats, generated: Floats, fold_of: tuple[NDArray[Any], NDArray[Any]], seed: int
    ) -> Self:
        """Learn to tell rows, (n, n_features), apart; `fold_of` deals both kinds."""
        folds, gains = [], []
        for k in range(FOLDS):
            trees, gain = _tell(real[fold_of[0] != k], generated[fold_of[1] != k], seed)
            nodes = [tree.nodes for (tree,) in trees._predictors]
            folds.append((float(trees._baseline_prediction.ravel()[0]), nodes))
            gains.append(gain)
        return cls(folds, float(np.mean(gains)))

    def log_odds(self, x: Floats) -> Floats:
        """Of rows, (..., n, n_features), to be real; shape (..., n). Folds take turns along n."""
        odds = np.empty(x.shape[:-1])
        nothing = np.zeros(x.shape[-1], np.uint32)
        for k, (start, trees) in enumerate(self.folds):
            turn = (..., slice(k, None, len(self.folds)))
            own = np.ascontiguousarray(x[(*turn, slice(None))])
            rows = own.reshape(-1, own.shape[-1])
            total = np.full(len(rows), start)
            for tree in trees if len(rows) else ():
                total += tree.predict(rows, NO_CATEGORIES, nothing, 1)
            odds[turn] = total.reshape(own.shape[:-1])
        return odds

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps: the nodes of all trees, one after the other."""
        trees = [tree.nodes for _, fold in self.folds for tree in fold]
        every = np.concatenate(trees)
        arrays = {name: every[name].astype(kind) for name, kind in FIELDS.items()}
        # A split of the missing from all others is at infinity, which no file holds.
        arrays["num_threshold"] = np.minimum(arrays["num_threshold"], np.finfo(np.float64).max)
        arrays["nodes"] = np.array([len(nodes) for nodes in trees], np.int64)
        arrays["trees"] = np.array([len(fold) for _, fold in self.folds], np.int64)
        arrays["start"] = np.array([start for start, _ in self.folds])
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_features: int) -> Self:
        """Rebuild a critic, or raise ArtifactError: the loop that runs trees looks at no index."""
        wanted: dict[str, Any] = {**FIELDS, "nodes": np.int64, "trees": np.int64, "start": np.float64}
        require(arrays.keys() == wanted.keys(), "its critic has other parts")
        require(
            all(a.ndim == 1 and a.dtype == wanted[name] for name, a in arrays.items()),
            "its critic's parts have other types",
        )
        nodes, trees, start = arrays["nodes"], arrays["trees"], arrays["start"]
        n = len(arrays["value"])
        require(
            len({len(arrays[name]) for name in FIELDS}) == 1
            and ((nodes > 0) & (nodes <= n)).all()
            and nodes.sum() == n
            and (trees >= 0).all()
            and (trees <= len(nodes)).all()
            and trees.sum() == len(nodes)
            and 0 < len(trees) == len(start),
            "its critic's trees do not add up",
        )
        own = np.arange(n) - np.repeat(np.cumsum(nodes) - nodes, nodes)  # number within the tree
        size, leaf = np.repeat(nodes, nodes), arrays["is_leaf"] != 0
        goes_on = np.ones(n, bool)
        for side in ("left", "right"):  # always further down: no loops
            goes_on &= (arrays[side] > own) & (arrays[side] < size)
        feature = arrays["feature_idx"]
        require(
            (leaf | goes_on).all()
            and ((feature >= 0) & (feature < n_features)).all()
            and not np.isnan(arrays["num_threshold"]).any()
            and np.isfinite(arrays["value"]).all()
            and np.isfinite(start).all(),
            "its critic's trees are none",
        )
        every = np.zeros(n, PREDICTOR_RECORD_DTYPE)
        for name in FIELDS:
            every[name] = arrays[name]
        apart = np.split(every, np.cumsum(nodes)[:-1])
        ends = np.cumsum(trees)
        return cls([(float(s), apart[e - k : e]) for s, k, e in zip(start, trees, ends, strict=True)])


def gain(real: Floats, generated: Floats, seed: int) -> float:
    """Nats by which one of a critic's parts tells rows, (n, n_features), better than by chance."""
    return _tell(real, generated, seed)[1]


def _tell(real: Floats, generated: Floats, seed: int) -> tuple[HistGradientBoostingClassifier, float]:
    """Boost trees that tell rows apart; and by how many nats they tell rows that they have not seen."""
    is_real = np.repeat([1, 0], [len(real), len(generated)])
    # Both kinds weigh the same, whichever has more rows.
    weight = np.where(is_real, is_real.size / 2 / len(real), is_real.size / 2 / len(generated))
    trees = HistGradientBoostingClassifier(
        learning_rate=LEARNING_RATE,
        max_iter=MOST_TREES,
        early_stopping=True,
        validation_fraction=WATCHED,
        n_iter_no_change=PATIENCE,
        random_state=seed % 2**32,
    ).fit(np.concatenate([real, generated]), is_real, sample_weight=weight)
    return trees, float(trees.validation_score_.max() + np.log(2))
