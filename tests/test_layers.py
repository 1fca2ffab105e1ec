"""Imports point one way. docs/architecture.md draws the layers; PLACES states them."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"lookalike": "sdk", "lookalike.exporters": "exporters", "lookalike.integrations": "integrations"}

NUMPY = {"numpy"}
FRAMES = {"numpy", "narwhals"}
TORCH = {"numpy", "torch"}
TRAIN = {"narwhals", "numpy", "safetensors", "sklearn", "torch", "tqdm"}


class Place(NamedTuple):
    below: set[str]  # modules of lookalike that this one may import, wherever in its code the import stands
    loads: set[
        str
    ]  # packages that importing it may load; others are imported inside the function that needs them


COLUMNS = {"values", "allowed", "columns", "measured", "levelled", "identifiers", "images"}
EXPORTED = {"protobuf", "onnxgraph", "onnxfile", "pruning"}
DATA = {"errors", "noise", "calibration", "series", "arrays", "frames", "schema", "feeding", *COLUMNS}
MODELS = {
    "layout",
    "networks",
    "convolutional",
    "disturbing",
    "adversaries",
    "backbones",
    "piecewise",
    "preprocessing",
    "patches",
    "memory",
    "models",
    "verbs",
}
WHY = {"explanation", "replacing", "counterfactual"}
FITTING = {
    "parameters",
    "streaming",
    "thresholds",
    "filling",
    "modes",
    *WHY,
    "conditions",
    "parquet",
    "costs",
    "face",
    "vetting",
    "datasets",
    "stored",
    "muon",
    "training",
    "archive",
    "persistence",
    "_version",
}
FACES = {"estimator", "diagnosing", "noising", "detector", "styled", "families"}

PLACES = {
    "": Place({"_version", "errors"}, set()),
    "_version": Place(set(), set()),
    "errors": Place(set(), set()),
    "noise": Place({"errors"}, NUMPY),
    "calibration": Place({"errors"}, NUMPY),
    "costs": Place(set(), set()),
    "archive": Place({"errors", "_version"}, NUMPY | {"safetensors"}),
    # Exported files, without onnx
    "protobuf": Place(set(), set()),
    "onnxgraph": Place({"protobuf"}, NUMPY),
    "onnxfile": Place({"errors", "archive", *EXPORTED}, NUMPY),
    "pruning": Place({"protobuf"}, set()),
    # Tables, without torch
    "values": Place({"errors"}, NUMPY),
    "series": Place({"errors", "values"}, FRAMES),
    "arrays": Place({"errors", "values"}, NUMPY),
    "frames": Place({"errors", "values", "series", "arrays"}, FRAMES),
    "allowed": Place({"values"}, NUMPY),
    "columns": Place({"errors", "values", "allowed"}, NUMPY),
    "measured": Place({"errors", "values", "allowed", "columns"}, NUMPY),
    "levelled": Place({"errors", "values", "allowed", "columns", "measured"}, NUMPY),
    "identifiers": Place({"errors", "values", "columns", "noise"}, NUMPY),
    "images": Place({"errors", "values", "columns", "measured"}, NUMPY),
    "schema": Place({"errors", "arrays", "frames", *COLUMNS}, FRAMES),
    "datasets": Place({"errors", "frames", "schema", *COLUMNS}, FRAMES),
    "feeding": Place({"arrays", "schema", *COLUMNS}, NUMPY),
    "streaming": Place({"errors", "values"}, FRAMES),
    "filling": Place({"errors", "arrays", "frames", "schema", *COLUMNS}, FRAMES),
    "explanation": Place({"errors", "values", "arrays", "frames", "streaming"}, FRAMES),
    "replacing": Place({"columns", "schema"}, NUMPY),
    "counterfactual": Place({"values", "schema", "streaming", "explanation", "replacing"}, FRAMES),
    "conditions": Place(
        {"errors", "arrays", "noise", "parameters", "replacing", "schema", "streaming", *COLUMNS}, FRAMES
    ),
    "parquet": Place({"errors", "values", "archive"}, FRAMES),
    "parameters": Place({"errors"}, set()),
    "thresholds": Place({"errors", "calibration", "parameters", "streaming"}, FRAMES),
    "online": Place({"errors", "calibration", "parameters"}, NUMPY),
    "drift": Place({"errors", "noise", "calibration", "parameters", "streaming"}, FRAMES),
    "crossfit": Place(
        {"errors", "noise", "calibration", "parameters", "streaming", "thresholds", "values"}, TRAIN
    ),
    "ensemble": Place(
        {"errors", "noise", "calibration", "frames", "explanation", "parameters", "streaming", "thresholds"},
        TRAIN,
    ),
    "vetting": Place({"errors", "schema", *COLUMNS}, FRAMES),
    "face": Place(
        DATA
        | WHY
        | {"streaming", "filling", "parameters", "thresholds", "conditions", "archive", "parquet"}
        | {"costs"},
        FRAMES,
    ),
    "session": Place({"errors", "values", *EXPORTED}, FRAMES),
    "exported": Place(DATA | EXPORTED | {"vetting"}, FRAMES),
    "runtime": Place(
        DATA
        | EXPORTED
        | WHY
        | {"archive", "streaming", "filling", "parameters", "thresholds", "vetting", "face", "session"}
        | {"exported", "conditions", "parquet", "costs"},
        FRAMES,
    ),
    # Models, without tables
    "layout": Place({"errors"}, TORCH),
    "piecewise": Place(set(), TORCH),
    "preprocessing": Place({"errors", "layout", "piecewise"}, TORCH),
    "stored": Place({"errors", "preprocessing"}, TORCH),
    "patches": Place({"layout"}, TORCH),
    "memory": Place({"layout", "preprocessing", "patches"}, TORCH),
    "muon": Place(set(), TORCH),
    "networks": Place({"errors", "layout"}, TORCH),
    "convolutional": Place({"errors", "layout", "networks"}, TORCH),
    "adversaries": Place({"errors", "layout", "networks", "convolutional"}, TORCH),
    "disturbing": Place(set(), TORCH),
    "backbones": Place({"errors", "layout", "networks", "convolutional", "adversaries", "disturbing"}, TORCH),
    "modes": Place(set(), NUMPY),
    "models": Place(
        {"errors", "noise", "layout", "networks", "convolutional", "adversaries", "disturbing", "backbones"}
        | {"preprocessing", "patches", "memory"},
        TORCH,
    ),
    "verbs": Place(MODELS - {"verbs"}, TORCH),
    "counting": Place(MODELS | {"costs"}, TORCH),
    "training": Place({"errors", "noise", "archive", "muon", "networks"}, TORCH | {"safetensors", "tqdm"}),
    # Both
    "persistence": Place(DATA | MODELS | FITTING - {"persistence"}, TRAIN),
    "estimator": Place(DATA | MODELS | FITTING | {"counting"}, TRAIN),
    "detector": Place(DATA | MODELS | FITTING | {"estimator"}, TRAIN),
    "diagnosing": Place(DATA | MODELS | FITTING | {"estimator"}, TRAIN),
    "noising": Place(DATA | MODELS | FITTING | {"estimator", "diagnosing"}, TRAIN),
    "styled": Place(DATA | MODELS | FITTING | {"estimator"}, TRAIN),
    "families": Place(
        DATA | MODELS | FITTING | {"estimator", "diagnosing", "noising", "detector", "styled"}, TRAIN
    ),
    "critic": Place({"schema", "vetting"}, TRAIN),
    "raking": Place({"schema", "vetting"}, NUMPY),
    "copies": Place({"errors", "replacing", "schema"}, NUMPY),
    "formulas": Place({"errors"}, NUMPY),
    "sheet": Place({"schema", *COLUMNS}, FRAMES),
    "constraints": Place({"errors", "formulas", "schema", "sheet", "vetting", *COLUMNS}, FRAMES),
    "steps": Place({"constraints", "formulas", "sheet", *COLUMNS}, FRAMES),
    "rewriting": Place(
        {"errors", "frames", "schema", "sheet", "constraints", "steps", "vetting", *COLUMNS}, FRAMES
    ),
    "rejection": Place({"errors", "noise", "conditions", "schema", "sheet", "constraints", *COLUMNS}, FRAMES),
    "synthesizer": Place(
        DATA
        | MODELS
        | FITTING
        | {"estimator", "families", "critic", "raking", "constraints", "rewriting", "rejection", "copies"},
        TRAIN,
    ),
    "boosting": Place({"schema"}, TRAIN),
    "image_classifier": Place({"errors", "noise", "networks", "training"}, TRAIN),
    "candidates": Place({"errors", "noise", "frames", "schema", "streaming", "ensemble"}, TRAIN),
    "findings": Place({"candidates"}, TRAIN),
    "augmenting": Place(
        {"boosting", "candidates", "errors", "findings", "frames", "image_classifier", "levelled", "noise"}
        | {"parameters", "schema"}
        | {"families", "streaming", "synthesizer", "values"},
        TRAIN,
    ),
    "loading": Place({"archive", "errors", "estimator", "families", "synthesizer"}, TRAIN),
    "evaluation": Place(
        DATA | {"_version", "archive", "copies", "critic", "explanation", "parameters", "streaming"}, TRAIN
    ),
    "exporters": Place(DATA | MODELS | FITTING | FACES | EXPORTED | {"exported", "runtime"}, TRAIN),
    "integrations": Place(
        DATA
        | MODELS
        | FITTING
        | FACES
        | {"session", "runtime", "files", "loading", "synthesizer", "candidates", "augmenting"}
        | {"evaluation", "exporters"},
        TRAIN,
    ),
    "plotting": Place({"errors", "explanation"}, FRAMES),
    "files": Place({"errors", "archive"}, set()),
    "pictures": Place({"errors", "archive"}, NUMPY),
    "folders": Place({"errors", "files", "images", "pictures"}, NUMPY),
    "passing": Place({"errors", "columns", "files", "folders", "images", "parquet"}, set()),
    "arguments": Place({"", "errors", "columns", "conditions", "files"}, set()),
    "cli": Place(
        DATA
        | FITTING
        | FACES
        | {"", "evaluation", "explanation", "files", "runtime", "exporters", "integrations"}
        | {"arguments", "folders", "passing"},
        {"numpy", "typer"},
    ),
}
"""What each module may import; that of a package holds for the modules in it, which may import each other."""

BRIDGES = {
    "arrow": {"pyarrow"},
    "dask": {"dask"},
    "duckdb": {"duckdb", "pyarrow"},
    "gate": {"starlette"},
    "http": {"fastapi", "pyarrow", "starlette"},
    "kafka": {"confluent_kafka"},
    "metrics": {"prometheus_client"},
    "generator": {"pyarrow"},
    "mlflow": {"mlflow"},
    "imblearn": {"imblearn"},
    "pandera": {"pandera"},
    "polars": {"polars"},
    "ray": {"pyarrow", "ray"},
    "records": {"pyarrow"},
    "streams": {"pyarrow"},
    "spark": {"pyarrow", "pyspark"},
}
"""What modules of `integrations` load beside: the system that they are for."""

NEEDS_TORCH = {place for place, (_, loads) in PLACES.items() if "torch" in loads}


class Import(NamedTuple):
    name: str  # dotted, with the name that `from` takes
    when: str  # "load": with the module; "call": in a function; "types": for the type checker alone


def imports_of(source: str) -> Iterator[Import]:
    def visit(nodes: Iterable[ast.AST], when: str) -> Iterator[Import]:
        for node in nodes:
            match node:
                case ast.Import(names):
                    yield from (Import(alias.name, when) for alias in names)
                case ast.ImportFrom(module, names, level):
                    prefix = "." * level + (module or "")
                    yield from (Import(f"{prefix}.{alias.name}", when) for alias in names)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    yield from visit(ast.iter_child_nodes(node), "call" if when == "load" else when)
                case ast.If(test) if "TYPE_CHECKING" in ast.unparse(test):
                    yield from visit(node.body, "types")
                    yield from visit(node.orelse, when)
                case _:
                    yield from visit(ast.iter_child_nodes(node), when)

    return visit(ast.parse(source).body, "load")


def sources() -> dict[str, str]:
    """The text of each module by its import name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path.read_text("utf-8")
    return found


