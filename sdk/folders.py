"""Folders of picture files as rows that a model is given, and generated rows as such folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SchemaError, require
from lookalike.files import FORMATS, STREAM, Part, at
from lookalike.images import Image
from lookalike.pictures import SUFFIXES, labelled, read_images, templates_of, write_images

PART = 256  # pictures read together


def holds_pictures(places: Sequence[str]) -> bool:
    """Whether this is one folder that holds pictures, and no tables."""
    if len(places) != 1 or not Path(places[0]).is_dir():
        return False
    endings = {path.suffix.lower() for path in Path(places[0]).rglob("*")}
    return bool(endings & SUFFIXES) and not endings & FORMATS.keys()


class Pictures:
    """The pictures of a folder, some at a time, as `read_images` orders and labels them.

    Parameters
    ----------
    folder : path
    size, mode
        As of `read_images`.
    templates : path, optional
        Of a folder, or of one file for all pictures; as of `read_images`.
    """

    def __init__(
        self,
        folder: str,
        size: tuple[int, int] | None = None,
        mode: str | None = None,
        templates: str | None = None,
    ) -> None:
        self.folder = folder
        self._how: dict[str, Any] = {"size": size, "mode": mode}
        self._paths, self._labels = labelled(Path(folder))
        self._templates = None if templates is None else templates_of(self._paths, Path(folder), templates)
        self.n_rows: int | None = len(self._paths)

    def to_learn(self, in_memory: bool) -> Any:
        """An array of all pictures, or a dict of them and their templates and labels."""
        return read_images(self.folder, templates=self._templates, **self._how)

    def passing(self, model: Any) -> Iterator[tuple[Part, Any]]:
        """What stands of pictures, ``file`` and ``label``, and the columns of them that the model knows."""
        pa = require("pyarrow", "cli", "the command line")
        template = model.schema_.template
        if model.schema_.image is None:
            raise SchemaError(f"{self.folder} holds pictures, and the model learned from a table.")
        if template is None and self._templates is not None:
            raise SchemaError("the model learned from images without templates. Leave out --templates.")
        if template is not None and self._templates is None:
            raise SchemaError(
                f"the model learned how images differ from {template.name!r}, their template. Give them by "
                "--templates: a folder, or one file for all."
            )
        for first in range(0, len(self._paths), PART):
            some = slice(first, first + PART)
            files = [path.relative_to(self.folder).as_posix() for path in self._paths[some]]
            told = {"label": self._labels[some]} if self._labels else {}
            part = Part(pa.table({"file": files, **told}), self.folder, first, False)
            rows = {name: column for name, column in told.items() if name in model.schema_.names}
            wanted = self._templates and self._templates[some]
            read = read_images(self._paths[some], templates=wanted, **self._how)
            pictures = [read["image"], read["template"]] if wanted else [read]
            names = [column.name for column in model.schema_.pictures]
            yield part, {**dict(zip(names, pictures, strict=True)), **rows}


def mask_of(file: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where a picture is white, (height, width): what is to be filled in images of this shape."""
    mask: NDArray[np.uint8] = read_images([file], mode="L")[0]
    if mask.shape != shape[:2]:
        raise SchemaError(
            f"{file} is of {mask.shape[0]} x {mask.shape[1]} pixels, and the images are of {shape[0]} x "
            f"{shape[1]}. A mask is white where pixels are to be filled."
        )
    return mask > 127


def fill_pictures(
    parts: Iterable[tuple[Part, Any]],
    model: Any,
    mask: str,
    folder: str,
    draws: int,
    seeds: np.random.Generator,
) -> Iterator[int]:
    """Fill pictures where a mask is white, and write them under their names; yields how many at a time."""
    image = model.schema_.image
    if image is None:
        raise SchemaError(
            "--mask is for images, and the model learned from a table: it fills what is missing."
        )
    model._check("impute")  # before it is asked for what filling does not take, such as templates
    hole = mask_of(mask, image.shape).reshape(*image.shape[:2], *(1 for _ in image.shape[2:]))
    for part, rows in parts:
        pictures = rows[image.name]
        # Those of another size are refused by the model.
        hidden = np.broadcast_to(hole, pictures.shape) if pictures.shape[1:] == image.shape else False
        holey = {**rows, image.name: np.ma.masked_array(pictures, hidden)}
        with at(part):
            own = int(seeds.integers(2**63))
            filled = model.impute(holey, draws, random_state=own, combine=draws > 1)
        names = [file.rpartition(".")[0] for file in part.table["file"].to_pylist()]
        if len(set(names)) < len(names):
            raise SchemaError(f"{part.place} holds pictures that differ in their endings alone. Rename them.")
        write_images(filled[image.name], folder, names=names)
        yield len(names)


def write_generated(batch: Any, image: Image, folder: str, first: int, n: int) -> int:
    """Write images from number `first` on, of `n` in all, into sub-folders named by their labels."""
    columns = dict(batch) if isinstance(batch, Mapping) else {image.name: batch}
    images = columns.pop(image.name)
    if len(columns) > 1:
        raise SchemaError(
            f"a folder tells one label of an image, and the model has {', '.join(map(repr, columns))}: "
            "generate in Python, and pass one to write_images."
        )
    wide = len(str(n - 1))
    names = [f"{i:0{wide}d}" for i in range(first, first + len(images))]
    return len(write_images(images, folder, names=names, labels=next(iter(columns.values()), None)))


def folder_named(out: str) -> str:
    """Where pictures go, if it may be a folder."""
    if out == STREAM or Path(out).is_file() or Path(out).suffix in FORMATS:
        raise SchemaError(f"images are written to a folder, and --out is {out}. Name one.")
    return out
