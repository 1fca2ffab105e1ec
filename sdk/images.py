"""Columns of images: pictures of one size, one a row, whose pixels a model sees as numbers.

An array of images alone is a table of one column, ``"image"``; a dict of columns may hold them beside labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.columns import FAMILY_WORDS, Column, Port
from lookalike.errors import SchemaError
from lookalike.measured import Number
from lookalike.values import Array, Name, Storage, Values

__all__ = ["Image", "Template", "is_shape"]

UNIT, SIGNED, BYTE = (0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)  # what pixels lie between by convention
BEYOND = 0.5  # of its width, by which values may leave a range that is none of these
MOST_PIXELS = 1 << 20  # of one image, all channels counted
CHANNELS = (1, 2, 3, 4)
MOST_SHIFT = 64


def is_shape(value: Any) -> bool:
    """Whether this is the shape of an image: height, width, and channels if there is an axis of them."""
    return (
        isinstance(value, (list, tuple))
        and len(value) in (2, 3)
        and all(type(side) is int and side > 0 for side in value)
        and (len(value) == 2 or value[2] in CHANNELS)
        and math.prod(value) <= MOST_PIXELS
    )


@dataclass(frozen=True, repr=False)
class Image(Column):
    """Pictures of one size.

    Attributes
    ----------
    shape : tuple of int
        Height and width, and channels where the array has an axis for them.
    low, high : float
        What values lie between.
    """

    kind: ClassVar[str] = "image"
    part: ClassVar[str] = "numbers"

    shape: tuple[int, ...] = field(default=(), init=False)
    low: float = field(default=0.0, init=False)
    high: float = field(default=1.0, init=False)

    def learn(self, name: Name, pictures: Array) -> Self:
        """Learn from an array of shape (n, height, width) or (n, height, width, channels)."""
        shape = pictures.shape[1:]
        if len(shape) == 3 and shape[2] not in CHANNELS:
            raise SchemaError(
                f"column {name!r} holds images of shape {shape}: the last axis has to be that of 1 to 4 "
                "channels. Move it there with numpy.moveaxis."
            )
        if not is_shape(list(map(int, shape))):
            raise SchemaError(
                f"column {name!r} holds images of shape {shape}, which have no or too many pixels."
            )
        values = _numbers(name, pictures)
        if np.isnan(values).any():
            raise SchemaError(
                f"column {name!r} lacks pixels in image {_first(np.isnan(values))}: images to learn from are "
                "whole."
            )
        least, most = float(values.min()), float(values.max())
        if least == most:
            raise SchemaError(
                f"column {name!r} holds images of which every pixel is {least:g}: there is nothing to learn."
            )
        low, high = _range(pictures.dtype, least, most)
        storage = Storage(_family(pictures), pictures.dtype.str)
        return self.learned(name=name, storage=storage, shape=tuple(map(int, shape)), low=low, high=high)

    @property
    def size(self) -> int:
        """Numbers of an image."""
        return int(np.prod(self.shape))

    @property
    def channels(self) -> int:
        """How many numbers a pixel has."""
        return self.shape[2] if len(self.shape) == 3 else 1

    @property
    def grid(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.shape[0], self.shape[1], self.channels

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return self.storage.family != "float"

    def cells(self) -> tuple[Number, ...]:
        """The numbers of an image, as columns, row by row from the top."""
        whole = self.whole
        state: dict[str, Any] = {"integral": True, "decimals": 0} if whole else {"decimals": None}
        low, high = (int(self.low), int(self.high)) if whole else (self.low, self.high)
        storage = Storage("integer" if whole else "float", "<i8" if whole else "<f8")
        return tuple(
            Number().learned(
                name=f"{self.name}[{','.join(map(str, at))}]", storage=storage, low=low, high=high, **state
            )
            for at in np.ndindex(*self.shape)
        )

    def encode(self, pictures: Any, allow_missing: bool = False) -> NDArray[np.float64]:
        """Turn images into numbers, (n, size); NaN where a pixel is missing.

        Raises
        ------
        SchemaError
            If they are of another size or type than in fit, or have values beyond its range, or lack pixels.
        """
        values = self._checked(pictures, allow_missing)
        return values.reshape(len(values), self.size).astype(np.float64)

    @property
    def port(self) -> Port:
        """All pixels in one tensor of the type of fit. Which of them are known is said apart."""
        return Port(np.dtype(self.storage.native).name, self.low, shape=self.shape)

    def feed(self, pictures: Any, allow_missing: bool = False) -> Array:
        """Turn images into the tensor of `port`, or refuse them as `encode` does."""
        return self.tensor(self._checked(pictures, allow_missing))

    def tensor(self, numbers: Array) -> Array:
        """Turn numbers, (n, size), or images into the tensor of `port`; in place of NaN it has `low`."""
        dtype = np.dtype(self.port.type)
        if numbers.dtype.kind == "f":
            numbers = np.where(np.isnan(numbers), self.low, numbers)
        if numbers.dtype != dtype and dtype.kind in "iu":  # a wider type may hold more than that of fit
            numbers = np.clip(
                numbers.astype(np.float64), float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
            )
        return np.ascontiguousarray(numbers.reshape(-1, *self.shape), dtype)

    def _checked(self, pictures: Any, allow_missing: bool) -> Array:
        """Images as numbers of their own type; floats with NaN where a pixel is masked."""
        column, sized = f"column {self.name!r}", self._sized(pictures)
        values, family = _numbers(self.name, sized), _family(sized)
        if family != self.storage.family and not {family, self.storage.family} <= {"integer", "boolean"}:
            raise SchemaError(
                f"{column} held {FAMILY_WORDS[self.storage.family]} from {self.low:g} to "
                f"{self.high:g} in fit, but now holds {FAMILY_WORDS[family]} ({pictures.dtype}). Convert the "
                "images to what they were."
            )
        slack = 0.0 if (self.low, self.high) in (UNIT, SIGNED, BYTE) else BEYOND * (self.high - self.low)
        least, most = np.float64(self.low - slack), np.float64(self.high + slack)
        wrong = (values < least) | (values > most)
        if wrong.any():
            row, *at = np.argwhere(wrong)[0].tolist()
            raise SchemaError(
                f"{column} held values from {self.low:g} to {self.high:g} in fit, but image {row} "
                f"has {values[row, *at]:g} at {tuple(at)}. Scale the images as in fit."
            )
        missing = np.isnan(values)
        if missing.any() and not allow_missing:
            raise SchemaError(
                f"{column} lacks pixels in image {_first(missing)}. Fill them first, such as with impute."
            )
        return values

    def encode_noisy(self, pictures: Any) -> NDArray[np.float64]:
        """Turn images of any numbers into numbers, (n, size); NaN where a pixel is missing.

        Raises
        ------
        SchemaError
            If they are of another size than in fit.
        """
        sized = self._sized(pictures)
        return _numbers(self.name, sized).reshape(len(sized), self.size).astype(np.float64)

    def _sized(self, pictures: Any) -> Array:
        if not isinstance(pictures, np.ndarray) or pictures.shape[1:] != self.shape:
            found = f"images of shape {pictures.shape[1:]}" if np.ndim(pictures) > 2 else "no images"
            raise SchemaError(
                f"column {self.name!r} held images of shape {self.shape} in fit, but now holds {found}. "
                "Resize them, and mind the channels."
            )
        return pictures

    def decode(self, numbers: NDArray[np.float64]) -> Array:
        """Turn numbers, (n, size), into images within the range of fit."""
        pictures = np.clip(numbers, self.low, self.high).reshape(-1, *self.shape)
        if self.whole:
            pictures = np.rint(pictures)
        return pictures.astype(self.storage.native)

    def filled(self, pictures: Any, drawn: NDArray[np.float64], hole: NDArray[np.bool_]) -> Array:
        """Images with drawn numbers, (n, size), in their holes; other pixels stay as they are, to the bit."""
        known = np.asarray(np.ma.getdata(pictures))
        return np.where(hole.reshape(known.shape), self.decode(drawn).astype(known.dtype), known)

    def describe(self) -> str:
        size = " x ".join(map(str, self.shape[:2]))
        return f"{size}, {self.channels} channel{'s'[: self.channels != 1]}, {self.low:g} to {self.high:g}"


@dataclass(frozen=True, repr=False)
class Template(Image):
    """What each image of another column should look like: what is learned and judged is how it differs.

    Parameters
    ----------
    of : str
        The column of images.
    shift : int
        Pixels by which an edge may be off its place without being a difference.

    Examples
    --------
    >>> import lookalike as la
    >>> la.Detector(schema={"template": la.Template(of="image")}).schema["template"]
    Template()
    """

    kind: ClassVar[str] = "template"

    of: Name = "image"
    shift: int = 1

    def __post_init__(self) -> None:
        if type(self.shift) is not int or not 0 <= self.shift <= MOST_SHIFT:
            raise ValueError(f"shift must be a whole number from 0 to {MOST_SHIFT}, got {self.shift!r}.")

    def fit(self, values: Values) -> Self:
        """Refuse a column that holds no images."""
        raise SchemaError(f"column {values.name!r} holds no images, and cannot be {self!r}.")

    def check(self, image: Image) -> None:
        """Refuse an image that could not be compared."""
        mine, others = ((c.shape, c.storage.family) for c in (self, image))
        widths = sorted(column.high - column.low for column in (self, image))
        if mine != others or widths[1] > 2 * widths[0]:
            raise SchemaError(
                f"column {self.name!r} is the template of {image.name!r}, and has to be like it: it holds "
                f"{self.describe()} ({self.storage.native}), but {image.name!r} {image.describe()} "
                f"({image.storage.native}). Resize or scale one of them."
            )

    def nearby(self, template: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and the most that numbers of templates, (n, size), are around each pixel, (n, size)."""
        reach = 2 * self.shift + 1
        least: Array = template.reshape(-1, *self.grid)
        most = least
        for axis in (1, 2):
            border = [(self.shift, self.shift) if k == axis else (0, 0) for k in range(4)]
            least, most = (
                np.lib.stride_tricks.sliding_window_view(np.pad(side, border, "edge"), reach, axis)
                for side in (least, most)
            )
            least, most = least.min(-1), most.max(-1)
        return least.reshape(template.shape), most.reshape(template.shape)

    def compared(self, numbers: NDArray[np.float64], template: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far numbers of images lie above or below all that their templates have nearby, (n, size)."""
        least, most = self.nearby(template)
        return np.maximum(numbers - most, 0) - np.maximum(least - numbers, 0)

    def differing(
        self, difference: NDArray[np.float64], numbers: Array, template: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Images that differ so from their templates, (n, size): what these allow of `numbers`, and that."""
        found: NDArray[np.float64] = np.clip(numbers, *self.nearby(template)) + difference
        return found

    def pairs(
        self, difference: NDArray[np.float64], low: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Make up images that are at least `low`, and templates from which they differ so, (n, size) each.

        Templates are as dark as they can be: `low`, but for the surroundings of what is to lie below them. So
        images need no more room above than those of which this is the difference had, and whatever is the
        difference of a pair is that of this one too.
        """
        _, above = self.nearby(np.maximum(-difference, 0))
        template = low + above
        return self.differing(difference, np.where(difference > 0, np.inf, -np.inf), template), template

    def describe(self) -> str:
        return f"{super().describe()}, of {self.of!r}"


def _family(pictures: Array) -> str:
    return {"b": "boolean", "i": "integer", "u": "integer", "f": "float"}.get(pictures.dtype.kind, "nothing")


def _range(dtype: np.dtype[Any], least: float, most: float) -> tuple[float, float]:
    """What pixels of a type lie between, of which these were the least and the most."""
    if dtype.kind == "b":
        return UNIT
    if dtype.kind == "f" and least >= -1 and most <= 1:
        return UNIT if least >= 0 else SIGNED
    return BYTE if dtype == np.uint8 or (least >= 0 and BYTE[1] / 2 < most <= BYTE[1]) else (least, most)


def _numbers(name: Name, pictures: Array) -> Array:
    """Images as numbers; floats with NaN where a pixel is masked."""
    if _family(pictures) == "nothing":
        raise SchemaError(
            f"column {name!r} holds images of {pictures.dtype}, but pixels are whole numbers, floats or "
            "truth values."
        )
    values = np.asarray(np.ma.getdata(pictures))
    values = values.astype(np.int64) if values.dtype.kind == "b" else values
    hidden = np.ma.getmask(pictures)
    if hidden is not np.ma.nomask and hidden.any():
        values = np.where(hidden, np.nan, values.astype(np.float64))
    if values.dtype.kind == "f" and np.isinf(values).any():
        raise SchemaError(f"column {name!r} holds infinity in image {_first(np.isinf(values))}.")
    return values


def _first(wrong: NDArray[np.bool_]) -> int:
    return int(wrong.reshape(len(wrong), -1).any(1).argmax())
