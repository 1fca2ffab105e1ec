"""`Synthesizer`: a generator whose draws a critic refines, and what a user should take for tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from lookalike import archive, noise, persistence
from lookalike.columns import Column
from lookalike.conditions import Request
from lookalike.constraints import Constraint, Unique, of_type
from lookalike.copies import digests, without_copies
from lookalike.costs import FitReport, Macs, Meter
from lookalike.critic import CLIP, FOLDS, Critic, features, gain
from lookalike.errors import ConditionError
from lookalike.estimator import Estimator
from lookalike.face import Face, Known
from lookalike.families import FAMILIES, Diffusion, Mixture
from lookalike.parameters import Range
from lookalike.raking import Margins, without_replacement
from lookalike.rejection import Rejection
from lookalike.replacing import legal
from lookalike.rewriting import Rewriting
from lookalike.schema import Table
from lookalike.vetting import require

BLOCK = 32_768  # rows refined together
MOST_JUDGED = 50_000  # real rows from which the critic learns
GENERATED = 3  # for each of them
MOST_CRITICS = 10
KEPT = 3  # a critic keeps one row in so many
LITTLE = 0.01  # nats by which a row held out is told better than by chance: an AUC of about 0.57
ENOUGH = 0.05  # nats by which rows may be told before they are refined: an AUC of about 0.65
FEWEST_TELLING = 2_000  # rows of which that can be said, and from which critics learn more than noise
SMALL: dict[str, Any] = {"width": 128, "n_steps": 12}  # a critic makes up for what so small a network lacks
# Its steps, and for how many rows: of fewer none can be spared to stop it in time, of more it takes as many.
LONG, WATCHED = 3_000, range(1_000, 37_000)
FEWEST_RAKED = 512  # rows of a pool from which shares are evened out: of fewer they say little
MOST_MODELS = 10
_CRITIC, _MODEL, _MARGINS, _FITTED = "critic.", "model.", "margins.", "fitted."


class Synthesizer(Face, BaseEstimator):
    """Generator of table rows: what to take without a reason for another.

    Draws more rows than it returns. A critic, boosted trees that learned to tell real rows from generated
    ones, gives each its odds to be real, and a third of the rows is chosen by these, without replacement and
    so that columns, and pairs of columns, keep their shares. The next critic learns from rows that the ones
    before let through, and chooses among these again. Whatever is given stays exact.

    A mixture is fitted in a moment and draws fast. Where boosted trees tell its rows from real ones easily, a
    small diffusion model draws half of the rows; where the table is too small for trees to tell, all of them.

    Parameters
    ----------
    model : estimator or sequence of estimators, optional
        What draws: `Mixture`, `VAE`, `GAN`, `Diffusion` or `Hybrid`, not fitted; several draw in equal parts,
        and the last imputes. By default a `Mixture`, a small `Diffusion`, or both: which serves the table.
    refine : int
        Critics, at most: after the first there are no more where one finds little to tell rows by. Each
        trebles the rows that are drawn for one that is returned; 0 returns what the model draws.
    constraints : list of constraints, optional
        What every row meets, in fit and generated: `Unique`, `Inequality`, `Formula`, `FixedCombinations`.
        The model learns a table rewritten so that they hold by construction.
    schema : mapping of column name to kind, optional
        Such as ``{"zip": la.Categorical(), "id": la.Ignored()}``; other columns are inferred.
    copies : {"allow", "forbid"}
        Whether a generated row may equal a row of the fit in every column. "forbid" draws such rows again,
        and keeps a digest of each row of the fit, in the file too.
    random_state : int, Generator, RandomState or None
        Equal seeds give equal models, unless the model has a seed of its own.

    Attributes
    ----------
    models_ : list of estimator
        What draws, fitted.
    model_ : estimator
        The first of them. It scores, explains and exports too; where there are constraints, the rewritten
        table, not the user's.
    critics_ : list of Critic
        In the order in which rows pass them.
    schema_ : Schema
        The columns and their kinds.

    References
    ----------
    S. Azadi, C. Olsson, T. Darrell, I. Goodfellow, A. Odena. Discriminator rejection sampling. ICLR 2019,
    arXiv:1810.06758.
    A. Grover, S. Ermon. Boosted generative models. AAAI 2018, arXiv:1702.08484.
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
        self,
        model: Estimator | Sequence[Estimator] | None = None,
        *,
        refine: int = 3,
        constraints: Sequence[Constraint] | None = None,
        schema: Mapping[Any, Column] | None = None,
        copies: Literal["allow", "forbid"] = "allow",
        random_state: noise.RandomState = None,
    ) -> None:
        self.model = model
        self.refine = refine
        self.constraints = constraints
        self.schema = schema
        self.copies = copies
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
            If the data cannot be learned from: which column, and why; or if a constraint does not hold: in
            which row.
        ValueError
            If a parameter is out of its range.
        """
        meter = Meter()
        Range(0, MOST_CRITICS, whole=True).check("refine", self.refine)
        if self.copies not in ("allow", "forbid"):
            raise ValueError(f'copies must be "allow" or "forbid", got {self.copies!r}.')
        seed = noise.seed_from(self.random_state)
        models = self._asked()
        rewriting, kinds = None, models[0].schema if self.schema is None else self.schema
        if self.constraints:
            rewriting = Rewriting.fit(self.constraints, X, kinds or {})
            X, kinds = rewriting.frame(rewriting.schema.encode(X))

        def learn(model: Estimator, k: int) -> Estimator:
            own = noise.child(seed, k) if model.random_state is None else model.random_state
            model.set_params(random_state=own, schema=kinds).fit(X)
            model._check("generate")
            return model

        models = [learn(model, k) for k, model in enumerate(models)]
        model = models[0]
        real = model.schema_.encode(X)
        self.fitted_ = np.unique(digests(real)) if self.copies == "forbid" else None
        steps = LONG if len(real) in WATCHED else None
        real = real.rows(np.argsort(noise.uniforms(seed, 0, len(real), 1)[:, 0])[:MOST_JUDGED])
        if self.model is None and self.refine:
            # What a mixture blurs is left to the critics, and so few rows teach them nothing.
            few = len(real) < FEWEST_TELLING
            if few or not self._suffices(model, real, seed):
                small = learn(Diffusion(**SMALL, max_steps=steps), 1)
                models = [small] if few else [model, small]
        self.models_, self.rewriting_ = models, rewriting
        self.schema_ = rewriting.schema if rewriting else model.schema_
        self.margins_ = Margins.fit(real, [len(c.levels) for c in model.schema_.category_columns])
        nothing = model.schema_.condition({}, GENERATED * len(real))
        known = np.zeros(nothing.numbers.shape, bool), np.zeros(nothing.ids.shape, bool)
        self.critics_: list[Critic] = []
        while len(self.critics_) < self.refine:
            own = noise.child(seed, len(self.critics_))
            drawn = self._refined(nothing, known, own, self.critics_)
            folds = [noise.folds(own, len(table), FOLDS) for table in (real, drawn)]
            critic = Critic.fit(features(real), features(drawn), (folds[0], folds[1]), own)
            if self.critics_ and critic.gain < LITTLE:
                break  # What it found is mostly which rows the table happens to hold.
            self.critics_.append(critic)
            if critic.gain < ENOUGH:
                break  # It leaves a fifth of that or less.
        self.n_features_in_ = len(self.schema_.names)
        self._cost = meter.cost
        return self

    @property
    def fit_report_(self) -> FitReport:
        """What `fit` took, critics and all; steps, rows and numbers learned are of the models that draw.

        A row that is drawn takes as many multiplications as all the rows that critics choose it from.
        """
        check_is_fitted(self)
        parts = [model.fit_report_ for model in self.models_]  # of a loaded one there are none
        seen = sum(part.rows_seen for part in parts)
        train = sum((part.macs.train or 0) * part.rows_seen for part in parts) // seen
        draw = KEPT ** len(self.critics_) * sum(part.macs.draw or 0 for part in parts) // len(parts)
        return FitReport(
            **self._cost.to_dict(),
            steps=sum(part.steps for part in parts),
            rows_seen=seen,
            parameters=sum(part.parameters for part in parts),
            weight_bytes=sum(part.weight_bytes for part in parts),
            macs=Macs(train, None, draw),
            ended=parts[-1].ended,
        )

    def _asked(self) -> list[Estimator]:
        """What is to be fitted, whatever the rows."""
        asked: Any = Mixture() if self.model is None else self.model
        models: list[Any] = list(asked) if isinstance(asked, list | tuple) else [asked]
        if not models or not all(isinstance(model, Estimator) for model in models):
            raise ValueError(
                f"model must be an estimator of lookalike, not fitted, a list of them, or None, "
                f"got {self.model!r}."
            )
        if any(model.schema != models[0].schema for model in models):
            raise ValueError("model must hold estimators of equal schema: their rows are one table's.")
        if models[0].schema and self.schema:
            raise ValueError("schema must be given to Synthesizer or to its model, not to both.")
        return [clone(model) for model in models]

    def _suffices(self, model: Estimator, real: Table, seed: int) -> bool:
        """Whether boosted trees hardly tell the model's rows from real ones."""
        nothing = model.schema_.condition({}, len(real))
        known = np.zeros(nothing.numbers.shape, bool), np.zeros(nothing.ids.shape, bool)
        drawn = model._complete(nothing, known, noise.child(seed, MOST_CRITICS), False)
        return gain(features(real), features(drawn), seed) < ENOUGH

    # ---- what `Face` asks for ----------------------------------------------------------------------------

    @property
    def model_(self) -> Estimator:
        """The first of the models that draw."""
        return self.models_[0]

    def _check(self, task: str) -> None:
        check_is_fitted(self)
        if task == "score":
            raise ConditionError("Synthesizer generates and imputes. Its model_ scores and explains.")

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _drawing(self, alone: bool = False) -> Callable[[Request, int], Table]:
        draw = super()._drawing(alone)
        if self.rewriting_ is None:
            return draw
        unique = next(of_type(self.rewriting_.constraints, Unique), None)
        if alone and unique is not None:
            raise ConditionError(f"{unique} compares each row with those before: start must be 0.")
        return Rejection(self.rewriting_.constraints, self.schema_, draw).draw

    def _complete(self, rows: Table, known: Known, seed: int, impute: bool) -> Table:
        if self.rewriting_ is None:
            return self._drawn(rows, known, seed, impute)
        return self.rewriting_.complete(self._drawn, rows, known, seed, impute)

    def _drawn(self, rows: Table, known: Known, seed: int, impute: bool, refined: bool = True) -> Table:
        """Complete rows of the model's table."""
        critics = self.critics_ if refined else []

        def draw(some: Table, cells: Known, own: int) -> Table:
            return self._refined(some, cells, own, critics, impute)

        if impute or self.fitted_ is None:
            return draw(rows, known, seed)
        return without_copies(draw, rows, known, seed, self.fitted_, self.model_.schema_)

    def _refined(
        self, rows: Table, known: Known, seed: int, critics: Sequence[Critic], impute: bool = False
    ) -> Table:
        """Draw more rows than these, of which each critic keeps a third; a block at a time."""
        done = []
        for start in range(0, len(rows), BLOCK):
            part = np.arange(start, min(start + BLOCK, len(rows)))
            # Each block a seed of its own: 2**40 is more blocks than anyone has rows.
            own = (seed + (start // BLOCK << 40)) % 2**64
            every = np.tile(part, KEPT ** len(critics))
            cells = known[0][every], known[1][every]
            drawn = self._pool(rows.rows(every), cells, own, impute)
            drawn = legal(drawn, (~cells[0], ~cells[1]), self.model_.schema_)
            free = not cells[0].any() and not cells[1].any()
            for k, critic in enumerate(critics):
                drawn = drawn.rows(self._some(critic, drawn, free, noise.child(own, k)))
            done.append(drawn)
        return Table.join(done) if done else rows

    def _pool(self, rows: Table, known: Known, seed: int, impute: bool) -> Table:
        """Let each model complete its part of the rows; holes are filled by the last.

        Where much is known a mixture is too sure: columns that go together count as independent witnesses.
        """
        models = self.models_[-1:] if impute else self.models_
        ends = np.linspace(0, len(rows), len(models) + 1).astype(np.int64)
        parts = []
        for k, model in enumerate(models):
            part, own = slice(ends[k], ends[k + 1]), noise.child(seed, k)
            parts.append(model._complete(rows.rows(part), (known[0][part], known[1][part]), own, impute))
        return Table.join(parts)

    def _some(self, critic: Critic, drawn: Table, free: bool, seed: int) -> NDArray[np.int64]:
        """Choose which third of the rows to keep; unless they are free, one of rows i, i + n and i + 2 n."""
        n = len(drawn) // KEPT
        # Rows i and i + n by the same trees: they may be alternatives.
        weight = np.exp(critic.log_odds(np.stack(np.split(features(drawn), KEPT))).clip(*CLIP))
        chance = noise.uniforms(seed, 0, len(drawn) + 1, 1)[:, 0]
        if not free:
            reached = weight.cumsum(0)
            return np.arange(n) + n * (reached < chance[:n] * reached[-1]).sum(0)
        weight = weight.ravel()
        if len(drawn) >= FEWEST_RAKED:
            weight = self.margins_.rake(weight, drawn, n)
        return without_replacement(weight, n, chance)

    # ---- files -------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the fitted synthesizer to one `.lookalike` file, whole or not at all.

        Returns
        -------
        str
            SHA-256 of the file; `la.load(path, sha256=...)` then accepts this file alone.
        """
        check_is_fitted(self)
        inner: list[dict[str, Any]] = []
        arrays: dict[str, NDArray[Any]] = {}
        for k, model in enumerate(self.models_):
            one, parts = persistence.pack(model._key, model.get_params(deep=False), model._state)
            inner.append(one)
            arrays |= {f"{_MODEL}{k}.{name}": a for name, a in parts.items()}
        manifest: dict[str, Any] = {
            "family": "synthesizer",
            "n_critics": len(self.critics_),
            "models": inner,
        }
        for k, critic in enumerate(self.critics_):
            arrays |= {f"{_CRITIC}{k}.{name}": a for name, a in critic.to_arrays().items()}
        arrays |= {_MARGINS + name: a for name, a in self.margins_.to_arrays().items()}
        if self.rewriting_ is not None:
            manifest["rewriting"] = self.rewriting_.to_dict()
        if self.fitted_ is not None:
            arrays[_FITTED + "digests"] = self.fitted_
        names = " and ".join(type(model).__name__ for model in self.models_)
        card = persistence.card(f"Synthesizer with {names}", self.model_._state)
        return archive.write(path, kind="model", manifest=manifest, tensors=arrays, card=card)

    @classmethod
    def _restore(cls, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], device: str) -> Self:
        n_critics, inner = manifest["n_critics"], manifest["models"]
        require(Range(0, MOST_CRITICS, whole=True).holds(n_critics), f"its critics are {n_critics!r}")
        require(isinstance(inner, list) and 0 < len(inner) <= MOST_MODELS, "its models are none")
        critics = [f"{_CRITIC}{k}." for k in range(n_critics)]
        models = [f"{_MODEL}{k}." for k in range(len(inner))]
        prefixes = [*critics, *models, _MARGINS, _FITTED]
        parts: dict[str, dict[str, NDArray[Any]]] = {prefix: {} for prefix in prefixes}
        for name, array in arrays.items():
            prefix = next((p for p in parts if name.startswith(p)), None)
            require(prefix is not None, f"it holds {name!r}, which belongs to no part")
            assert prefix is not None
            parts[prefix][name.removeprefix(prefix)] = array
        fitted = parts[_FITTED].pop("digests", None)
        sound = fitted is None or (fitted.dtype == np.int64 and fitted.ndim == 1)
        require(sound and not parts[_FITTED], "its digests are none")
        self = cls(refine=n_critics, copies="allow" if fitted is None else "forbid")
        self.fitted_ = fitted
        self.models_ = [_model(one, parts[prefix], device) for one, prefix in zip(inner, models, strict=True)]
        schema = self.schema_ = self.model_.schema_
        same = all(model.schema_.to_dict() == schema.to_dict() for model in self.models_)
        require(same, "its models are of different tables")
        self.model = [clone(model) for model in self.models_] if len(inner) > 1 else clone(self.model_)
        self.rewriting_ = None
        if "rewriting" in manifest:
            self.rewriting_ = Rewriting.from_dict(manifest["rewriting"])
            require(self.rewriting_.agrees_with(schema), "its constraints are not those of its columns")
            self.schema_ = self.rewriting_.schema
            self.constraints = list(self.rewriting_.constraints)
        columns = len(schema.number_columns) + len(schema.category_columns)
        self.critics_ = [Critic.from_arrays(parts[prefix], columns) for prefix in critics]
        n_levels = [len(c.levels) for c in schema.category_columns]
        self.margins_ = Margins.from_arrays(parts[_MARGINS], len(schema.number_columns), n_levels)
        self.n_features_in_ = len(self.schema_.names)
        return self


def _model(manifest: Mapping[str, Any], arrays: dict[str, NDArray[Any]], device: str) -> Estimator:
    """Rebuild a model that draws."""
    family = FAMILIES.get(str(manifest["family"]))
    require(family is not None, f"it draws by a {manifest['family']!r}, which this version does not know")
    assert family is not None
    model = family._restore(manifest, arrays, device)
    model._check("generate")
    return model
