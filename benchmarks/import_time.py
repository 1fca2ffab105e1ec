"""How long `import lookalike` takes, beside imports that everyone pays for.

    python benchmarks/import_time.py [runs]

Prints the median over fresh processes, without the start of the interpreter. `lookalike` should take under
0.1 s. footprint.py measures the runtime where nothing else is installed.
"""

import statistics
import subprocess
import sys

MODULES = ("lookalike", "lookalike.runtime", "numpy", "narwhals", "sklearn", "torch")
CODE = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def seconds(module: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(module)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main(runs: int = 7) -> None:
    print(f"{'import':<20}{'median s':>10}{'slowest s':>11}")
    for module in MODULES:
        seconds(module)  # the first reads files from disk and writes bytecode
        taken = [seconds(module) for _ in range(runs)]
        print(f"{module:<20}{statistics.median(taken):>10.4f}{max(taken):>11.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
