"""`load`: what any of our estimators saved."""

from __future__ import annotations

import os

from lookalike import archive
from lookalike.errors import ArtifactError
from lookalike.estimator import Estimator, device_named
from lookalike.families import FAMILIES
from lookalike.synthesizer import Synthesizer

SAVED: dict[str, type[Estimator] | type[Synthesizer]] = {**FAMILIES, "synthesizer": Synthesizer}


def load(
    path: str | os.PathLike[str], *, sha256: str | None = None, device: str = "auto", max_bytes: int = 1 << 30
) -> Estimator | Synthesizer:
    """Load a fitted estimator or synthesizer from a `.lookalike` file. Nothing in the file is executed.

    Parameters
    ----------
    path : str or PathLike
    sha256 : str, optional
        Digest that the file must have, as `save` returned it.
    device : str
        Where the model is to run.
    max_bytes : int
        Larger files are refused unread.

    Raises
    ------
    ArtifactError
        If the file is damaged, foreign, too large or of another version.
    """
    manifest, arrays = archive.read(path, kind="model", sha256=sha256, max_bytes=max_bytes)
    family = SAVED.get(str(manifest.get("family")))
    if family is None:
        raise ArtifactError(
            f"{os.fspath(path)} holds a {manifest.get('family')!r}, which this version does not know."
        )
    device_named(device)  # a fault of the caller, not of the file
    try:
        return family._restore(manifest, arrays, device)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error)[:300].rstrip(".")
        raise ArtifactError(
            f"{os.fspath(path)} does not describe a fitted {family.__name__}: {reason}. "
            "Get it again from where it was made."
        ) from error
