"""MLflow: models logged, registered and loaded as the exported file, which is a pyfunc and an ONNX model too.

Examples
--------
>>> from lookalike.integrations import mlflow as la_mlflow
>>> info = la_mlflow.log_model(model, "orders", registered_model_name="orders")  # doctest: +SKIP
>>> la_mlflow.load_model("models:/orders/1").predict(frame)  # doctest: +SKIP
>>> mlflow.pyfunc.load_model("models:/orders/1").predict(frame)  # doctest: +SKIP
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, TensorSpec
from mlflow.types import Schema as Columns
from mlflow.types.schema import AnyType

from lookalike import runtime
from lookalike._version import __version__
from lookalike.columns import Encoded
from lookalike.errors import ArtifactError, SchemaError
from lookalike.integrations.scorer import KINDS, Scorer, file_of

if TYPE_CHECKING:
    from lookalike.training import Progress

FLAVOR = "lookalike"
FILE = "model.onnx"
_KINDS = {"number": DataType.double, "truth": DataType.boolean}
_FAMILIES = {
    "float": DataType.double,
    "integer": DataType.long,
    "boolean": DataType.boolean,
    "text": DataType.string,
    "datetime": DataType.datetime,
}


def log_model(
    model: Any,
    name: str,
    *,
    registered_model_name: str | None = None,
    task: str = "score",
    pip_requirements: list[str] | None = None,
    **options: Any,
) -> ModelInfo:
    """Log a model to the active run, as the file that `export` writes and nothing else: no pickle, no code.

    What is logged can be loaded as three things: by `load_model`; by ``mlflow.pyfunc``, whose ``predict``
    gives a frame; and by ``mlflow.onnx``, which gives the graph with an input a column.

    Parameters
    ----------
    model : estimator, path, bytes or runtime.Model
        What has been fitted, or what it was exported to.
    name : str
    registered_model_name : str, optional
        Registers a version of it too.
    task : {"score", "generate", "impute"}
        What an estimator is exported to. As a pyfunc, "score" adds no columns but gives ``anomaly_score``,
        ``p_value``, ``is_anomaly`` and, with ``params={"reasons": 2}``, reasons; the others give the table
        with what was missing drawn, by ``params={"random_state": 1}``.
    pip_requirements : list of str, optional
        By default what runs the file: this version of lookalike with onnxruntime for a CPU.
    **options
        As of ``mlflow.pyfunc.log_model``: ``input_example``, ``metadata``, ``tags`` and others.

    Returns
    -------
    mlflow.models.model.ModelInfo
    """
    file = file_of(model, task)
    if pip_requirements is None:
        pip_requirements = [
            f"lookalike[cpu]=={__version__}",
            f"mlflow-skinny=={mlflow.__version__}",
            "pandas",
        ]
    return Model.log(
        None,
        flavor=sys.modules[__name__],
        name=name,
        registered_model_name=registered_model_name,
        file=file,
        pip_requirements=pip_requirements,
        **options,
    )


def save_model(path: str | os.PathLike[str], file: bytes, mlflow_model: Model, **options: Any) -> None:
    """Write the folder of a model; MLflow calls it."""
    opened = runtime.load(file, max_bytes=len(file))
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # It would guess a signature from an example, and we know it.
        warnings.filterwarnings("ignore", ".*An input example was not provided")
        (Path(folder) / FILE).write_bytes(file)
        mlflow.pyfunc.save_model(
            path,
            loader_module=__name__,
            data_path=str(Path(folder) / FILE),
            mlflow_model=mlflow_model,
            signature=signature(opened),
            **options,
        )
    where = mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]["data"]
    digest, task = opened.info()["sha256"], opened.task
    mlflow_model.add_flavor(FLAVOR, data=where, sha256=digest, task=task, version=__version__)
    mlflow_model.add_flavor("onnx", data=where, providers=["CPUExecutionProvider"])
    mlflow_model.save(str(Path(path) / "MLmodel"))


def load_model(uri: str, *, device: str = "auto", threads: int | None = None) -> runtime.Model:
    """Open a model that `log_model` has logged.

    Parameters
    ----------
    uri : str
        Such as ``models:/orders/1``, ``models:/orders@champion``, ``runs:/.../orders`` or a folder.
    device, threads
        As of `runtime.load`.

    Returns
    -------
    runtime.Model

    Raises
    ------
    ArtifactError
        If it is not such a model, or its file is not the one that was logged.
    """
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    return _opened(folder, device=device, threads=threads)


def log_losses(progress: Progress) -> None:
    """Log to the active run how a fit goes: give it to an estimator as one of its ``callbacks``.

    The metrics are ``loss``, or ``loss_1``, ``loss_2`` where there are several objectives, and ``held_out``.
    """
    losses = progress.loss
    metrics = {f"loss_{k + 1}" if len(losses) > 1 else "loss": value for k, value in enumerate(losses)}
    if progress.held_out is not None:
        metrics["held_out"] = progress.held_out
    mlflow.log_metrics(metrics, step=progress.step)


def signature(model: runtime.Model) -> ModelSignature:
    """What MLflow should know of the columns that a model takes and gives.

    MLflow has no type for durations, times with a zone, categories, and whole numbers or truth values of
    which some are missing: columns of these pass as they are, and the model's own checks are what they meet.
    """
    if model.schema_.image is not None:
        raise SchemaError(
            "MLflow is told of columns, and the model learned from images: log its file as an artifact."
        )
    columns = [column for column in model.schema_.columns if isinstance(column, Encoded)]
    taken: list[ColSpec | TensorSpec]
    given: list[ColSpec | TensorSpec]
    if model.task == "score":
        taken = [ColSpec(_type(column), str(column.name)) for column in columns]
        given = [ColSpec(_KINDS[kind], name) for name, kind in KINDS.items()]
        parameter = ParamSpec("reasons", DataType.long, 0)
    else:  # anything may be missing, or not be there
        taken = given = [ColSpec(AnyType(), str(column.name), required=False) for column in columns]
        parameter = ParamSpec("random_state", DataType.long, 0)
    return ModelSignature(Columns(taken), Columns(given), ParamSchema([parameter]))


def _type(column: Encoded) -> DataType | AnyType:
    storage = column.storage
    nullable = column.may_be_missing and storage.family in ("integer", "boolean")
    plain = storage.categories is None and storage.zone is None and "decimal" not in storage.native.lower()
    return _FAMILIES.get(storage.family, AnyType()) if plain and not nullable else AnyType()


def _opened(folder: Path, **options: Any) -> runtime.Model:
    flavor = Model.load(folder).flavors.get(FLAVOR)
    if flavor is None:
        raise ArtifactError(
            f"{folder} holds no model of lookalike. Log one with lookalike.integrations.mlflow.log_model."
        )
    return runtime.load(folder / flavor["data"], sha256=flavor["sha256"], **options)


def _load_pyfunc(path: str) -> _Pyfunc:
    """Open what MLflow names the data of a model; it calls this."""
    folder = next(parent for parent in Path(path).parents if (parent / "MLmodel").exists())
    return _Pyfunc(_opened(folder))


class _Pyfunc:
    """A model as MLflow runs it, on frames of pandas."""

    def __init__(self, model: runtime.Model) -> None:
        self.model = model

    def get_raw_model(self) -> runtime.Model:
        return self.model

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        params = params or {}
        if self.model.task == "score":
            import pandas as pd

            added = Scorer(self.model, reasons=params.get("reasons", 0)).added(data)
            return pd.DataFrame(added, index=data.index)
        seed = params.get("random_state", 0)
        if self.model.task == "impute":
            return self.model.impute(data, random_state=seed)
        return self.model.generate(given=data, random_state=seed)
