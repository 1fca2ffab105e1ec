"""PyTorch: a data set of real rows and, among them, generated ones that are others in each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from lookalike import noise
from lookalike.parameters import Range
from lookalike.streaming import n_rows, taken
from lookalike.values import NANOSECONDS


class Mixed(Dataset[Any]):
    """Real rows or images, and below them generated ones or variations, drawn anew by `set_epoch`.

    They are drawn where `set_epoch` is called, and written to memory that the workers of a `DataLoader`
    share (/dev/shm, which has to hold all rows), persistent ones too: these neither draw nor need the model.
    What stands where depends on the seed, the epoch and the index alone.

    Parameters
    ----------
    real : DataFrame, pyarrow.Table, ndarray of shape (n_rows, ...), or dict of images and labels
    model : model
        What generates: fitted, or opened by `runtime.load`.
    share : float
        Of generated rows among all, from 0 to 0.99.
    given : mapping of column name to condition, optional
        Of generated rows, as of `generate`: rare classes alone, for instance.
    strength : float, optional
        In (0, 1]: variations of real rows chosen at random, with their labels, instead of rows drawn from
        nothing; as of `vary`, which `la.Diffusion` and `la.Hybrid` have.
    encode : callable, optional
        Takes a table like `real` and returns what to train on: an array or tensor of a row each, or a tuple
        or dict of such. It is called with the real rows, and with the generated ones of each epoch. By
        default arrays stay as they are, and tables become a dict of their modelled columns: numbers, and
        times in seconds from the least that fit saw, NaN where missing; levels by their number in `levels`.
        Images become tensors (channels, height, width), float32 from 0 to 1.
    random_state : int, Generator, RandomState or None

    Attributes
    ----------
    n_real : int
        Rows from this one on are generated.
    levels : dict of column name to list
        Of the default encoding, in order; a number above is one level that fit did not see, the next stands
        for a missing one. An embedding takes ``len(levels) + 2``.
    epoch : int
        Whose rows there are; 0 at first.

    Raises
    ------
    ValueError
        If the share or the strength is none, if `given` and `strength` are both there, or if generated rows
        are encoded otherwise than real ones.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    >>> rows = Mixed(X, la.Mixture(random_state=0).fit(X), share=0.25, random_state=0)
    >>> len(rows), rows[0].shape, rows[[0, 399]].shape
    (400, torch.Size([2]), torch.Size([2, 2]))
    >>> before = rows[399]
    >>> rows.set_epoch(1)
    >>> bool((rows[399] == before).all())
    False
    """

    def __init__(
        self,
        real: Any,
        model: Any,
        share: float = 0.5,
        *,
        given: Mapping[Any, Any] | None = None,
        strength: float | None = None,
        encode: Callable[[Any], Any] | None = None,
        random_state: noise.RandomState = None,
    ) -> None:
        Range(0, 0.99).check("share", share)
        if strength is not None and given is not None:
            raise ValueError("given and strength exclude each other: variations keep their labels.")
        self.n_real = n_rows(real)
        self.levels: dict[Any, list[Any]] = {}
        self._model, self._given, self._seed = model, given, noise.seed_from(random_state)
        self._real, self._strength = None if strength is None else real, strength
        self._n_new = round(self.n_real * share / (1 - share))
        schema = getattr(model, "schema_", None)  # of arrays, whatever generates them will do
        images = schema is not None and schema.image is not None
        if encode is None and (images or not isinstance(real, np.ndarray)):
            self.levels = {c.name: sorted(c.levels) for c in model.schema_.category_columns}
            encode = partial(_images_by_column if images else _by_column, model.schema_, self.levels)
        self._encode = encode
        self.epoch = 0
        parts = self._encoded(real), self._drawn()
        self._rows = _each(lambda *tensors: _below(*tensors).share_memory_(), *parts)

    def set_epoch(self, epoch: int) -> None:
        """Draw the generated rows of an epoch; call it before each."""
        if get_worker_info() is not None or self._model is None:
            raise RuntimeError("set_epoch must be called where the data set was made, not in a worker.")
        self.epoch = epoch
        _each(lambda rows, new: rows[self.n_real :].copy_(new), self._rows, self._drawn())

    def __len__(self) -> int:
        return self.n_real + self._n_new

    def __getitem__(self, index: Any) -> Any:
        """A row; of a list of indices the batch of them, which a ``BatchSampler`` asks for."""
        # A copy: what is in their place in the next epoch is written there.
        return _each(lambda rows: rows[index].clone(), self._rows)

    def __getstate__(self) -> dict[str, Any]:
        drawing = ("_model", "_encode", "_given", "_real")  # workers draw nothing
        return self.__dict__ | dict.fromkeys(drawing)

    def _drawn(self) -> Any:
        seed = noise.child(self._seed, self.epoch)
        if not self._n_new:
            return _each(lambda rows: rows[:0], self._encoded(self._model.generate(1, self._given, seed)))
        if self._strength is not None:
            index = (noise.uniforms(seed, 0, self._n_new, 1)[:, 0] * self.n_real).astype(np.int64)
            rows = taken(self._real, index)
            return self._encoded(self._model.vary(rows, self._strength, random_state=seed))
        return self._encoded(self._model.generate(self._n_new, self._given, seed))

    def _encoded(self, table: Any) -> Any:
        return _each(_tensor, table if self._encode is None else self._encode(table))


def _images_by_column(schema: Any, levels: Mapping[Any, list[Any]], table: Any) -> Any:
    """Images as (n, channels, height, width) from 0 to 1, labels by their number; or images alone."""
    encoded, found = schema.encode(table, allow_missing=True), {}
    for image, cells in schema.images:
        pixels = (encoded.numbers[:, cells] - image.low) / (image.high - image.low)
        found[image.name] = pixels.reshape(-1, *image.grid).transpose(0, 3, 1, 2).astype(np.float32)
    if isinstance(table, np.ndarray):
        return found[schema.image.name]
    return found | _ids_by_column(schema, levels, encoded)


def _by_column(schema: Any, levels: Mapping[Any, list[Any]], table: Any) -> dict[Any, NDArray[Any]]:
    encoded = schema.encode(table, allow_missing=True)
    found: dict[Any, NDArray[Any]] = {}
    for k, column in enumerate(schema.number_columns):
        x, unit = encoded.numbers[:, k], column.storage.unit  # times are in steps from the least
        found[column.name] = x * (column.step * NANOSECONDS[unit] / 1e9) if unit else x
    found |= _ids_by_column(schema, levels, encoded)
    return {name: found[name] for name in schema.names if name in found}


def _ids_by_column(schema: Any, levels: Mapping[Any, list[Any]], encoded: Any) -> dict[Any, NDArray[Any]]:
    found: dict[Any, NDArray[Any]] = {}
    for k, column in enumerate(schema.category_columns):
        # Ids by frequency would turn 0 and 1 around where 1 is the more frequent.
        rank = {level: i for i, level in enumerate(levels[column.name])}
        n = len(rank)
        found[column.name] = np.array([*(rank[level] for level in column.levels), n, n + 1])[
            encoded.ids[:, k]
        ]
    return found


def _tensor(array: Any) -> torch.Tensor:
    tensor = torch.as_tensor(array if torch.is_tensor(array) else np.require(array, requirements="W"))
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def _below(real: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    if real.dtype != new.dtype or real.shape[1:] != new.shape[1:]:
        raise ValueError(
            f"real rows are encoded as {real.dtype} of shape {tuple(real.shape)}, generated ones as "
            f"{new.dtype} of shape {tuple(new.shape)}: encode must treat both alike."
        )
    return torch.cat([real, new])


def _each(do: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """A function of each tensor of a dict or tuple of some, or of a single one."""
    if isinstance(tree, Mapping):
        return {name: _each(do, tree[name], *(other[name] for other in others)) for name in tree}
    if isinstance(tree, tuple | list):
        return tuple(_each(do, *parts) for parts in zip(tree, *others, strict=True))
    return do(tree, *others)
