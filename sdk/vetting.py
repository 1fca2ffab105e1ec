"""What files state of columns, checked field by field: their authors need not be honest."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from lookalike.columns import Encoded
from lookalike.errors import ArtifactError
from lookalike.images import MOST_SHIFT, Image, is_shape
from lookalike.levelled import Levelled
from lookalike.measured import Measured
from lookalike.schema import Schema
from lookalike.values import NANOSECONDS


def require(holds: object, otherwise: str) -> None:
    """Raise ArtifactError with these words unless something holds."""
    if not holds:
        raise ArtifactError(otherwise)


def vetted_schema(data: Mapping[str, Any]) -> Schema:
    """Rebuild a schema from `Schema.to_dict`, or raise ArtifactError for what no fit would have written.

    `Schema.from_dict` takes types and bounds as they come.
    """
    schema = Schema.from_dict(data)
    names = schema.names
    require(all_of(names, lambda n: isinstance(n, str) or is_whole(n)), "a column's name is no name")
    require(0 < len(set(names)) == len(names), "its columns do not have distinct names")
    for column in schema.columns:
        fields = column.to_dict()
        for key, value in fields.items():
            rule = _FIELDS.get(key)
            require(rule is None or rule(value), f"{key} of column {column.name!r} is {str(value)[:40]!r}")
        _check_storage(column.name, fields["storage"])
        if isinstance(column, Measured):
            require(column.low <= column.high, f"column {column.name!r} has an empty range")
        if isinstance(column, Levelled):
            require(
                len(column.levels) == len(column.counts), f"column {column.name!r} has counts of other levels"
            )
        if isinstance(column, Image):
            require(column.low < column.high, f"images of column {column.name!r} have an empty range")
            kind = _PIXELS.get(column.storage.family)
            held = isinstance(fields["storage"]["native"], str) and _DTYPE.fullmatch(column.storage.native)
            require(kind and held and held[1] in kind, f"images of column {column.name!r} hold no numbers")
    require(any(isinstance(c, Encoded | Image) for c in schema.columns), "no column is modelled")
    return schema


def _check_storage(name: object, storage: Mapping[str, Any]) -> None:
    rules: dict[str, Callable[[Any], bool]] = {
        "family": lambda v: v in _FAMILIES,
        "unit": lambda v: v in NANOSECONDS or v == "",
        # A dtype of a name with a large number in it, such as <U999999999, would take that much memory.
        "native": lambda v: isinstance(v, str) and len(v) < 200 and not re.search(r"\d{6}", v),
        "zone": lambda v: v is None or (isinstance(v, str) and len(v) < 100),
        "blank": lambda v: isinstance(v, str),
        "ordered": lambda v: isinstance(v, bool),
        "categories": lambda v: v is None or all_of(v, _is_scalar),
    }
    for key, value in storage.items():
        require(
            key == "labels" or bool(rules[key](value)),
            f"storage of column {name!r} has {key} {str(value)[:40]!r}",
        )
    if storage.get("labels") is not None:
        _check_storage(name, storage["labels"])


_FAMILIES = {"float", "integer", "boolean", "text", "datetime", "duration", "time", "nothing"}


def is_whole(value: object) -> bool:
    """Whether this is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Whether this is a whole number of at least 0."""
    return is_whole(value) and value >= 0  # type: ignore[operator]


def is_number(value: object) -> bool:
    """Whether this is a finite number."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


def all_of(values: object, rule: Callable[[Any], bool]) -> bool:
    """Whether this is a list whose values all meet a rule."""
    return isinstance(values, list | tuple) and all(map(rule, values))


_PIXELS = {"boolean": "b", "integer": "iu", "float": "f"}  # kinds of dtypes
_DTYPE = re.compile(r"[<>|]([biuf])[1248]")
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "missing": lambda v: is_number(v) and 0 <= v <= 1,
    "nullable": lambda v: isinstance(v, bool),
    "integral": lambda v: isinstance(v, bool),
    "low": is_number,
    "high": is_number,
    "lower": lambda v: v is None or is_number(v),
    "upper": lambda v: v is None or is_number(v),
    "origin": lambda v: is_whole(v) and abs(v) < 1 << 64,
    "step": lambda v: is_whole(v) and 0 < v < 1 << 64,
    "decimals": lambda v: v is None or (is_whole(v) and 0 <= v <= 20),
    "shape": is_shape,
    "of": lambda v: isinstance(v, str) or is_whole(v),
    "shift": lambda v: is_count(v) and v <= MOST_SHIFT,
    "levels": lambda v: all_of(v, _is_scalar) and len(set(v)) == len(v),
    "counts": lambda v: all_of(v, is_count),
    "style": lambda v: isinstance(v, str),
    "prefix": lambda v: isinstance(v, str),
    "suffix": lambda v: isinstance(v, str),
    "width": lambda v: is_count(v) and v < 1000,
}
