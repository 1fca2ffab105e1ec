"""Rows added to a training table, where cross-validation says that the user's own task gains by them.

Each candidate makes training rows from those of one fold. The user's estimator is fitted to them and scored
on the real rows left out, which no generator, committee or sampler has seen. Differences to real rows alone
are paired by fold; as folds share training rows, their variance is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, clone, is_classifier
from sklearn.metrics import average_precision_score, get_scorer, make_scorer
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold, check_cv
from sklearn.utils.validation import has_fit_parameter
from tqdm import tqdm

from lookalike import noise
from lookalike.boosting import BoostingClassifier, BoostingRegressor
from lookalike.candidates import (
    CANDIDATES,
    OF_IMAGES,
    Candidate,
    Made,
    Nothing,
    Smote,
    Target,
    Training,
    seeded,
)
from lookalike.errors import SchemaError, did_you_mean
from lookalike.families import Diffusion, Mixture
from lookalike.findings import Report, choice, found
from lookalike.frames import name_columns, open_frame
from lookalike.image_classifier import ImageClassifier, flips_help
from lookalike.levelled import Levelled
from lookalike.parameters import Range
from lookalike.schema import infer
from lookalike.streaming import indexable, n_rows, taken
from lookalike.synthesizer import Synthesizer
from lookalike.values import values_of

FOLDS = 5
REPEATS, FEW = 2, 5000  # the rows are dealt twice where they are fewer: one deal is noisy
CONFIDENCE = 0.75  # of a gain: odds of three to one

Floats = NDArray[np.float64]
Array = NDArray[Any]


class Augmented(NamedTuple):
    """Training rows as `augment` returns them.

    Attributes
    ----------
    X : table like the one given
        Its rows, and below them what was added, if anything.
    y : like the one given
    sample_weight : ndarray of shape (n_rows,), float64, or None
        To fit with; None where all rows count the same.
    report : Report
        What was tried, what each gained and what was chosen.
    """

    X: Any
    y: Any
    sample_weight: Floats | None
    report: Report


class Augmenter(OneToOneFeatureMixin, BaseEstimator):
    """Add rows to a training table only where that helps, as a sampler of imbalanced-learn's protocol.

    Candidates are compared with real rows alone by cross-validation with the estimator that the rows are for.
    One is chosen if it is likely enough to gain, and nothing is otherwise. Generators are fitted within each
    fold, and scores are those of real rows that they have not seen.

    Parameters
    ----------
    generator : estimator, optional
        What generates, not fitted; by default a `Synthesizer`, and for images a small `Diffusion`.
    estimator : estimator, optional
        What the rows are for: a classifier or regressor of scikit-learn's kind, or a pipeline, that takes X
        as it is. By default boosted trees, which take text and missing values; for images a small
        convolutional network, `lookalike.image_classifier.ImageClassifier`, which learns from images that
        are shifted, turned, zoomed, lit, cut, and mirrored where two folds say that it helps.
    candidates : sequence of Candidate, optional
        By default `lookalike.candidates.CANDIDATES`: class weights; generated rows of rare classes, up to the
        largest; generated rows labelled by a committee of the estimator, once and four times as many as the
        real ones; real rows labelled so; SMOTENC where imbalanced-learn is installed. For images
        `OF_IMAGES`: generated ones of each class, as many as real ones, and twice as many variations.
    scoring : str or callable, optional
        As scikit-learn has it. By default average precision of the rarer of two classes, the area under the
        ROC curve of each class against the rest (one-vs-rest, their mean) of more, and minus the root mean
        squared error of numbers; for images accuracy.
    cv : int, splitter or iterable, optional
        Folds. By default five, stratified, dealt twice below 5,000 rows; those of images once.
    confidence : float
        The probability of a gain from which a candidate is chosen. It takes what was expected into account:
        that committees' labels usually gain, and that large gains are rare. Where nothing was expected of
        several, each may leave but its share of the doubt.
    min_gain : float
        What counts as a gain, in units of the score.
    verbose : bool
        Show a progress bar.
    random_state : int, Generator, RandomState or None
        Equal seeds give equal rows, unless generator or estimator have seeds of their own.

    Attributes
    ----------
    report_ : Report
        What was tried, what each gained and what was chosen.
    chosen_ : Candidate
        What was chosen.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from lookalike.candidates import ClassWeights
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = X[:, 0] > 1
    >>> sampler = Augmenter(estimator=LogisticRegression(), candidates=[ClassWeights()], random_state=0)
    >>> new_X, new_y = sampler.fit_resample(X, y)
    >>> sampler.report_.verdict[:16], len(new_X)
    ('no augmentation:', 200)
    """

    def __init__(
        self,
        generator: Any = None,
        estimator: Any = None,
        *,
        candidates: Sequence[Candidate] | None = None,
        scoring: str | Callable[..., float] | None = None,
        cv: Any = None,
        confidence: float = CONFIDENCE,
        min_gain: float = 0.0,
        verbose: bool = False,
        random_state: noise.RandomState = None,
    ) -> None:
        self.generator = generator
        self.estimator = estimator
        self.candidates = candidates
        self.scoring = scoring
        self.cv = cv
        self.confidence = confidence
        self.min_gain = min_gain
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Augmenter:
        """Compare the candidates, as `fit_resample` does, and add nothing.

        Parameters are those of `fit_resample`.
        """
        self._compare(_Task.of(self, X, y), weighted=False)
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Compare the candidates, and return the rows of the one chosen.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        y : array-like of shape (n_rows,), or the name of a column of X
            Classes or numbers to predict, none missing.

        Returns
        -------
        X : table like the one given
            The real rows first. There are no weights in this protocol: where the choice has some, rows are
            repeated instead, and so they were when it was compared.
        y : like the one given

        Raises
        ------
        SchemaError
            If y is missing somewhere, of another length than X, of one class, or of a class with fewer rows
            than there are folds.
        ValueError
            If a parameter is not allowed, or an estimator cannot do what it is for.
        """
        task = _Task.of(self, X, y)
        self._compare(task, weighted=False)
        return task.returned(task.made(self.chosen_, task.training(None, 0), weighted=False))

    def _compare(self, task: _Task, weighted: bool) -> None:
        """Fit to each candidate's rows without each fold, and choose."""
        splits = [
            (np.asarray(train), np.asarray(test))
            for train, test in task.cv.split(np.zeros(len(task.target.y)), task.target.y)
        ]
        if len(splits) < 2:
            raise ValueError(
                f"cv must deal at least 2 folds, got {len(splits)}: one tells nothing of chance."
            )
        scores = np.zeros((len(task.candidates), len(splits)))
        with tqdm(total=scores.size, disable=not self.verbose, unit="fit", leave=True) as bar:
            for k, (train, test) in enumerate(splits):
                training = task.training(train, k + 1)
                tested = taken(task.X, test), task.target.told(task.target.y[test])
                for c, candidate in enumerate(task.candidates):
                    model = task.fitted(task.made(candidate, training, weighted), weighted, training.seed)
                    scores[c, k] = task.scorer(model, *tested)
                    if not np.isfinite(scores[c, k]):
                        raise ValueError(f"scoring gave {scores[c, k]} for {candidate} in fold {k}.")
                    bar.update()
                bar.set_postfix(gain=f"{(scores - scores[0])[:, : k + 1].mean(1).max():.3f}")
        share = float(np.mean([len(test) / len(train) for train, test in splits]))
        findings = [
            found(candidate, own, scores[0], share, self.min_gain, len(task.target.y))
            for candidate, own in zip(task.candidates, scores, strict=True)
        ]
        self.chosen_ = choice(findings, self.confidence, self.min_gain)
        self.report_ = Report(findings, self.chosen_, task.scoring, task.skipped)
        name_columns(self, task.X)

    def _check(self) -> None:
        Range(0.01, 1).check("confidence", self.confidence)
        Range(-np.inf, np.inf).check("min_gain", self.min_gain)
        for candidate in self.candidates or ():
            if not isinstance(candidate, Candidate):
                raise ValueError(
                    f"candidates must be of lookalike.candidates, such as Rare(0.5), got {candidate!r}."
                )
        generator_or_default(self.generator)


