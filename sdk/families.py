"""The estimators that generate: `VAE`, `GAN`, `Diffusion`, `Hybrid`, `Mixture`"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from sklearn.utils.validation import check_is_fitted

from lookalike import noise
from lookalike.backbones import DISTURBANCES, STYLED
from lookalike.columns import Column
from lookalike.detector import Detector
from lookalike.errors import SchemaError
from lookalike.estimator import Estimator
from lookalike.layout import Layout
from lookalike.models.diffusion import Diffusion as DiffusionModel
from lookalike.models.distilled import Distilled
from lookalike.models.family import Model
from lookalike.models.gan import GAN as GANModel
from lookalike.models.hybrid import Hybrid as HybridModel
from lookalike.models.mixture import Mixture as MixtureModel
from lookalike.models.vae import VAE as VAEModel
from lookalike.noising import Noising
from lookalike.styled import Styled
from lookalike.training import Callback


class VAE(Noising):
    """Variational autoencoder.

    Scores by the evidence bound at the posterior mean plus the distance to the reconstruction; generates by
    drawing from the prior in a few steps, each given what the earlier ones revealed. Fast in all of it.

    Of images the networks are convolutions, all pixels of a channel share one variance, which is learned, and
    a small diffusion model makes the Gaussian prior the distribution that latents have. Images drawn are what
    the decoder expects, without noise of their pixels.

    Parameters
    ----------
    latent_dim : int
    width : int, optional
        Of the networks; 256 from 10,000 rows on, else 128.
    depth : int
        Residual blocks of each network.
    n_steps : int
        In which a row is revealed; 1 draws all columns at once, and is enough for images of given labels.
    beta : float
        Weight of the divergence; 1 is the evidence bound.
    sharpness : float
        Weight of a critic that compares what is reconstructed, and what is drawn, with real images, for
        images that are not blurred; a step takes longer. 0 for none. 10 suits garments.
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
        Of training; by default it grows like n_rows^0.6, from 300 to 4,000.
    max_seconds : float, optional
        Time budget of `fit`, of all it does: training takes what calibration will leave of it, at most.
    batch_size : int, optional
        By default an eighth of the rows, from 128 to 256; 512 from 10,000 rows on.
    learning_rate : float, optional
        By default 2e-3 for tables, 4e-3 for images.
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
    D. Kingma, M. Welling. Auto-encoding variational Bayes. ICLR 2014, arXiv:1312.6114.
    O. Ivanov, M. Figurnov, D. Vetrov. Variational autoencoder with arbitrary conditioning. ICLR 2019,
    arXiv:1806.02382.
    O. Rybkin, K. Daniilidis, S. Levine. Simple and effective VAE training with calibrated decoders. ICML
    2021, arXiv:2006.13202.
    A. Larsen, S. Sonderby, H. Larochelle, O. Winther. Autoencoding beyond pixels using a learned similarity
    metric. ICML 2016, arXiv:1512.09300.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = la.VAE(max_steps=20, random_state=0).fit(X)
    >>> model.predict([[0.0, 0.1], [30.0, -30.0]]).tolist()
    [1, -1]
    """

    _key = "vae"

    def __init__(
        self,
        *,
        latent_dim: int = 32,
        width: int | None = None,
        depth: int = 1,
        n_steps: int = 4,
        beta: float = 1.0,
        sharpness: float = 0.0,
        contamination: float | Literal["auto"] = "auto",
        schema: Mapping[Any, Column] | None = None,
        max_levels: int = 128,
        memory: int = 2048,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
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
        self.latent_dim = latent_dim
        self.width = width
        self.depth = depth
        self.n_steps = n_steps
        self.beta = beta
        self.sharpness = sharpness

    def _build(self, layout: Layout, generator: torch.Generator, width: int) -> Model:
        return VAEModel(
            layout,
            latent_dim=self.latent_dim,
            width=width,
            depth=self.depth,
            n_steps=self.n_steps,
            beta=self.beta,
            sharpness=self.sharpness,
            generator=generator,
        )


class GAN(Styled, Noising):
    """Generative adversarial network.

    A relativistic critic with gradient penalties keeps training stable; the generator completes rows of which
    any part is given. Scores by how far each part of a row is from its completion given the rest; generates
    fastest.

    Parameters
    ----------
    latent_dim : int
    width : int, optional
        Of the networks; 256 from 10,000 rows on, else 128.
    depth : int
        Residual blocks of each network.
    n_steps : int
        In which a row is revealed; 1 draws all columns at once.
    gamma : float
        Weight of the gradient penalties.
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
        Of training; by default it grows like n_rows^0.6, from 240 to 4,000.
    max_seconds : float, optional
        Time budget of `fit`, of all it does: training takes what calibration will leave of it, at most.
    batch_size : int, optional
        By default an eighth of the rows, from 128 to 256; 512 from 10,000 rows on.
    learning_rate : float, optional
        By default 4e-3 for tables, 3e-3 for images, of which some hundred steps learn more at 1e-2.
    style : bool
        Of images: whether a mapping network turns noise into a style that scales each layer's channels, as in
        StyleGAN2. Such styles can be mixed (`mix`) and truncated.
    truncation : float
        Of styles: below 1 images are more usual and less varied, 0 gives one image for each label. It is used
        when drawing; `with_truncation` tries others.
    augment : bool, optional
        Of images: whether the critic sees them moved, cut out, lighter and of other contrast, as often as it
        takes to keep it from learning them by heart: from thinking much more of them than of images held
        back. By default where there are fewer than 2,000.
    early_stopping : bool
        Stop when the energy distance to rows held out of training no longer falls; from 1,000 rows on. Off:
        it is a dull measure, and the last averaged weights are mostly the best.
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
    Y. Huang, A. Gokaslan, V. Kuleshov, J. Tompkin. The GAN is dead; long live the GAN! NeurIPS 2024,
    arXiv:2501.05441.
    T. Karras, S. Laine, M. Aittala, J. Hellsten, J. Lehtinen, T. Aila. Analyzing and improving the image
    quality of StyleGAN. CVPR 2020, arXiv:1912.04958.
    T. Karras, M. Aittala, J. Hellsten, S. Laine, J. Lehtinen, T. Aila. Training generative adversarial
    networks with limited data. NeurIPS 2020, arXiv:2006.06676.
    J. Yoon, J. Jordon, M. van der Schaar. GAIN: missing data imputation using generative adversarial nets.
    ICML 2018, arXiv:1806.02920.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = la.GAN(max_steps=20, random_state=0).fit(X)
    >>> model.generate(3, random_state=0).shape
    (3, 2)
    """

    _key = "gan"
    _pace = 4.3
    _fewest_steps = 240

    def __init__(
        self,
        *,
        latent_dim: int = 32,
        width: int | None = None,
        depth: int = 1,
        n_steps: int = 1,
        gamma: float = 1.0,
        contamination: float | Literal["auto"] = "auto",
        schema: Mapping[Any, Column] | None = None,
        max_levels: int = 128,
        memory: int = 2048,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        style: bool = False,
        truncation: float = 1.0,
        augment: bool | None = None,
        early_stopping: bool = False,
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
        self.latent_dim = latent_dim
        self.width = width
        self.depth = depth
        self.n_steps = n_steps
        self.gamma = gamma
        self.style = style
        self.truncation = truncation
        self.augment = augment

    def _build(self, layout: Layout, generator: torch.Generator, width: int) -> Model:
        rank = len(layout.shape)
        if self.truncation < 1 and not self.style:
            raise SchemaError("truncation is of styles. Give style=True too, or leave truncation out.")
        for name, table in (("style", STYLED), ("augment", DISTURBANCES)):
            if getattr(self, name) and rank not in table:
                raise SchemaError(f"{name}=True is for images, and this is a table. Leave it out.")
        return GANModel(
            layout,
            latent_dim=self.latent_dim,
            width=width,
            depth=self.depth,
            n_steps=self.n_steps,
            gamma=self.gamma,
            style=self.style,
            truncation=self.truncation,
            augment=self.augment,
            generator=generator,
        )


class Diffusion(Noising):
    """Diffusion over numbers and categories in one process.

    Scores by the error of denoising the row; generates the truest rows of the three, slower: `n_steps` is the
    price.

    Parameters
    ----------
    width : int, optional
        Of the network; 256 from 10,000 rows on, else 128.
    depth : int
        Residual blocks of the network.
    n_steps : int
        Of the sampler, two estimates each: one network call, and more with guidance.
    guidance : float, optional
        How strongly labels and other categories shape the numbers and images drawn: 1 as in the data, above
        it purer and less varied, at twice the cost (classifier-free guidance, Ho and Salimans 2022). By
        default 1 for tables and 2 for images.
    autoguidance : float, optional
        How far images are led away from what a poorer network, trained beside, would draw: 1 is not at all;
        more is truer and more varied up to a point, for a fifth more time (Karras et al. 2024). By default
        1.5. Tables have no such network.
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
        Of training; by default it grows like n_rows^0.6, from 1,000 to 4,000.
    max_seconds : float, optional
        Time budget of `fit`, of all it does: training takes what calibration will leave of it, at most.
    batch_size : int, optional
        By default an eighth of the rows, from 128 to 256; 512 from 10,000 rows on.
    learning_rate : float, optional
        By default 2e-3 for tables, 8e-3 for images.
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
    T. Karras, M. Aittala, T. Aila, S. Laine. Elucidating the design space of diffusion-based generative
    models. NeurIPS 2022, arXiv:2206.00364.
    J. Austin, D. Johnson, J. Ho, D. Tarlow, R. van den Berg. Structured denoising diffusion models in
    discrete state-spaces. NeurIPS 2021, arXiv:2107.03006.
    T. Karras, M. Aittala, T. Kynkäänniemi, J. Lehtinen, T. Aila, S. Laine. Guiding a diffusion model with a
    bad version of itself. NeurIPS 2024, arXiv:2406.02507.
    S. Sahoo et al. Simple and effective masked diffusion language models. NeurIPS 2024, arXiv:2406.07524.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = la.Diffusion(max_steps=20, random_state=0).fit(X)
    >>> model.explain([[0.0, 30.0]]).shares.argmax()
    np.int64(1)
    """

    _key = "diffusion"
    _fewest_steps = 1000

    def __init__(
        self,
        *,
        width: int | None = None,
        depth: int = 3,
        n_steps: int = 20,
        guidance: float | None = None,
        autoguidance: float | None = None,
        contamination: float | Literal["auto"] = "auto",
        schema: Mapping[Any, Column] | None = None,
        max_levels: int = 128,
        memory: int = 2048,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
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
        self.n_steps = n_steps
        self.guidance = guidance
        self.autoguidance = autoguidance

    def _build(self, layout: Layout, generator: torch.Generator, width: int) -> Model:
        return DiffusionModel(
            layout,
            width=width,
            depth=self.depth,
            n_steps=self.n_steps,
            guidance=self.guidance,
            autoguidance=self.autoguidance,
            generator=generator,
        )

    def with_sampler(
        self,
        *,
        n_steps: int | None = None,
        guidance: float | None = None,
        autoguidance: float | None = None,
    ) -> Self:
        """Give this fitted model another sampler; nothing is trained, and scores stay as they are.

        Parameters
        ----------
        n_steps : int, optional
            Fewer are faster, more are truer.
        guidance, autoguidance : float, optional
            As of the estimator.

        Returns
        -------
        Diffusion
            Another fitted estimator, which shares its weights with this one.
        """
        check_is_fitted(self)
        changes = {"n_steps": n_steps, "guidance": guidance, "autoguidance": autoguidance}
        return self._with(**{name: new for name, new in changes.items() if new is not None})


class Hybrid(Noising):
    """A critic on top of a diffusion model: rows in a few large steps.

    Scores by the error of denoising the row, as `Diffusion` does; a student, trained beside the denoiser to
    draw what it can only expect, generates in `n_steps`. Of images the student comes after the denoiser, and
    learns to draw in few steps what that draws in many, without a critic.

    Parameters
    ----------
    latent_dim : int
        Of the noise that each step of the student takes; that of images takes none.
    width : int, optional
        Of the networks; 256 from 10,000 rows on, else 128.
    depth : int
        Residual blocks of each network; of images at the outer level, and three times as many at the inner.
    n_steps : int
        Of the sampler: of tables two network calls each, of images one.
    gamma : float
        Weight of the critic's gradient penalties, where there is one.
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
        Of training; by default it grows like n_rows^0.6, from 1,000 to 4,000.
    max_seconds : float, optional
        Time budget of `fit`, of all it does: training takes what calibration will leave of it, at most.
    batch_size : int, optional
        By default an eighth of the rows, from 128 to 256; 512 from 10,000 rows on.
    learning_rate : float, optional
        By default 2e-3, and 8e-3 for images.
    early_stopping : bool
        Stop when rows held out of training no longer gain; from 1,000 rows on. Off: the contest goes on
        getting better where what can be measured of it does not.
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
    Z. Xiao, K. Kreis, A. Vahdat. Tackling the generative learning trilemma with denoising diffusion GANs.
    ICLR 2022, arXiv:2112.07804.
    Y. Huang, A. Gokaslan, V. Kuleshov, J. Tompkin. The GAN is dead; long live the GAN! NeurIPS 2024,
    arXiv:2501.05441.
    V. De Bortoli et al. Distributional diffusion models with scoring rules. 2025, arXiv:2502.02483.
    T. Yin et al. One-step diffusion with distribution matching distillation. CVPR 2024, arXiv:2311.18828.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = la.Hybrid(max_steps=20, random_state=0).fit(X)
    >>> model.generate(3, random_state=0).shape
    (3, 2)
    """

    _key = "hybrid"
    _pace = 4.5
    _fewest_steps = 1000

    def __init__(
        self,
        *,
        latent_dim: int = 16,
        width: int | None = None,
        depth: int = 1,
        n_steps: int = 4,
        gamma: float = 1.0,
        contamination: float | Literal["auto"] = "auto",
        schema: Mapping[Any, Column] | None = None,
        max_levels: int = 128,
        memory: int = 2048,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        early_stopping: bool = False,
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
        self.latent_dim = latent_dim
        self.width = width
        self.depth = depth
        self.n_steps = n_steps
        self.gamma = gamma

    def _build(self, layout: Layout, generator: torch.Generator, width: int) -> Model:
        kinds: dict[int, Callable[..., Model]] = {
            1: partial(HybridModel, latent_dim=self.latent_dim, gamma=self.gamma),
            3: Distilled,
        }
        about = {"width": width, "depth": self.depth, "n_steps": self.n_steps, "generator": generator}
        return kinds[len(layout.shape)](layout, **about)


class Mixture(Noising):
    """Mixture of products: classes of rows, in each of which columns are independent.

    Fits in seconds and generates faster than the others. What it says is exact: likelihood, draws given any
    part of a row, missing cells. Scores by minus the log-likelihood of the row, its numbers cut into bins.
    Where columns are smooth and tightly tied, `Diffusion` follows them better.

    Parameters
    ----------
    n_components : int, optional
        Classes; by default one for 30 rows, up to 1,000.
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
        Of fitting; by default it grows like n_rows^0.6.
    max_seconds : float, optional
        Time budget of `fit`, of all it does: training takes what calibration will leave of it, at most.
    batch_size : int, optional
        By default an eighth of the rows, from 128 to 1,024; 2,048 from 10,000 rows on.
    early_stopping : bool
        Stop when rows held out no longer gain; from 1,000 rows on. Off: the last statistics generate truer
        rows than those by which rows held out are likeliest.
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
        Minus the mean log-likelihood of a cell at each evaluation, in nats.
    n_iter_ : int
        Steps taken.
    schema_ : Schema
        The columns and their kinds.
    calibration_ : Calibration
        Scores of the rows held out.

    References
    ----------
    P. Lazarsfeld, N. Henry. Latent structure analysis. Houghton Mifflin, 1968.
    O. Cappe, E. Moulines. On-line expectation-maximization algorithm for latent data models. Journal of the
    Royal Statistical Society B 71(3), 2009, arXiv:0712.4273.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = la.Mixture(random_state=0).fit(X)
    >>> model.generate(3, random_state=0).shape
    (3, 2)
    """

    _key = "mixture"
    _pace = 0.4
    _fewest_steps = 200
    _batches = 1024, 2048

    def __init__(
        self,
        *,
        n_components: int | None = None,
        contamination: float | Literal["auto"] = "auto",
        schema: Mapping[Any, Column] | None = None,
        max_levels: int = 128,
        memory: int = 2048,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        batch_size: int | None = None,
        early_stopping: bool = False,
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
            learning_rate=1.0,  # of no use: each step of EM goes as far as it should
            early_stopping=early_stopping,
            callbacks=callbacks,
            checkpoint=checkpoint,
            device=device,
            verbose=verbose,
            random_state=random_state,
        )
        self.n_components = n_components

    def _width(self, n: int) -> int:
        return self.n_components or min(max(n // 30, 2), 1000)

    def _build(self, layout: Layout, generator: torch.Generator, width: int) -> Model:
        return MixtureModel(layout, n_components=width)


FAMILIES: dict[str, type[Estimator]] = {
    kind._key: kind for kind in (VAE, GAN, Diffusion, Hybrid, Detector, Mixture)
}
