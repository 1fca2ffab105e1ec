"""What mkdocs.yml cannot say: folders in the navigation, and pages made of files that lie outside docs/."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
OUTSIDE = (
    "C*.md",
    "SECURITY.md",
    "LICENSE",
    "benchmarks/results/*.md",
    "benchmarks/results/*.txt",
    "samples/*.py",
)

# Each page's address in the site, and the file of the repository that it shows.
shown = {path.relative_to(ROOT / "docs").as_posix(): path for path in (ROOT / "docs").rglob("*.md")} | {
    path.relative_to(ROOT).with_suffix(".md").as_posix(): path
    for pattern in OUTSIDE
    for path in sorted(ROOT.glob(pattern))
}
address = {path: page for page, path in shown.items()}


def on_config(config: Any) -> None:
    """A folder in the navigation stands for its pages, in the order of their names."""
    config.nav = [entry for entry in unfolded(config.nav) if [*entry.values()] != [[]]]


def unfolded(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for entry in entries:
        ((title, value),) = entry.items()
        if isinstance(value, list):
            value = unfolded(value)
        elif value.endswith("/"):
            value = sorted(page for page in shown if page.startswith(value))
        found.append({title: value})
    return found


def on_files(files: Any, config: Any) -> None:
    """Add the pages that are not in docs/."""
    for page, path in shown.items():
        if not path.is_relative_to(ROOT / "docs"):
            files.append(File.generated(config, page, content=as_markdown(path)))


def on_page_content(html: str, **_: Any) -> str:
    """Drop the colons that announce code in a docstring: the code itself is there."""
    return html.replace("<p>::</p>\n", "")


def as_markdown(path: Path) -> str:
    """A file as a page: results as they were printed, a script's `# %% [markdown]` cells as text."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix != ".py":
        return f"# {path.stem}\n\n```text\n{text}```\n"
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    name = path.relative_to(ROOT).as_posix()
    page = f"```python\n{cells[0].strip()}\n```\n" if cells[0].strip() else ""
    for cell in cells[1:]:
        kind, _, body = cell.partition("\n")
        if "markdown" in kind:
            page += re.sub(r"^# ?", "", body, flags=re.MULTILINE) + "\n"
        elif body.strip():
            page += f"```python\n{body.strip()}\n```\n\n"
    title = "" if page.lstrip().startswith("# ") else f"# {path.stem}\n\n"
    return f"{title}{page}\n`python {name}` runs it.\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files of the repository to the pages that these became."""
    here = shown[page.file.src_uri]

    def led(link: re.Match[str]) -> str:
        target = address.get(Path(os.path.normpath(here.parent / link[1])))
        if target is None:
            return link[0]
        return f"]({os.path.relpath(target, Path(page.file.src_uri).parent)}{link[2] or ''})"

    return re.sub(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)", led, markdown)
