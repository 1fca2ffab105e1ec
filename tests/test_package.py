"""What is built and installed is what the folders hold."""

import configparser
import importlib.metadata
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import extras
import pytest
from conftest import Built
from packaging.requirements import Requirement

import lookalike

ROOT = Path(__file__).parents[1]
FOLDERS = {"sdk": "lookalike", "exporters": "lookalike/exporters", "integrations": "lookalike/integrations"}
BRIDGES = {  # to other people's systems, each an extra of its own
    "pyod": {"pyod"},
    "polars": {"polars", "pyarrow"},
    "duckdb": {"duckdb", "pyarrow"},
    "dask": {"dask"},
    "spark": {"pyspark", "pandas", "pyarrow"},
    "ray": {"ray", "pyarrow"},
    "kafka": {"confluent-kafka", "pyarrow"},
    "serve": {"fastapi", "prometheus-client", "pyarrow", "uvicorn"},
    "mlflow": {"mlflow-skinny", "alembic", "pandas", "sqlalchemy"},
    "pandera": {"pandera", "pandas"},
    "gx": {"great-expectations"},
    "imblearn": {"imbalanced-learn"},
    "distributed": {"lightning-fabric", "pyarrow"},
}
EXTRAS = {
    "train",
    "cpu",
    "gpu",
    "onnx",
    "plot",
    "parquet",
    "images",
    "cli",
    "all",
    "demo",
    "docs",
    "dev",
    *BRIDGES,
}


def run(*command: object) -> str:
    """Run a command and return what it printed; where it fails, fail with what it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def metadata(built: Built) -> Message:
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(name).decode())


def requirements(metadata: Message, extra: str) -> set[str]:
    """Names of what an extra adds to the base; "" for the base."""
    found = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    return {
        need.name
        for need in found
        if (need.marker is None if not extra else need.marker and need.marker.evaluate({"extra": extra}))
    }


def test_the_listed_packages_are_the_folders() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    on_disk = {
        ".".join([FOLDERS[folder].replace("/", "."), *init.parent.relative_to(ROOT / folder).parts])
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(config["options"]["packages"].split()) == on_disk


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_wheel_holds_the_sources_and_nothing_else(built: Built) -> None:
    sources = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources | {"lookalike/py.typed"}


def test_the_source_archive_can_be_tested(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"Makefile", "constraints.txt", "LICENSE", "README.md", ".ci/run"} | {
        path.relative_to(ROOT).as_posix()
        for folder in (*FOLDERS, "tests", "benchmarks", "samples", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md"}
    }
    assert needed - names == set()


def test_the_base_is_small(metadata: Message) -> None:
    assert requirements(metadata, "") == {"numpy", "narwhals"}


def test_every_extra_is_declared(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert requirements(metadata, "train") == {"torch", "scikit-learn", "safetensors", "tqdm"}
    assert requirements(metadata, "onnx") == {"onnx", "onnxscript"}
    assert requirements(metadata, "plot") == {"matplotlib"}
    assert requirements(metadata, "parquet") == {"pyarrow", "tqdm"}
    assert requirements(metadata, "cli") == {"pyarrow", "tqdm", "typer"}
    assert {name: requirements(metadata, name) for name in BRIDGES} == BRIDGES
    assert [extra for extra in EXTRAS if not requirements(metadata, extra)] == []


def test_every_bridge_is_tried_by_itself() -> None:
    assert extras.BRIDGES.keys() == BRIDGES.keys()


def test_no_extra_brings_both_onnxruntimes(metadata: Message) -> None:
    # Both own the module onnxruntime: installed together, the one written last hides the other.
    assert requirements(metadata, "cpu") == {"onnxruntime"}
    assert requirements(metadata, "gpu") == {"onnxruntime-gpu"}
    combined = [
        Requirement(text) for text in metadata.get_all("Requires-Dist", []) if text.startswith("lookalike")
    ]
    assert combined
    assert [need for need in combined if "gpu" in need.extras] == []


def test_the_licence_travels(metadata: Message, built: Built) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    with zipfile.ZipFile(built.wheel) as wheel:
        (licence,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_works_where_only_the_base_is_installed(built: Built, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built.wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for name in ("numpy", "narwhals"):  # without an index: linked from the environment of the tests
        base = importlib.metadata.distribution(name)
        for entry in {file.parts[0] for file in base.files or ()} - {"..", "__pycache__"}:
            (site / entry).symlink_to(Path(str(base.locate_file(entry))))
    code = f"""
import importlib.util, pathlib, sys
sys.path.remove("") if "" in sys.path else None
import lookalike, lookalike.errors, lookalike.exporters, lookalike.integrations
assert pathlib.Path(lookalike.__file__).is_relative_to({str(site)!r}), lookalike.__file__
assert importlib.util.find_spec("torch") is None
for name in ("noise", "schema", "calibration", "runtime"):
    if importlib.util.find_spec("lookalike." + name):
        importlib.import_module("lookalike." + name)
print(lookalike.__version__)
"""
    version = run(python, "-W", "error", "-c", code).strip()
    assert version == lookalike.__version__


def test_importing_lookalike_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import lookalike; print(*set(sys.modules) - before)"
    loaded = {name.partition(".")[0] for name in run(sys.executable, "-c", code).split()}
    assert loaded - sys.stdlib_module_names == {"lookalike"}
