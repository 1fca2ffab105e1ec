"""Small pictures as SVG that takes its colours from the page it stands in, dark or light."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDE, TALL = 280, 150
LEFT, RIGHT, TOP, FOOT = 6, 6, 8, 20  # margins of what is drawn
ROW = 17  # height of a level and its two bars
LETTERS = 16  # of a level
SHADES = (0.1, 0.22, 0.4, 0.65, 1.0)  # of a map of shares


def picture(label: str, body: str, tall: float = TALL) -> str:
    """A picture with its description for those who do not see it."""
    words = escape(label)
    box = f"0 0 {WIDE} {tall:g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{words}"><title>{words}</title>{body}</svg>'


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def cut(words: str, most: int = LETTERS) -> str:
    """A text of at most so many letters."""
    return words if len(words) <= most else words[: most - 1] + "…"


def steps(label: str, shares: Sequence[Floats], ends: tuple[str, str]) -> str:
    """Histograms over each other: the first filled, the others lines.

    Parameters
    ----------
    label : str
    shares : sequence of ndarray of shape (n_bins,)
    ends : pair of str
        What stands at both ends of the axis.
    """
    top = max(max(float(share.max()) for share in shares), 1e-12)
    height, foot = TALL - TOP - FOOT, TALL - FOOT
    x = np.linspace(LEFT, WIDE - RIGHT, len(shares[0]) + 1)
    body = ""
    for kind, share in zip(("real", "synthetic", "other"), shares, strict=False):
        y = foot - height * share / top
        path = f"M{x[0]:.1f} {foot}" + "".join(
            f"V{level:.1f}H{end:.1f}" for level, end in zip(y, x[1:], strict=True)
        )
        body += f'<path class="{"area" if kind == "real" else "line"} {kind}" d="{path}V{foot}"/>'
    return picture(label, body + axis(*ends))


def counts(label: str, sides: Sequence[NDArray[np.int64]], edges: Floats, threshold: float) -> str:
    """Bars on a logarithmic axis, of rows below a threshold and of the others."""
    height, foot = TALL - TOP - FOOT - 8, TALL - FOOT
    top = np.log1p(max(int(side.max()) for side in sides)) or 1.0
    scale = (WIDE - LEFT - RIGHT) / (edges[-1] - edges[0])
    x = LEFT + scale * (edges - edges[0])
    body = ""
    for kind, side in zip(("alarm", "real"), sides, strict=True):
        for i in np.flatnonzero(side).tolist():
            high = height * np.log1p(side[i]) / top
            wide = max(x[i + 1] - x[i] - 0.6, 0.4)
            body += (
                f'<rect class="bar {kind}" x="{x[i]:.1f}" y="{foot - high:.1f}" width="{wide:.1f}" '
                f'height="{high:.1f}"/>'
            )
    at = LEFT + scale * (threshold - edges[0])
    body += f'<path class="threshold" d="M{at:.1f} {foot}V{TOP}"/>'
    return picture(label, body + axis(f"{edges[0]:.4g}", f"{edges[-1]:.4g}"))


def axis(low: str, high: str, middle: str = "") -> str:
    """The foot of a picture with words at its ends."""
    foot = TALL - FOOT
    return (
        f'<path class="axis" d="M{LEFT} {foot}H{WIDE - RIGHT}"/>'
        + text(LEFT, TALL - 6, low)
        + text(WIDE / 2, TALL - 6, middle, "middle")
        + text(WIDE - RIGHT, TALL - 6, high, "end")
    )


def levels(label: str, names: Sequence[str], shares: Sequence[Floats]) -> str:
    """Two bars for each level: real above, synthetic below."""
    top = max(max(float(share.max()) for share in shares), 1e-12)
    start, room = 108, WIDE - 108 - 40
    body = ""
    for i, name in enumerate(names):
        y = TOP + i * ROW
        body += text(start - 6, y + 10.5, cut(name), "end")
        for kind, share, at in zip(("real", "synthetic"), shares, (1.0, 7.5), strict=True):
            wide = max(room * share[i] / top, 0.5)
            body += f'<rect class="bar {kind}" x="{start}" y="{y + at}" width="{wide:.1f}" height="6"/>'
        end = start + room * max(share[i] for share in shares) / top
        body += text(end + 5, y + 10.5, percent(float(shares[0][i]), 0))
    return picture(label, body, max(TOP + len(names) * ROW + 6, 40))


def shades(
    label: str, shares: Floats, across: Sequence[str], up: Sequence[str], kind: str, top: float
) -> str:
    """A map of shares, (n_columns, n_rows), the darker the more.

    Parameters
    ----------
    label : str
    shares : ndarray of shape (n_columns, n_rows)
    across, up : sequence of str
        A word for each column and for each row, or for both ends of these.
    kind : str
        Whose shares: "real" or "synthetic".
    top : float
        The share that is darkest.
    """
    start, foot = 76, TALL - FOOT
    x = np.linspace(start, WIDE - RIGHT, shares.shape[0] + 1)
    y = np.linspace(foot, TOP, shares.shape[1] + 1)
    shade = np.ceil(np.sqrt(shares / max(top, 1e-12)).clip(max=1) * len(SHADES)).astype(int)
    body = f'<path class="axis" d="M{start} {TOP}V{foot}H{WIDE - RIGHT}"/>'
    for k, opacity in enumerate(SHADES, 1):
        cells = "".join(
            f"M{x[i]:.1f} {y[j]:.1f}H{x[i + 1]:.1f}V{y[j + 1]:.1f}H{x[i]:.1f}z"
            for i, j in np.argwhere(shade == k).tolist()
        )
        body += f'<path class="cell {kind}" fill-opacity="{opacity}" d="{cells}"/>' if cells else ""
    for words, at in zip(up, _along(y, len(up)), strict=True):
        body += text(start - 5, float(np.clip(at + 3.5, TOP + 9, foot)), cut(words, 12), "end")
    anchors = ("start", "end") if len(across) != shares.shape[0] else ("middle",) * len(across)
    letters = int((WIDE - start) / max(len(across), 1) / 6.5)
    for words, at, anchor in zip(across, _along(x, len(across)), anchors, strict=True):
        body += text(float(at), TALL - 6, cut(words, letters), anchor)
    return picture(label, body)


def _along(edges: Floats, n: int) -> Floats:
    """Where n words stand: in the middle of the cells if they are as many, else at the ends."""
    return (edges[1:] + edges[:-1]) / 2 if n == len(edges) - 1 else edges[[0, -1]]


def curve(label: str, x: Floats, y: Floats, ends: tuple[str, str], note: str) -> str:
    """A curve from (0, 0) to (1, 1), and the diagonal of chance."""
    wide, foot = WIDE - LEFT - RIGHT, TALL - FOOT
    height = foot - TOP
    points = "".join(f"L{LEFT + wide * a:.1f} {foot - height * b:.1f}" for a, b in zip(x, y, strict=True))
    body = (
        f'<path class="chance" d="M{LEFT} {foot}L{WIDE - RIGHT} {TOP}"/>'
        f'<path class="line synthetic" d="M{LEFT} {foot}{points}"/>'
    )
    return picture(label, body + axis(*ends) + text(LEFT + 4, TOP + 10, note))


def percent(share: float, digits: int = 1) -> str:
    """A share in %, with more digits where it is small, so that only nothing is 0."""
    if 0 < share < 0.5 * 10 ** -(digits + 2):
        return f"< {10.0**-digits:g} %"
    return f"{100 * share:.{digits}f} %"
