"""The Open Inference Protocol (KServe v2): its tensors as columns, and what is added as its tensors.

References
----------
KServe. Open Inference Protocol, REST, version 2. https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lookalike.columns import Encoded
from lookalike.errors import SchemaError
from lookalike.integrations.scorer import Scorer

_INPUTS = {"float": "FP64", "integer": "INT64", "boolean": "BOOL"}  # of columns; all else is text: BYTES
_OUTPUTS = {"number": "FP64", "truth": "BOOL"}  # of what is added


def about(name: str, scorer: Scorer) -> dict[str, Any]:
    """The metadata of a model."""
    inputs = {
        str(column.name): _INPUTS.get(column.storage.family, "BYTES")
        for column in scorer.model.schema_.columns
        if isinstance(column, Encoded)
    }
    outputs = {name: _OUTPUTS[kind] for name, kind in scorer.kinds.items()}
    return {
        "name": name,
        "versions": [],
        "platform": "lookalike",
        "inputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in inputs.items()],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in outputs.items()],
    }


def columns_of(asked: Any) -> dict[str, list[Any]]:
    """The columns of a request.

    Raises
    ------
    SchemaError
        If it is no such request, or its tensors differ in length.
    """
    columns: dict[str, list[Any]] = {}
    for tensor in _listed(asked, "inputs", {"name", "shape", "data"}):
        name, shape, data = str(tensor["name"]), tensor["shape"], tensor["data"]
        if not isinstance(data, list):
            raise SchemaError(f"the data of {name!r} is no list.")
        if all(isinstance(row, list) for row in data):
            data = [value for row in data for value in row]
        if shape not in ([len(data)], [len(data), 1]):
            raise SchemaError(f"{name!r} has shape {shape} and {len(data)} values: [rows] or [rows, 1] fits.")
        columns[name] = data
    if not columns:
        raise SchemaError('"inputs" was expected: a list of tensors, one a column.')
    sizes = {len(data) for data in columns.values()}
    if len(sizes) > 1:
        raise SchemaError(f"the tensors have different numbers of rows: {sorted(sizes)}.")
    return columns


def answer(asked: Mapping[str, Any], name: str, scorer: Scorer, added: Mapping[str, Any]) -> dict[str, Any]:
    """What is added, or the part of it that was asked for."""
    kinds = scorer.kinds
    wanted = [output["name"] for output in _listed(asked, "outputs", {"name"})] or list(kinds)
    for output in wanted:
        if output not in kinds:
            raise SchemaError(f"there is no output {output!r}. There are: {', '.join(kinds)}.")
    outputs = [
        {
            "name": output,
            "datatype": _OUTPUTS[kinds[output]],
            "shape": [len(added[output])],
            "data": added[output].tolist(),
        }
        for output in wanted
    ]
    return {"model_name": name, "outputs": outputs} | ({"id": asked["id"]} if "id" in asked else {})


def _listed(asked: Any, name: str, keys: set[str]) -> list[Mapping[str, Any]]:
    """Tensors of a request; none where it names none."""
    if not isinstance(asked, Mapping):
        raise SchemaError(f"an object was expected, got {type(asked).__name__}.")
    tensors = asked.get(name) or []
    if not isinstance(tensors, list):
        raise SchemaError(f'"{name}" must be a list of tensors, got {type(tensors).__name__}.')
    for tensor in tensors:
        if not isinstance(tensor, Mapping) or not keys <= tensor.keys():
            raise SchemaError(f'each of "{name}" needs: {", ".join(sorted(keys))}.')
    return tensors
