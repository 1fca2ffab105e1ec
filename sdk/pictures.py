"""Folders of picture files as arrays, and back; many images as one picture."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.archive import atomic_write
from lookalike.errors import SchemaError, require

__all__ = ["Preview", "contact_sheet", "read_images", "write_images"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
MODES = ("L", "RGB", "RGBA")
"""How pixels are held: grey, in colours, in colours with transparency."""
GAP = 2  # pixels of paper around each image of a sheet
PAPER = 255
LEGIBLE = 64  # pixels that small images of a sheet are high
TEXT = 14  # pixels that a label is high


def read_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    size: tuple[int, int] | None = None,
    mode: str | None = None,
    templates: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
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
    templates : path or list of paths, optional
        What each image should look like: a folder, where a template lies as its image does in `source`, under
        the same name but for the ending; one file for all images; or a list of a file for each. They are read
        as images are, to `size` and `mode`; those of no image are passed over.

    Returns
    -------
    ndarray of shape (n, height, width) or (n, height, width, channels), uint8
        Of a folder that holds sub-folders, or with templates, a dict instead: ``"image"``, that array,
        ``"template"``, another, and ``"label"``, the name of each image's sub-folder.

    Raises
    ------
    SchemaError
        If there are no pictures, or a file is none, is of another size or kind than the first, or lies beside
        sub-folders; or if an image has no template, or two.
    ValueError
        If `mode` is none of these.
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
    wanted = [] if templates is None else templates_of(paths, folder, templates)
    read = lru_cache(1)(partial(_read, pillow, size=size, mode=mode))  # one template for all is read once
    pictures = _alike([*paths, *wanted], read)
    columns = {"image": pictures[: len(paths)]}
    if wanted:
        columns["template"] = pictures[len(paths) :]
    if labels:
        columns["label"] = np.array(labels)
    return columns if len(columns) > 1 else pictures


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
        _save(pillow, path, image[..., 0] if image.shape[2:] == (1,) else image)
    return paths


def contact_sheet(
    images: NDArray[Any],
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int | None = None,
    labels: Sequence[Any] | None = None,
    limits: tuple[float, float] | None = None,
    scale: int | None = None,
) -> NDArray[np.uint8]:
    """Put images beside and below each other in one picture.

    Parameters
    ----------
    images : ndarray of shape (n, height, width) or (n, height, width, channels)
        Grey with one channel or none, in colours with 3, with transparency with 4.
    path : path, optional
        Of a PNG file to write, whole or not at all.
    columns : int, optional
        Images beside each other; by default as many as make the sheet about square.
    labels : sequence, optional
        What is written below each image.
    limits : (float, float), optional
        The values of black and white, for those beyond too. By default 0 and 255; of floats and truth values
        0 and 1.
    scale : int, optional
        How often each pixel is repeated both ways; by default as often as images come to 64 pixels in height.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, channels), uint8
        The sheet.

    Raises
    ------
    SchemaError
        If these are no images.
    ValueError
        If a number is out of its range, or there is not one label an image.
    MissingExtraError
        Without Pillow, where there are labels or a path.
    """
    shades = _shades(np.asarray(images), limits)
    n, high, wide = shades.shape[:3]
    if labels is not None and len(labels) != n:
        raise ValueError(f"there must be one label for each of {n} images, got {len(labels)}.")
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    scale = max(LEGIBLE // high, 1) if scale is None else scale
    for name, value in (("columns", columns), ("scale", scale)):
        if value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value}.")
    high, wide = scale * high, scale * wide
    cells = shades.repeat(scale, 1).repeat(scale, 2)
    if labels is not None:
        words = np.stack([_written(str(label), wide) for label in labels])
        colours = [words if part < 3 else np.full_like(words, PAPER) for part in range(shades.shape[3])]
        cells = np.concatenate([cells, np.stack(colours, -1)], 1)
    gap = ((0, -n % columns), (0, GAP), (0, GAP), (0, 0))
    cells = np.pad(cells, gap, constant_values=PAPER).reshape(
        -1, columns, *np.add(cells.shape[1:], (GAP, GAP, 0))
    )
    sheet = np.concatenate(np.concatenate(cells.swapaxes(0, 1), 2), 0)
    sheet = np.pad(sheet, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=PAPER)
    sheet = sheet[..., 0] if sheet.shape[2] == 1 else sheet
    if path is not None:
        _save(require("PIL.Image", "images", "writing images"), path, sheet)
    return sheet


class Preview:
    """A callback of `fit`: it shows how what is drawn gets better, as a contact sheet.

    At each evaluation, 20 times in a fit, the averaged weights draw images, always from the same noise. So
    one sees the same images become clear. A fit goes as it would without.

    Parameters
    ----------
    path : path
        Of the PNG file, which each sheet takes over whole.
    n : int
        Images of a sheet.
    every : int
        Evaluations from one sheet to the next; of the last there always is one.
    given : mapping or table, optional
        As of `generate`.
    random_state : int

    Examples
    --------
    >>> import lookalike as la
    >>> model = la.Diffusion(callbacks=[la.Preview("progress.png", given={"label": la.Balanced()})])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n: int = 16,
        every: int = 1,
        given: Any = None,
        random_state: int = 0,
    ) -> None:
        require("PIL.Image", "images", "a preview")  # before hours are spent
        self.path, self.n, self.every = Path(path), n, every
        self.given, self.random_state = given, random_state
        self._told = 0

    def __call__(self, progress: _Progress) -> None:
        """Draw a sheet, if it is time for one."""
        self._told += 1
        if (self._told - 1) % self.every and progress.step < progress.n_steps:
            return
        image = progress.model.schema_.image
        if image is None:
            raise SchemaError("a preview shows images, and the fit is of a table. Leave it out of callbacks.")
        drawn = progress.model.generate(self.n, self.given, self.random_state)
        images = drawn[image.name] if isinstance(drawn, Mapping) else drawn
        contact_sheet(images, self.path, limits=(image.low, image.high))


