"""Rows led towards noise and back: from one to another through it, part of the way, and step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lookalike import noise
from lookalike.arrays import pictures_of
from lookalike.conditions import Request
from lookalike.diagnosing import Diagnosing
from lookalike.errors import ConditionError, SchemaError
from lookalike.estimator import padded
from lookalike.face import BLOCK
from lookalike.filling import fill
from lookalike.images import Image
from lookalike.layout import Rows
from lookalike.models.family import Denoising, Family, Invertible
from lookalike.noise import RandomState
from lookalike.parameters import Range
from lookalike.preprocessing import Pixels
from lookalike.replacing import hidden
from lookalike.schema import Table
from lookalike.verbs import Completer

DENSER = 4  # places at which a path is measured for each of its steps, to make them equal
PAIRS = 16  # whose noise is sought at once, always: few are asked for, and each takes hundreds of calls


class Trajectory(NamedTuple):
    """What the steps of a sampler leave.

    Attributes
    ----------
    sigmas : ndarray of shape (n_steps + 1,), float64
        Spread of the noise in each, on the scale of the pixels; 0 at the end.
    images : ndarray of shape (n_steps + 1, n, height, width[, channels]), float64
        From noise to what `generate` draws.
    """

    sigmas: NDArray[np.float64]
    images: NDArray[np.float64]


class Noising(Diagnosing):
    """An estimator whose rows can be led to noise and back, as far as its model can; not to be used."""

    def interpolate(self, a: Any, b: Any, steps: int = 9) -> Any:
        """Draw what lies between rows or images: a path from each of `a` to its partner in `b`.

        The noise from which either would be drawn is found, and between the two the path is an arc (Shoemake,
        "Animating rotation with quaternion curves", SIGGRAPH 1985): what lies on it is as noise should be. It
        is gone along in steps that are of equal length in the model's coordinates of what is drawn.
        Categories are those of the nearer end. What an image has beyond what is drawn from its noise fades
        along the path.

        Parameters
        ----------
        a, b : tables or arrays of images, as of `score_samples`
            Of as many rows.
        steps : int
            Rows of each path, both ends included.

        Returns
        -------
        DataFrame, pyarrow.Table, ndarray or dict
            ``len(a) * steps`` rows as `generate` returns them, path after path. The ends are those of `a` and
            `b`, to the bit.

        Raises
        ------
        ConditionError
            If the model cannot find the noise of a row: VAE and Diffusion can, and Hybrid that of an image.
        SchemaError
            As `score_samples`.
        """
        self._check("interpolate")
        model = self.model_
        if not isinstance(model, Invertible):
            raise self._incapable("interpolate", "VAE or Diffusion")
        Range(2, math.inf, whole=True).check("steps", steps)
        first, last = self._rows(a), self._rows(b)
        if len(first) != len(last):
            raise ValueError(f"a and b must be of as many rows, got {len(first)} and {len(last)}.")
        numbers = np.stack([first.numbers, *[last.numbers] * (steps - 1)], 1)
        ids = np.stack([first.ids, *[last.ids] * (steps - 1)], 1)
        with torch.inference_mode():
            for start in range(0, len(first), PAIRS):
                pairs = slice(start, start + PAIRS)
                ends = [self._seen(end.rows(pairs), PAIRS) for end in (first, last)]
                noises = [model.noise_of(rows) for rows in ends]
                lost = [
                    self._lost(end.rows(pairs), normals, seen)
                    for end, normals, seen in zip((first, last), noises, ends, strict=True)
                ]
                n = len(first) - start  # of PAIRS
                for k, share in enumerate(self._even(noises, ends, steps), 1):
                    near = torch.where(share < 0.5, ends[0].ids, ends[1].ids)
                    drawn, way = self._told(self._between(noises, near, share)), share[:n].cpu().numpy()
                    numbers[pairs, k] = drawn[:n] + (1 - way) * lost[0] + way * lost[1]
                    ids[pairs, k] = np.where(way < 0.5, first.ids[pairs], last.ids[pairs])
        n = len(first) * steps  # a table without categories has no size from which to tell
        return self.schema_.decode(Table(*(part.reshape(n, part.shape[2]) for part in (numbers, ids))))

    def _between(self, noises: list[Tensor], ids: Tensor, share: Tensor) -> Rows:
        """What is drawn at a share of the way, (n, 1), given categories."""
        return self._led(spherical(noises[0], noises[1], share), ids)

    def _even(self, noises: list[Tensor], ends: list[Rows], steps: int) -> list[Tensor]:
        """Shares of the way, each (n, 1), that part paths into steps of equal length; without the ends.

        Where categories of the ends differ a path leaps half way, by what no shorter steps would bridge.
        """
        device = noises[0].device
        half = torch.linspace(0, 0.5, (steps - 1) * DENSER // 2 + 1, device=device)
        lengths = []
        for near, at in zip(ends, (half, half + 0.5), strict=True):
            drawn = [self._between(noises, near.ids, share.expand(PAIRS, 1)).numbers for share in at]
            lengths.append(torch.stack([(b - a).norm(dim=1).clamp(min=1e-9) for a, b in pairwise(drawn)], 1))
        gone = nn.functional.pad(torch.cat(lengths, 1).cumsum(1), (1, 0))
        even, aims = np.linspace(0, 1, gone.shape[1]), np.linspace(0, 1, steps)[1:-1]
        shares = [np.interp(aims * own[-1], own, even) for own in gone.cpu().numpy()]
        return list(torch.tensor(np.array(shares), dtype=torch.float32, device=device).T[:, :, None])

    def _lost(self, rows: Table, normals: Tensor, seen: Rows) -> NDArray[np.float64]:
        """What of rows is not in their noise, where draws have no grain to hold it: it fades along a path."""
        if self.codec_.layout.grain:
            return np.zeros_like(rows.numbers)
        return rows.numbers - self._told(self._led(normals, seen.ids))[: len(rows)]

    def vary(self, X: Any, strength: float = 0.5, random_state: RandomState = None) -> Any:
        """Draw variations of rows or images: a part of them is lost in noise, and drawn anew.

        SDEdit (Meng et al., ICLR 2022, arXiv 2108.01073, algorithm 1): the sampler begins on the way, with
        the row in as much noise as there is at that step; or at its own start, where nothing of the row is
        left. Categories stay.

        Parameters
        ----------
        X : table or array of images, as of `score_samples`
        strength : float
            In (0, 1], the share of the sampler's steps that are taken: little gives nearly X again, 1 all
            that fits the categories.
        random_state : int, Generator, RandomState or None
            Row i depends on the seed, on i and on row i of X.

        Returns
        -------
        table like X

        Raises
        ------
        ConditionError
            If the model does not draw by taking noise away: Diffusion and Hybrid do.
        SchemaError
            As `score_samples`.
        """
        model = self._denoiser("vary")
        if not 0 < strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {strength!r}.")
        table, seed, chunk = self._rows(X), noise.seed_from(random_state), self._chunk()
        completer, numbers = self._completer(), np.empty_like(table.numbers)
        first = model.n_steps - math.ceil(strength * model.n_steps)
        for start in range(0, len(table), chunk):
            part = table.rows(slice(start, start + chunk))
            normals, uniforms = self._noises(completer, seed, start)
            with torch.inference_mode():
                rows = self._seen(part, chunk)
                given = Rows(torch.full_like(rows.numbers, torch.nan), rows.ids)
                if first:
                    # What is missing has no number; any of unit spread will do.
                    spread = (model.schedule[first, 0] ** 2 + (~rows.present).float()).sqrt()
                    noisy = Rows(rows.clean + spread * normals[:, : rows.numbers.shape[1]], rows.ids)
                else:  # the most noise does not hide all
                    noisy = model.begin(normals, given)
                *_, drawn = self._stepped(noisy, normals, uniforms, given, first)
                new, _ = completer.decode(drawn, uniforms)
            numbers[start : start + chunk] = new[: len(part)].numpy()
        fixed = np.zeros(table.ids.shape, dtype=bool)
        return fill(X, self.schema_, Table(numbers, table.ids), (~np.isnan(table.numbers), fixed))

    def noise(self, X: Any, sigma: float, random_state: RandomState = None) -> Any:
        """Add noise to images: the forward process, at one moment.

        Parameters
        ----------
        X : ndarray of images, or dict of columns, as of `score_samples`
        sigma : float
            Spread of the noise on the scale of the pixels: 25.5 is a tenth of what bytes may be. (In DDPM's
            terms the signal's share is ``1 / (1 + (sigma / spread)**2)``, for pixels of that spread.)
        random_state : int, Generator, RandomState or None
            Image i gets noise that depends on the seed and on i; it is that with which `vary` begins.

        Returns
        -------
        ndarray or dict like X
            Its images as float64, beyond the range of pixels where noise leads there.

        Raises
        ------
        ConditionError
            If the model does not draw by taking noise away: Diffusion and Hybrid do.
        SchemaError
            As `score_samples`, or if the model is of no images.
        """
        self._denoiser("noise")
        image = self._image("noise")
        Range(0, math.inf).check("sigma", sigma)
        numbers = self._rows(X).numbers
        normals, _ = noise.rows(noise.seed_from(random_state), 0, len(numbers), *self._completer().noise_size)
        return _with_images(X, image, numbers + sigma * normals[:, : image.size])

    def denoise(self, X: Any, sigma: float) -> Any:
        """Tell what images are expected to be under noise, in one step: E[clean | X].

        From it follows the score, the gradient of the logarithm of the density of noisy images:
        ``(model.denoise(X, sigma) - X) / sigma**2`` (equation 3 of Karras et al., NeurIPS 2022, arXiv
        2206.00364).

        Parameters
        ----------
        X : ndarray of images, or dict of columns
            Pixels may be any numbers, as `noise` leaves them. Labels tell what the images are of; they may be
            missing, or left out.
        sigma : float
            Spread of the noise, as of `noise`.

        Returns
        -------
        ndarray or dict like X
            Its images as float64, not rounded.

        Raises
        ------
        ConditionError, SchemaError
            As of `noise`.
        """
        model, image = self._denoiser("denoise"), self._image("denoise")
        Range(1e-12, math.inf).check("sigma", sigma)
        frame, place = self.schema_.open(X, owner=self._owner, whole=False)
        if image.name not in place:
            raise SchemaError(f"denoise takes images, and there is no column {image.name!r}.")
        numbers = image.encode_noisy(pictures_of(frame, place[image.name]))
        if np.isnan(numbers).any():
            raise SchemaError(f"column {image.name!r} lacks pixels: noisy images are whole.")
        ids = hidden(self.schema_, len(numbers)).ids.copy()
        for k, column in enumerate(self.schema_.category_columns):
            if column.name in place:
                ids[:, k] = column.encode(frame.column(place[column.name]), allow_missing=True)
        chunk, pixels, found = self._chunk(), cast(Pixels, self.codec_.numbers), np.empty_like(numbers)
        level, nothing = sigma / float(pixels.scale), torch.zeros(1, image.size)
        for start in range(0, len(numbers), chunk):
            part = Table(numbers, ids).rows(slice(start, start + chunk))
            with torch.inference_mode():
                rows = self._seen(part, chunk)
                x = self.codec_.layout.join(rows.numbers, rows.ids)
                expected, _ = model.denoise(x, x.new_full((1, 1), level), nothing.to(x.device))
            found[start : start + chunk] = pixels.restore(expected.cpu())[: len(part)].numpy()
        return _with_images(X, image, found)

    def trajectory(
        self, n: int | None = None, given: Any = None, random_state: RandomState = None
    ) -> Trajectory:
        """Draw images, and keep what each step of the sampler leaves.

        Parameters
        ----------
        n, given, random_state
            As of `generate`; a column is given values, or `Balanced` ones.

        Returns
        -------
        Trajectory
            `sigmas` and `images`, from noise to the images that `generate` draws from the same seed.

        Raises
        ------
        ConditionError
            As of `generate` and of `noise`, or if `given` asks for sets or ranges, for which `generate` may
            draw more than once.
        SchemaError
            If the model is of no images.
        """
        model, image = self._denoiser("trajectory"), self._image("trajectory")
        if n is not None:
            Range(1, math.inf, whole=True).check("n", n)
        seed, chunk, completer = noise.seed_from(random_state), self._chunk(), self._completer()
        pixels, drawn = cast(Pixels, self.codec_.numbers), []
        for k, request in enumerate(Request.read(self.schema_, given, n, seed, BLOCK)):
            if request.wanted:
                raise ConditionError(
                    "trajectory follows one draw, and sets and ranges may take several: give a column values."
                )
            for start in range(0, len(request.table), chunk):
                part = request.rows(np.arange(start, min(start + chunk, len(request.table))))
                held = padded(chunk, part.table.numbers, part.table.ids, *part.known)
                normals, uniforms = self._noises(completer, noise.child(seed, k << 32), start)
                with torch.inference_mode():
                    known = completer.given(*held)
                    begun = model.begin(normals, known)
                    seen = [begun, *self._stepped(begun, normals, uniforms, known)]
                    numbers, _ = completer.decode(seen[-1], uniforms)
                m = len(part.table)
                images = [pixels.restore(rows.numbers.cpu())[:m].numpy() for rows in seen]
                images[-1] = image.decode(np.where(part.known[0], part.table.numbers, numbers[:m].numpy()))
                drawn.append(np.stack([some.reshape(m, *image.shape) for some in images]).astype(np.float64))
        sigmas = model.schedule[:, 0].cpu().double() * pixels.scale
        return Trajectory(np.append(sigmas.numpy(), 0.0), np.concatenate(drawn, 1))

    # ---- what the methods above share ------------------------------------------------------------------

    def _incapable(self, verb: str, others: str) -> ConditionError:
        return ConditionError(f"{self._owner} cannot {verb}: fit a {others} for that.")

    def _denoiser(self, verb: str) -> Denoising:
        """The model, if it draws by taking noise away."""
        self._check(verb)
        if not isinstance(self.model_, Denoising):
            raise self._incapable(verb, "Diffusion or Hybrid")
        return self.model_

    def _image(self, verb: str) -> Image:
        if self.schema_.image is None:
            raise SchemaError(f"{verb} is for images, and {self._owner} learned from a table.")
        return self.schema_.image

    def _completer(self) -> Completer:
        return Completer(self.codec_, cast(Family, self.model_), impute=False)

    def _seen(self, table: Table, size: int) -> Rows:
        """Rows as the model sees them, the last repeated up to `size`."""
        return self.codec_(*padded(size, table.numbers, table.ids)).to(self._completer().device)

    def _noises(self, completer: Completer, seed: int, start: int) -> tuple[Tensor, Tensor]:
        """The noise of a chunk of rows from number `start` on: normals where the model is, and uniforms."""
        normals, uniforms = map(
            torch.from_numpy, noise.rows(seed, start, self._chunk(), *completer.noise_size)
        )
        return normals.to(completer.device), uniforms

    def _stepped(
        self, begun: Rows, normals: Tensor, uniforms: Tensor, given: Rows, first: int = 0
    ) -> Iterator[Rows]:
        """What the sampler's steps from number `first` on leave."""
        completer = self._completer()
        own = uniforms[:, : completer.model.noise_size[1]].to(completer.device)
        return completer.model.path(begun, normals, own, given, completer.bar.to(completer.device), first)

    def _led(self, normals: Tensor, ids: Tensor) -> Rows:
        """The rows that noise leads to, given their categories."""
        completer = self._completer()
        uniforms = torch.full((len(ids), completer.noise_size[1]), 0.5)
        given = Rows(normals.new_full((len(ids), self.codec_.layout.n_numbers), torch.nan), ids)
        begun = completer.model.begin(normals, given)
        *_, rows = self._stepped(begun, normals, uniforms, given)
        return rows

    def _told(self, rows: Rows) -> NDArray[np.float64]:
        """Numbers of rows that were drawn."""
        completer = self._completer()
        uniforms = torch.full((rows.n, completer.noise_size[1]), 0.5)
        return completer.decode(rows, uniforms)[0].numpy()


def spherical(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """What lies at a share, (n, 1), of the arc from one to the other, row by row, (n, d)."""
    lengths = a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True)
    cosine = (a * b).sum(1, keepdim=True) / lengths.clamp(min=1e-12)
    angle = cosine.acos().nan_to_num(0.0).clamp(1e-3, math.pi - 1e-3)  # of no arc, the chord
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def _with_images(X: Any, image: Image, numbers: NDArray[np.float64]) -> Any:
    """X with other images."""
    pictures = numbers.reshape(-1, *image.shape)
    return {**X, image.name: pictures} if isinstance(X, Mapping) else pictures
