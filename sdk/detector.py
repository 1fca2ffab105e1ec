"""`Detector`: the estimator that scores and does not generate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from lookalike import noise
from lookalike.columns import Column
from lookalike.estimator import Estimator
from lookalike.layout import Layout
from lookalike.models.detector import Detector as DetectorModel
from lookalike.models.family import Model
from lookalike.preprocessing import MAX_KNOTS
from lookalike.training import Callback


class Detector(Estimator):
    """Detector of anomalies, for scoring alone: what to take without a reason for another.

    Scores by three energies that complement each other, brought to one scale without labels: how far a
    trained denoiser moves a row, how far the exact denoiser of remembered rows does, and how far it is from
    the nearest of them; of images, how far each small patch is from the nearest remembered. Rows that may be
    anomalies themselves are not learned from. Fits and scores in a fraction of the time of the others; it
    does not generate.

    Parameters
    ----------
    width : int, optional
        Of the network; 256 from 10,000 rows on, else 128.
    depth : int
        Residual blocks of the network.
    contamination : float or "auto"
        "auto" calls at most 5 % of normal rows anomalies, by calibration on held-out rows; a share in
        (0, 0.5] calls that share of the rows of `fit` anomalies.
    schema : mapping of column name to kind, optional
        Such as ``{"zip": la.Categorical(), "id": la.Ignored()}``; other columns are inferred.
    max_levels : int
        Levels that a category keeps; rarer ones are pooled for the model and drawn by their frequency.
    memory : int
        Rows remembered to score with, at most.
    max_steps : int, optional
        Of training; by default it grows like n_rows^0.6, from 800 to 2,000, and is a twentieth of that for
        images.
    max_seconds : float, optional
        Time budget of `fit`, of all it does: training takes what calibration will leave of it, at most.
    batch_size : int, optional
        By default an eighth of the rows, from 128 to 256.
    learning_rate : float
    early_stopping : bool
        Stop when rows held out of training no longer gain; from 1,000 rows on.
    callbacks : sequence of callable, optional
        Called with `lookalike.training.Progress` 20 times in a fit; training stops if one returns True.
    checkpoint : path, optional
        Written 20 times in a fit; where it exists the fit goes on from it, to the same bits.
    device : str
        "auto", "cpu", "cuda" or any that torch knows.
    verbose : bool
        Show a progress bar.
    random_state : int, Generator, RandomState or None
        Equal seeds give equal models.

    Attributes
    ----------
    offset_ : float
        Threshold of `score_samples`.
    loss_curve_ : list of float
        Loss at each evaluation.
    n_iter_ : int
        Training steps taken.
    fit_report_ : FitReport
        Time, memory, energy and multiplications that `fit` took.
    schema_ : Schema
        The columns and their kinds.
    calibration_ : Calibration
        Scores of the rows held out.

    References
    ----------
    V. Livernoche. K-DSM. 2026, arXiv:2605.06955 (one denoising at noise that suits each column).
    V. Livernoche, V. Jain, Y. Hezaveh, S. Ravanbakhsh. On diffusion modeling for anomaly detection. ICLR
    2024, arXiv:2305.18593 (diffusion time from nearest neighbours).
    K. Roth et al. Towards total recall in industrial anomaly detection. CVPR 2022, arXiv:2106.08265
    (distances of patches).
    T. Karras, M. Aittala, T. Aila, S. Laine. Elucidating the design space of diffusion-based generative
    models. NeurIPS 2022, arXiv:2206.00364, appendix B.3 (the exact denoiser).

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = la.Detector(max_steps=20, random_state=0).fit(X)
    >>> model.explain([[0.0, 30.0]]).shares.argmax()
    np.int64(1)
    """

    _key = "detector"
    _most_values = MAX_KNOTS  # what only scores needs no more
    _pace = 12.0
    _fewest_steps = 800
    _most_steps = 2000
    _batches = 256, 256

    def __init__(
        self,
        *,
        width: int | None = None,
        depth: int = 2,
        contamination: float | Literal["auto"] = "auto",
        schema: Mapping[Any, Column] | None = None,
        max_levels: int = 128,
        memory: int = 2048,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        batch_size: int | None = None,
        learning_rate: float = 2e-3,
        early_stopping: bool = True,
        callbacks: Sequence[Callback] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str = "auto",
        verbose: bool = False,
        random_state: noise.RandomState = None,
    ) -> None:
        super().__init__(
            contamination=contamination,
            schema=schema,
            max_levels=max_levels,
            memory=memory,
            max_steps=max_steps,
            max_seconds=max_seconds,
            batch_size=batch_size,
            learning_rate=learning_rate,
            early_stopping=early_stopping,
            callbacks=callbacks,
            checkpoint=checkpoint,
            device=device,
            verbose=verbose,
            random_state=random_state,
        )
        self.width = width
        self.depth = depth

    def _steps(self, n: int, layout: Layout) -> int:
        # Of images patches say more than a network that sees rows of pixels, which would take long to learn.
        return max(super()._steps(n, layout) // layout.weight, 1)

    def _build(self, layout: Layout, generator: torch.Generator, width: int) -> Model:
        return DetectorModel(layout, width=width, depth=self.depth, generator=generator)
