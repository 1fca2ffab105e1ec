"""Noise as a pure function of (seed, row), so that generated rows do not depend on how they were asked for.

Philox is a counter and a keyed hash of it: no state has to be walked through to reach row i. Each row owns a
fixed stretch of the counter, so row 1,000,000 costs what row 0 costs, and is the same alone, in any chunk and
in any process. What follows the hash is +, -, *, /, sqrt and frexp in float64, which IEEE 754 rounds in one
way only: the bits do not depend on the processor or on the version of a mathematics library either.

References
----------
J. Salmon, M. Moraes, R. Dror, D. Shaw. Parallel Random Numbers: As Easy as 1, 2, 3. SC 2011.
doi:10.1145/2063384.2063405 (Philox4x64-10, as numpy implements it).
M. Wichura. Algorithm AS 241: The Percentage Points of the Normal Distribution. Applied Statistics
37(3), 1988. doi:10.2307/2347330 (PPND16).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# As text: numpy loads its random numbers on first use, which takes a tenth of the runtime's import.
RandomState: TypeAlias = "int | np.random.RandomState | np.random.Generator | None"
"""What a `random_state` argument may be."""

_WORDS_PER_STEP = 4  # one step of Philox4x64's counter gives four 64-bit words
_BLOCK = 1 << 15  # words turned into numbers at a time: arrays of 256 KB stay in cache

# The key's upper half; the lower is the seed. A row's uniforms and normals are therefore independent.
_UNIFORM, _NORMAL = 0, 1

# Numerators and denominators of AS 241, highest power first: |p - 1/2| <= 0.425, tails, far tails.
_CENTRE = (
    (2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987,
     13731.69376550946, 1971.5909503065513, 133.14166789178438, 3.3871328727963665),
    (5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597,
     5394.196021424751, 687.1870074920579, 42.31333070160091, 1.0),
)  # fmt: skip
_TAIL = (
    (0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684,
     3.6478483247632045, 5.769497221460691, 4.630337846156546, 1.4234371107496835),
    (1.0507500716444169e-09, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008,
     0.6897673349851, 1.6763848301838038, 2.053191626637759, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.0103343992922881e-07, 2.7115555687434876e-05, 0.0012426609473880784, 0.026532189526576124,
     0.29656057182850487, 1.7848265399172913, 5.463784911164114, 6.657904643501103),
    (2.0442631033899397e-15, 1.421511758316446e-07, 1.8463183175100548e-05, 0.0007868691311456133,
     0.014875361290850615, 0.1369298809227358, 0.599832206555888, 1.0),
)  # fmt: skip


def seed_from(random_state: RandomState) -> int:
    """Turn a `random_state` argument into a seed in [0, 2**64).

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        An integer is the seed. A generator is drawn from once, and so moves on. None takes fresh entropy from
        the operating system; numpy's global generator is neither read nor moved.

    Returns
    -------
    int
    """
    if random_state is None:
        return secrets.randbits(63)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(1 << 63, dtype=np.uint64))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(1 << 63, dtype=np.uint64))
    if not isinstance(random_state, int | np.integer):
        raise TypeError(
            "random_state must be an integer, a numpy RandomState or Generator, or None, "
            f"got {random_state!r} of type {type(random_state).__name__}."
        )
    if not 0 <= random_state < 1 << 64:
        raise ValueError(f"random_state must lie in [0, 2**64), got {random_state}.")
    return int(random_state)


def child(seed: int, k: int) -> int:
    """Return the k-th of the seeds that follow from one, which is its own number 0."""
    return (seed + k * 0x9E3779B97F4A7C15) % 2**64  # an odd number: 2**64 seeds before one returns


def uniforms(seed: int, start: int, n: int, width: int) -> NDArray[np.float64]:
    """Draw rows `start` to `start + n` of the uniform noise of a seed.

    Parameters
    ----------
    seed : int
        In [0, 2**64).
    start, n : int
        The first row and how many.
    width : int
        Numbers in a row. Rows of different widths are different noise.

    Returns
    -------
    ndarray of shape (n, width), float64
        Odd multiples of 2**-53: inside (0, 1) and symmetric about 1/2.
    """
    return _draw(seed, _UNIFORM, start, n, width, np.float64, _uniform)


def normals(seed: int, start: int, n: int, width: int) -> NDArray[np.float64]:
    """Draw rows `start` to `start + n` of the standard normal noise of a seed.

    Parameters are those of `uniforms`, of which this is independent.

    Returns
    -------
    ndarray of shape (n, width), float64
        Normal quantiles of such uniforms by AS 241, to a relative 1e-15; none exceeds 8.21.
    """
    return _draw(seed, _NORMAL, start, n, width, np.float64, lambda words: _normal_quantile(_uniform(words)))


def folds(seed: int, n: int, n_folds: int) -> NDArray[np.int64]:
    """Deal n rows into folds of equal size, but for one row, at random.

    Returns
    -------
    ndarray of shape (n,), int64
        The fold of each row, from 0.
    """
    order = np.argsort(uniforms(seed, 0, n, 1)[:, 0], kind="stable")
    dealt = np.empty(n, np.int64)
    dealt[order] = np.arange(n) % n_folds
    return dealt


def rows(
    seed: int, start: int, n: int, n_normals: int, n_uniforms: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the noise from which rows `start` to `start + n` are generated.

    Parameters
    ----------
    seed, start, n : int
        As in `uniforms`.
    n_normals, n_uniforms : int
        Numbers of each kind in a row.

    Returns
    -------
    normals : ndarray of shape (n, n_normals), float32
    uniforms : ndarray of shape (n, n_uniforms), float32
        Inside (0, 1) after rounding too.
    """
    return (
        _draw(
            seed, _NORMAL, start, n, n_normals, np.float32, lambda words: _normal_quantile(_uniform(words))
        ),
        # The highest uniforms round to 1 in float32; the number below it takes them in.
        _draw(
            seed, _UNIFORM, start, n, n_uniforms, np.float32, lambda w: np.minimum(_uniform(w), 1 - 2.0**-24)
        ),
    )


