"""A small convolutional network that names images, trained in seconds on images that are moved, lit and cut.

It is what augmentation with images is judged by: as strong as it gets without generated ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from lookalike import noise
from lookalike.errors import SchemaError
from lookalike.networks import WHOLE, Pace, convolution, initialise, linear
from lookalike.training import Schedule, seeded, train

GROUPS = 8
PLACES = 4  # of a side, whose means are named together
LARGEST = 16  # side at which the network works at most; of larger images, 2 x 2 pixels become channels
SHIFT, TURN, ZOOM = 0.1, 0.2, 0.1  # share of the side; radians; share of the size
LIGHT, CONTRAST = 0.2, 0.3  # in spreads of the pixels; share
HOLE = 0.5  # side of what is cut out, at most, as a share of the image's
LEARNING_RATE = 5e-3
CHUNK = 256
TRIED = 150  # steps by which it is decided whether images are mirrored
TINY = 1e-6  # probabilities below are one surprise


class Network(nn.Module):
    """Three convolutions at full resolution and at half of it, and means over parts of the image.

    Parameters
    ----------
    shape : tuple of int
        Channels, height, width.
    n_classes, width : int
    generator : torch.Generator
        Draws the first weights.
    """

    stages = (WHOLE,)

    def __init__(
        self, shape: tuple[int, int, int], n_classes: int, width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels, *sides = shape
        self.fold = 1 << max(math.ceil(math.log2(max(sides) / LARGEST)), 0)
        self.pad = (0, -sides[1] % self.fold, 0, -sides[0] % self.fold)
        self.enter = convolution(channels * self.fold**2, width)
        self.down, self.deep = convolution(width, 2 * width, stride=2), convolution(2 * width, 2 * width)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, size) for size in (width, 2 * width, 2 * width))
        self.leave = linear(2 * width * PLACES**2, n_classes)
        initialise(self, generator)

    def pace(self, k: int) -> Pace:
        return Pace((0.9, 0.99))

    def forward(self, images: Tensor) -> Tensor:
        """Scores of classes, (n, n_classes), of images (n, channels, height, width)."""
        h = nn.functional.pixel_unshuffle(nn.functional.pad(images, self.pad), self.fold)
        h = h.contiguous(memory_format=torch.channels_last)
        for layer, norm in zip((self.enter, self.down, self.deep), self.norms, strict=True):
            h = nn.functional.silu(norm(layer(h)))
        return self.leave(nn.functional.adaptive_avg_pool2d(h, PLACES).flatten(1))

    def objectives(
        self, rows: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Cross-entropy of the labels."""
        images, labels = rows
        yield nn.functional.cross_entropy(self(images), labels), list(self.parameters())

    def fidelity(self, rows: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """Cross-entropy of images as they are."""
        return nn.functional.cross_entropy(self(rows[0]), rows[1])

    def start_stage(self, stage: int) -> None:
        """There is one."""

    def settle(self) -> None:
        """Nothing follows from the weights."""


class Moved:
    """Images and labels, each batch moved, turned, zoomed, lit and cut in another way.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
        Of mean 0 and unit spread.
    labels : Tensor of shape (n,), int64
    weight : Tensor of shape (n,), optional
        How often each is drawn; by default all are shown in turn.
    flip : bool
        Whether half of them are mirrored.
    """

    def __init__(self, images: Tensor, labels: Tensor, weight: Tensor | None, flip: bool) -> None:
        self.images, self.labels, self.weight, self.flip = images, labels, weight, flip

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and labels of one step."""
        if self.weight is not None:
            index = torch.multinomial(self.weight, len(index), replacement=True, generator=generator)
        return self._moved(self.images[index], generator), self.labels[index]

    def _moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = x.shape

        def within(most: float, *shape: int) -> Tensor:
            return (torch.rand(n, *shape, generator=generator) * 2 - 1) * most

        angle, size = within(TURN), 1 + within(ZOOM, 2)
        mirror = torch.where(torch.rand(n, generator=generator) < 0.5 * self.flip, -1.0, 1.0)
        cos, sin = angle.cos() * size[:, 0], angle.sin() * size[:, 1]
        turned = torch.stack([torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1)
        theta = torch.cat([turned, within(2 * SHIFT, 2, 1)], 2)  # two is the side, as grids have it
        grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
        x = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
        x = x * (1 + within(CONTRAST, 1, 1, 1)) + within(LIGHT, 1, 1, 1)
        hole = torch.ones(n, 1, 1, 1, dtype=torch.bool)
        for axis, length in ((2, height), (3, width)):
            centre, half = torch.rand(n, 2, generator=generator).mul(torch.tensor([1, HOLE / 2])).unbind(1)
            at = ((torch.arange(length) + 0.5) / length - centre[:, None]).abs() < half[:, None]
            hole = hole & (at[:, None, :, None] if axis == 2 else at[:, None, None, :])
        return x.masked_fill(hole, 0.0)


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """Names images by a small network, trained with strong classical augmentation.

    Images are shifted, turned, zoomed, lit, and have a rectangle cut out (DeVries and Taylor 2017).

    Parameters
    ----------
    width : int
        Channels of the first layer, in eights.
    max_steps, batch_size : int
        Of training.
    flip : bool
        Whether images are mirrored too: what is a garment stays one, what is a digit does not.
    random_state : int, Generator, RandomState or None

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)

    References
    ----------
    T. DeVries, G. Taylor. Improved regularization of convolutional neural networks with cutout. 2017,
    arXiv:1708.04552.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((40, 8, 8))
    >>> images[::2, :, 2:6] = 1
    >>> images[1::2, 2:6] = 1
    >>> model = ImageClassifier(max_steps=60, random_state=0).fit(images, np.tile(["|", "-"], 20))
    >>> model.predict(images[:4]).tolist()
    ['|', '-', '|', '-']
    """

    def __init__(
        self,
        *,
        width: int = 24,
        max_steps: int = 600,
        batch_size: int = 64,
        flip: bool = False,
        random_state: noise.RandomState = None,
    ) -> None:
        self.width = width
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.flip = flip
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn what images of each class look like.

        Parameters
        ----------
        X : ndarray of shape (n, height, width) or (n, height, width, channels)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional
            How often each image is shown.
        """
        pixels = _pixels(X)
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        self.centre_, self.scale_ = float(pixels.mean()), float(pixels.std()) or 1.0
        seed = noise.seed_from(self.random_state)
        x = self._seen(pixels)
        weight = None if sample_weight is None else torch.as_tensor(np.asarray(sample_weight, np.float64))
        shape = (x.shape[1], x.shape[2], x.shape[3])
        network = Network(shape, len(self.classes_), self.width, seeded(seed, "weights", 0))
        data = Moved(x, torch.from_numpy(codes.astype(np.int64)), weight, self.flip)
        train(network, data, None, Schedule(self.max_steps, self.batch_size, LEARNING_RATE), seed)
        self.network_ = network.requires_grad_(False)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of each class, (n, n_classes), as `classes_` has them."""
        check_is_fitted(self)
        with torch.inference_mode():
            scores = [self.network_(part) for part in self._seen(_pixels(X)).split(CHUNK)]
        return torch.cat(scores).double().softmax(1).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each image, (n,)."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _seen(self, pixels: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy((pixels - self.centre_) / self.scale_)


def _pixels(X: Any) -> NDArray[np.float32]:
    """Images as (n, channels, height, width)."""
    images = np.asarray(X)
    if images.ndim not in (3, 4):
        raise SchemaError(f"X must be images, (n, height, width[, channels]), got the shape {images.shape}.")
    pixels = images.astype(np.float32).reshape(*images.shape[:3], -1).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels)


def flips_help(X: Any, y: NDArray[np.int64], seed: int) -> bool:
    """Whether images left out, each half by turns, are less surprising where training mirrored the others."""
    halves, surprise = noise.folds(seed, len(y), 2), {False: 0.0, True: 0.0}
    for flip in surprise:
        for half in (0, 1):
            train, test = halves != half, halves == half
            model = ImageClassifier(flip=flip, max_steps=TRIED, random_state=seed % 2**32)
            model.fit(X[train], y[train])
            known = np.isin(y[test], model.classes_)
            p = model.predict_proba(X[test][known])
            right = np.searchsorted(model.classes_, y[test][known])
            surprise[flip] -= float(np.log(p[np.arange(len(p)), right].clip(min=TINY)).sum())
    return surprise[True] < surprise[False]
