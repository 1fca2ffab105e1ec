"""Fits in several processes, on one machine or on many, through Lightning Fabric.

Each process takes its share of every batch, and gradients, or the statistics of `la.Mixture`, are averaged.
So devices make a step shorter, not the steps fewer: where there are many, give them a larger `batch_size`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.overrides import TorchFunctionMode

from lookalike import noise
from lookalike.errors import TrainingError, require
from lookalike.estimator import Estimator
from lookalike.loading import load


def fit(
    model: Estimator,
    X: Any,
    y: object = None,
    *,
    devices: int = 2,
    num_nodes: int = 1,
    accelerator: str = "cpu",
) -> Any:
    """Fit a model in several processes that share each step.

    With the same seed `VAE`, `Mixture` and `Detector` end as `model.fit(X, y)` does, but for rounding. `GAN`,
    `Diffusion` and `Hybrid` take a share for a batch of its own, and end as good, but not the same.

    Call it below ``if __name__ == "__main__":``, for each process imports the script. Where torchrun or SLURM
    has started the processes, it uses those.

    Parameters
    ----------
    model : VAE, GAN, Diffusion, Hybrid, Mixture or Detector
        Its `callbacks` are told in the first process; its `device` is what `accelerator` says.
    X, y
        As of `fit`. Each process encodes all rows: a dataset takes disk in each.
    devices : int
        Processes on a machine, one device each.
    num_nodes : int
        Machines.
    accelerator : {"cpu", "cuda", "mps", "auto"}

    Returns
    -------
    The model, fitted.

    Raises
    ------
    TrainingError
        If a process fails, with its error; the others are ended.
    MissingExtraError
        Without the packages of ``lookalike[distributed]``.
    """
    purpose = "fitting in several processes"
    fabric = require("lightning_fabric", "distributed", purpose).Fabric(
        accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy="ddp_spawn"
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = fabric.launch(_fitted, clone(model), X, y, folder)
        except ProcessRaisedException as error:
            raise TrainingError(
                f"process {error.error_index} of {devices} failed, and the others were ended: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from error
        model._learn(load(path)._state)
    return model


def _fitted(fabric: Any, model: Estimator, X: Any, y: object, folder: str) -> str:
    """Fit in this process, and return where the model is: itself it would not pass through the pipe."""
    seed = fabric.broadcast(noise.seed_from(model.random_state))
    model.set_params(random_state=seed, device=str(fabric.device))
    with ExitStack() as stack:
        model._fit(X, y, stack, _Peers(fabric))
    path = os.path.join(folder, str(fabric.global_rank))
    model.save(path)
    return path


class _Peers:
    """The processes of a fabric, as the training loop knows them."""

    def __init__(self, fabric: Any) -> None:
        self._fabric, self._weight = fabric, 1.0

    @property
    def rank(self) -> int:
        return int(self._fabric.global_rank)

    @contextmanager
    def share(self, n: int) -> Iterator[slice]:
        size = self._fabric.world_size
        if n < size:
            raise ValueError(f"batch_size must be at least the number of processes, {size}, got {n}.")
        part = slice(n * self.rank // size, n * (self.rank + 1) // size)
        self._weight = (part.stop - part.start) / n
        with _Shared(n, part):
            yield part

    def mean(self, tensors: Sequence[Tensor]) -> bool:
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors]) * self._weight
        total = self._fabric.all_reduce(flat, reduce_op="sum")
        with torch.no_grad():
            for tensor, part in zip(tensors, total.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))
        return True


class _Shared(TorchFunctionMode):
    """Draws for some rows of a batch what a draw for all of them gives these rows."""

    def __init__(self, n: int, part: slice) -> None:
        super().__init__()
        self._n, self._part = n, part

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.rand, torch.randn, torch.randint) and kwargs.get("generator") is not None:
            before, size = (args[:1], args[1]) if func is torch.randint else ((), args)
            size = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else tuple(size)
            if size[0] == self._part.stop - self._part.start:
                return func(*before, (self._n, *size[1:]), **kwargs)[self._part]
        return func(*args, **kwargs)
