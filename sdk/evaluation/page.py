"""One page without a script and without anything from elsewhere, dark or light as the reader has it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal, NamedTuple

from lookalike._version import __version__
from lookalike.archive import atomic_write

Level = Literal["good", "look", "alarm", "note"]

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f8; --card: #ffffff; --ink: #1b2329; --quiet: #57636d;
  --rule: #dfe4e8; --real: #31688e; --synthetic: #cf6a1f; --other: #7a4fa3; --good: #22744a; --look: #8a5a00;
  --alarm: #b5223c; --note: #57636d; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12171b; --card: #1a2126; --ink: #e5eaee; --quiet: #9caab4; --rule: #313b43;
    --real: #6cb0de; --synthetic: #f0985a; --other: #b794dd; --good: #6fcb98; --look: #e2b354;
    --alarm: #ff8094; --note: #9caab4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 16px 48px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.15rem; margin: 0 0 4px; }
h3 { font-size: .95rem; margin: 0; font-weight: 600; }
p { margin: 0 0 10px; max-width: 96ch; }
.quiet, figcaption, caption, footer { color: var(--quiet); font-size: .875rem; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; margin: 16px 0;
  padding: 18px 18px 14px; }
ul.verdict { list-style: none; margin: 10px 0 4px; padding: 0; }
ul.verdict li { display: grid; grid-template-columns: 4.2em 1fr; gap: 10px; padding: 7px 0;
  border-top: 1px solid var(--rule); }
ul.verdict li:first-child { border-top: 0; }
.mark { font-size: .75rem; font-weight: 700; letter-spacing: .04em; text-transform: uppercase;
  padding-top: 3px; }
.good { color: var(--good); } .look { color: var(--look); } .alarm { color: var(--alarm); }
.note { color: var(--note); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: 6px 0 10px; }
caption { text-align: left; padding-bottom: 4px; }
th, td { text-align: left; vertical-align: top; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--rule);
  overflow-wrap: break-word; }
tr:last-child > th, tr:last-child > td { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 600; font-size: .8rem; vertical-align: bottom; }
tbody th { font-weight: 500; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.n:not(:last-child), td.n:not(:last-child) { padding-right: 16px; }
.grid { display: grid; gap: 18px 22px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr));
  margin: 12px 0; }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.two { display: grid; gap: 6px 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 190px), 1fr)); }
figure { margin: 0; min-width: 0; }
.one { max-width: 420px; }
svg { display: block; width: 100%; height: auto; margin: 4px 0; }
svg text { fill: var(--quiet); font-size: 10.5px; font-family: inherit; }
.two svg text { font-size: 12px; } .one svg text { font-size: 9px; }
.axis { stroke: var(--rule); fill: none; }
.chance { stroke: var(--quiet); stroke-dasharray: 3 3; fill: none; }
.area { fill-opacity: .32; stroke: none; } .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.area.real, .bar.real, .cell.real { fill: var(--real); } .line.real { stroke: var(--real); }
.area.synthetic, .bar.synthetic, .cell.synthetic { fill: var(--synthetic); }
.line.synthetic { stroke: var(--synthetic); } .line.other { stroke: var(--other); stroke-dasharray: 4 2; }
.bar.alarm { fill: var(--alarm); } .threshold { stroke: var(--ink); stroke-dasharray: 4 3; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .85rem; color: var(--quiet); margin: 6px 0; }
.key span::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .45em; vertical-align: -.06em; background: var(--c); }
.meter { display: block; height: 8px; margin-top: .5em; min-width: 2px; border-radius: 2px;
  background: var(--synthetic); }
.fill { width: 45%; }
details { margin: 8px 0 4px; } summary { cursor: pointer; color: var(--quiet); font-size: .9rem; }
a { color: var(--real); }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .9em; }
@media (max-width: 560px) { main { padding: 18px 10px 32px; } section { padding: 14px 12px 10px; }
  h1 { font-size: 1.4rem; } .fill { width: 30%; } .meaning { display: none; } th, td { padding-right: 7px; }
  th.n:not(:last-child), td.n:not(:last-child) { padding-right: 9px; } table { font-size: .85rem; }
  tr:has(> .below) { display: flex; flex-wrap: wrap; border-bottom: 1px solid var(--rule); }
  tr:has(> .below) > * { border: 0; padding-bottom: 2px; } td.below { flex: 1 0 100%; padding: 0 0 8px; }
  th.below { display: none; } }
@media print { body { background: none; } section { break-inside: avoid; } }
"""