def place_of(name: str) -> str:
    """The key of PLACES under which a dotted name of lookalike falls; the package itself where none does."""
    head = name.split(".")[1] if "." in name else ""
    return head if head in PLACES else ""


def violations(module: str, source: str) -> list[str]:
    if module.count(".") and not place_of(module):
        return [f"{module} has no place in PLACES: say what it may import"]
    place = place_of(module)
    below, loads = PLACES[place]
    if place == "integrations":
        loads = loads | BRIDGES.get(module.rpartition(".")[2], set())
    wrong = []
    for name, when in imports_of(source):
        top = name.split(".")[0]
        if top == "lookalike":
            free = not place and when == "types"  # the lazy names, for the type checker
            if not free and place_of(name) not in below | ({place} - {""}):
                wrong.append(f"{module} imports {name}, which is not below it")
        elif not top:
            wrong.append(f"{module} imports {name}: write it in full, from lookalike")
        elif when == "load" and top not in loads and top not in sys.stdlib_module_names:
            wrong.append(f"{module} loads {top} when it is imported")
    return wrong


def test_every_module_keeps_to_its_layer() -> None:
    assert [wrong for module, source in sources().items() for wrong in violations(module, source)] == []


def test_the_places_have_an_order() -> None:
    graphlib.TopologicalSorter({place: below - {place} for place, (below, _) in PLACES.items()}).prepare()


