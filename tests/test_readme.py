"""The code and commands of README.md and docs/ run, in order, and print what they are said to."""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from extras import BRIDGES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OF_EXTRAS = {page for bridge in BRIDGES.values() for page in bridge.pages}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    line: int  # of its first line of code
    code: str
    output: str | None  # of the text block that follows it with nothing but blank lines between
    language: str = "python"


def blocks(markdown: str) -> list[Block]:
    """Code, and each command of a console with what it prints."""
    fence = re.compile(
        r"^```(python|console)\n(.*?)^```\n(?:\s*^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE
    )
    found = []
    for match in fence.finditer(markdown):
        first = markdown.count("\n", 0, match.start(2)) + 1
        if match[1] == "python":
            found.append(Block(first, match[2], match[3]))
            continue
        for command in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", match[2], re.MULTILINE):
            line = first + match[2].count("\n", 0, command.start())
            found.append(Block(line, command[1], command[2], "console"))
    return found


DOCUMENTS = [README, *(path for path in PAGES if blocks(path.read_text("utf-8")))]


def printed_by(command: str) -> str:
    """What a command prints, errors too, as somebody sees it who runs it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(  # noqa: S602
        command,
        shell=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, f"{command} ends with {done.returncode}:\n{done.stdout}"
    return done.stdout


def run(block: Block, path: Path, namespace: dict[str, object]) -> None:
    """Run a block and compare what it prints, where the document shows it."""
    printed = io.StringIO()
    if block.language == "console":
        printed.write(printed_by(block.code))
    else:
        # Tracebacks name the document's lines.
        code = compile("\n" * (block.line - 1) + block.code, path, "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)  # noqa: S102
    if block.output is not None:
        checker, example = doctest.OutputChecker(), doctest.Example(block.code, block.output)
        if not checker.check_output(example.want, printed.getvalue(), FLAGS):
            difference = checker.output_difference(example, printed.getvalue(), FLAGS)
            pytest.fail(f"{path.name}, the block of line {block.line} prints otherwise.\n{difference}")


def cases() -> Iterator[object]:
    for path in DOCUMENTS:
        marks = []
        if path.name in OF_EXTRAS:
            # Other systems use what others of them call old, and MLflow warns of a class of its own.
            filters = ("ignore::DeprecationWarning", "ignore:.*Any type hint is inferred:UserWarning")
            marks = [pytest.mark.extras, *map(pytest.mark.filterwarnings, filters)]
        yield pytest.param(path, id=path.name, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("document", list(cases()))
def test_a_document_says_what_happens(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(document.read_text("utf-8")):
        run(block, document, namespace)


def test_the_documents_that_show_how_are_found() -> None:
    found = {path.name for path in DOCUMENTS}
    assert {"README.md", "index.md", "serving.md", "command_line.md"} | OF_EXTRAS <= found


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
