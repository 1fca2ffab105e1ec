"""Learn what data look like; score what does not, generate more that does.

Names are imported on first use (PEP 562), so that ``import lookalike`` costs
nothing and scoring an exported model never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lookalike._version import __version__

if TYPE_CHECKING:
    from lookalike.augmenting import Augmenter as Augmenter
    from lookalike.augmenting import augment as augment
    from lookalike.calibration import Calibration as Calibration
    from lookalike.calibration import select as select
    from lookalike.columns import Ignored as Ignored
    from lookalike.conditions import Balanced as Balanced
    from lookalike.conditions import Between as Between
    from lookalike.conditions import OneOf as OneOf
    from lookalike.conditions import Present as Present
    from lookalike.constraints import FixedCombinations as FixedCombinations
    from lookalike.constraints import Formula as Formula
    from lookalike.constraints import Inequality as Inequality
    from lookalike.constraints import Unique as Unique
    from lookalike.costs import Cost as Cost
    from lookalike.costs import Meter as Meter
    from lookalike.crossfit import CrossConformal as CrossConformal
    from lookalike.detector import Detector as Detector
    from lookalike.drift import DriftMonitor as DriftMonitor
    from lookalike.drift import density_ratio as density_ratio
    from lookalike.ensemble import Ensemble as Ensemble
    from lookalike.errors import ArtifactError as ArtifactError
    from lookalike.errors import ConditionError as ConditionError
    from lookalike.errors import DeviceError as DeviceError
    from lookalike.errors import ExportError as ExportError
    from lookalike.errors import LookalikeError as LookalikeError
    from lookalike.errors import LookalikeWarning as LookalikeWarning
    from lookalike.errors import MissingExtraError as MissingExtraError
    from lookalike.errors import SchemaError as SchemaError
    from lookalike.errors import TrainingError as TrainingError
    from lookalike.evaluation.page import Report as Report
    from lookalike.evaluation.report import report as report
    from lookalike.evaluation.scores import report_scores as report_scores
    from lookalike.families import GAN as GAN
    from lookalike.families import VAE as VAE
    from lookalike.families import Diffusion as Diffusion
    from lookalike.families import Hybrid as Hybrid
    from lookalike.families import Mixture as Mixture
    from lookalike.identifiers import Identifier as Identifier
    from lookalike.images import Template as Template
    from lookalike.levelled import Boolean as Boolean
    from lookalike.levelled import Categorical as Categorical
    from lookalike.levelled import Constant as Constant
    from lookalike.loading import load as load
    from lookalike.measured import Datetime as Datetime
    from lookalike.measured import Duration as Duration
    from lookalike.measured import Number as Number
    from lookalike.online import OnlineSelector as OnlineSelector
    from lookalike.pictures import Preview as Preview
    from lookalike.pictures import contact_sheet as contact_sheet
    from lookalike.pictures import read_images as read_images
    from lookalike.pictures import write_images as write_images
    from lookalike.plotting import plot_curve as plot_curve
    from lookalike.plotting import plot_explanation as plot_explanation
    from lookalike.plotting import plot_loss as plot_loss
    from lookalike.plotting import plot_marginals as plot_marginals
    from lookalike.plotting import plot_scores as plot_scores
    from lookalike.schema import Schema as Schema
    from lookalike.synthesizer import Synthesizer as Synthesizer

_MODULES = {
    "augmenting": ("Augmenter", "augment"),
    "calibration": ("Calibration", "select"),
    "constraints": ("FixedCombinations", "Formula", "Inequality", "Unique"),
    "costs": ("Cost", "Meter"),
    "crossfit": ("CrossConformal",),
    "detector": ("Detector",),
    "drift": ("DriftMonitor", "density_ratio"),
    "ensemble": ("Ensemble",),
    "errors": (
        "ArtifactError",
        "ConditionError",
        "DeviceError",
        "ExportError",
        "LookalikeError",
        "LookalikeWarning",
        "MissingExtraError",
        "SchemaError",
        "TrainingError",
    ),
    "columns": ("Ignored",),
    "conditions": ("Balanced", "Between", "OneOf", "Present"),
    "evaluation.page": ("Report",),
    "evaluation.report": ("report",),
    "evaluation.scores": ("report_scores",),
    "families": ("Diffusion", "GAN", "Hybrid", "Mixture", "VAE"),
    "loading": ("load",),
    "synthesizer": ("Synthesizer",),
    "identifiers": ("Identifier",),
    "images": ("Template",),
    "levelled": ("Boolean", "Categorical", "Constant"),
    "measured": ("Datetime", "Duration", "Number"),
    "online": ("OnlineSelector",),
    "pictures": ("Preview", "contact_sheet", "read_images", "write_images"),
    "plotting": ("plot_curve", "plot_explanation", "plot_loss", "plot_marginals", "plot_scores"),
    "schema": ("Schema",),
}
_HOME = {name: f"lookalike.{module}" for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lookalike' has no attribute {name!r}")
    try:
        module = import_module(_HOME[name])
    except ModuleNotFoundError as error:
        package = (error.name or "lookalike").partition(".")[0]
        if package == "lookalike":
            raise
        from lookalike.errors import MissingExtraError

        raise MissingExtraError(
            f'lookalike.{name} needs {package}. Install it with: pip install "lookalike[train]"'
        ) from error
    value: Any = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
