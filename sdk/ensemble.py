"""Unlike detectors as one: each member's scores made standard normal, and averaged.

References
----------
A. Zimek, R. Campello, J. Sander. Ensembles for Unsupervised Outlier Detection: Challenges and Research
Questions. SIGKDD Explorations 15(1), 2013 (members that err differently, their scores normalised first).
H.-P. Kriegel, P. Kroeger, E. Schubert, A. Zimek. Interpreting and Unifying Outlier Scores. SDM 2011 (scores
of any kind on one scale, by how they are distributed). Both bring scores to probabilities; here they become
normal quantiles, as averages of probabilities hardly tell a far row from a very far one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from lookalike import noise
from lookalike.calibration import FALSE_ALARM_RATE, HELD_OUT_SHARE, MOST_HELD_OUT, Calibration
from lookalike.errors import LookalikeError, SchemaError
from lookalike.explanation import Explanation
from lookalike.frames import open_frame
from lookalike.parameters import check_parameters
from lookalike.streaming import indexable, n_rows, streamed, taken
from lookalike.thresholds import Thresholded, by_contamination

TAIL = 0.2  # of the reference scores, at each end: how fast their tail falls is read off them
FARTHEST = 1e300  # tail lengths; its logarithm of a probability is finite still

Members = list[tuple[str, Any]]


class Ensemble(Thresholded, OutlierMixin, BaseEstimator):
    """Average the scores of unlike estimators.

    Detectors that see different things (neighbours, trees, a trained model) err on different rows, and their
    average errs less than most of them. But their scores have different units: nats, distances, depths of
    trees. So `fit` holds rows out, and turns each member's score into a standard normal one, by its place
    among the scores of one half of these. Beyond the scores seen there the tail goes on as an exponential
    one, so that rows far out are told apart. The score of the ensemble is the mean.

    The other half of the rows held out calibrates, and was used for nothing else: neither by the members nor
    to compare them. So `p_values` are exact, whatever the members are.

    Parameters
    ----------
    estimators : list of estimators, or of (name, estimator) pairs
        Ours, scikit-learn's or a pipeline: what has `fit` and `score_samples`, or `decision_function`, higher
        for more normal rows. `lookalike.integrations.pyod.PyOD` brings PyOD's. They are cloned. Without names
        they take those of their classes: ``"vae"``, or ``"vae-1"`` and ``"vae-2"``.
    contamination : float in (0, 0.5] or "auto"
        Share of the fitted rows that `predict` calls anomalies. "auto" sets the threshold for a false alarm
        rate of 5 %, which takes 380 rows; `set_threshold` sets others.
    random_state : int, Generator, RandomState or None
        Chooses the rows held out, and seeds the members whose own `random_state` is None. Equal seeds give
        equal ensembles.

    Attributes
    ----------
    named_estimators_ : dict of name to estimator
        The fitted members. Ours are saved and exported one by one, as
        ``named_estimators_["vae"].export(path)``; an ensemble as a whole is not.
    calibration_ : Calibration
        Scores of the rows that calibrate.
    offset_ : float
        Scores below are anomalies.
    n_features_in_ : int
        Columns of the table fitted.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where it had any.

    See Also
    --------
    CrossConformal : Judges the rows fitted as if unseen; it takes an ensemble too.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from sklearn.neighbors import LocalOutlierFactor
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> model = Ensemble([IsolationForest(), LocalOutlierFactor(novelty=True)], random_state=0).fit(X)
    >>> list(model.named_estimators_)
    ['isolationforest', 'localoutlierfactor']
    >>> model.predict([[0.0, 0.0], [6.0, 6.0]]).tolist()
    [1, -1]
    """

    def __init__(
        self, estimators: Any, *, contamination: Any = "auto", random_state: noise.RandomState = None
    ) -> None:
        self.estimators = estimators
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit a clone of each member, and learn how its scores are spread.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
            Whatever all members take. A tenth of the rows, at most 4,096, is held out: a half of them to
            compare members by, the other to calibrate.
        y : object
            Ignored, for scikit-learn's sake.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a member refuses the rows, or scores one by no number: which member, and why. If there are no
            members, two share a name, or a parameter is out of its range.
        TypeError
            If a member is no estimator that can be asked for scores.
        """
        members = self._members()
        _check_members(members)
        check_parameters({"contamination": self.contamination})
        rows = indexable(X)
        if isinstance(rows, np.ndarray) and rows.ndim != 2:
            open_frame(X)  # says what is wrong
        n = n_rows(rows)
        if n < 3:
            raise SchemaError(
                f"fit needs at least 3 rows, got n_samples = {n}: one to learn from, one to compare members "
                "by, one to calibrate."
            )
        seed = noise.seed_from(self.random_state)
        part = min(max(round(HELD_OUT_SHARE * n), 2), MOST_HELD_OUT)
        order = np.argsort(noise.uniforms(seed, 0, n, 1)[:, 0], kind="stable")
        reference, calibration, training = (
            taken(rows, np.sort(places)) for places in np.split(order, [part // 2, part])
        )

        n_seeds = sum(len(unseeded(member)) for _, member in members)
        seeds = iter(np.random.SeedSequence(seed).generate_state(n_seeds).tolist())
        fitted = {name: _fitted(name, member, training, seeds) for name, member in members}
        self._scales = {name: NormalScale(_scores(name, model, reference)) for name, model in fitted.items()}
        self.named_estimators_ = fitted
        validate_data(self, rows, skip_check_array=True)  # sets n_features_in_, feature_names_in_
        self.calibration_ = Calibration(self.score_samples(calibration))
        if self.contamination == "auto":
            self.offset_ = self.calibration_.threshold(FALSE_ALARM_RATE)
        else:
            self.offset_ = by_contamination(self.score_samples(rows), self.contamination)
        return self

    def fit_predict(self, X: Any, y: object = None) -> NDArray[np.int64]:
        """Fit, and predict the rows fitted; shape (n_rows,)."""
        return self.fit(X).predict(X)

    @streamed
    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Score rows by the mean of the members' normal scores.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
            Columns as in `fit`. An iterator of tables gives an iterator of results.

        Returns
        -------
        ndarray of shape (n_rows,), float64
            Higher is more normal. A usual row has 0; if members agreed, a normal row would have less than -2
            in one case of 44.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If a member refuses the rows, or scores one by no number: which member, and why.
        """
        check_is_fitted(self)
        rows = self._in_order(indexable(X))
        return np.mean(
            [
                self._scales[name](_scores(name, model, rows))
                for name, model in self.named_estimators_.items()
            ],
            axis=0,
        )

    def explain(self, X: Any, member: str | None = None) -> Explanation:
        """Ask a member which columns make each row odd.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        member : str, optional
            Name of one that explains, as ours do; may be left out where there is one alone.

        Returns
        -------
        Explanation
            Of this member's `anomaly_score`, in its own units.

        Raises
        ------
        ValueError
            If no member of that name explains.
        """
        check_is_fitted(self)
        able = {name: model for name, model in self.named_estimators_.items() if hasattr(model, "explain")}
        if member is None and len(able) == 1:
            (member,) = able
        if member not in able:
            if not able:
                raise ValueError(
                    f"none of {', '.join(self.named_estimators_)} explains; lookalike's own estimators do."
                )
            raise ValueError(f"member must be one that explains ({', '.join(able)}), got {member!r}.")
        found: Explanation = able[member].explain(self._in_order(X))
        return found

    def _check(self, task: str) -> None:
        check_is_fitted(self)

    def _in_order(self, rows: Any) -> Any:
        """Columns in the order of fit: not every member goes by their names."""
        frame = nw.from_native(rows, eager_only=True, pass_through=True)
        names = list(getattr(self, "feature_names_in_", ()))
        if isinstance(frame, nw.DataFrame) and names != frame.columns and {*names} == {*frame.columns}:
            return frame.select(names).to_native()
        return rows

    # ---- parameters --------------------------------------------------------------------------------------

    def _members(self) -> Members:
        """Names and estimators; none where `estimators` is no list."""
        given = self.estimators if isinstance(self.estimators, list | tuple) else ()
        paired = [_is_pair(one) for one in given]
        kinds = [type(one).__name__.lower() for one in given]
        return [
            one if pair else (kind if kinds.count(kind) == 1 else f"{kind}-{kinds[: i + 1].count(kind)}", one)
            for i, (one, pair, kind) in enumerate(zip(given, paired, kinds, strict=True))
        ]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with `deep`, members and theirs too, as ``name__parameter``."""
        parameters: dict[str, Any] = super().get_params(deep=False)
        for name, member in self._members() if deep else ():
            parameters[name] = member
            if hasattr(member, "get_params") and not isinstance(member, type):
                parameters |= {f"{name}__{key}": value for key, value in member.get_params().items()}
        return parameters

    def set_params(self, **params: Any) -> Self:
        """Set parameters, replace members by name, or set their parameters by ``name__parameter``."""
        if "estimators" in params:
            self.estimators = params.pop("estimators")
        members = self._members()
        if any(name in params for name, _ in members):
            self.estimators = [
                (name, params.pop(name, member)) if _is_pair(given) else params.pop(name, member)
                for (name, member), given in zip(members, self.estimators, strict=True)
            ]
        super().set_params(**params)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inputs = [get_tags(m).input_tags for _, m in self._members() if hasattr(m, "__sklearn_tags__")]
        for kind in ("allow_nan", "string", "categorical", "sparse"):
            setattr(tags.input_tags, kind, bool(inputs) and all(getattr(one, kind) for one in inputs))
        return tags


class NormalScale:
    """From a member's scores to standard normal ones, by rank among reference scores.

    Parameters
    ----------
    reference : ndarray of shape (n,), float64
        Finite.
    """

    def __init__(self, reference: NDArray[np.float64]) -> None:
        from scipy.special import ndtri

        self.knots, counts = np.unique(reference, return_counts=True)
        # Ties share the middle of their ranks, so that a score that says nothing becomes 0.
        below = (np.cumsum(counts) - counts / 2) / reference.size
        self.values = ndtri(below)
        self.outside = float(below[0]), float(1 - below[-1])
        self.lengths = _tail_length(reference), _tail_length(-reference)

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map scores, rising; between those of the reference along straight lines."""
        from scipy.special import ndtri_exp

        normal = np.interp(scores, self.knots, self.values)
        ends = (-1, scores < self.knots[0], self.knots[0]), (1, scores > self.knots[-1], self.knots[-1])
        for (sign, beyond, end), share, length in zip(ends, self.outside, self.lengths, strict=True):
            with np.errstate(over="ignore"):
                gone = np.minimum(np.abs(scores[beyond] - end) / length, FARTHEST)
            # The share beyond a score falls as exp(-distance / length) from what it is at the end.
            normal[beyond] = -sign * ndtri_exp(np.log(share) - gone)
        return normal


def _tail_length(scores: NDArray[np.float64]) -> float:
    """Mean distance of the lowest scores from where their tail begins: of an exponential tail, its scale."""
    start = np.quantile(scores, TAIL)
    tail = scores[scores < start]
    return float(start - tail.mean()) if tail.size else float(scores.std()) or 1.0


# ---- members -----------------------------------------------------------------------------------------------


def _is_pair(given: object) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)


def _check_members(members: Members) -> None:
    """Refuse what cannot be fitted and asked for scores, before anything is fitted."""
    if not members:
        raise ValueError("estimators must be a list of at least one estimator or (name, estimator) pair.")
    names = [name for name, _ in members]
    for name, member in members:
        if names.count(name) > 1:
            raise ValueError(f"two estimators are named {name!r}. Names must differ: rename one.")
        if not name or "__" in name or name in Ensemble._get_param_names():
            raise ValueError(
                f"an estimator cannot be named {name!r}: names are not empty, hold no double underscore, and "
                "are no parameter's of the ensemble."
            )
        if isinstance(member, type):
            raise TypeError(f"{member.__name__} is a class. Give an instance: {member.__name__}().")
        lacks = [verb for verb in ("fit", "get_params", "set_params") if not hasattr(member, verb)]
        if lacks:
            raise TypeError(
                f"member {name!r} ({type(member).__name__}) is no estimator: it has no "
                f"{' and no '.join(lacks)}."
            )
        if not (hasattr(member, "score_samples") or hasattr(member, "decision_function")):
            raise TypeError(
                f"member {name!r} ({type(member).__name__}) has neither score_samples nor decision_function, "
                "so it cannot score new rows. LocalOutlierFactor can with novelty=True."
            )


def unseeded(member: Any) -> list[str]:
    """Parameters that take a seed and have none, of the member and of what it is made of."""
    return sorted(
        key
        for key, value in member.get_params().items()
        if value is None and (key == "random_state" or key.endswith("__random_state"))
    )


def _fitted(name: str, member: Any, rows: Any, seeds: Iterator[int]) -> Any:
    """A clone of a member, seeded and fitted."""
    model = clone(member).set_params(**{key: next(seeds) for key in unseeded(member)})
    advice = "\nWhere it cannot take such columns, a pipeline can prepare them for it."
    with _named(name, member, advice):
        model.fit(rows)
    if hasattr(_last(model), "decision_scores_"):
        raise TypeError(
            f"member {name!r} is a detector of PyOD, whose scores are higher for odder rows. Wrap it: "
            f"lookalike.integrations.pyod.PyOD({type(_last(model)).__name__}(...))."
        )
    return model


def _last(member: Any) -> Any:
    return member[-1] if isinstance(member, Pipeline) else member


def _scores(name: str, model: Any, rows: Any) -> NDArray[np.float64]:
    """What a member says of rows, one number each."""
    with _named(name, model):
        score = model.score_samples if hasattr(model, "score_samples") else model.decision_function
        scores = np.asarray(score(rows), dtype=np.float64).reshape(-1)
    if len(scores) != n_rows(rows):
        raise SchemaError(f"member {name!r} gave {len(scores)} scores for {n_rows(rows)} rows.")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if wrong.size:
        raise SchemaError(f"member {name!r} scored row {wrong[0]} by {scores[wrong[0]]}, which is no number.")
    return scores


@contextmanager
def _named(name: str, member: Any, advice: str = "") -> Iterator[None]:
    """Say in an error which member it came from; where that is not ours, what may help too."""
    said = f"member {name!r} ({type(_last(member)).__name__}): "
    try:
        yield
    except LookalikeError as error:
        raise type(error)(f"{said}{error}") from error
    except TypeError as error:
        raise TypeError(f"{said}{error}{advice}") from error
    except ValueError as error:
        raise ValueError(f"{said}{error}{advice}") from error
