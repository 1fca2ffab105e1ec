"""Which kinds of rows a fitted generator draws too rarely, or not at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from lookalike import noise
from lookalike.estimator import Estimator, tensors
from lookalike.modes import Mode, Modes, compared
from lookalike.parameters import Range
from lookalike.schema import Schema, Table

MODE_ROWS, MODE_SIZE, MOST_MODES = 2000, 40, 50  # generated; remembered ones of a cluster, and clusters


class Diagnosing(Estimator):
    """An estimator that tells which modes it has dropped; not to be used itself."""

    def diagnose_modes(
        self,
        made: Any = None,
        *,
        n: int = MODE_ROWS,
        n_clusters: int | None = None,
        random_state: noise.RandomState = None,
    ) -> Modes:
        """Tell which kinds of rows are drawn too rarely, or not at all.

        The shares of generated rows are compared with those of real ones, by levels of each category, and by
        clusters of remembered rows, in whichever each row is nearest.

        Parameters
        ----------
        made : table like that of `fit`, optional
            Generated rows; by default n new ones.
        n : int
        n_clusters : int, optional
            By default one for 40 remembered rows, up to 50.
        random_state : int, Generator, RandomState or None

        Returns
        -------
        Modes
            With the names that are `missing` or `rare`, and the share of real rows that is `covered`.

        Raises
        ------
        ConditionError
            Of a model that cannot generate.
        SchemaError
            If `made` is no table like that of `fit`.
        """
        self._check("generate")
        Range(1, math.inf, whole=True).check("n", n)
        seed, codec, memory = noise.seed_from(random_state), self.codec_, self.memory_
        if made is None:
            table = Table.join(list(self._blocks(n, None, seed)))
        else:
            table = self.schema_.encode(made, owner=self._owner)
        labels: list[Mode] = []
        for j, (column, count) in enumerate(zip(self.schema_.category_columns, codec.counts, strict=True)):
            drawn = np.bincount(table.ids[:, j], minlength=len(count) + 2)[: len(count)]
            names = [f"{column.name} = {level!r}" for level in column.levels]
            labels += compared(names, count.astype(np.float64), drawn.astype(np.float64))
        real = memory.rows.cpu().numpy()
        k = n_clusters or int(np.clip(len(real) // MODE_SIZE, 2, MOST_MODES))
        Range(1, len(real), whole=True).check("n_clusters", k)
        count = memory.count.cpu().numpy().astype(np.float64)
        clusters = KMeans(k, n_init=1, random_state=seed % 2**32).fit(real, sample_weight=count)
        features = (codec.layout.measure(codec(*tensors(table))) * memory.scale.cpu()).numpy()
        _, told = self._scorer.expected(codec.layout.unmeasure(memory.rows / memory.scale).to("cpu"))
        names = [f"cluster {c}{_mostly(self.schema_, told.numpy()[clusters.labels_ == c])}" for c in range(k)]
        shares = (
            np.bincount(clusters.labels_, count, k).astype(np.float64),
            np.bincount(clusters.predict(features), minlength=k).astype(np.float64),
        )
        return Modes(tuple(labels), compared(names, *shares), int(count.sum()), len(table))


def _mostly(schema: Schema, ids: NDArray[np.int64]) -> str:
    """The levels that most of a cluster's rows hold, in words."""
    found = []
    for column, held in zip(schema.category_columns, ids.T, strict=True):
        level = int(np.bincount(held).argmax())
        if level < len(column.levels) and (held == level).mean() > 0.5:
            found.append(f"{column.name} = {column.levels[level]!r}")
    return f", mostly {', '.join(found)}" if found else ""
