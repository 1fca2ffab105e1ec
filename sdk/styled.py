"""What can be done with the styles of a generator that has some: mix them, and truncate them."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from lookalike import noise
from lookalike.conditions import Request
from lookalike.errors import ConditionError
from lookalike.estimator import Estimator
from lookalike.face import BLOCK
from lookalike.layout import Rows
from lookalike.models.gan import GAN
from lookalike.replacing import put
from lookalike.schema import Table
from lookalike.verbs import Completer


class Mixer(Completer):
    """Images with the large shapes of some noise, and the small ones of other."""

    def sample(self, normals: Tensor, uniforms: Tensor, given: Rows, bar: Tensor, *others: Tensor) -> Rows:
        return cast(GAN, self.model).mix(normals, uniforms, given, bar, *others)


class Styled(Estimator):
    """Methods of `GAN` that need ``style=True``."""

    style: bool

    def mix(
        self, coarse: noise.RandomState, fine: noise.RandomState, n: int | None = None, given: Any = None
    ) -> Any:
        """Draw images with the large shapes of some and the small ones of others.

        Row i has the large shapes, and the label, of row i of ``generate(n, given, coarse)``, and the small
        ones of row i of ``generate(n, given, fine)``.

        Parameters
        ----------
        coarse, fine : int, Generator, RandomState or None
            The random states that those images are generated with. Where both are the same, the images
            themselves come.
        n : int, optional
            How many. By default as many as are given.
        given : mapping of column name to value or sequence of values, or table of partial rows
            As of `generate`, but values only.

        Returns
        -------
        ndarray or dict
            As `generate` returns.

        Raises
        ------
        ConditionError
            Of a model without styles, or if something else than values is given.
        """
        self._check("generate")
        self._needs_styles("mix")
        seeds = noise.seed_from(coarse), noise.seed_from(fine)
        blocks = [
            self._mixed(request, *(noise.child(seed, k << 32) for seed in seeds))
            for k, request in enumerate(Request.read(self.schema_, given, n, seeds[0], BLOCK))
        ]
        return self.schema_.decode(Table.join(blocks), seed=seeds[0])

    def with_truncation(self, truncation: float) -> Self:
        """Give this fitted model another truncation; nothing is trained, and scores stay as they are.

        Parameters
        ----------
        truncation : float
            As of the estimator.

        Returns
        -------
        GAN
            Another fitted estimator, which shares its weights with this one.

        Raises
        ------
        ConditionError
            Of a model without styles.
        ValueError
            If the truncation is out of its range.
        """
        check_is_fitted(self)
        self._needs_styles("truncate")
        return self._with(truncation=truncation)

    def _needs_styles(self, verb: str) -> None:
        if not self.style:
            raise ConditionError(f"there are no styles to {verb}. Fit a GAN(style=True) to images.")

    def _mixed(self, request: Request, seed: int, fine: int) -> Table:
        if request.wanted:
            raise ConditionError("mix is given values, and got sets or ranges. Use generate for these.")
        mixer = Mixer(self.codec_, cast(GAN, self.model_), impute=False)

        def drawn_from(start: int, n: int) -> list[NDArray[np.float32]]:
            own, others = (noise.rows(s, start, n, *mixer.noise_size) for s in (seed, fine))
            return [*own, others[0]]

        table, known = request.table, request.known
        return put(table, known, self._drawn(mixer, [table.numbers, table.ids, *known], drawn_from))
