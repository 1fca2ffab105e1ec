"""What `lookalike.runtime` takes before a model is loaded: disk, time to import, memory.

    python benchmarks/footprint.py [runs]

In an environment of its own, build/footprint, with the wheel of this tree, numpy, narwhals, onnxruntime and
what that requires, of the versions in constraints.txt; pip fetches them the first time. MB are 10**6 bytes.
Times are medians over fresh processes, without the start of the interpreter: `wall` by the clock, `CPU` what
the process itself used. Memory is the most that was resident, the interpreter included. `lookalike.runtime`
loads onnxruntime with the first model.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GOALS = "at most 150 MB on disk, 0.3 s to import and 60 MB resident"
IMPORTS = ("", "numpy", "narwhals.stable.v2", "lookalike.runtime", "lookalike.runtime onnxruntime")

CODE = """
import json, resource, sys, time
wall, cpu = time.perf_counter(), time.process_time()
for name in sys.argv[1].split():
    __import__(name)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([wall, cpu, most / 1e6 * (1 if sys.platform == "darwin" else 1024)]))
"""


def environment() -> Path:
    """Make the environment; our own wheel is built anew each time, from a copy of the tree."""
    folder = ROOT / "build" / "footprint"
    if not folder.exists():
        venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    pip += ["--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    with tempfile.TemporaryDirectory() as copy:
        left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "output")
        tree = shutil.copytree(ROOT, Path(copy) / "tree", ignore=left_out)
        subprocess.run([*pip, "--force-reinstall", "--no-deps", tree], check=True)
        subprocess.run([*pip, f"{tree}[cpu]"], check=True)
    return folder


def disk(folder: Path) -> None:
    site = next(folder.glob("lib/python*/site-packages"))
    sizes: dict[str, int] = {}
    bytecode = 0
    for file in site.rglob("*"):
        if file.is_file():
            top = file.relative_to(site).parts[0].partition("-")[0].partition(".")[0]
            sizes[top] = sizes.get(top, 0) + file.stat().st_size
            bytecode += file.stat().st_size if file.suffix == ".pyc" else 0
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{name:<34}{size / 1e6:>8.1f} MB")
    total = sum(sizes.values())
    print(f"{'all':<34}{total / 1e6:>8.1f} MB")
    print(f"{'all, by pip install --no-compile':<34}{(total - bytecode) / 1e6:>8.1f} MB\n")


def main(runs: int = 15) -> None:
    folder = environment()
    print(f"Goals: {GOALS}.\n")
    disk(folder)
    taken: dict[str, list[list[float]]] = {names: [] for names in IMPORTS}
    for _ in range(runs + 1):  # all take turns, so that a busy moment meets all of them
        for names, figures in taken.items():
            command = [folder / "bin" / "python", "-I", "-c", CODE, names]
            figures.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    print(f"{'import':<34}{'wall s':>8}{'CPU s':>8}{'MB':>8}")
    for names, figures in taken.items():
        # The first reads files from disk and writes bytecode.
        wall, cpu, most = (statistics.median(column) for column in zip(*figures[1:], strict=True))
        print(f"{names or 'nothing':<34}{wall:>8.3f}{cpu:>8.3f}{most:>8.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
