"""Columns that name a row: not scored, and made afresh when generating."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.columns import FAMILY_WORDS, Column
from lookalike.errors import SchemaError
from lookalike.noise import uniforms
from lookalike.values import Array, Values

_ROWS_FOR_IDENTIFIER = 50
_KEY_NAME = re.compile(r"(?i:(?:^|[^a-z])(?:id|key|uuid|guid))$|[a-z](?:Id|ID|Key|Uuid|UUID)$")


@dataclass(frozen=True, repr=False)
class Identifier(Column):
    """A name of the row: ignored when scoring, fresh and unique when generating.

    Row i of a seed has the same identifier however many rows are asked for. Whole numbers go on after the
    largest seen; text of one pattern (``A-0017``) goes on counting; UUIDs are new ones; other text becomes a
    word that no row of fit begins with, and a number.
    """

    kind: ClassVar[str] = "identifier"

    style: str = field(default="", init=False)
    prefix: str = field(default="", init=False)
    suffix: str = field(default="", init=False)
    width: int = field(default=0, init=False)
    low: int = field(default=0, init=False)
    high: int = field(default=0, init=False)

    @classmethod
    def suits(cls, values: Values, plain_array: bool) -> bool:
        if plain_array or values.storage.categories is not None or len(values.present) < _ROWS_FOR_IDENTIFIER:
            return False
        rule = {"text": _all_distinct_text, "integer": _is_key}.get(values.family)
        return rule is not None and rule(values)

    def fit(self, values: Values) -> Self:
        fitted = super().fit(values)
        if values.family == "integer" and len(values.present):
            data = values.plain()[~values.missing]
            return fitted.learned(style="counted", low=int(data.min()), high=int(data.max()))
        if values.family == "text" and values.storage.categories is None and len(values.present):
            return fitted.learned(**_pattern(values.coded()[1]))  # type: ignore[arg-type]
        raise SchemaError(
            f"column {values.name!r} holds {FAMILY_WORDS[values.family]}, which cannot be an Identifier: "
            "only text and whole numbers can. Declare la.Ignored() to leave it out."
        )

    def joined(self, other: Self) -> Self:
        both = super().joined(other)
        mine, theirs = ((c.style, c.prefix, c.suffix) for c in (self, other))
        if mine == theirs:
            padded = [column.width for column in (self, other) if column.width]
            low, high = min(self.low, other.low), max(self.high, other.high)
            return both.learned(low=low, high=high, width=min(padded, default=0))
        return both.learned(**_unlike([self.prefix, other.prefix]), suffix="", low=0, high=0)

    def generate(self, seed: int, rows: NDArray[np.int64]) -> Values:
        data = _IDENTIFIER_STYLES[self.style](self, seed, rows)
        missing = np.zeros(len(rows), dtype=bool)
        if self.missing and len(rows):
            # A seed of its own: the model's noise for the row must not decide what is missing here.
            own = int.from_bytes(_digest(self, seed, 0)[:8], "little")
            missing = uniforms(own, int(rows[0]), len(rows), 1)[:, 0] < self.missing
        return Values(self.name, self.storage, data, missing)

    def describe(self) -> str:
        example = self.generate(0, np.zeros(1, dtype=np.int64))
        return f"next {replace(example, missing=np.zeros(1, dtype=bool)).show(0)}"


def _all_distinct_text(values: Values) -> bool:
    assert values.labels is not None
    return len(values.labels) == len(values.present)


def _is_key(values: Values) -> bool:
    if values.any_missing:
        return False
    data, step = values.data, np.diff(values.data[:100].astype(object))
    named = isinstance(values.name, str) and _KEY_NAME.search(values.name) is not None
    if not named and len(data) != int(data.max()) - int(data.min()) + 1:
        up, down = data[1:] > data[:-1], data[1:] < data[:-1]
        return bool(((step > 0).all() and up.all()) or ((step < 0).all() and down.all()))
    return len(np.unique(data)) == len(data)


_UUID = re.compile(r"(?i)[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}")


def _pattern(texts: list[str]) -> dict[str, Any]:
    """How fresh texts like these can be made."""
    if all(map(_UUID.fullmatch, texts)):
        # The shape alone: no identifier of fit is kept.
        return {"style": "uuid", "prefix": re.sub("[0-9a-f]", "x", re.sub("[A-F]", "X", texts[0]))}
    reverse = [text[::-1] for text in texts]
    prefix = _common_start(min(texts), max(texts)).rstrip("0123456789")
    suffix = _common_start(min(reverse), max(reverse))[::-1].lstrip("0123456789")
    digits = re.compile(re.escape(prefix) + r"([0-9]+)" + re.escape(suffix))
    found = [match.group(1) if (match := digits.fullmatch(text)) else "" for text in texts]
    if all(found) and len(texts) > 1:
        width = min(map(len, found))
        # Numbers without leading zeros are not padded.
        width = width if any(number[0] == "0" for number in found) else 0
        high = max(map(int, found))
        if high < 2**63:
            return {"style": "numbered", "prefix": prefix, "suffix": suffix, "width": width, "high": high}
    return _unlike(texts)


def _unlike(texts: Sequence[str]) -> dict[str, Any]:
    """Texts of a pattern with which none of these begins."""
    word = "new-"
    while any(text.startswith(word) for text in texts):
        word = "new-" + word
    return {"style": "numbered", "prefix": word, "width": 8}


def _common_start(a: str, b: str) -> str:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def _numbered(column: Identifier, seed: int, rows: NDArray[np.int64]) -> Array:
    text = np.empty(len(rows), dtype=object)
    start, width = column.high + 1, column.width
    text[:] = [f"{column.prefix}{start + row:0{width}d}{column.suffix}" for row in rows.tolist()]
    return text


def _counted(column: Identifier, seed: int, rows: NDArray[np.int64]) -> Array:
    top = 2**63 - 1 if column.high < 2**63 else 2**64 - 1
    room = top - column.high
    last = int(rows[-1]) if len(rows) else 0
    if last < room:
        return rows.astype(np.uint64 if column.high >= 2**63 else np.int64) + (column.high + 1)
    # No room above: the rest goes on below the smallest.
    numbers = [
        column.high + 1 + row if row < room else column.low - 1 - (row - room) for row in rows.tolist()
    ]
    if min(numbers) < (-(2**63) if top < 2**63 else 0):
        raise SchemaError(
            f"column {column.name!r} leaves no room for {last + 1} new whole numbers. Leave it out with "
            f"schema={{{column.name!r}: la.Ignored()}}."
        )
    return np.array(numbers, dtype=np.int64 if top < 2**63 else np.uint64)


def _digest(column: Identifier, seed: int, row: int) -> bytes:
    text = f"{column.name}\0{seed}\0{row}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _new_uuids(column: Identifier, seed: int, rows: NDArray[np.int64]) -> Array:
    text = np.empty(len(rows), dtype=object)
    compact, upper = "-" not in column.prefix, "X" in column.prefix
    for i, row in enumerate(rows.tolist()):
        made = uuid.UUID(bytes=_digest(column, seed, row), version=4)
        written = made.hex if compact else str(made)
        text[i] = written.upper() if upper else written
    return text


_IDENTIFIER_STYLES: dict[str, Callable[[Identifier, int, NDArray[np.int64]], Array]] = {
    "counted": _counted,
    "numbered": _numbered,
    "uuid": _new_uuids,
}