def test_modules_do_not_import_in_circles() -> None:
    modules = sources()
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for module, source in modules.items():
        for name, when in imports_of(source):
            if when != "types":
                while name and name not in modules:
                    name = name.rpartition(".")[0]
                graph[module] |= {name} - {"", "lookalike"}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "module, source, complaint",
    [
        ("models.vae", "from lookalike.families import VAE", "not below it"),
        ("models.vae", "from lookalike import schema", "not below it"),
        ("models.vae", "def fit():\n    import lookalike.schema", "not below it"),
        ("schema", "if typing.TYPE_CHECKING:\n    import lookalike.training", "not below it"),
        ("errors", "from lookalike import SchemaError", "not below it"),
        ("schema", "class A:\n    import torch", "loads torch"),
        ("runtime", "try:\n    import pandas.core\nexcept ImportError:\n    pass", "loads pandas"),
        ("calibration", "from sklearn import metrics", "loads sklearn"),
        ("exporters.onnx", "import onnx", "loads onnx"),
        ("models.gan", "from . import vae", "write it in full"),
        ("utils", "", "has no place"),
    ],
)  # fmt: skip
def test_an_import_that_points_the_wrong_way_is_seen(module: str, source: str, complaint: str) -> None:
    (found,) = violations(f"lookalike.{module}", source)
    assert complaint in found


@pytest.mark.parametrize(
    "module, source",
    [
        ("models.hybrid", "import torch\nfrom lookalike.models import vae\nfrom lookalike import layout"),
        ("schema", "def to_pandas():\n    import pandas"),
        ("schema", "if TYPE_CHECKING:\n    import pandas"),
    ],
)  # fmt: skip
def test_an_import_that_points_down_is_let_through(module: str, source: str) -> None:
    assert violations(f"lookalike.{module}", source) == []


@pytest.mark.parametrize("module", [m for m in sources() if place_of(m) not in NEEDS_TORCH])
def test_a_module_below_torch_does_not_load_it(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"torch", "pandas", "polars", "pyarrow", "sklearn"} & {*done.stdout.split()} == set()
