"""The noise of generation: rows that depend on nothing but (seed, row)."""

import itertools
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike import noise

SEEDS = st.integers(0, 2**64 - 1)
STARTS = st.one_of(st.integers(0, 100), st.integers(0, 2**80))
WIDTHS = st.integers(0, 11)


def ks_distance(sample, cdf):
    """Kolmogorov-Smirnov distance of a sample from a distribution."""
    p = np.sort(cdf(np.ravel(sample)))
    n = p.size
    return max(np.max(np.arange(1, n + 1) / n - p), np.max(p - np.arange(n) / n))


def normal_cdf(z):
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])


@pytest.mark.parametrize("draw", [noise.uniforms, noise.normals])
@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, start=STARTS, width=WIDTHS, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_rows_do_not_depend_on_chunks(draw, seed, start, width, cuts):
    edges = [0, *sorted(cuts), 60]
    whole = draw(seed, start, 60, width)
    chunks = [draw(seed, start + a, b - a, width) for a, b in itertools.pairwise(edges)]
    assert whole.shape == (60, width)
    assert np.array_equal(np.concatenate(chunks), whole)


@pytest.mark.parametrize("width", [1, 3, 4, 5, 16, 40_000])
def test_rows_do_not_depend_on_internal_blocks(width):
    n = 200_000 // width + 3
    whole_normals, whole_uniforms = noise.rows(7, 0, n, width, width)
    for row in {0, 1, n // 2, n - 1}:
        normals, uniforms = noise.rows(7, row, 1, width, width)
        assert np.array_equal(normals[0], whole_normals[row])
        assert np.array_equal(uniforms[0], whole_uniforms[row])


def test_float32_rows_are_the_float64_noise_rounded():
    normals, uniforms = noise.rows(3, 5, 1000, 6, 5)
    assert normals.dtype == uniforms.dtype == np.float32
    assert np.array_equal(normals, noise.normals(3, 5, 1000, 6).astype(np.float32))
    assert np.array_equal(uniforms, noise.uniforms(3, 5, 1000, 5).astype(np.float32))


def test_bits_are_those_of_every_release_and_processor():
    # Rows are promised by seed. The second run has numpy's vector instructions switched off.
    script = (
        "import hashlib; from lookalike import noise;"
        "n, u = noise.rows(2**63, 10**12, 20_000, 7, 5);"
        "z = noise.normals(1, 2, 9_000, 3);"
        "print(hashlib.sha256(n.tobytes() + u.tobytes() + z.tobytes()).hexdigest())"
    )
    for disabled in ("", " ".join(optional_cpu_features())):
        environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.stdout.strip() == "173bb3e9a90b66eeffd246a07cc74f0084167dd72f6bd1ca32bdd0a50c8d0084", (
            done.stderr
        )


def optional_cpu_features():
    """Name the vector instructions that numpy would choose here and can be told not to."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return [name for name in found if isinstance(name, str)]


def test_row_three_is_the_fourth_philox_step():
    # Row 3 of width 4 owns the fourth step of the counter: numpy's own generator agrees.
    words = np.random.Philox(key=99).random_raw(16)[12:]
    assert np.array_equal(noise.uniforms(99, 3, 1, 4)[0], ((words >> np.uint64(12)) + 0.5) / 2**52)


def test_uniforms_are_strictly_inside_the_unit_interval():
    extremes = np.array([[0, 2**64 - 1, 2**63, 2**63 - 1]], dtype=np.uint64)
    p = noise._uniform(extremes)
    assert p.tolist() == [[2.0**-53, 1 - 2.0**-53, 0.5 + 2.0**-53, 0.5 - 2.0**-53]]
    assert np.isfinite(noise._normal_quantile(p)).all()


def test_float32_uniforms_stay_inside_after_rounding(monkeypatch):
    class Extreme:
        def __init__(self, **_):
            pass

        def random_raw(self, n):
            return np.where(np.arange(n) % 2, np.uint64(2**64 - 1), np.uint64(0))

    monkeypatch.setattr(np.random, "Philox", Extreme)
    normals, uniforms = noise.rows(0, 0, 3, 4, 4)
    assert 0 < uniforms.min() < uniforms.max() < 1
    assert np.isfinite(normals).all()


def test_uniforms_are_uniform():
    p = noise.uniforms(11, 0, 60_000, 5)
    assert ks_distance(p, lambda v: v) < 1.95 / math.sqrt(
        p.size
    )  # passes 99.9 % of the time for a true uniform
    assert all(ks_distance(column, lambda v: v) < 2.2 / math.sqrt(len(column)) for column in p.T)


def test_normals_are_normal():
    z = noise.normals(12, 0, 40_000, 5)
    assert ks_distance(z, normal_cdf) < 1.95 / math.sqrt(z.size)
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / z.size)


def test_normal_quantiles_invert_the_normal_cdf():
    p = np.concatenate([np.geomspace(2.0**-53, 0.5, 5000), np.linspace(0.001, 0.5, 5000)])
    p = (np.floor(p * 2**52 * (1 - 2.0**-53)) + 0.5) / 2**52  # onto the grid of `uniforms`
    z = noise._normal_quantile(p)
    # A relative error e of z moves p by e * z * density(z), which is about e * z**2 * p in the tail.
    assert np.all(np.abs(normal_cdf(z) / p - 1) < 2e-15 * (1 + z**2))
    grid = noise.uniforms(0, 0, 1000, 1)
    assert np.array_equal(noise._normal_quantile(1 - grid), -noise._normal_quantile(grid))


def test_seeds_rows_columns_and_kinds_are_unrelated():
    n = 4000
    drawn = [noise.uniforms(seed, 0, n, 5) for seed in (0, 1, 2, 2**63)]
    drawn += [
        noise.normals(0, 0, n, 5),
        noise.uniforms(0, n, n, 5),
        noise.uniforms(0, 1, n, 5),
        noise.uniforms(0, 0, n, 4),
    ]
    columns = np.concatenate(drawn, axis=1)
    correlation = np.corrcoef(columns, rowvar=False)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / math.sqrt(n)


def test_no_value_repeats_between_seeds_or_rows():
    values = np.concatenate([noise.uniforms(seed, 0, 20_000, 4).ravel() for seed in range(3)])
    assert np.unique(values).size == values.size  # 2**52 cells: a chance repeat has probability 1e-5


def test_global_generators_are_untouched():
    np.random.seed(5)
    random.seed(5)
    before = (np.random.get_state(), random.getstate())
    noise.rows(1, 0, 100, 3, 3)
    noise.seed_from(None)
    noise.seed_from(3)
    after = (np.random.get_state(), random.getstate())
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]


def test_seed_from_integers_and_generators():
    assert noise.seed_from(7) == 7
    assert noise.seed_from(np.int32(7)) == 7
    assert noise.seed_from(2**64 - 1) == 2**64 - 1
    assert noise.seed_from(np.random.default_rng(1)) == noise.seed_from(np.random.default_rng(1))
    assert noise.seed_from(np.random.RandomState(1)) == noise.seed_from(np.random.RandomState(1))
    generator = np.random.default_rng(1)
    assert noise.seed_from(generator) != noise.seed_from(generator)
    assert noise.seed_from(None) != noise.seed_from(None)


def test_seed_from_refuses_what_is_no_seed():
    with pytest.raises(ValueError, match=r"random_state must lie in \[0, 2\*\*64\), got -1"):
        noise.seed_from(-1)
    with pytest.raises(TypeError, match=r"random_state must be an integer.*got 'zero' of type str"):
        noise.seed_from("zero")


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"seed must lie in \[0, 2\*\*64\), got -3"):
        noise.uniforms(-3, 0, 1, 1)
    with pytest.raises(ValueError, match="must not be negative, got 0, -1 and 2"):
        noise.uniforms(0, 0, -1, 2)


def test_nothing_drawn_has_the_right_shape():
    normals, uniforms = noise.rows(0, 10, 5, 0, 3)
    assert (normals.shape, uniforms.shape) == ((5, 0), (5, 3))
    assert noise.normals(0, 0, 0, 4).shape == (0, 4)
