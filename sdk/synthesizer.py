"""`Synthesizer`: a generator whose draws a critic refines, and what a user should take for tables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from lookalike import archive, noise, persistence
from lookalike.critic import CLIP, FOLDS, Critic, Margins, features, without_replacement
from lookalike.errors import ConditionError
from lookalike.estimator import Estimator
from lookalike.face import Face, Known
from lookalike.families import FAMILIES, Mixture
from lookalike.parameters import Range
from lookalike.replacing import legal
from lookalike.schema import Schema, Table
from lookalike.vetting import require

BLOCK = 32_768  # rows refined together
MOST_JUDGED = 50_000  # real rows from which the critic learns
GENERATED = 3  # for each of them
FEWEST_RAKED = 4096  # rows of a pool from which shares are evened out: of fewer they say little
_CRITIC, _MARGINS = "critic.", "margins."


class Synthesizer(Face, BaseEstimator):
    """Generator of table rows: what to take without a reason for another.

    Draws `pool` rows for each that it returns. A critic, boosted trees that learned to tell real rows from
    generated ones, gives each its odds to be real, and rows are drawn by these, without replacement, so that
    columns keep their shares. Whatever is given stays exact.

    Parameters
    ----------
    model : estimator, optional
        What draws: `Mixture`, `VAE`, `GAN` or `Diffusion`, not fitted. By default a `Mixture`.
    pool : int
        Rows drawn for each row returned; 1 draws without the critic.
    random_state : int, Generator, RandomState or None
        Equal seeds give equal models, unless the model has a seed of its own.

    Attributes
    ----------
    model_ : estimator
        What draws, fitted. It scores, explains and exports too.
    schema_ : Schema
        The columns and their kinds.

    References
    ----------
    S. Azadi, C. Olsson, T. Darrell, I. Goodfellow, A. Odena. Discriminator rejection sampling. ICLR 2019,
    arXiv:1810.06758.
    W. Deming, F. Stephan. On a least squares adjustment of a sampled frequency table when the expected
    marginal totals are known. Annals of Mathematical Statistics 11(4), 1940.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> la.Synthesizer(random_state=0).fit(X).generate(3, random_state=0).shape
    (3, 2)
    """

    def __init__(
        self, model: Estimator | None = None, *, pool: int = 4, random_state: noise.RandomState = None
    ) -> None:
        self.model = model
        self.pool = pool
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Learn what rows look like, and what gives generated ones away.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
            As of the model.
        y : None
            Ignored, for scikit-learn's sake.

        Raises
        ------
        SchemaError
            If the data cannot be learned from: which column, and why.
        ValueError
            If a parameter is out of its range.
        """
        Range(1, 1000, whole=True).check("pool", self.pool)
        seed = noise.seed_from(self.random_state)
        if not isinstance(self.model, Estimator | None):
            raise ValueError(
                f"model must be an estimator of lookalike, not fitted, or None, got {self.model!r}."
            )
        model = Mixture() if self.model is None else clone(self.model)
        if model.random_state is None:
            model.set_params(random_state=seed)
        model.fit(X)
        model._check("generate")
        real = model.schema_.encode(X)
        real = real.rows(np.argsort(noise.uniforms(seed, 0, len(real), 1)[:, 0])[:MOST_JUDGED])
        self.model_, self.schema_ = model, model.schema_
        self.margins_ = Margins.fit(real, [len(c.levels) for c in self.schema_.category_columns])
        n = GENERATED * len(real)
        nothing = self.schema_.condition({}, n)
        cells = (np.zeros(nothing.numbers.shape, bool), np.zeros(nothing.ids.shape, bool))
        drawn = legal(model._complete(nothing, cells, seed, False), (~cells[0], ~cells[1]), self.schema_)
        folds = tuple(noise.folds(seed, len(table), FOLDS) for table in (real, drawn))
        self.critic_ = Critic.fit(features(real), features(drawn), (folds[0], folds[1]), seed)
        self.n_features_in_ = len(self.schema_.names)
        return self

    # ---- what `Face` asks for ----------------------------------------------------------------------------

    def _check(self, task: str) -> None:
        check_is_fitted(self)
        if task == "score":
            raise ConditionError("Synthesizer generates and imputes. Its model_ scores and explains.")

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _complete(self, rows: Table, known: Known, seed: int, impute: bool) -> Table:
        if self.pool == 1:
            return self.model_._complete(rows, known, seed, impute)
        done = []
        for start in range(0, len(rows), BLOCK):
            part = np.arange(start, min(start + BLOCK, len(rows)))
            # Each block a seed of its own: 2**40 is more blocks than anyone has rows.
            own = (seed + (start // BLOCK << 40)) % 2**64
            done.append(self._refined(rows.rows(part), (known[0][part], known[1][part]), own, impute))
        return Table.join(done) if done else rows

    def _refined(self, rows: Table, known: Known, seed: int, impute: bool) -> Table:
        """Draw a pool for these rows, and choose from it."""
        n = len(rows)
        every = np.tile(np.arange(n), self.pool)
        cells = known[0][every], known[1][every]
        pool = self.model_._complete(rows.rows(every), cells, seed, impute)
        pool = legal(pool, (~cells[0], ~cells[1]), self.schema_)
        weight = np.exp(self.critic_.log_odds(features(pool)).clip(*CLIP))
        chance = noise.uniforms(seed, 0, max(len(pool) + 1, n), 1)[:, 0]
        if not known[0].any() and not known[1].any():
            if len(pool) >= FEWEST_RAKED:
                weight = self.margins_.rake(weight, pool)
            return pool.rows(without_replacement(weight, n, chance[: len(pool) + 1]))
        # What is given to a row was given to its own candidates: one of them it is.
        reached = np.cumsum(weight.reshape(self.pool, n), axis=0)
        own = (reached < chance[:n] * reached[-1]).sum(0)
        return pool.rows(own * n + np.arange(n))

    # ---- files -------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the fitted synthesizer to one `.lookalike` file, whole or not at all.

        Returns
        -------
        str
            SHA-256 of the file; `la.load(path, sha256=...)` then accepts this file alone.
        """
        check_is_fitted(self)
        model = self.model_
        inner, arrays = persistence.pack(model._key, model.get_params(deep=False), model._state)
        manifest = {"family": "synthesizer", "pool": int(self.pool), "model": inner}
        arrays |= {_CRITIC + name: a for name, a in self.critic_.to_arrays().items()}
        arrays[_MARGINS + "edges"] = self.margins_.edges
        arrays[_MARGINS + "sizes"] = np.array([len(s) for s in self.margins_.shares], np.int64)
        arrays[_MARGINS + "shares"] = np.concatenate(self.margins_.shares)
        card = persistence.card(f"Synthesizer with {type(model).__name__}", model._state)
        return archive.write(path, kind="model", manifest=manifest, tensors=arrays, card=card)

    @classmethod
    def _restore(cls, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], device: str) -> Self:
        pool, inner = manifest["pool"], manifest["model"]
        require(Range(1, 1000, whole=True).holds(pool), f"its pool is {pool!r}")
        family = FAMILIES.get(str(inner["family"]))
        require(family is not None, f"it draws by a {inner['family']!r}, which this version does not know")
        assert family is not None
        parts: dict[str, dict[str, NDArray[Any]]] = {_CRITIC: {}, _MARGINS: {}, "": {}}
        for name, array in arrays.items():
            prefix = next(p for p in parts if name.startswith(p))
            parts[prefix][name.removeprefix(prefix)] = array
        self = cls(pool=pool)
        self.model_ = family._restore(inner, parts[""], device)
        self.model_._check("generate")
        self.model = clone(self.model_)
        self.schema_ = self.model_.schema_
        columns = len(self.schema_.number_columns) + len(self.schema_.category_columns)
        self.critic_ = Critic.from_arrays(parts[_CRITIC], columns)
        self.margins_ = _margins(parts[_MARGINS], self.schema_)
        self.n_features_in_ = len(self.schema_.names)
        return self


def _margins(arrays: Mapping[str, NDArray[Any]], schema: Schema) -> Margins:
    """Rebuild the shares of columns, or raise ArtifactError for what cannot be."""
    require(arrays.keys() == {"edges", "sizes", "shares"}, "its margins have other parts")
    edges, sizes, shares = arrays["edges"], arrays["sizes"], arrays["shares"]
    like = Margins.fit(
        Table(
            np.zeros((1, len(schema.number_columns))), np.zeros((1, len(schema.category_columns)), np.int64)
        ),
        [len(column.levels) for column in schema.category_columns],
    )
    require(
        edges.shape == like.edges.shape
        and np.isfinite(edges).all()
        and sizes.tolist() == [len(share) for share in like.shares]
        and shares.shape == (sizes.sum(),)
        and np.isfinite(shares).all()
        and (shares >= 0).all(),
        "its margins are not those of its columns",
    )
    return Margins(edges, np.split(shares, np.cumsum(sizes)[:-1]))
