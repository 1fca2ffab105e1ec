"""The scikit-learn face that all families share: they differ in their model alone."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from lookalike import archive, counting, noise, persistence
from lookalike._version import __version__
from lookalike.calibration import FALSE_ALARM_RATE, HELD_OUT_SHARE, MOST_HELD_OUT, Calibration
from lookalike.columns import Column
from lookalike.costs import FitReport, Macs, Meter
from lookalike.datasets import Dataset, Tally, is_dataset
from lookalike.errors import ConditionError, LookalikeWarning, SchemaError
from lookalike.face import Face, Known
from lookalike.layout import Layout, Rows
from lookalike.memory import POOL, Blend, Memory, strays
from lookalike.models.family import Family, Model
from lookalike.parameters import RANGES, check_parameters
from lookalike.persistence import State
from lookalike.preprocessing import MAX_VALUES, TableCodec, TrainingRows, fit_coordinates
from lookalike.schema import Schema, Table
from lookalike.stored import stored
from lookalike.training import ALONE, Callback, Peers, Schedule, multiplies_narrow, seeded, train
from lookalike.verbs import Completer, Energies, Scorer

FEWEST_WATCHED = 100  # rows below which a held-out loss is noise, and nothing stops early
FEWEST_UNSEEN = 20  # rows of fit below which none can be spared to weigh energies
MOST_WEIGHED = 2048  # rows on which energies are weighed, fewer where a feature is more work
ENOUGH = 256  # rows to weigh energies and to stop early by, where a row is much work
PATIENCE = 5  # of 20 evaluations
CHUNK = 512  # rows a model sees at once, always: a matrix product's last bit depends on its shape
STRAY_CHUNK = 8192
CHUNK_FEATURES = 1 << 20  # at most, whatever the rows; a power of two of rows
BATCH_FEATURES = 1 << 19  # of default batches
LARGE = 10_000  # rows from which networks are wide
TIMED = 64  # rows by which scoring is timed


class Estimator(Face, OutlierMixin, BaseEstimator):
    """What all families share; not to be used itself."""

    _key: ClassVar[str]
    _model_parameters: ClassVar[tuple[str, ...]]
    _report: FitReport | None  # of `fit`; a file keeps none
    _most_values: ClassVar[int] = MAX_VALUES  # kept of a number's, where they repeat
    _pace: ClassVar[float] = 5.4  # training steps a unit of n_train ** 0.6
    _fewest_steps: ClassVar[int] = 300
    _most_steps: ClassVar[int] = 4000
    _batches: ClassVar[tuple[int, int]] = 256, 512  # at most, below LARGE rows and from there on

    def __init__(
        self,
        *,
        contamination: float | Literal["auto"],
        schema: Mapping[Any, Column] | None,
        max_levels: int,
        memory: int,
        max_steps: int | None,
        max_seconds: float | None,
        batch_size: int | None,
        learning_rate: float | None,
        early_stopping: bool,
        callbacks: Sequence[Callback] | None,
        checkpoint: str | os.PathLike[str] | None,
        device: str,
        verbose: bool,
        random_state: noise.RandomState,
    ) -> None:
        self.contamination = contamination
        self.schema = schema
        self.max_levels = max_levels
        self.memory = memory
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.early_stopping = early_stopping
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def _build(self, layout: Layout, generator: torch.Generator, width: int) -> Model:
        raise NotImplementedError

    def _width(self, n: int) -> int:
        """Size of the model for n rows."""
        return int(self.width or (256 if n >= LARGE else 128))

    def _steps(self, n: int, layout: Layout) -> int:
        """Steps of training for n rows."""
        return int(np.clip(self._pace * n**0.6, self._fewest_steps, self._most_steps))

    def _batch(self, n: int, layout: Layout) -> int:
        """Rows a step, fewer where a row is thousands of features wide."""
        few, many = self._batches
        most = many if n >= LARGE else int(np.clip(n // 8, 128, few))
        return int(np.clip(BATCH_FEATURES // (layout.width * layout.weight), 32, most))

    # ---- fitting ---------------------------------------------------------------------------------------

    def fit(self, X: Any, y: object = None) -> Self:
        """Learn what rows look like.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns), or pyarrow.dataset.Dataset
            Numbers, text, categories, booleans, dates; missing values are learned. A tenth of the rows, at
            most 4,096, is held out to calibrate scores, and as many to weigh energies and to stop early.
            A dataset may be larger than memory: it is read three times, and its encoded rows are kept on
            disk while the model learns.
        y : array-like of shape (n_rows,), optional
            -1 for rows known to be anomalies, 1 for the others, labelled or not. Known anomalies are not
            learned from; they choose between energies, and rows like them are odder. Labels without any -1
            are ignored, for scikit-learn's sake. Not with a dataset.

        Returns
        -------
        self

        Raises
        ------
        SchemaError
            If the data cannot be learned from: which column, and why.
        ValueError
            If a parameter is out of its range, or y is not of 1 and -1 or of another length than X.
        """
        with ExitStack() as stack:  # what training rows take on disk is given back, however fit ends
            self._fit(X, y, stack, ALONE)
        return self

    def _fit(self, X: Any, y: object, stack: ExitStack, peers: Peers) -> None:
        meter = Meter()
        check_parameters(self.get_params(deep=False))
        device = device_named(self.device)
        seed = noise.seed_from(self.random_state)
        X, dataset = _gathered(X, y)
        if dataset is None:
            schema = Schema.fit(X, self.schema)
        else:  # all but the training itself goes by a sample of the rows
            drawn, X = dataset.sample(seed)
            schema = dataset.schema(X, self.schema)
        everything = schema.encode(X)
        odd = _known_anomalies(y, len(everything))
        anomalies = everything.rows(np.flatnonzero(odd))
        table = everything.rows(np.flatnonzero(~odd)) if len(anomalies) else everything
        n = len(table)
        if n < 2:
            raise SchemaError(
                "fit needs at least 2 rows, got n_samples = 1: one to learn from, one to calibrate."
            )
        part = min(max(round(HELD_OUT_SHARE * n), 1), MOST_HELD_OUT)
        watch = part if n >= FEWEST_UNSEEN else 0
        order = torch.randperm(n, generator=seeded(seed, "split", 0)).numpy()
        calibration, watched, training = np.split(order, [part, part + watch])
        training = np.sort(training)

        if dataset is None:
            tally = Tally.of(schema, table.rows(training))
        else:
            tally = Tally.told(schema, dataset.n_rows) - Tally.of(schema, table.rows(order[: part + watch]))
        codec = _fit_codec(schema, table, training, tally, self.max_levels, self._most_values)
        width = self._width(n)
        model = self._build(codec.layout, seeded(seed, "weights", 0), width).to(device)
        rows = codec(*tensors(table.rows(order[part:][: max(POOL, self.memory)]))).to(device)
        known = codec(*tensors(anomalies)).to(device)
        memory = Memory.learn(codec.layout, rows, known, self.memory, seeded(seed, "memory", 0, device))
        looked_at = table.rows(watched[: _most(MOST_HELD_OUT, codec.layout)])
        unseen = codec(*tensors(looked_at)).to(device)
        model.prepare(memory, len(training), unseen)
        if model.wary:
            afar = _afar(codec, memory, table.rows(training))
            training = training[~strays(afar).cpu().numpy()]

        def encoded(rows: Table) -> TrainingRows:
            return codec.training_rows(*tensors(rows), measured=model.measured)

        if dataset is None:
            data = encoded(table.rows(training)).to(device)
        else:
            parts = dataset.encoded(schema, np.sort(drawn[order[: part + watch]]))
            if model.wary:
                parts = (p.rows(~strays(_afar(codec, memory, p), afar).cpu().numpy()) for p in parts)
            data = stack.enter_context(stored(map(encoded, parts), codec.numbers.quantile))
        stops_early = self.early_stopping and watch >= FEWEST_WATCHED
        held_out = unseen if stops_early else None
        size = self.batch_size or self._batch(n, codec.layout)
        steps = self.max_steps or self._steps(len(data), codec.layout)
        most = _most(MOST_WEIGHED, codec.layout)
        some = np.linspace(0, len(training) - 1, min(len(training), most)).astype(int)
        energies = Energies(codec, model, memory, len(data))
        numbers, ids = tensors(table.rows(training[some]))
        forged = codec.layout.forged(numbers, seeded(seed, "forged", 0))
        weighed = (
            (numbers, ids),
            tensors(table.rows(watched[:most])),
            tensors(anomalies),
            (forged, ids[: len(forged)]),
        )
        chunk, last = _chunk_of(codec.layout), part
        if self.contamination != "auto":
            last += len(everything)
        scored = sum(len(rows[0]) for rows in weighed) + math.ceil(last / chunk) * chunk
        schedule = Schedule(
            steps,
            size,
            self.learning_rate or model.learning_rate,
            PATIENCE if self.early_stopping else None,
            None if self.max_seconds is None else self._time_to_train(meter, energies, weighed[0], scored),
            codec.layout.narrow and multiplies_narrow(device),
        )
        shown = type(self)(**self.get_params(deep=False))  # what callbacks see
        shown.__dict__.update(schema_=schema, codec_=codec, model_=model)
        history = train(
            model,
            data,
            held_out,
            schedule,
            seed,
            callbacks=list(self.callbacks or ()),
            shown=shown,
            checkpoint=self.checkpoint,
            fingerprint=self._fingerprint(seed, schema, table, schedule)
            if self.checkpoint is not None
            else "",
            verbose=self.verbose,
            peers=peers,
        )
        self.codec_, self.model_, self.n_train_ = codec, model.requires_grad_(False), len(data)
        self.memory_ = memory
        self.blend_ = Blend.learn(*(energies.totals(*rows) for rows in weighed))
        normal = Calibration(self._scores(table.rows(calibration)))
        if self.contamination == "auto":
            offset = normal.threshold(FALSE_ALARM_RATE)
        else:
            offset = float(np.percentile(self._scores(everything), 100.0 * float(self.contamination)))
        self._learn(
            State(schema, codec, model, memory, self.blend_, normal, history, width, len(data), offset)
        )
        self._report = FitReport(
            **meter.cost.to_dict(),
            steps=self.n_iter_,
            rows_seen=self.n_iter_ * size,
            parameters=self._parameters,
            weight_bytes=self._weight_bytes,
            macs=Macs(None, None, None),
            ended=history.ended,
        )

    def _time_to_train(self, meter: Meter, energies: Energies, rows: tuple[Tensor, Tensor], n: int) -> float:
        """Seconds of `max_seconds` that are left once n rows, which these are like, have been scored."""
        few = [part[:TIMED] for part in rows]
        energies.totals(*few)  # once before, as a first call takes longer
        with Meter() as once:
            energies.totals(*few)
        others = meter.seconds + once.cost.seconds * n / len(few[0])
        left = cast(float, self.max_seconds) - others
        if left <= 0:
            warnings.warn(
                f"max_seconds={self.max_seconds:g} leaves no time to train: before and after it fit takes "
                f"about {others:.2g} s on these rows. Give it more.",
                LookalikeWarning,
                stacklevel=4,
            )
        return left

    def _fingerprint(self, seed: int, schema: Schema, table: Table, schedule: Schedule) -> str:
        """Digest of all that decides the course of a fit."""
        if self.random_state is None:
            raise ValueError(
                "checkpoint needs a random_state, got None: a fit that goes on needs the same seed."
            )
        digest = hashlib.sha256()
        parameters = {
            k: v for k, v in self.get_params(deep=False).items() if k in RANGES and k != "max_seconds"
        }
        plan = replace(schedule, max_seconds=None)
        about = [self._key, __version__, seed, asdict(plan), parameters, schema.to_dict()]
        digest.update(json.dumps(about, default=str).encode())
        digest.update(np.ascontiguousarray(table.numbers).tobytes())
        digest.update(np.ascontiguousarray(table.ids).tobytes())
        return digest.hexdigest()

    # ---- what it took --------------------------------------------------------------------------------------

    @property
    def fit_report_(self) -> FitReport:
        """What `fit` took, and what the model computes for a row, which is counted when first asked for."""
        check_is_fitted(self)
        if self._report is None:
            raise AttributeError(
                f"fit_report_ tells of a fit in this process, and this {self._owner} was fitted in another, "
                "or loaded from a file, which keeps none. predict_report(X) says what scoring takes."
            )
        if self._report.macs.score is None:
            self._report = replace(self._report, macs=counting.macs(self._scorer))
        return self._report

    @property
    def _parameters(self) -> int:
        return sum(p.numel() for p in self.model_.parameters())

    @property
    def _weight_bytes(self) -> int:
        held = (self.codec_, self.model_, self.memory_, self.blend_)
        return sum(t.nbytes for module in held for t in module.state_dict().values())

    def _size(self) -> dict[str, Any]:
        return {
            "parameters": self._parameters,
            "weight_bytes": self._weight_bytes,
            "macs": counting.macs_to_score(self._scorer),
        }

    # ---- what `Face` asks for ----------------------------------------------------------------------------

    def fit_predict(self, X: Any, y: object = None) -> NDArray[np.int64]:
        """Fit, and predict the rows fitted; shape (n_rows,)."""
        return self.fit(X, y).predict(X)

    def _check(self, task: str) -> None:
        check_is_fitted(self)
        if task != "score" and not isinstance(self.model_, Family):
            raise ConditionError(
                f"{self._owner} scores and explains, and cannot {task}. "
                f"Fit a Mixture, VAE, GAN, Diffusion or Hybrid to {task} rows."
            )
        if task != "score" and self.schema_.template is not None:
            raise ConditionError(
                f"{self._owner} learned how images differ from {self.schema_.template.name!r}, their "
                f"template: it scores, and cannot {task}. Fit images without a template to {task} them."
            )

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _scores(self, rows: Table, first: int = 0) -> NDArray[np.float64]:
        return -np.concatenate([cells.sum(1).numpy() for cells, _ in self._energies(rows, first)])

    def _shares(self, rows: Table, first: int) -> tuple[NDArray[np.float64], Table]:
        shares, tables = [], []
        for cells, expected in self._energies(rows, first):
            shares.append(self.codec_.layout.sum_by_column(cells).numpy())
            tables.append(_table(*self._scorer.expected(expected)))
        return np.concatenate(shares), Table.join(tables)

    def _energies(self, table: Table, first: int = 0) -> Iterator[tuple[Tensor, Rows]]:
        """Energy of each cell, float64, and the rows expected, in chunks of one size."""
        scorer, chunk, layout = self._scorer, self._chunk(), self.codec_.layout
        for start in range(0, len(table), chunk):
            part = table.rows(slice(start, start + chunk))
            n = len(part)
            with torch.inference_mode():
                cells, expected = scorer.energies(*padded(chunk, part.numbers, part.ids))
            cells = cells[:n]
            if not cells.isfinite().all():  # which spoils the whole row: its parts tell where from
                found, _ = scorer.apart(*tensors(part))
                self._refuse(layout.sum_by_column(sum(found[1:], found[0])).numpy(), first + start)
            yield cells, expected.take(slice(n))

    @property
    def _scorer(self) -> Scorer:
        return Scorer(self.codec_, self.model_, self.memory_, self.n_train_, self.blend_)

    def _chunk(self) -> int:
        return _chunk_of(self.codec_.layout)

    def _complete(self, rows: Table, known: Known, seed: int, impute: bool) -> Table:
        completer = Completer(self.codec_, cast(Family, self.model_), impute)

        def drawn_from(start: int, n: int) -> Sequence[NDArray[np.float32]]:
            return noise.rows(seed, start, n, *completer.noise_size)

        return self._drawn(completer, [rows.numbers, rows.ids, *known], drawn_from)

    def _drawn(
        self,
        completer: Completer,
        arrays: Sequence[NDArray[Any]],
        drawn_from: Callable[[int, int], Sequence[NDArray[np.float32]]],
    ) -> Table:
        """Complete rows in chunks of one size: what the completer takes of them, and noise from a row on."""
        numbers, ids = np.empty_like(arrays[0]), np.empty_like(arrays[1])
        n, chunk = len(numbers), self._chunk()
        for start in range(0, n, chunk):
            part = slice(start, min(start + chunk, n))
            given = padded(chunk, *(array[part] for array in arrays))
            with torch.inference_mode():
                drawn = completer(*given, *map(torch.from_numpy, drawn_from(start, chunk)))
            new = _table(*drawn).rows(slice(part.stop - start))
            numbers[part], ids[part] = new.numbers, new.ids
        return Table(numbers, ids)

    def _blurred(self, n: int, seed: int) -> Any:
        """Rows near those remembered, for trials."""
        device = self.memory_.rows.device
        rows = self.memory_.draw(n, seeded(seed, "blurred", 0, device)).to("cpu")
        return self.schema_.decode(_table(*self._scorer.expected(rows)), seed=seed)

    # ---- files and tags -------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the fitted estimator to one `.lookalike` file, whole or not at all.

        Returns
        -------
        str
            SHA-256 of the file; `la.load(path, sha256=...)` then accepts this file alone.
        """
        check_is_fitted(self)
        manifest, arrays = persistence.pack(self._key, self.get_params(deep=False), self._state)
        card = persistence.card(type(self).__name__, self._state)
        return archive.write(path, kind="model", manifest=manifest, tensors=arrays, card=card)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        task: Literal["score", "generate", "impute"] = "score",
        inputs: Literal["columns", "core"] = "columns",
        explain: bool = True,
        rows: Any = None,
        precision: Literal["float32", "int8"] = "float32",
        min_agreement: float | None = None,
    ) -> str:
        """Write one verified ONNX file that runs without torch, whole or not at all.

        `lookalike.runtime.load` opens it with this estimator's methods; onnxruntime alone runs it too.

        Parameters
        ----------
        path : str or PathLike
        task : {"score", "generate", "impute"}
            What the file is to do.
        inputs : {"columns", "core"}
            One named input a column, text included, and images as they are; or a float32 matrix ``numbers``
            and int64 ``ids``, which a GPU takes as they are.
        explain : bool
            Whether scores come with each column's contribution and with what was expected. `runtime.load`
            computes them only when they are asked for; onnxruntime alone at every call.
        rows : DataFrame, pyarrow.Table or ndarray, optional
            Real rows to verify with, beside remembered ones that are blurred; for int8, training rows.
        precision : {"float32", "int8"}
            Of the networks. In int8 those of tables are up to twice as fast on a CPU, small convolutions no
            faster, and scores and draws less exact: how far they agree with float32 is
            printed, and kept in the file.
        min_agreement : float, optional
            Least Spearman correlation of scores in int8 with those in float32, 0.999 if not said; of draws
            the least share of the variance of numbers, and of levels, that is the same, 0.9 if not said.

        Returns
        -------
        str
            SHA-256 of the file; ``runtime.load(path, sha256=...)`` then accepts this file alone.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ConditionError
            If the model cannot do it: a detector draws nothing, nor does a model of images with templates.
        ExportError
            If onnxruntime's results differ from torch's by more than 1e-5 of the score's spread; nothing is
            then written. Or if those in int8 agree with float32 less than `min_agreement`.
        MissingExtraError
            Without the packages of ``lookalike[onnx]`` or ``lookalike[cpu]``.
        """
        check_is_fitted(self)
        # By name, for exporters stand above estimators.
        exporter = import_module("lookalike.exporters.onnx")
        digest: str = exporter.export(
            self,
            path,
            task=task,
            inputs=inputs,
            explain=explain,
            rows=rows,
            precision=precision,
            min_agreement=min_agreement,
        )
        return digest

    @classmethod
    def _restore(cls, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], device: str) -> Self:
        parameters = persistence.unpack_parameters(manifest, cls._get_param_names())
        self = cls(**{**parameters, "device": device})
        state = persistence.unpack(manifest, arrays, self._build)
        named = device_named(device)
        self._learn(state._replace(model=state.model.to(named), memory=state.memory.to(named)))
        return self

    def _with(self, **changes: Any) -> Self:
        """Another fitted estimator, of other parameters of drawing, which shares the weights."""
        other = clone(self).set_params(**changes)
        check_parameters(other.get_params(deep=False))
        state = self._state
        model = other._build(state.codec.layout, torch.Generator(), state.width)
        model.load_state_dict(state.model.state_dict(), assign=True)
        device = next(state.model.parameters()).device
        other._learn(state._replace(model=model.to(device).requires_grad_(False)))
        return cast(Self, other)

    @property
    def _state(self) -> State:
        return State(
            self.schema_,
            self.codec_,
            self.model_,
            self.memory_,
            self.blend_,
            self.calibration_,
            self.history_,
            self.width_,
            self.n_train_,
            self.offset_,
        )

    def _learn(self, state: State) -> None:
        """Set what `fit` learned, all of it at once."""
        self.schema_, self.codec_, self.model_, self.memory_, self.blend_ = state[:5]
        self.calibration_, self.history_, self.width_, self.n_train_, self.offset_ = state[5:]
        self.loss_curve_ = [sum(losses) for losses in self.history_.loss]
        self.n_iter_ = self.history_.step[-1] if self.history_.step else 0
        self.n_features_in_ = len(self.schema_.names)
        self._report = None
        self.__dict__.pop("feature_names_in_", None)
        if self.schema_.container != "numpy" and all(isinstance(name, str) for name in self.schema_.names):
            self.feature_names_in_ = np.asarray(self.schema_.names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


def _known_anomalies(y: object, n: int) -> NDArray[np.bool_]:
    """Which rows are labelled -1, shape (n,)."""
    labels = np.full(n, 1) if y is None else np.asarray(y)
    if labels.dtype.kind not in "iufb" or not (labels == -1).any():
        return np.zeros(n, dtype=bool)
    if labels.shape != (n,):
        raise ValueError(f"y must have one label a row, {n:,} in all, got shape {labels.shape}.")
    strange = labels[(labels != 1) & (labels != -1)]
    if len(strange):
        raise ValueError(
            f"y must hold -1 for known anomalies and 1 for other rows, got {strange[0]} as well."
        )
    return np.asarray(labels == -1)


def _most(rows: int, layout: Layout) -> int:
    """So many rows, or fewer where each is much work."""
    return max(rows // layout.weight, ENOUGH)


def _chunk_of(layout: Layout) -> int:
    """Rows that a model sees at once: the same at every call, fewer where rows are wide."""
    rows = max(CHUNK_FEATURES // (layout.width * layout.weight), 16)
    return min(1 << rows.bit_length() - 1, CHUNK)


def device_named(name: str) -> torch.device:
    """Find the device of this name, or say why there is none; "auto" is a GPU where torch sees one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device must be "auto", "cpu" or "cuda", got {name!r}.') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device={name!r} was asked for, and torch sees no GPU. Use device="cpu" or "auto".')
    return device


def _gathered(X: Any, y: object) -> tuple[Any, Dataset | None]:
    """The rows as one table, or as a dataset of more than a sample would hold."""
    if not is_dataset(X):
        return X, None
    if y is not None:
        raise ValueError(
            "y goes with a table in memory, got a dataset. Leave known anomalies out of it: "
            "dataset.filter(condition)."
        )
    dataset = Dataset(X)
    return (dataset.whole(), None) if dataset.is_small else (X, dataset)


def _fit_codec(
    schema: Schema,
    table: Table,
    training: NDArray[np.int64],
    tally: Tally,
    max_levels: int,
    most_values: int,
) -> TableCodec:
    """Learn the numeric half from training rows alone: rows held out stay exchangeable with new ones."""
    numbers = table.numbers[training]
    empty = np.isnan(numbers).all(0)
    for j in np.flatnonzero(empty):  # all values of a rare column were held out: better those than none
        seen = table.numbers[~np.isnan(table.numbers[:, j]), j]
        numbers[0, j] = np.median(seen) if len(seen) else schema.number_columns[j].least
    sizes = [len(column.levels) for column in schema.category_columns]
    return TableCodec(
        fit_coordinates(numbers, most_values, schema.raster),
        np.flatnonzero(tally.blank).tolist(),
        [count[:size] for count, size in zip(tally.levels, sizes, strict=True)],
        [int(count[size + 1]) for count, size in zip(tally.levels, sizes, strict=True)],
        range(len(schema.number_columns) + len(sizes)),
        max_levels,
    )


def _afar(codec: TableCodec, memory: Memory, table: Table) -> Tensor:
    """How far rows are from most: strays could only be learned by heart, (n,)."""
    parts = (table.rows(slice(i, i + STRAY_CHUNK)) for i in range(0, len(table), STRAY_CHUNK))
    with torch.inference_mode():
        return torch.cat([memory.afar(codec(*tensors(p)).to(memory.rows.device)) for p in parts])


def tensors(table: Table) -> tuple[Tensor, Tensor]:
    # A view of the caller's array, which is read-only, has to be copied: torch knows no such tensors.
    numbers, ids = (
        (torch.from_numpy if array.flags.writeable else torch.tensor)(array)
        for array in (table.numbers, table.ids)
    )
    return numbers, ids


def _table(numbers: Tensor, ids: Tensor) -> Table:
    return Table(numbers.numpy(), ids.numpy())


def padded(size: int, *arrays: NDArray[Any]) -> list[Tensor]:
    """Repeat the last row up to `size` rows."""
    index = np.minimum(np.arange(size), len(arrays[0]) - 1)
    return [torch.from_numpy(array[index]) for array in arrays]
