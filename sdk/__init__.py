"""Learn what data look like; score what does not, generate more that does.

Names are imported on first use (PEP 562), so that ``import lookalike`` costs
nothing and scoring an exported model never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lookalike._version import __version__

_HOME: dict[str, str] = {
    "select": "lookalike.calibration",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lookalike' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
