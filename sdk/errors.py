"""What lookalike raises, so that callers can catch what they mean to.

    LookalikeError
    +-- SchemaError (ValueError)      the data do not fit: which column, which row, what to do
    +-- ConditionError (ValueError)   `given=` asks for what cannot exist
    +-- ArtifactError (ValueError)    a file is damaged, foreign, of another version or for another task
    +-- TrainingError (RuntimeError)  training has diverged
    +-- ExportError (RuntimeError)    an exported graph is not what was fitted, so it is not written
    +-- DeviceError (RuntimeError)    the device asked for is not there: what is missing
    +-- MissingExtraError (ImportError)   an optional package is absent: the pip line that brings it
    +-- LookalikeWarning (UserWarning)    a valid but surprising result

In brackets is the built-in class that each derives from beside.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class LookalikeError(Exception):
    """Root of the exceptions that this package defines."""


class SchemaError(LookalikeError, ValueError):
    """Data that cannot be learned from, or that do not match what was learned."""


class ConditionError(LookalikeError, ValueError):
    """A condition on generated rows that no row can meet."""


class ArtifactError(LookalikeError, ValueError):
    """A file that is damaged, foreign, of another version, for another task, or too large."""


class TrainingError(LookalikeError, RuntimeError):
    """Training that has diverged."""


class ExportError(LookalikeError, RuntimeError):
    """An exported graph that does not give what the fitted model does."""


class DeviceError(LookalikeError, RuntimeError):
    """A device that was asked for and cannot be had, or that fails."""


class MissingExtraError(LookalikeError, ImportError):
    """An optional package that is not installed."""


class LookalikeWarning(UserWarning):
    """A result that is valid but may surprise."""


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """A sentence naming the nearest known name, or nothing where none is near."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say which extra brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f'{purpose} needs {module.partition(".")[0]}. Install it with: pip install "lookalike[{extra}]"'
        ) from error