def generator_or_default(generator: Any, images: bool = False) -> Any:
    """What generates, not fitted; where none is given a `Synthesizer`, of images a small `Diffusion`."""
    if generator is None:
        return _small() if images else Synthesizer(Mixture())
    if not hasattr(generator, "generate"):
        raise ValueError(
            f"generator must be an estimator that generates, such as la.Synthesizer(), got {generator!r}."
        )
    return generator


def _small() -> Diffusion:
    """A model of images that a few can teach something, and that learns anew in each fold."""
    return Diffusion(width=64, n_steps=8, early_stopping=False)


@dataclass(frozen=True)
class _Task:
    """What an `Augmenter` was asked, checked and with every default in its place."""

    X: Any
    y: Any  # as it came
    target: Target
    generator: Any
    estimator: Any
    weight: str | None  # the argument of `fit` that takes weights
    scorer: Callable[..., float]
    scoring: str
    cv: Any
    candidates: list[Candidate]
    skipped: list[str]
    seed: int

    @classmethod
    def of(cls, asked: Augmenter, X: Any, y: Any) -> _Task:
        asked._check()
        seed = noise.seed_from(asked.random_state)
        X, y = _apart(X, y)
        images = isinstance(X, np.ndarray) and X.ndim > 2
        estimator = ImageClassifier() if images and asked.estimator is None else asked.estimator
        target, rare = _target(y if np.ndim(y) == 1 else np.asarray(y)[:, 0], estimator)
        classes = target.labels is not None
        if estimator is None:
            estimator = BoostingClassifier() if classes else BoostingRegressor()
        usual = "accuracy" if images else None
        scorer, scoring = _scorer(usual if asked.scoring is None else asked.scoring, target, rare)
        cv = asked.cv
        if cv is None or isinstance(cv, int | np.integer):
            folds = FOLDS if cv is None else int(cv)
            Range(2, len(target.y), whole=True).check("cv", folds)
            if classes:
                _enough(target, folds)
            deal = RepeatedStratifiedKFold if classes else RepeatedKFold
            repeats = REPEATS if len(target.y) < FEW and not images else 1  # these take their time
            cv = deal(n_splits=folds, n_repeats=repeats, random_state=seed % 2**32)
        if images and asked.estimator is None:
            estimator.set_params(flip=flips_help(X, target.y, seed))
        candidates, skipped = [], []
        default = OF_IMAGES if images else CANDIDATES
        for candidate in asked.candidates if asked.candidates is not None else default:
            if isinstance(candidate, Smote) and classes and find_spec("imblearn") is None:
                skipped.append("SMOTENC, as imbalanced-learn is not installed.")
            elif classes or not candidate.classes_only:
                candidates.append(candidate)
        return cls(
            X,
            y,
            target,
            generator_or_default(asked.generator, images),
            estimator,
            _weight_argument(estimator),
            scorer,
            scoring,
            check_cv(cv, target.y, classifier=classes),
            [Nothing(), *candidates],
            skipped,
            seed,
        )

    def training(self, index: NDArray[np.int64] | None, k: int) -> Training:
        """The rows of a fold, or all of them, with a seed of its own."""
        if index is None:
            return Training(self.X, self.target, self.generator, self.estimator, self.seed)
        target = self.target._replace(y=self.target.y[index])
        own = (self.seed + (k << 40)) % 2**64
        return Training(taken(self.X, index), target, self.generator, self.estimator, own)

    def made(self, candidate: Candidate, training: Training, weighted: bool) -> Made:
        """A candidate's rows; repeated instead of weighted where no weights can be given."""
        made = candidate.make(training)
        if (made.weight == 1).all() or (weighted and self.weight is not None):
            return made
        return made.repeated(0.5)

    def fitted(self, made: Made, weighted: bool, seed: int) -> Any:
        """The estimator, fitted to rows."""
        options = {}
        if weighted and self.weight is not None and (made.weight != 1).any():
            options[self.weight] = made.weight
        return seeded(clone(self.estimator), seed).fit(made.X, self.target.told(made.y), **options)

    def returned(self, made: Made) -> tuple[Any, Any]:
        """Rows and what to predict as they came; a label is one that was there, and of its dtype."""
        if made.X is self.X:
            return self.X, self.y
        if self.target.labels is not None:
            first = np.unique(self.target.y, return_index=True)[1]
            return renumbered(made.X), renumbered(taken(self.y, first[made.y]))
        if isinstance(self.y, np.ndarray | list | tuple):
            return renumbered(made.X), made.y.reshape(-1, *np.shape(self.y)[1:])
        given = nw.from_native(self.y, allow_series=True)
        frame = given.to_frame() if isinstance(given, nw.Series) else given
        y = nw.new_series(frame.columns[0], made.y, backend=given.implementation)
        return renumbered(made.X), (y if given is not frame else y.to_frame()).to_native()


