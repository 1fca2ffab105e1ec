"""Score the flights with an exported model, without torch: what a pipeline does.

    python samples/serve_flights.py output/flights.onnx output/scores.npy

`samples/flights.py` makes both files and runs this; a third argument is its `--every`. The model takes the
columns as they come from pandas; torch and scikit-learn are not loaded, and need not be installed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from nycflights import read_flights

from lookalike import runtime


def main(model: Path, scores: Path, every: int = 1) -> None:
    flights, wanted = read_flights()[::every], np.load(scores, allow_pickle=False)
    served = runtime.load(model, threads=1)
    start = time.perf_counter()
    found = served.score_samples(flights)
    seconds = time.perf_counter() - start
    apart = np.abs(found - wanted).max() / wanted.std()
    if {"torch", "sklearn"} & set(sys.modules):
        raise SystemExit("torch or scikit-learn was loaded: this is not what a pipeline would see.")
    speed = f"{len(found) / seconds:,.0f} a second on one thread"
    print(f"{len(found):,} flights scored, {speed}, torch not loaded.")
    print(f"The scores are those of torch to within {apart:.0e} of their spread.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
