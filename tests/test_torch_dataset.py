"""Generated rows among real ones, through a real DataLoader."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from lookalike import runtime
from lookalike.integrations.torch import Mixed


@pytest.fixture(scope="module")
def fitted(model_of_people):
    return model_of_people("Mixture")


@pytest.fixture(scope="module")
def mixed(people, fitted):
    return Mixed(people, fitted, 0.2, given={"member": True}, random_state=3)


def batches(mixed, **options):
    return list(DataLoader(mixed, batch_size=64, generator=torch.Generator().manual_seed(0), **options))


def test_real_rows_come_first_and_generated_ones_hold_what_is_given(people, fitted, mixed):
    assert (len(mixed), mixed.n_real) == (500, 400)
    rows = mixed[list(range(500))]
    assert list(rows) == [name for name in people if name not in ("key",)]
    torch.testing.assert_close(
        rows["income"][:400], torch.tensor(people["income"].to_numpy(np.float32)), equal_nan=True
    )
    seconds = (people["since"] - people["since"].min()).dt.total_seconds()
    np.testing.assert_allclose(rows["since"][:400], seconds, rtol=1e-6)
    assert rows["member"][:400].tolist() == people["member"].astype(int).tolist()
    assert rows["member"][400:].tolist() == [1] * 100
    assert mixed.levels["member"] == [False, True]
    assert mixed.levels["city"] == ["Bern", "Köln", "Oslo", "Rome"]
    cities = np.array([*mixed.levels["city"], "unseen", None], dtype=object)[rows["city"]]
    known = people["city"].to_numpy(object, na_value=None)
    assert cities[:400].tolist() == known.tolist()
    new = fitted.generate(100, {"member": True}, 3)
    np.testing.assert_allclose(rows["age"][400:], new["age"])
    assert cities[400:].tolist() == new["city"].to_numpy(object, na_value=None).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_has_rows_of_its_own_and_equal_seeds_the_same(people, fitted, mixed, workers):
    """Workers that live on see new rows: they lie in memory that is shared."""
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(mixed, batch_size=64, **options)
    seen = []
    for epoch in (0, 1, 0):
        mixed.set_epoch(epoch)
        seen.append(torch.cat([batch["income"] for batch in loader]))
    first, second, again = seen
    torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(first[:400], second[:400], rtol=0, atol=0, equal_nan=True)
    assert (first[400:] != second[400:]).float().mean() > 0.9
    other = Mixed(people, fitted, 0.2, given={"member": True}, random_state=3)
    other.set_epoch(1)
    torch.testing.assert_close(other[list(range(500))]["income"], second, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
def test_workers_that_are_spawned_get_the_same_rows_and_no_model(mixed):
    mixed.set_epoch(2)
    alone = batches(mixed)
    spawned = batches(mixed, num_workers=2, multiprocessing_context="spawn")
    assert len(alone) == len(spawned) == 8
    for a, b in zip(alone, spawned, strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, equal_nan=True)


def test_a_row_that_is_kept_stays_what_it_was(mixed):
    mixed.set_epoch(0)
    kept = mixed[450]["income"]
    value = kept.item()
    mixed.set_epoch(1)
    assert kept.item() == value != mixed[450]["income"].item()


def test_whole_batches_are_taken_at_once(mixed):
    sampler = BatchSampler(RandomSampler(mixed, generator=torch.Generator().manual_seed(1)), 128, False)
    shapes = [batch["income"].shape for batch in DataLoader(mixed, sampler=sampler, batch_size=None)]
    assert shapes == [(128,), (128,), (128,), (116,)]


def test_ones_own_encoding_is_that_of_both(people, fitted):
    def encode(table):
        x = np.column_stack([table["income"], table["age"]])
        return x / [50_000, 50], table["member"].to_numpy()

    mixed = Mixed(people, fitted, 0.5, encode=encode, random_state=0)
    x, y = next(iter(DataLoader(mixed, batch_size=800)))
    assert (x.shape, x.dtype, y.dtype) == ((800, 2), torch.float32, torch.bool)
    x_only = torch.nn.Linear(2, 1)(x)
    assert torch.isfinite(x_only).all()
    assert abs(y[:400].float().mean() - y[400:].float().mean()) < 0.15
    widths = iter([2, 1])
    with pytest.raises(ValueError, match=r"generated ones as torch.float32 of shape \(400, 1\)"):
        Mixed(people, fitted, encode=lambda table: np.zeros((len(table), next(widths))))
    with pytest.raises(ValueError, match=r"share must be a number from 0 to 0\.99, got 1"):
        Mixed(people, fitted, 1)
    assert len(Mixed(people, fitted, 0)) == 400


class Pictures:
    """Generates pictures of noise."""

    def generate(self, n, given=None, random_state=None):
        return np.random.default_rng(random_state).integers(0, 255, (n, 3, 8, 8), dtype=np.uint8)


def test_arrays_of_any_shape_are_mixed_as_they_are():
    real = np.zeros((30, 3, 8, 8), np.uint8)
    mixed = Mixed(real, Pictures(), 0.25, random_state=0)
    batch = next(iter(DataLoader(mixed, batch_size=40)))
    assert (batch.shape, batch.dtype) == ((40, 3, 8, 8), torch.uint8)
    assert batch[:30].max() == 0 < batch[30:].float().mean()


@pytest.mark.slow
def test_an_exported_model_draws_too(people, fitted, people_generator):
    model = runtime.load(people_generator)
    mixed = Mixed(people, model, 0.5, random_state=0)
    own = Mixed(people, fitted, 0.5, random_state=0)
    every = list(range(800))
    assert (mixed[every]["city"] == own[every]["city"]).float().mean() > 0.99
    assert len(batches(mixed, num_workers=1)) == 13


def test_a_worker_does_not_draw(mixed):
    with pytest.raises(RuntimeError, match="set_epoch must be called where the data set was made"):
        copy.deepcopy(mixed).set_epoch(1)