def renumbered(rows: Any) -> Any:
    """With an index from 0, where there is one."""
    native = nw.from_native(rows, eager_only=True, allow_series=True, pass_through=True)
    return rows if native is rows else nw.maybe_reset_index(native).to_native()


def augment(
    X: Any,
    y: Any,
    generator: Any = None,
    estimator: Any = None,
    *,
    candidates: Sequence[Candidate] | None = None,
    scoring: str | Callable[..., float] | None = None,
    cv: Any = None,
    confidence: float = CONFIDENCE,
    min_gain: float = 0.0,
    verbose: bool = False,
    random_state: noise.RandomState = None,
) -> Augmented:
    """Add rows, or weights, to a training table where cross-validation says that the task gains by them.

    Parameters
    ----------
    X : DataFrame, pyarrow.Table, ndarray of shape (n_rows, n_columns), or images
        Rows to train on: hold those to test on back. Images are an array (n, height, width[, channels]), or
        a dict of it and of labels: of such a dict the array comes back.
    y : array-like of shape (n_rows,), or the name of a column of X
        Classes or numbers to predict, none missing.
    generator, estimator, candidates, scoring, cv, confidence, min_gain, verbose, random_state
        As of `Augmenter`.

    Returns
    -------
    Augmented
        `X`, `y`, `sample_weight` and `report`. Unlike `Augmenter.fit_resample` it gives weights, where the
        estimator's `fit` takes them.

    Raises
    ------
    SchemaError
        If y is missing somewhere, of another length than X, of one class, or of a class with fewer rows than
        there are folds.
    ValueError
        If a parameter is not allowed, or an estimator cannot do what it is for.

    Examples
    --------
    >>> import numpy as np
    >>> from lookalike.candidates import Rows
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> rows = augment(X, X[:, 0] > 0.5, candidates=[Rows(1)], cv=2, random_state=0)
    >>> rows.X.shape, rows.sample_weight, rows.report.chosen
    ((60, 2), None, Nothing())
    """
    sampler = Augmenter(
        generator,
        estimator,
        candidates=candidates,
        scoring=scoring,
        cv=cv,
        confidence=confidence,
        min_gain=min_gain,
        verbose=verbose,
        random_state=random_state,
    )
    task = _Task.of(sampler, X, y)
    sampler._compare(task, weighted=True)
    made = task.made(sampler.chosen_, task.training(None, 0), weighted=True)
    weight = None if (made.weight == 1).all() else made.weight
    return Augmented(*task.returned(made), weight, sampler.report_)


