"""The code of README.md and of docs/ runs, in order and in one namespace, and prints what it is said to."""

import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *(ROOT / "docs" / name for name in ("decisions.md", "explaining.md", "serving.md"))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    line: int  # of its first line of code
    code: str
    output: str | None  # of the text block that follows it with nothing but blank lines between


def blocks(markdown: str) -> list[Block]:
    fence = re.compile(r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
    return [
        Block(markdown.count("\n", 0, found.start(1)) + 1, found[1], found[2])
        for found in fence.finditer(markdown)
    ]


def run(block: Block, path: Path, namespace: dict[str, object]) -> None:
    """Run a block and compare what it prints, where the document shows it."""
    code = compile("\n" * (block.line - 1) + block.code, path, "exec")  # tracebacks name the document's lines
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)  # noqa: S102
    if block.output is not None:
        checker, example = doctest.OutputChecker(), doctest.Example(block.code, block.output)
        if not checker.check_output(example.want, printed.getvalue(), FLAGS):
            difference = checker.output_difference(example, printed.getvalue(), FLAGS)
            pytest.fail(f"{path.name}, the block of line {block.line} prints otherwise.\n{difference}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_says_what_happens(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks(document.read_text("utf-8"))
    assert found, f"{document.name} has no ```python block"
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        run(block, document, namespace)


def test_no_document_is_forgotten() -> None:
    code = {path for path in (ROOT / "docs").glob("*.md") if blocks(path.read_text("utf-8"))}
    assert code <= {*DOCUMENTS}


def test_a_block_that_prints_otherwise_is_seen() -> None:
    markdown = "# A\n\n```python\nx = 1\n```\n\nAnd so:\n\n```python\nprint(x)\n```\n\n```text\n2\n```\n"
    first, second = blocks(markdown)
    assert (first.line, first.output, second.line, second.output) == (4, None, 10, "2\n")
    namespace: dict[str, object] = {}
    run(first, README, namespace)
    with pytest.raises(pytest.fail.Exception, match="line 10 prints otherwise"):
        run(second, README, namespace)


def test_a_traceback_names_the_line_of_the_document() -> None:
    with pytest.raises(ZeroDivisionError) as error:
        run(Block(40, "x = 1\nx / 0\n", None), README, {})
    assert error.traceback[-1].lineno == 41 - 1  # pytest counts from 0