class _Progress(Protocol):
    """What is asked of `lookalike.training.Progress`."""

    @property
    def step(self) -> int: ...

    @property
    def n_steps(self) -> int: ...

    @property
    def model(self) -> Any: ...


def _shades(images: NDArray[Any], limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Images as bytes, (n, height, width, channels)."""
    if images.ndim not in (3, 4) or images.dtype.kind not in "iufb" or 0 in images.shape:
        raise SchemaError(
            "a sheet is made of images of shape (n, height, width) or (n, height, width, channels), got "
            f"{images.dtype} of shape {images.shape}."
        )
    if images.shape[3:] not in ((), (1,), (3,), (4,)):
        raise SchemaError(f"images of a sheet have 1, 3 or 4 channels, got {images.shape[3]}.")
    black, white = limits or ((0, 255) if images.dtype.kind in "iu" else (0, 1))
    if not black < white:
        raise ValueError(f"limits are the values of black and of white, the lower first, got {limits}.")
    shares = np.clip((images.astype(np.float64) - black) / (white - black), 0, 1)
    return (255 * shares).round().astype(np.uint8).reshape(*images.shape[:3], -1)


def _written(text: str, width: int) -> NDArray[np.uint8]:
    """A line of text, black on white, in the middle of (TEXT, width)."""
    pillow = {name: require(f"PIL.{name}", "images", "writing labels") for name in ("Image", "ImageDraw")}
    line = pillow["Image"].new("L", (width, TEXT), PAPER)
    pillow["ImageDraw"].Draw(line).text((width / 2, TEXT / 2), text, fill=0, anchor="mm")
    return np.asarray(line)


def _save(pillow: Any, path: str | os.PathLike[str], pixels: NDArray[np.uint8]) -> None:
    with atomic_write(path) as file:
        pillow.fromarray(pixels).save(file, format="PNG")


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


def templates_of(
    paths: Sequence[Path],
    folder: Path | None,
    templates: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[Path]:
    """The file of each picture's template, as `read_images` finds it; the pictures are those of a folder."""
    if not isinstance(templates, (str, os.PathLike)):
        if len(templates) != len(paths):
            raise SchemaError(
                f"there must be one template for each of {len(paths)} images, got {len(templates)}."
            )
        return [Path(path) for path in templates]
    place = Path(templates)
    if place.is_file():
        return [place] * len(paths)
    if not place.is_dir():
        raise SchemaError(f"{place} is neither a folder of templates nor a picture that is the one of all.")
    if folder is None:
        raise SchemaError(
            f"{place} is a folder, and the images are a list. Give a list of templates, or one file."
        )
    named: dict[Path, Path] = {}
    for path in _within(place):
        other = named.setdefault(path.relative_to(place).with_suffix(""), path)
        if other != path:
            raise SchemaError(f"{other} and {path} are templates of the same images. Keep one of them.")
    names = [path.relative_to(folder).with_suffix("") for path in paths]
    lacking = [path for path, name in zip(paths, names, strict=True) if name not in named]
    if lacking:
        raise SchemaError(
            f"{len(lacking)} of {len(paths)} images have no template in {place}. The first is {lacking[0]}, "
            f"whose template would be {place / lacking[0].relative_to(folder)}, with this or another ending."
        )
    return [named[name] for name in names]


def _within(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SchemaError(f"{folder} is not a folder. Give a folder of pictures, or a list of their paths.")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _alike(paths: Sequence[Path], read: Callable[[Path], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures of one shape as one array."""
    first = read(paths[0])
    pictures = np.empty((len(paths), *first.shape), np.uint8)
    for i, path in enumerate(paths):
        picture = read(path)
        if picture.shape != first.shape:
            advice = (
                "Give size=(height, width)" if picture.shape[:2] != first.shape[:2] else 'Give mode="RGB"'
            )
            raise SchemaError(
                f"{path} is an image of shape {picture.shape}, and {paths[0]} of shape {first.shape}. "
                f"{advice}."
            )
        pictures[i] = picture
    return pictures


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