# Nothing may be loaded and nothing may run, whatever the names of columns hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
IN_NOTEBOOK = 760  # pixels high


class Finding(NamedTuple):
    """A sentence of the verdict, and how to take it."""

    level: Level
    words: str


@dataclass(frozen=True, repr=False)
class Report:
    """A page and the numbers on it.

    Attributes
    ----------
    numbers : dict
        All figures, as JSON has them.
    verdict : list of (level, sentence)
        What the figures say, in words; levels are "good", "look", "alarm" and "note".
    html : str
        The page: one file without a script, which loads nothing.
    """

    title: str
    verdict: list[Finding]
    numbers: dict[str, Any] = field()
    html: str = field()

    @property
    def alarms(self) -> list[str]:
        """The sentences of the verdict that are alarms."""
        return [words for level, words in self.verdict if level == "alarm"]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, whole or not at all."""
        with atomic_write(path) as file:
            file.write(self.html.encode("utf-8"))

    def __repr__(self) -> str:
        return "\n".join([self.title, *(f"  {level:5}  {words}" for level, words in self.verdict)])

    def _repr_html_(self) -> str:
        # In a frame of its own: the page's style is not the notebook's.
        return (
            f'<iframe title="{escape(self.title)}" srcdoc="{escape(self.html)}" '
            f'style="width: 100%; height: {IN_NOTEBOOK}px; border: 0"></iframe>'
        )


def page(title: str, lead: str, verdict: Sequence[Finding], sections: Iterable[str]) -> str:
    """Put a page together; `sections` are HTML, all else is text."""
    items = "".join(
        f'<li><span class="mark {level}">{level}</span><span>{_text(words)}</span></li>'
        for level, words in verdict
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{escape(title)}</h1><p class="quiet">{escape(lead)}</p></header>\n'
        f'<section><h2>Verdict</h2><ul class="verdict">{items}</ul></section>\n'
        + "\n".join(sections)
        + f"\n<footer>Made by lookalike {escape(__version__)}.</footer>\n</main>\n</body>\n</html>\n"
    )


def _text(words: str) -> str:
    """Text as HTML, with no line broken between a number and its %."""
    return escape(words).replace(" %", "&nbsp;%")


def section(title: str, words: str, *parts: str) -> str:
    """A section: its title and first words are text, its parts HTML."""
    return f"<section><h2>{_text(title)}</h2>{paragraph(words) if words else ''}{''.join(parts)}</section>"


def paragraph(words: str) -> str:
    return f'<p class="quiet">{_text(words)}</p>'


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = (), **kinds: int
) -> str:
    """A table; cells are text, but for those that are `Html`.

    `right` names columns of numbers, `kinds` the column of a class of style.
    """
    numbers, of = set(right), {column: name for name, column in kinds.items()}

    def cell(i: int, value: Any, tag: str) -> str:
        words = " ".join(filter(None, ["n" if i in numbers else "", of.get(i, "")]))
        scope = ' scope="row"' if tag == "th" else ""
        inner = value if isinstance(value, Html) else _text(str(value))
        return f"<{tag}{scope}" + (f' class="{words}"' if words else "") + f">{inner}</{tag}>"

    top = "".join(cell(i, name, "th").replace('scope="row"', 'scope="col"') for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(cell(i, value, "td" if i else "th") for i, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def marked(level: Level, words: str) -> Html:
    """Words in the colour of a level."""
    return Html(f'<span class="{level}">{escape(words)}</span>')


def meter(share: float) -> Html:
    """A bar of a share of the cell's width."""
    return Html(f'<span class="meter" style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></span>')


def figure(title: str, words: str, *pictures: str, kind: str = "") -> str:
    """Pictures with a title above and words below, which are text."""
    inner = "".join(pictures) if len(pictures) == 1 else f'<div class="two">{"".join(pictures)}</div>'
    shown = f' class="{kind}"' if kind else ""
    return f"<figure{shown}><h3>{escape(title)}</h3>{inner}<figcaption>{_text(words)}</figcaption></figure>"


def grid(figures: Iterable[str], kind: str = "") -> str:
    return f'<div class="{f"grid {kind}".strip()}">{"".join(figures)}</div>'


def beside(*parts: str) -> str:
    """HTML side by side, where there is room."""
    return grid((f"<div>{part}</div>" for part in parts), "pairs")


def details(summary: str, inner: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def key(**names: str) -> str:
    """What the colours mean, by the names that the style has for them."""
    return (
        '<div class="key">'
        + "".join(f'<span style="--c:var(--{kind})">{escape(words)}</span>' for kind, words in names.items())
        + "</div>"
    )
