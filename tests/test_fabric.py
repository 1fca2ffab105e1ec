"""Several processes that share each step end where one process ends."""

import copy
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, TINY_MIXTURE

import lookalike as la
from lookalike.integrations.fabric import _Peers, _Shared

KINDS = {"VAE": TINY, "Mixture": TINY_MIXTURE, "Detector": {"random_state": 0}, "GAN": TINY}


class Together:
    """What the loop asks of a fabric, for threads in place of processes."""

    def __init__(self, rank, slots, barrier):
        self.global_rank, self.world_size, self._slots, self._barrier = rank, len(slots), slots, barrier

    def all_reduce(self, tensor, reduce_op):
        assert reduce_op == "sum"
        self._slots[self.global_rank] = tensor
        self._barrier.wait(60)
        total = sum(self._slots[1:], self._slots[0])
        self._barrier.wait(60)
        return total


def fitted_by(size, model, X):
    """The model, fitted by each of some threads."""
    slots, barrier = [None] * size, threading.Barrier(size)

    def fit(rank):
        one = copy.copy(model)
        try:
            with ExitStack() as stack:
                one._fit(X, None, stack, _Peers(Together(rank, slots, barrier)))
        except BaseException:
            barrier.abort()
            raise
        return one

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(fit, range(size)))


def gap(model, other):
    """The largest difference of weights, as a share of the largest weight of the tensor."""
    pairs = zip(model.model_.parameters(), other.model_.parameters(), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in pairs)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["VAE", "Mixture", "Detector"])
def test_several_end_where_one_ends(people, name, size):
    model = getattr(la, name)(**{**KINDS[name], "max_steps": 20})
    many, one = fitted_by(size, model, people), copy.copy(model).fit(people)
    assert gap(many[0], one) < 1e-4
    assert all(gap(other, many[0]) == 0 for other in many)
    assert many[0].loss_curve_ == pytest.approx(one.loss_curve_, rel=1e-4)
    np.testing.assert_allclose(many[0].score_samples(people), one.score_samples(people), atol=1e-3)


def test_the_others_agree_where_shares_are_batches_of_their_own(people):
    first, second = fitted_by(2, la.GAN(**{**TINY, "max_steps": 10}), people)
    assert gap(first, second) == 0


def test_the_first_alone_tells_and_writes_and_all_stop_together(people, tmp_path):
    told = []

    def stop(progress):
        told.append((threading.get_ident(), progress.step))
        return progress.step >= 10

    path = tmp_path / "fit.ckpt"
    model = la.VAE(**TINY, callbacks=[stop], checkpoint=path, max_seconds=600.0)
    first, second = fitted_by(2, model, people)
    assert len({who for who, _ in told}) == 1
    assert first.n_iter_ == second.n_iter_ == told[-1][1] < TINY["max_steps"]
    assert path.exists()


def test_a_share_draws_what_the_whole_draws():
    def draws():
        generator, n = torch.Generator().manual_seed(0), 6
        yield lambda rows: torch.rand(rows, 3, generator=generator)
        yield lambda rows: torch.randn(torch.Size([rows, 2]), generator=generator)
        yield lambda rows: torch.randint(9, (rows,), generator=generator)
        yield lambda rows: torch.rand(n + 1, generator=generator)  # not one a row

    whole = [draw(6) for draw in draws()]
    with _Shared(6, slice(2, 5)):
        part = [draw(3) for draw in draws()]
    for all_rows, some in zip(whole[:3], part[:3], strict=True):
        assert torch.equal(all_rows[2:5], some)
    assert torch.equal(whole[3], part[3])


def test_a_batch_has_a_row_for_each(people):
    with pytest.raises(ValueError, match=r"batch_size must be at least the number of processes, 3, got 2\."):
        fitted_by(3, la.VAE(**TINY, batch_size=2), people)


@pytest.mark.slow
@pytest.mark.extras
def test_a_plain_script_fits_in_two_processes(tmp_path):
    script = tmp_path / "script.py"
    text = """
        import sys

        sys.path.insert(0, sys.argv[1])
        import lookalike as la
        from conftest import people_table
        from lookalike.integrations import fabric

        def fails(progress):
            raise KeyError("no disk")

        if __name__ == "__main__":
            people, few = people_table(400, 0), dict(max_steps=20, random_state=0)
            two, one = la.VAE(width=32, **few), la.VAE(width=32, **few).fit(people)
            assert fabric.fit(two, people, devices=2) is two
            pairs = zip(one.model_.parameters(), two.model_.parameters())
            print(max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs))
            try:
                fabric.fit(la.VAE(callbacks=[fails], **few), people, devices=2)
            except la.TrainingError as error:
                print(error)
        """
    script.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, script, ROOT / "tests"], capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stderr
    worst, words = done.stdout.splitlines()
    assert float(worst) < 1e-4
    assert words == "process 0 of 2 failed, and the others were ended: KeyError: 'no disk'"