# ---- what was given ----------------------------------------------------------------------------------------


def _apart(X: Any, y: Any) -> tuple[Any, Any]:
    """The table, or the images, and what to predict, which may be a column of it."""
    if isinstance(X, Mapping):
        X, y = _images_apart(X, y)
    X = indexable(X)
    names = open_frame(X).names
    if isinstance(y, str) or (y is not None and np.ndim(y) == 0):
        if isinstance(X, np.ndarray) or y not in names:
            raise SchemaError(f"y is {y!r}, which is not a column of X.{did_you_mean(y, names)}")
        frame = nw.from_native(X, eager_only=True)
        X, y = frame.drop(y).to_native(), frame[y].to_native()
    if y is None:
        raise SchemaError("y is None: pass what is to be predicted, one value a row.")
    if np.shape(y)[1:] not in ((), (1,)) or len(y) != n_rows(X):
        raise SchemaError(f"y must have one value a row: X has {n_rows(X)} rows, y the shape {np.shape(y)}.")
    return X, y


def _images_apart(columns: Mapping[Any, Any], y: Any) -> tuple[Any, Any]:
    """The images of a dict, and their labels where these are in it too."""
    images = [name for name, column in columns.items() if np.ndim(column) > 2]
    others = [name for name in columns if name not in images]
    if len(images) != 1 or others not in ([], [y] if isinstance(y, str) else []):
        raise SchemaError(
            "a dict is augmented where it holds images and their labels, and y names these: got the columns "
            f"{', '.join(map(repr, columns))} and y={repr(y)[:40]}. Pass tables as a DataFrame, a pyarrow "
            "Table or an array."
        )
    return np.asarray(columns[images[0]]), columns[y] if others else y


