"""The examples in docstrings run as written."""

import doctest
import importlib
import pkgutil

import pytest

import lookalike
from lookalike.errors import MissingExtraError

MODULES = ["lookalike", *(found.name for found in pkgutil.walk_packages(lookalike.__path__, "lookalike."))]


def test_all_three_folders_are_walked() -> None:
    assert {"lookalike.errors", "lookalike.models", "lookalike.exporters", "lookalike.integrations"} <= {
        *MODULES
    }


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except (MissingExtraError, ModuleNotFoundError) as missing:
        if str(missing.name).startswith("lookalike"):
            raise
        pytest.skip(str(missing))  # a system that `make test` does not install
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
