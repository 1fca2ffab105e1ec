"""Seconds of a small fit, memory of a large one, and memory that scoring adds a row; one thread.

    python benchmarks/fit_and_memory.py

Each figure comes from processes of its own. Fits of 1,000 x 10 numbers are the median of five, beside
scikit-learn's IsolationForest; the large fit has 200,000 x 24 columns, of which 8 are text; scoring is of
1,000,000 x 8 numbers. Mixture and Synthesizer fit 1,000,000 x 20, of which 10 are text.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

PRELUDE = """
import json, resource, sys, time, warnings
import numpy as np, torch
torch.set_num_threads(1)
warnings.simplefilter("ignore")
import lookalike as la
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rng = np.random.default_rng(0)
def timed(call):
    start = time.process_time()
    call()
    return time.process_time() - start
"""

SMALL = """
X = rng.normal(size=(1000, 10))
la.{family}(max_steps=5).fit(X)  # imports and the first call of each kernel
seconds = []
for _ in range(5):
    seconds.append(timed(lambda: la.{family}(random_state=0).fit(X)))
print(json.dumps(seconds))
"""

PEER = """
from sklearn.ensemble import IsolationForest
X = rng.normal(size=(1000, 10))
seconds = []
for _ in range(5):
    seconds.append(timed(lambda: IsolationForest(random_state=0).fit(X)))
print(json.dumps(seconds))
"""

LARGE = """
import pandas as pd
n = 200_000
frame = pd.DataFrame({{f"n{{i}}": rng.normal(size=n).cumsum() % 97 for i in range(16)}})
for i in range(8):
    levels = np.array([f"level {{k}}" for k in range(4 ** (i + 1))])
    frame[f"c{{i}}"] = levels[rng.integers(len(levels), size=n)]
la.{family}(max_steps=2).fit(frame.head(500))
before = peak()
seconds = timed(lambda: la.{family}(max_steps=200, random_state=0).fit(frame))
print(json.dumps([peak() - before, seconds]))
"""

MILLION = """
import pandas as pd
n = 1_000_000
frame = pd.DataFrame({{f"n{{i}}": rng.normal(size=n).cumsum() % 97 for i in range(10)}})
for i in range(10):
    levels = np.array([f"level {{k}}" for k in range(2 + 3 * i)])
    frame[f"c{{i}}"] = levels[rng.integers(len(levels), size=n)]
seconds = timed(lambda: la.{family}(random_state=0).fit(frame))
print(json.dumps([peak(), seconds]))
"""

SCORING = """
model = la.{family}(max_steps=20, random_state=0).fit(rng.normal(size=(2000, 8)))
X = rng.normal(size=(1_000_000, 8))
model.score_samples(X[:200_000])
before = peak()
model.score_samples(X)
print(json.dumps([(peak() - before) * 1024**2 / 800_000]))
"""


def run(code: str, **names: str) -> list[float]:
    """Run a script in a fresh process and read the list it prints."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code.format(**names)], check=True, capture_output=True, text=True
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    peer = statistics.median(run(PEER))
    print(f"IsolationForest  fit of 1,000 x 10: {peer:.2f} CPU s")
    for family in ("VAE", "GAN", "Diffusion"):
        small = statistics.median(run(SMALL, family=family))
        megabytes, seconds = run(LARGE, family=family)
        (bytes_a_row,) = run(SCORING, family=family)
        print(
            f"{family:16s} fit of 1,000 x 10: {small:.2f} CPU s ({small / peer:.1f} of IsolationForest's); "
            f"200 steps on 200,000 x 24: {megabytes:.0f} MB beyond the frame, {seconds:.0f} CPU s; "
            f"scoring adds {bytes_a_row:.0f} bytes a row",
            flush=True,
        )
    for family in ("Mixture", "Synthesizer"):
        megabytes, seconds = run(MILLION, family=family)
        print(
            f"{family:16s} fit of 1,000,000 x 20: {seconds:.0f} CPU s, {megabytes:.0f} MB at the peak "
            "with the frame and torch",
            flush=True,
        )


if __name__ == "__main__":
    main()
