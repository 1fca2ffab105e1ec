"""Columns of levels: text, codes, truth values and constants as ids."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.allowed import Options
from lookalike.columns import FAMILY_WORDS, Encoded, Port, as_condition, span
from lookalike.errors import ConditionError, SchemaError, did_you_mean
from lookalike.measured import refuse_infinity
from lookalike.values import NANOSECONDS, Array, Scalar, Storage, Values, label_array, shorten, values_of

_FEW_LEVELS = 10  # a column of whole numbers in a frame with at most so many values is a category
_ROWS_PER_LEVEL = 5


_USUAL = {"text": str, "boolean": bool, "integer": int}  # Python's type of a value, by family


def same_unit(storage: Storage, values: Values, labels: list[Scalar]) -> list[Scalar]:
    """Labels that are times in the unit of a storage; one between two of its ticks is no level."""
    mine, theirs = NANOSECONDS.get(storage.unit), NANOSECONDS.get(values.storage.unit)
    if mine is None or theirs is None or mine == theirs:
        return labels
    whole = [divmod(int(label) * theirs, mine) for label in labels]
    return [ticks if not rest else "" for ticks, rest in whole]


def _amount(storage: Storage, value: Any) -> Any:
    """A value that can be compared with others of its kind: times in nanoseconds."""
    return value * NANOSECONDS.get(storage.unit, 1)


@dataclass(frozen=True, repr=False)
class Levelled(Encoded):
    """One of a set of levels: 0 is the most frequent; `unseen` and `blank` follow the last."""

    part: ClassVar[str] = "ids"

    levels: tuple[Scalar, ...] = field(default=(), init=False)
    counts: tuple[int, ...] = field(default=(), init=False)

    @property
    def unseen(self) -> int:
        """The id of a level that fit did not see."""
        return len(self.levels)

    @property
    def blank(self) -> int:
        """The id of a missing value."""
        return len(self.levels) + 1

    def fit(self, values: Values) -> Self:
        refuse_infinity(values)
        fitted = super().fit(values)
        codes, labels = values.coded()
        count = np.bincount(codes[~values.missing], minlength=len(labels)).tolist() if len(labels) else []
        counts: dict[Scalar, int] = {}
        for label, n in zip(labels, count, strict=True):  # a dictionary may hold a label twice
            counts[label] = counts.get(label, 0) + n
        if values.storage.categories is None:
            counts = {label: n for label, n in counts.items() if n}
        for level in self.also_legal(values):
            counts.setdefault(level, 0)
        return fitted._ranked(counts)

    def joined(self, other: Self) -> Self:
        counts = dict(zip(self.levels, self.counts, strict=True))
        for level, n in zip(other.levels, other.counts, strict=True):
            counts[level] = counts.get(level, 0) + n
        return super().joined(other)._ranked(counts)

    def _ranked(self, counts: Mapping[Scalar, int]) -> Self:
        """Copy with these levels, the most frequent first."""
        order = sorted(counts, key=lambda level: (-counts[level], level))
        return self.learned(levels=tuple(order), counts=tuple(counts[level] for level in order))

    def also_legal(self, values: Values) -> Sequence[Scalar]:
        """Levels that are legal whether fit saw them or not."""
        return ()

    @cached_property
    def _position(self) -> dict[Scalar, int]:
        return {level: i for i, level in enumerate(self.levels)}

    def encode(self, values: Values, allow_missing: bool = False) -> NDArray[np.int64]:
        """Turn values into the ids of their levels."""
        refuse_infinity(values)
        self.conform(values, allow_missing)
        codes, labels = values.coded()
        known = self._position
        ids_of = np.fromiter(
            (known.get(label, self.unseen) for label in same_unit(self.storage, values, labels)),
            np.int64,
            len(labels),
        )
        ids = ids_of[codes] if len(labels) else np.full(len(values), self.blank)
        return np.where(values.missing, self.blank, ids) if values.any_missing else ids

    def cell(self, value: Any) -> int | None:
        usual = type(value) is _USUAL.get(self.storage.family)
        return self._position.get(value, self.unseen) if usual else None

    def decode(self, ids: NDArray[np.int64]) -> Values:
        """Turn ids back into values. What fit did not see, having no value, comes back missing."""
        missing = (ids < 0) | (ids >= self.unseen)
        labels = label_array(self.storage.family, self.levels)
        return Values(self.name, self.storage, np.where(missing, 0, ids), missing, labels)

    @cached_property
    def vocabulary(self) -> Array:
        """What stands for each id in a graph of tensors: the levels, a value that is none, the missing."""
        return _VOCABULARIES.get(self.storage.family, _whole_numbers)(self.levels)

    @property
    def port(self) -> Port:
        missing = self.vocabulary[-1:].tolist()[0]
        dtype = self.vocabulary.dtype
        return Port("string" if dtype.kind == "O" else dtype.name, missing, self.storage.unit)

    def tensor(self, encoded: NDArray[np.int64]) -> Array:
        return self.vocabulary[encoded]

    def condition(self, values: Values) -> NDArray[np.int64]:
        """Encode a condition, which must be a level of fit."""
        ids = as_condition(self, values)
        strange = ids == self.unseen
        if strange.any():
            row = int(strange.argmax())
            near = did_you_mean(values.plain()[row], self.levels) if self.storage.family == "text" else ""
            raise ConditionError(f"{self.name!r} cannot be {values.show(row)}: fit saw {self._seen()}.{near}")
        return ids

    def _seen(self) -> str:
        shown = [self.show(level) for level in self.levels[:10]]
        more = f" and {len(self.levels) - 10} more" if len(self.levels) > 10 else ""
        return (", ".join(shown) or "no value") + more

    def between(self, low: Values | None, high: Values | None) -> Options:
        """The levels that lie between two values."""
        ends = [end for end in (low, high) if end is not None]
        if ends and self.storage.family in ("text", "boolean"):
            raise ConditionError(
                f"{self.name!r} holds {FAMILY_WORDS[self.storage.family]}, which no range divides. Name "
                "levels: la.OneOf([...])."
            )
        for end in ends:
            as_condition(self, end)
        least = -math.inf if low is None else _amount(low.storage, low.plain().tolist()[0])
        most = math.inf if high is None else _amount(high.storage, high.plain().tolist()[0])
        within = (not ends or least <= _amount(self.storage, level) <= most for level in self.levels)
        cells = np.flatnonzero(np.fromiter(within, bool, len(self.levels)))
        if not len(cells):
            what = f"lie {span(low, high)}" if ends else "be present"
            raise ConditionError(f"{self.name!r} cannot {what}: fit saw {self._seen()}.")
        return Options(cells, self.expected(cells))

    def common(self) -> NDArray[np.int64]:
        """The ids of the levels that fit saw, or raise ConditionError where it saw none."""
        cells = np.flatnonzero(self.counts)
        if not len(cells):
            raise ConditionError(f"{self.name!r} cannot be balanced: fit saw no value.")
        return cells

    def expected(self, cells: NDArray[np.int64]) -> NDArray[np.float64]:
        seen = sum(self.counts)
        blank = seen * self.missing / (1 - self.missing) if seen else 1.0
        counts = np.array([*self.counts, 0.0, blank])[cells]
        return counts / counts.sum() if counts.any() else super().expected(cells)

    def show(self, level: Scalar) -> str:
        """A level as people write it."""
        data = label_array(self.storage.family, [level])
        return Values(self.name, self.storage, data, np.zeros(1, dtype=bool)).show(0)

    def describe(self) -> str:
        shown = ", ".join(self.show(level) for level in self.levels[:3])
        return (
            f"{len(self.levels)} levels" + (f": {shown}" if shown else "") + ", ..." * (len(self.levels) > 3)
        )


def _texts(levels: Sequence[Scalar]) -> Array:
    taken = set(levels)

    def free(text: str) -> str:
        while text in taken:
            text += "'"
        taken.add(text)
        return text

    def passable(level: str) -> str:
        """A level itself; what UTF-8 has no bytes for, such as half of a surrogate pair, is escaped."""
        written = level.encode("utf-8", "backslashreplace").decode()
        return level if level == written else free(written)

    array = np.empty(len(levels) + 2, dtype=object)
    array[:-2] = [passable(str(level)) for level in levels]
    array[-2:] = free("<unseen>"), free("" if "" not in taken else "<missing>")
    return array


def _floats(levels: Sequence[Scalar]) -> Array:
    taken = set(levels)
    unseen = next(x for x in itertools.count(0.0) if x not in taken)
    return np.array([*levels, unseen, np.nan], dtype=np.float64)


def _whole_numbers(levels: Sequence[Scalar]) -> Array:
    """The first whole numbers from the least on that are no level are missing and unseen."""
    array = label_array("integer", levels)
    taken = set(levels)
    free = (x for x in itertools.count(int(np.iinfo(array.dtype).min)) if x not in taken)
    missing, unseen = next(free), next(free)
    return np.append(array, np.array([unseen, missing], dtype=array.dtype))


_VOCABULARIES: dict[str, Callable[[Sequence[Scalar]], Array]] = {
    "text": _texts,
    "float": _floats,
    "nothing": _floats,
}


@dataclass(frozen=True, repr=False)
class Categorical(Levelled):
    """One of a set of levels, such as text or a code.

    Empty text is a level like any other; None, NaN and NA are missing.

    Parameters
    ----------
    levels : sequence, optional
        Levels that are legal although fit may not see them, such as ``["yes", "no"]``.
    nullable : bool
        Whether a value may be missing although none was in fit.
    """

    kind: ClassVar[str] = "category"

    levels: tuple[Any, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.levels, str):
            raise TypeError(f"levels must be a list of levels, got the text {self.levels!r}.")
        object.__setattr__(self, "levels", tuple(self.levels))

    @classmethod
    def suits(cls, values: Values, plain_array: bool) -> bool:
        if values.storage.categories is not None or values.family == "text":
            return True
        if plain_array or values.family != "integer":
            return False
        few = np.unique(values.present[:1000])
        if len(few) > _FEW_LEVELS:
            return False
        few = np.unique(values.present)
        return len(few) <= _FEW_LEVELS and len(values) >= _ROWS_PER_LEVEL * len(few)

    def fit(self, values: Values) -> Self:
        fitted = super().fit(values)
        if values.storage.categories is not None:
            both = tuple(dict.fromkeys(self.also_legal(values)))
            fitted = fitted.learned(storage=replace(values.storage, categories=both))
        return fitted

    def joined(self, other: Self) -> Self:
        both = super().joined(other)
        if self.storage.categories is None or other.storage.categories is None:
            return both
        categories = tuple(dict.fromkeys([*self.storage.categories, *other.storage.categories]))
        return both.learned(storage=replace(both.storage, categories=categories))

    def also_legal(self, values: Values) -> Sequence[Scalar]:
        declared = list(values.storage.categories or ())
        if not self.levels:
            return declared
        named = values_of(values.name, list(self.levels))
        of_type = named.family == values.family or (values.family, named.family) == ("float", "integer")
        if named.any_missing or not (of_type or values.family == "nothing"):
            raise SchemaError(
                f"column {values.name!r} holds {FAMILY_WORDS[values.family]}, but levels names "
                f"{shorten(repr(list(self.levels)))}. Name levels of the column's own type, none missing."
            )
        refuse_infinity(named)
        return declared + same_unit(values.storage, named, named.coded()[1])


@dataclass(frozen=True, repr=False)
class Boolean(Levelled):
    """True or False.

    Parameters
    ----------
    nullable : bool
        Whether a value may be missing although none was in fit.
    """

    kind: ClassVar[str] = "boolean"
    families: ClassVar[frozenset[str]] = frozenset({"boolean", "integer", "float"})

    @classmethod
    def suits(cls, values: Values, plain_array: bool) -> bool:
        return values.family == "boolean"

    def fit(self, values: Values) -> Self:
        other = (values.data != 0) & (values.data != 1) & ~values.missing
        if values.labels is None and values.family in self.families and other.any():
            row = int(other.argmax())
            raise SchemaError(
                f"column {values.name!r} holds {values.show(row)} in row {row}, which is neither True nor "
                "False. Declare la.Categorical() or la.Number()."
            )
        return super().fit(values)

    def also_legal(self, values: Values) -> Sequence[Scalar]:
        return (False, True)


@dataclass(frozen=True, repr=False)
class Constant(Levelled):
    """One value, or none at all. Another value at predict time is an unseen level.

    Parameters
    ----------
    nullable : bool
        Whether a value may be missing although none was in fit.
    """

    kind: ClassVar[str] = "constant"

    @classmethod
    def suits(cls, values: Values, plain_array: bool) -> bool:
        if values.storage.categories is not None:
            return False
        present = values.present
        return not len(present) or bool((present == present[0]).all())

    def fit(self, values: Values) -> Self:
        fitted = super().fit(values)
        if len(fitted.levels) > 1:
            shown = [fitted.show(level) for level in fitted.levels[:2]]
            raise SchemaError(
                f"column {values.name!r} is not constant: it holds {shown[0]} and {shown[1]}. Leave its kind "
                "to be inferred."
            )
        return fitted

    def describe(self) -> str:
        return self.show(self.levels[0]) if self.levels else "always missing"
