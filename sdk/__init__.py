"""Learn what data look like; score what does not, generate more that does.

Names are imported on first use (PEP 562), so that ``import lookalike`` costs
nothing and scoring an exported model never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lookalike._version import __version__

if TYPE_CHECKING:
    from lookalike.calibration import select as select
    from lookalike.errors import ArtifactError as ArtifactError
    from lookalike.errors import ConditionError as ConditionError
    from lookalike.errors import LookalikeError as LookalikeError
    from lookalike.errors import LookalikeWarning as LookalikeWarning
    from lookalike.errors import MissingExtraError as MissingExtraError
    from lookalike.errors import SchemaError as SchemaError
    from lookalike.errors import TrainingError as TrainingError
    from lookalike.families import GAN as GAN
    from lookalike.families import VAE as VAE
    from lookalike.families import Diffusion as Diffusion
    from lookalike.families import load as load
    from lookalike.schema import Boolean as Boolean
    from lookalike.schema import Categorical as Categorical
    from lookalike.schema import Constant as Constant
    from lookalike.schema import Datetime as Datetime
    from lookalike.schema import Duration as Duration
    from lookalike.schema import Identifier as Identifier
    from lookalike.schema import Ignored as Ignored
    from lookalike.schema import Number as Number
    from lookalike.schema import Schema as Schema

_MODULES = {
    "calibration": ("select",),
    "errors": (
        "ArtifactError",
        "ConditionError",
        "LookalikeError",
        "LookalikeWarning",
        "MissingExtraError",
        "SchemaError",
        "TrainingError",
    ),
    "families": ("Diffusion", "GAN", "VAE", "load"),
    "schema": (
        "Boolean",
        "Categorical",
        "Constant",
        "Datetime",
        "Duration",
        "Identifier",
        "Ignored",
        "Number",
        "Schema",
    ),
}
_HOME = {name: f"lookalike.{module}" for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lookalike' has no attribute {name!r}")
    value: Any = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