def _draw(
    seed: int,
    stream: int,
    start: int,
    n: int,
    width: int,
    dtype: type[np.floating[Any]],
    transform: Callable[[NDArray[np.uint64]], NDArray[np.float64]],
) -> NDArray[Any]:
    """Fill (n, width) with the transformed words of these rows, a block at a time."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must lie in [0, 2**64), got {seed}.")
    if min(start, n, width) < 0:
        raise ValueError(f"start, n and width must not be negative, got {start}, {n} and {width}.")
    steps = -(-width // _WORDS_PER_STEP)  # whole counter steps, so that a row begins where a step does
    philox = np.random.Philox(key=seed | stream << 64, counter=start * steps)
    out = np.empty((n, width), dtype)
    block = max(1, _BLOCK // max(width, 1))
    for i in range(0, n if width else 0, block):
        part = out[i : i + block]
        words = philox.random_raw(len(part) * steps * _WORDS_PER_STEP).reshape(len(part), -1)
        part[...] = transform(words[:, :width])
    return out


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    # 52 bits and a half step: k + 1/2 is then exact in float64. With 53 bits the largest would round up to 1.
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _normal_quantile(p: NDArray[np.float64]) -> NDArray[np.float64]:
    q = p - 0.5
    # Held at 0 outside the central region, where the denominator nears a zero; those are replaced below.
    z = q * _ratio(np.maximum(0.180625 - q * q, 0.0), _CENTRE)
    outside = np.flatnonzero(np.abs(q) > 0.425)
    if outside.size:
        side = q.ravel()[outside]
        r = np.sqrt(-_log(0.5 - np.abs(side)))  # 0.5 - |p - 0.5| = min(p, 1 - p), exact on this grid
        size = _ratio(r - 1.6, _TAIL)
        far = r > 5.0
        if far.any():
            size[far] = _ratio(r[far] - 5.0, _FAR_TAIL)
        np.put(z, outside, np.copysign(size, side))
    return z


def _ratio(
    x: NDArray[np.float64], coefficients: tuple[tuple[float, ...], tuple[float, ...]]
) -> NDArray[np.float64]:
    numerator, denominator = coefficients
    return _polynomial(x, numerator) / _polynomial(x, denominator)


def _polynomial(x: NDArray[np.float64], coefficients: tuple[float, ...]) -> NDArray[np.float64]:
    value: NDArray[np.float64] = coefficients[0] * x
    for c in coefficients[1:-1]:
        value += c
        value *= x
    value += coefficients[-1]
    return value


def _log(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of numbers well below 1, to 3e-16 relative; np.log's last bit varies with the processor."""
    mantissa, exponent = np.frexp(p)
    # log p = (exponent - 1/2) log 2 + 2 artanh(s), for |s| < 0.172: ten terms of the series reach 1e-17.
    s = (mantissa - 0.5**0.5) / (mantissa + 0.5**0.5)
    series = _polynomial(s * s, tuple(2.0 / (2 * k + 1) for k in range(10, -1, -1)))
    log: NDArray[np.float64] = (exponent - 0.5) * 0.6931471805599453 + s * series
    return log
