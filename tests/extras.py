"""What `make test-extras` runs: every bridge in an environment of its own.

    python tests/extras.py            # all of them
    python tests/extras.py pyod ray   # some

For each extra build/extras/NAME is made anew. The bridge is imported where its extra, with `cpu` to score or
`train` to fit, is installed and nothing else; then comes what fits models and what tests need, and its tests,
its samples and the code of its pages run. A line an extra says how that went, and build/extras/NAME.log says
it at length. An environment that served is removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "extras"
SOURCES = ("sdk", "exporters", "integrations", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
BESIDE = ("hypothesis", "pytest")  # what all tests and samples need, with the extra demo


class Bridge(NamedTuple):
    """What is tested of an extra."""

    module: str
    tests: tuple[str, ...]
    samples: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()  # of docs/systems
    beside: tuple[str, ...] = ()  # what these need more
    extras: tuple[str, ...] = ("cpu",)  # that a user of it installs with it


class Failed(Exception):
    """What did not work, in a few words."""


def _of_tables(name: str) -> Bridge:
    others = ("dask[dataframe]", "duckdb", "pandera", "polars")  # of one file of tests, and of one sample
    return Bridge(f"integrations.{name}", ("test_tables_of_others.py",), ("frames.py",), beside=others)


BRIDGES = {
    "pyod": Bridge("integrations.pyod", ("test_pyod.py",), pages=("pyod.md",)),
    "polars": _of_tables("polars"),
    "duckdb": _of_tables("duckdb"),
    "dask": _of_tables("dask"),
    "spark": Bridge("integrations.spark", ("test_spark.py",), ("spark_scores.py",), ("spark.md",)),
    "ray": Bridge("integrations.ray", ("test_ray.py",), ("ray_scores.py",), ("ray.md",)),
    "kafka": Bridge("integrations.kafka", ("test_kafka.py",), ("kafka_scores.py",), ("kafka.md",)),
    "serve": Bridge(
        "integrations.http", ("test_http.py",), ("serve_http.py",), ("http.md",), ("httpx", "typer", "tqdm")
    ),
    "mlflow": Bridge("integrations.mlflow", ("test_mlflow.py",), ("mlflow_registry.py",), ("mlflow.md",)),
    "pandera": _of_tables("pandera"),
    "gx": Bridge("integrations.gx", ("test_gx.py",), pages=("data-quality.md",), beside=("pandera",)),
    "imblearn": Bridge(
        "integrations.imblearn", ("test_imblearn.py",), beside=("polars", "pyarrow"), extras=("train",)
    ),
    "distributed": Bridge(
        "integrations.fabric", ("test_fabric.py",), pages=("large-tables.md",), extras=("train",)
    ),
}


def wheel_of_the_tree() -> Path:
    """Built from a copy: what an earlier build left in build/ would be packed too."""
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder) / name)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            OUT,
            folder,
        ]
        subprocess.run([*map(str, command), "--quiet"], check=True)
    return next(OUT.glob("*.whl"))


def files_of(bridge: Bridge) -> Iterator[Path]:
    for folder, names in (
        ("tests", bridge.tests),
        ("samples", bridge.samples),
        ("docs/systems", bridge.pages),
    ):
        yield from (ROOT / folder / name for name in names)


def tried(name: str, wheel: Path, log: IO[str]) -> str:
    """Try an extra, and say what its tests said."""
    bridge = BRIDGES[name]
    for path in files_of(bridge):
        if not path.exists():
            raise Failed(f"{path.relative_to(ROOT)} is not there")
    home = OUT / name
    venv.create(home, clear=True, with_pip=True)
    python = home / "bin" / "python"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }

    def run(what: str, *command: object, cwd: Path = ROOT) -> str:
        log.write(f"\n$ {' '.join(map(str, command))}\n")
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log.write(done.stdout)
        log.flush()
        if done.returncode:
            raise Failed(f"{what} failed ({done.returncode})")
        return done.stdout

    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    install += ["-c", ROOT / "constraints.txt"]
    run("the installation", *install, f"{wheel}[{','.join((*bridge.extras, name))}]")
    module = f"lookalike.{bridge.module}"
    run("the import", python, "-W", f"error:::{module}", "-c", f"import {module}", cwd=home)
    run("the installation", *install, f"{wheel}[demo,{name}]", *BESIDE, *bridge.beside)
    tests = [
        *(f"tests/{test}" for test in bridge.tests),
        *(f"tests/test_samples.py::test_a_sample_of_an_extra[{sample}]" for sample in bridge.samples),
        *(f"tests/test_readme.py::test_a_document_says_what_happens[{page}]" for page in bridge.pages),
    ]
    said = run("pytest", python, "-m", "pytest", "-q", "-m", "slow or not slow", "-rs", *tests)
    summary = said.strip().splitlines()[-1].strip("= ")
    if "passed" not in summary:
        raise Failed(f"no test ran: {summary}")
    shutil.rmtree(home)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description="Try bridges, each where its extra alone is installed.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BRIDGES)}; all by default")
    names = parser.parse_args().names or list(BRIDGES)
    if unknown := set(names) - BRIDGES.keys():
        parser.error(f"{min(unknown)} is none of {', '.join(BRIDGES)}")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    wheel = wheel_of_the_tree()
    failed = []
    for name in names:
        start = time.monotonic()
        with (OUT / f"{name}.log").open("w", encoding="utf-8") as log:
            try:
                said = tried(name, wheel, log)
            except Failed as failure:
                said = f"FAILED: {failure}; see {log.name}"
                failed.append(name)
        print(f"{name:12} {time.monotonic() - start:5.0f} s  {said}", flush=True)  # noqa: T201
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
