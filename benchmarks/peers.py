"""Environments of their own for what benchmarks compare with: nothing of lookalike needs these packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "peers": ("pyod==3.6.7", "pyarrow", "tqdm", "skl2onnx", "onnxruntime", "torch", "scikit-learn"),
    "images_peers": ("diffusers==0.42.1", "torch", "numpy"),
    "pythae_peers": ("pythae==0.1.2", "torch"),
    "generators": (
        "ctgan==0.12.1",
        "copulas==0.14.0",
        "rdt==1.19.0",
        "ForestDiffusion==1.0.6",
        "imbalanced-learn==0.14.2",
        "torch",
        "scikit-learn",
        "pandas",
    ),
}


def interpreter(python: str, name: str = "peers") -> Path:
    """The interpreter of build/<name>, made with `python` the first time."""
    folder = ROOT / "build" / name
    binary = folder / "bin" / "python"
    if not binary.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
        constraints = ["-c", str(ROOT / "constraints.txt")]
        subprocess.run([binary, "-m", "pip", "install", "-q", *constraints, *PACKAGES[name]], check=True)
    return binary
