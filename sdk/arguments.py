"""What arguments of the command line mean: kinds of columns, parameters, conditions, names, sizes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lookalike as la
from lookalike.columns import Encoded
from lookalike.conditions import Balanced, Between, OneOf, Present
from lookalike.errors import ConditionError, did_you_mean, require
from lookalike.files import Part, known, typed

KINDS = ("number", "categorical", "boolean", "datetime", "duration", "identifier", "ignored")


def names_in(columns: str | None) -> list[str] | None:
    """Names with commas between."""
    return None if columns is None else [name for name in columns.split(",") if name]


def kinds_of(asked: Sequence[str] | None, names: Sequence[str]) -> dict[str, Any] | None:
    """COLUMN=KIND as the `schema` of an estimator."""
    found = {}
    for one in asked or ():
        name, _, kind = one.rpartition("=")
        known(name, names, "the table")
        if kind not in KINDS:
            raise ValueError(f"--schema {one}: {kind!r} is none of {', '.join(KINDS)}.")
        found[name] = getattr(la, kind.title())()
    return found or None


def template_of(templates: str | None, shift: int | None) -> dict[str, Any]:
    """The kind of the column that `read_images` makes of templates, if there are any."""
    if templates is None and shift is not None:
        raise ValueError("--shift is for pictures that are compared with templates: give --templates too.")
    if templates is None:
        return {}
    return {"template": la.Template() if shift is None else la.Template(shift=shift)}


def settings_of(asked: Sequence[str] | None) -> dict[str, Any]:
    """NAME=VALUE as parameters: values are JSON, or text."""
    found = {}
    for one in asked or ():
        name, equals, value = one.partition("=")
        if not equals:
            raise ValueError(f"--set {one}: NAME=VALUE was expected.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def files_by_name(models: Sequence[str]) -> dict[str, str]:
    """Files by the names that they are served under: FILE or NAME=FILE."""
    named: dict[str, str] = {}
    for one in models:
        name, _, path = one.rpartition("=") if not os.path.exists(one) else ("", "", one)
        name = name or os.path.splitext(os.path.basename(path))[0]
        if name in named:
            raise ValueError(f"two models are called {name!r}: name one of them, as in NAME={path}.")
        named[name] = path
    return named


def size_of(asked: str | None) -> tuple[int, int] | None:
    """HEIGHTxWIDTH."""
    if asked is None:
        return None
    height, _, width = asked.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"--size {asked}: HEIGHTxWIDTH was expected, such as 28x28.")
    return int(height), int(width)


def conditions_of(asked: Iterable[str], columns: Iterable[Any]) -> Mapping[str, Any] | None:
    """COLUMN=VALUE and its other forms as what `generate` is given."""
    encoded = {str(column.name): column for column in columns if isinstance(column, Encoded)}
    found: dict[str, Any] = {}
    for one in asked:
        name, equals, words = one.partition("=")
        if not equals or name not in encoded:
            raise ConditionError(f"--given {one}: COLUMN=VALUE was expected.{did_you_mean(name, encoded)}")
        column = encoded[name]

        def value(word: str, name: str = name, column: Any = column) -> Any:
            pa = require("pyarrow", "cli", "the command line")
            part = Part(pa.table({name: [word]}), "--given", 0, True)
            return typed(part, {name: column.storage.family}, {name: column.storage.zone})[name][0].as_py()

        if words == "":
            found[name] = None
        elif words == "*":
            found[name] = Present()
        elif words == "balanced":
            found[name] = Balanced()
        elif "|" in words:
            found[name] = OneOf([*map(value, words.split("|"))])
        elif ".." in words:
            low, _, high = words.partition("..")
            found[name] = Between(value(low) if low else None, value(high) if high else None)
        else:
            found[name] = value(words)
    return found or None
