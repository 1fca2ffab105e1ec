"""How candidates did in cross-validation, what follows from it, and how it is told.

A few hundred rows say little of gains that are worth having: there the standard error is several hundredths.
So what is found is weighed against what was expected before, both as normal distributions. Of most candidates
nothing is expected. A committee's labels average over the chance in what one fit learns, which rarely does
harm: of these a small gain is expected, and they are taken until the rows speak against them. The more rows,
the less it matters what was expected. Of several candidates one looks good by chance: those of which nothing
is expected share the doubt that one alone may leave (Bonferroni). An interval that lies above the gain asked
for needs no expectation.

References
----------
L. Breiman. Bagging predictors. Machine Learning 24, 1996 (why a committee is expected to gain).
C. Nadeau, Y. Bengio. Inference for the generalization error. Machine Learning 52, 2003 (the corrected
resampled t interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.candidates import Candidate, Nothing

EXPECTANT = 1000  # rows from which less is expected: the chance in what one fit learns falls as 1 / n
LEVEL = 0.95  # of intervals

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """How one candidate did.

    Attributes
    ----------
    candidate : Candidate
    scores : ndarray of shape (n_folds,), float64
        Of the estimator fitted to its rows, on the real rows left out.
    gain, low, high : float
        Mean difference to real rows alone, and its 95 % interval.
    expected : float
        The gain, weighed against what was expected before.
    probability : float
        That it is above `min_gain`.
    """

    candidate: Candidate
    scores: Floats
    gain: float
    low: float
    high: float
    expected: float
    probability: float


@dataclass(frozen=True, repr=False)
class Report:
    """What cross-validation found, and what follows from it.

    Attributes
    ----------
    findings : list of Finding
        Real rows alone first.
    chosen : Candidate
        Of those that gain with the probability that is asked of them, or whose interval lies above
        `min_gain`, the one of the highest expected gain; `Nothing` where there is none.
    scoring : str
        What gains are in.
    skipped : list of str
        Candidates that could not be tried, and why.
    """

    findings: list[Finding]
    chosen: Candidate
    scoring: str
    skipped: list[str]

    @property
    def table(self) -> list[dict[str, Any]]:
        """One dict for each candidate, for a DataFrame."""
        return [
            {
                "candidate": str(f.candidate),
                "score": float(f.scores.mean()),
                "gain": f.gain,
                "low": f.low,
                "high": f.high,
                "probability": f.probability,
                "chosen": f.candidate == self.chosen,
            }
            for f in self.findings
        ]

    @property
    def verdict(self) -> str:
        """The choice in words."""
        others = self.findings[1:]
        if not others:
            return "no augmentation: there was no candidate."
        best = max(others, key=lambda f: f.expected)
        if isinstance(self.chosen, Nothing):
            return f"no augmentation: the best candidate, {best.candidate}, {self._said(best)}."
        found = next(f for f in others if f.candidate == self.chosen)
        return f"{found.candidate}: {self._said(found)}."

    def _said(self, found: Finding) -> str:
        return (
            f"measured {found.gain:+.3f} {self.scoring}, {LEVEL:.0%} interval {found.low:+.3f} to "
            f"{found.high:+.3f}; with what was expected before, {found.expected:+.3f}, a gain with a "
            f"probability of {found.probability:.2f}"
        )

    def __repr__(self) -> str:
        wide = max(len(str(f.candidate)) for f in self.findings)
        lines = [self.verdict, f"{'':{wide + 2}}  score    gain     low    high  helps"]
        for f in self.findings:
            mark = "*" if f.candidate == self.chosen else " "
            line = f"{mark} {f.candidate!s:{wide}}  {f.scores.mean():5.3f}"
            if not isinstance(f.candidate, Nothing):
                line += f"  {f.gain:+6.3f}  {f.low:+6.3f}  {f.high:+6.3f}   {f.probability:4.2f}"
            lines.append(line)
        return "\n".join([*lines, *(f"not tried: {reason}" for reason in self.skipped)])


def found(
    candidate: Candidate, scores: Floats, alone: Floats, share: float, min_gain: float, n_rows: int
) -> Finding:
    """Weigh the scores of a candidate, (n_folds,), against those of the n_rows real rows alone.

    `share` is the rows left out by a fold over the rows fitted: by it the variance of the mean is larger than
    that of independent folds (Nadeau and Bengio, section 4).
    """
    from scipy.special import ndtr, stdtrit

    differences, n = scores - alone, len(scores)
    gain = float(differences.mean())
    error = float(np.sqrt((1 / n + share) * differences.var(ddof=1)))
    half = error * float(stdtrit(n - 1, (1 + LEVEL) / 2))
    # The quantile of one standard error, so that an error known from few folds counts for more than it is.
    error *= float(stdtrit(n - 1, ndtr(1.0)))
    mean, spread = (part * abs(float(alone.mean())) for part in candidate.prior)
    mean *= min(1.0, EXPECTANT / n_rows)
    if not (error and spread):
        return Finding(candidate, scores, gain, gain - half, gain + half, gain, float(gain > min_gain))
    precision = 1 / error**2 + 1 / spread**2
    expected = (gain / error**2 + mean / spread**2) / precision
    probability = float(ndtr((expected - min_gain) * np.sqrt(precision)))
    return Finding(candidate, scores, gain, gain - half, gain + half, expected, probability)


def choice(findings: Sequence[Finding], confidence: float, min_gain: float) -> Candidate:
    """The candidate to take: the first, real rows alone, if no other is likely enough to gain."""
    others = findings[1:]
    unexpected = sum(not f.candidate.prior[0] for f in others)

    def gains(f: Finding) -> bool:
        doubt = 1 - confidence if f.candidate.prior[0] else (1 - confidence) / unexpected
        return f.low > min_gain or 1 - f.probability <= doubt

    return max(filter(gains, others), key=lambda f: f.expected, default=findings[0]).candidate