def _target(y: Any, estimator: Any) -> tuple[Target, Any]:
    """Classes or numbers, and the rarest class."""
    values = values_of("y", y)
    if values.any_missing:
        row = int(values.missing.argmax())
        raise SchemaError(f"y is missing (NaN or null) in row {row}. Drop the rows without it.")
    codes, labels = values.coded()
    known = estimator is not None and hasattr(estimator, "predict")
    if not (is_classifier(estimator) if known else _are_classes(values)):
        return Target(values.plain().astype(np.float64), None), None
    names = np.asarray(labels)
    counts = np.bincount(codes, minlength=len(labels))
    if np.count_nonzero(counts) < 2:
        raise SchemaError(
            f"y holds one class alone, {labels[int(counts.argmax())]!r}. There is nothing to predict."
        )
    names, dense = np.unique(values.plain().astype(names.dtype), return_inverse=True)
    return Target(dense.astype(np.int64), names), names[np.bincount(dense).argmin()]


def _are_classes(values: Any) -> bool:
    """Whether a column is of classes, by the rules of a schema; two values are always."""
    return len(values.coded()[1]) <= 2 or values.family == "text" or isinstance(infer(values), Levelled)


def _enough(target: Target, folds: int) -> None:
    assert target.labels is not None
    counts = np.bincount(target.y)
    if counts.min() < folds:
        raise SchemaError(
            f"class {target.labels[counts.argmin()]} has {counts.min()} rows, fewer than {folds} folds. "
            "Take fewer folds by cv, or leave the class out."
        )


def _scorer(scoring: Any, target: Target, rare: Any) -> tuple[Callable[..., float], str]:
    """What scores, and in words."""
    if scoring is not None:
        name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
        return get_scorer(scoring), name.replace("_", " ")
    if target.labels is None:
        return get_scorer("neg_root_mean_squared_error"), "minus root mean squared error"
    if len(target.labels) > 2:
        return get_scorer("roc_auc_ovr"), "area under the ROC curve"
    return (
        make_scorer(
            average_precision_score, response_method=("predict_proba", "decision_function"), pos_label=rare
        ),
        f"average precision of {rare!s}",
    )


def _weight_argument(estimator: Any) -> str | None:
    """The argument of `fit` that takes weights, if one does."""
    if hasattr(estimator, "steps"):
        name, last = estimator.steps[-1]
        return f"{name}__sample_weight" if has_fit_parameter(last, "sample_weight") else None
    return "sample_weight" if has_fit_parameter(estimator, "sample_weight") else None
