"""An environment of its own for what benchmarks compare with: nothing of lookalike needs these packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pyod==3.6.7", "tqdm", "skl2onnx", "onnxruntime", "torch", "scikit-learn")


def interpreter(python: str) -> Path:
    """The interpreter of build/peers, made with `python` the first time."""
    folder = ROOT / "build" / "peers"
    binary = folder / "bin" / "python"
    if not binary.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
        constraints = ["-c", str(ROOT / "constraints.txt")]
        subprocess.run([binary, "-m", "pip", "install", "-q", *constraints, *PACKAGES], check=True)
    return binary
