"""The site of the documents: built with warnings as errors, whole, and without anything from outside."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import lookalike as la

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "object": "data", "source": "src"}


class Page(HTMLParser):
    """What a page links to, what it loads, which places in it can be linked to, and its navigation."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.navigation: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = {key: value or "" for key, value in attrs}
        if "id" in held:
            self.ids.add(held["id"])
        if tag == "a" and "href" in held:
            self.links.append(held["href"])
            if "md-nav__link" in held.get("class", ""):
                self.navigation.add(held["href"])
        if held.get(LOADED.get(tag, "")) and held.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(held[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site, as `make docs` builds it, but elsewhere."""
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        "docs/site/mkdocs.yml",
        "-d",
        str(out),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path) for path in out.rglob("*.html")}


def leads_to(page: Page, link: str) -> tuple[Path, str] | None:
    """The file and the place in it that a link of a page names; None for another site's."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
    return (path / "index.html" if path.is_dir() else path), unquote(parts.fragment)


def test_every_link_within_the_site_leads_somewhere(site: dict[Path, Page]) -> None:
    lost = []
    for page in site.values():
        if page.path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in page.links + page.loads:
            there = leads_to(page, link)
            if there is None:
                continue
            path, place = there
            known = path.exists() and (not place or path not in site or place in site[path].ids)
            lost += [] if known else [f"{page.path.name}: {link}"]
    assert lost == []


def test_every_page_is_in_the_navigation(site: dict[Path, Page]) -> None:
    reached = {leads_to(page, link) for page in site.values() for link in page.navigation}
    paths = {there[0] for there in reached if there}
    assert {path.name for path in site if path not in paths} == {"404.html"}
    documents = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.with_suffix(".md") for path in site}
    assert [page for page in documents if not any(path.match(str(page)) for path in built)] == []


def test_nothing_is_loaded_from_outside(site: dict[Path, Page]) -> None:
    outside = {f"{page.path.name}: {what}" for page in site.values() for what in page.loads if "//" in what}
    assert outside == set()


def test_the_reference_has_every_public_name(site: dict[Path, Page]) -> None:
    ids = set().union(*(page.ids for path, page in site.items() if path.parent.name == "reference"))
    assert [
        name for name in la._HOME if f"lookalike.{name}" not in ids and f"{la._HOME[name]}.{name}" not in ids
    ] == []
    bridges = {path.stem for path in (ROOT / "integrations").glob("[a-z]*.py")}
    assert [name for name in bridges if f"lookalike.integrations.{name}" not in ids] == []


def test_docstrings_read_as_prose_and_code(site: dict[Path, Page]) -> None:
    # A doctest outside of a section of examples becomes a quotation of a quotation of a quotation.
    text = {path: path.read_text("utf-8") for path in site if path.parent.name == "reference"}
    assert [path.name for path, html in text.items() if "<blockquote>" in html or "doctest:" in html] == []


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\d[\d,]*\.\d+|(?<![\w.])\d{1,3}(?:,\d{3})+", text))


@pytest.mark.parametrize("name", ["comparison.md", "imputing.md", "augmenting.md"])
def test_figures_are_those_of_the_results(name: str) -> None:
    """Each table's decimals stand in the file of results that its section links to."""
    strays = []
    for section in (ROOT / "docs" / name).read_text("utf-8").split("\n## ")[1:]:
        files = re.findall(r"\]\(\.\./(benchmarks/results/[\w.]+)\)", section)
        measured = set().union(*(numbers((ROOT / file).read_text("utf-8")) for file in files))
        strays += numbers(re.sub(r"```.*?```", "", section, flags=re.DOTALL)) - measured
    assert strays == []
