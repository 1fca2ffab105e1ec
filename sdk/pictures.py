"""Folders of picture files as arrays, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.archive import atomic_write
from lookalike.errors import SchemaError, require

__all__ = ["read_images", "write_images"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
MODES = ("L", "RGB", "RGBA")
"""How pixels are held: grey, in colours, in colours with transparency."""


def read_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    size: tuple[int, int] | None = None,
    mode: str | None = None,
) -> Any:
    """Read PNG, JPEG and other picture files into one array, ready to be fitted.

    Parameters
    ----------
    source : path of a folder, or list of paths of files
        Files of a folder are read in the order of their names, those of its sub-folders too; names that begin
        with a dot are passed over.
    size : (height, width), optional
        What every image is resized to. By default they have to be of one size.
    mode : {"L", "RGB", "RGBA"}, optional
        Grey, colours, colours with transparency; what images are converted to. By default they have to be of
        one kind, of these three.

    Returns
    -------
    ndarray of shape (n, height, width) or (n, height, width, channels), uint8
        Of a folder that holds sub-folders a dict instead: ``"image"``, that array, and ``"label"``, the name
        of each image's sub-folder.

    Raises
    ------
    SchemaError
        If there are no pictures, or a file is none, is of another size or kind than the first, or lies beside
        sub-folders.
    MissingExtraError
        Without Pillow.
    """
    pillow: Any = require("PIL.Image", "images", "reading images")
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}.")
    one = isinstance(source, (str, os.PathLike))
    folder = Path(source) if one else None  # type: ignore[arg-type]
    paths, labels = labelled(folder) if folder is not None else ([Path(path) for path in source], None)  # type: ignore[union-attr]
    if not paths:
        raise SchemaError(
            f"there is no picture in {folder or 'the list'}: files end in {', '.join(sorted(SUFFIXES))}."
        )
    first: NDArray[np.uint8] | None = None
    for i, path in enumerate(paths):
        image = _read(pillow, path, size, mode)
        if first is None:
            first, images = image, np.empty((len(paths), *image.shape), np.uint8)
        if image.shape != first.shape:
            advice = "Give size=(height, width)" if image.shape[:2] != first.shape[:2] else 'Give mode="RGB"'
            raise SchemaError(
                f"{path} is an image of shape {image.shape}, and {paths[0]} of shape {first.shape}. {advice}."
            )
        images[i] = image
    return {"image": images, "label": np.array(labels)} if labels else images


def write_images(
    images: NDArray[Any],
    folder: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    labels: Sequence[Any] | None = None,
) -> list[Path]:
    """Write images as PNG files, each whole or not at all.

    Parameters
    ----------
    images : ndarray of shape (n, height, width) or (n, height, width, channels), uint8
    folder : path
        Is made where it is not there.
    names : sequence of str, optional
        Of the files, without an ending; by default their numbers.
    labels : sequence, optional
        Of each image: the sub-folder that it goes to, so that `read_images` finds it again.

    Returns
    -------
    list of Path
    """
    pillow: Any = require("PIL.Image", "images", "writing images")
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise SchemaError(
            f"images to write are bytes of shape (n, height, width) or (n, height, width, channels), got "
            f"{images.dtype} of shape {images.shape}. Scale floats: (255 * images).round().astype('uint8')."
        )
    wide = len(str(max(len(images) - 1, 0)))
    stems = [f"{i:0{wide}d}" for i in range(len(images))] if names is None else list(names)
    homes = [Path(folder)] * len(images) if labels is None else [Path(folder, _plain_name(x)) for x in labels]
    paths = [home / f"{stem}.png" for home, stem in zip(homes, stems, strict=True)]
    for path, image in zip(paths, images, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            pillow.fromarray(image[..., 0] if image.shape[2:] == (1,) else image).save(file, format="PNG")
    return paths


def _plain_name(label: Any) -> str:
    """A label as the name of a sub-folder; that of a model of unknown origin might lead elsewhere."""
    name = "" if label is None else str(label)
    if name in ("", ".", "..") or {*name} & {"/", "\\", "\0"}:
        raise SchemaError(f"the label {label!r} cannot be the name of a sub-folder. Pass others, or none.")
    return name


def labelled(folder: Path) -> tuple[list[Path], list[str] | None]:
    """The picture files of a folder, in order, and where it has sub-folders the name of each one's."""
    paths = _within(folder)
    if all(path.parent == folder for path in paths):
        return paths, None
    for path in paths:
        if path.parent == folder:
            raise SchemaError(
                f"{path} lies beside sub-folders, whose names are labels: it has none. Move it."
            )
    return paths, [path.relative_to(folder).parts[0] for path in paths]


def _within(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SchemaError(f"{folder} is not a folder. Give a folder of pictures, or a list of their paths.")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _read(pillow: Any, path: Path, size: tuple[int, int] | None, mode: str | None) -> NDArray[np.uint8]:
    try:
        with pillow.open(path) as picture:
            held = picture.convert(mode or _plain(picture))
            if size is not None:
                held = held.resize((size[1], size[0]), pillow.Resampling.LANCZOS)
            return np.asarray(held)
    except (OSError, SyntaxError, pillow.DecompressionBombError) as error:
        raise SchemaError(f"{path} cannot be read as a picture: {error}") from error


def _plain(picture: Any) -> str:
    """The mode of `MODES` that holds all a picture does: a palette has colours, and may have transparency."""
    if picture.mode in ("1", "L"):
        return "L"
    return "RGBA" if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info else "RGB"
