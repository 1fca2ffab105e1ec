"""What fits and scores take is told, and a fit takes the time that it was given."""

import builtins
import json
import time

import numpy as np
import pytest
import torch
from conftest import TINY
from numpy.testing import assert_array_equal
from torch import nn

import lookalike as la
from lookalike import costs
from lookalike.models.vae import VAE
from lookalike.networks import WHOLE, Pace, Stage
from lookalike.training import Schedule, train
from lookalike.verbs import Energies

TABLE = np.random.default_rng(0).normal(size=(300, 4))


class Clock:
    """Goes on when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture(scope="module")
def fitted():
    return la.Diffusion(width=64, depth=2, n_steps=4, max_steps=10, random_state=0).fit(TABLE)


# ---- a budget ----------------------------------------------------------------------------------------------


class Slow(nn.Module):
    """Its steps and evaluations take the time of a clock that they are said to take."""

    stages = (WHOLE,)

    def __init__(self, clock, step, evaluation=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.clock, self.cost, self.evaluation, self.taken, self.looks = clock, step, evaluation, 0, 0

    def pace(self, k):
        return Pace((0.9, 0.99))

    def objectives(self, rows, generator):
        self.clock.now += self.cost(self.taken)
        self.taken += 1
        yield self.w.square().sum(), [self.w]

    def fidelity(self, rows, generator):
        self.clock.now += self.evaluation
        self.looks += 1
        return torch.tensor(1.0)

    def start_stage(self, stage):
        pass

    def settle(self):
        pass


class Nothing:
    def __len__(self):
        return 100

    def batch(self, index, generator):
        return index


@pytest.mark.parametrize(
    ("step", "evaluation"),
    [
        (lambda k: 0.02, 0.0),
        (lambda k: 3.0 if k == 0 else 0.02, 0.0),  # much is allocated once
        (lambda k: 0.02 if k < 200 else 0.05, 0.0),
        (lambda k: 0.05 if k < 200 else 0.02, 0.0),
        (lambda k: 0.02, 0.4),  # evaluations take most of the time
        (lambda k: 1.0, 0.1),
    ],
    ids=["even", "slow at first", "slower and slower", "faster and faster", "often looked at", "few steps"],
)
def test_training_ends_when_its_time_is_over(clock, step, evaluation):
    model = Slow(clock, step, evaluation)
    held_out = True if evaluation else None
    history = train(model, Nothing(), held_out, Schedule(10**6, 10, 0.01, None, 20.0), 0)
    assert clock.now == pytest.approx(20, rel=0.1)
    assert history.seconds == clock.now
    assert len(history.step) <= 40  # evaluated about twenty times, however the plan changed
    assert history.ended.startswith(
        (f"after {model.taken} steps, as many as max", "after max_seconds at step")
    )


def test_each_stage_has_its_share_of_the_time(clock):
    began = []
    model = Slow(clock, lambda k: 0.02 if len(began) < 2 else 0.05)  # the second stage is slower
    model.stages = Stage(0.6, 0.75), Stage(0.4, 0.25)
    model.start_stage = lambda stage: began.append(clock.now)
    history = train(model, Nothing(), None, Schedule(10**6, 10, 0.01, None, 20.0), 0)
    assert began[1] == pytest.approx(15, rel=0.1)
    assert history.seconds == pytest.approx(20, rel=0.1)
    assert model.taken == pytest.approx(15 / 0.02 + 5 / 0.05, rel=0.1)


def test_a_budget_is_of_all_that_fit_does(clock, monkeypatch):
    learn, apart, objectives = la.VAE._width, Energies.apart, VAE.objectives

    def prepared(self, n):
        clock.now += 3.0  # encoding, say
        return learn(self, n)

    def scored(self, numbers, ids):
        clock.now += 0.04 * len(ids)
        return apart(self, numbers, ids)

    def slow(self, rows, generator):
        clock.now += 0.1
        yield from objectives(self, rows, generator)

    monkeypatch.setattr(la.VAE, "_width", prepared)
    monkeypatch.setattr(Energies, "apart", scored)
    monkeypatch.setattr(VAE, "objectives", slow)
    model = la.VAE(width=16, max_steps=10**6, max_seconds=60.0, random_state=0).fit(TABLE)
    assert clock.now == pytest.approx(60, rel=0.1)
    assert model.fit_report_.seconds == pytest.approx(60, rel=0.1)
    assert 50 < model.n_iter_ < 500
    with pytest.warns(
        la.LookalikeWarning, match=r"max_seconds=5 leaves no time to train: .* takes about \d+ s"
    ):
        model.set_params(max_seconds=5.0).fit(TABLE)
    assert model.n_iter_ == 1


def test_a_budget_that_is_not_used_up_changes_no_bit():
    free, bounded = (la.VAE(**TINY, max_seconds=s).fit(TABLE) for s in (None, 1e6))
    assert_array_equal(bounded.score_samples(TABLE), free.score_samples(TABLE))


# ---- reports -----------------------------------------------------------------------------------------------


def test_a_fit_is_reported(fitted):
    report = fitted.fit_report_
    assert report.seconds > 0
    assert report.cpu_seconds > 0
    assert (report.steps, report.rows_seen) == (10, 1280)
    assert report.parameters == sum(p.numel() for p in fitted.model_.parameters())
    assert report.weight_bytes > 4 * report.parameters
    assert json.loads(json.dumps(report.to_dict()))["macs"]["draw"] == report.macs.draw
    lines = repr(report).splitlines()
    assert lines[0].startswith("fit: ")
    assert "10 steps, 1,280 rows seen; ended after 10 steps" in lines[1]


def test_multiplications_are_those_of_the_layers(fitted):
    """Where rows are drawn and scored context is one for all, so what modulates counts in training alone."""
    layers = {n: m.weight.numel() for n, m in fitted.model_.named_modules() if isinstance(m, nn.Linear)}
    once = sum(size for name, size in layers.items() if "film" not in name and "embed" not in name)
    macs = fitted.fit_report_.macs
    assert macs.draw == pytest.approx(2 * 4 * once, rel=0.1)  # Heun's method looks twice a step
    assert macs.train == pytest.approx(
        3 * sum(layers.values()), rel=0.1
    )  # gradients of weights and of inputs
    remembered = len(fitted.memory_.rows) * fitted.codec_.layout.width
    assert 2 * once < macs.score < 2 * once + 10 * remembered


@pytest.mark.parametrize("family", [la.VAE, la.GAN, la.Diffusion, la.Hybrid, la.Mixture, la.Detector])
def test_counting_changes_nothing(family):
    model = family(max_steps=4, random_state=0).fit(TABLE)
    before = {name: t.clone() for name, t in model.model_.state_dict().items()}
    report = model.fit_report_
    assert (report.macs.draw is None) == (family is la.Detector)
    assert report.macs.score > 0
    assert all(torch.equal(before[name], t) for name, t in model.model_.state_dict().items())
    assert not any(p.requires_grad for p in model.model_.parameters())
    assert model.fit_report_ is report


def test_a_synthesizer_counts_what_critics_throw_away():
    model = la.Synthesizer(la.VAE(**TINY), refine=1, random_state=0).fit(TABLE)
    report, inner = model.fit_report_, model.model_.fit_report_
    assert report.macs.draw == 3 ** len(model.critics_) * inner.macs.draw
    assert report.macs.score is None
    assert report.seconds > inner.seconds
    assert report.parameters == inner.parameters


def test_scoring_is_reported_and_files_keep_no_report_of_fit(fitted, tmp_path):
    fitted.save(tmp_path / "m.lookalike")
    loaded = la.load(tmp_path / "m.lookalike")
    with pytest.raises(AttributeError, match=r"or loaded from a file, .* predict_report\(X\) says what"):
        _ = loaded.fit_report_
    with pytest.raises(AttributeError, match="not fitted"):
        _ = la.VAE().fit_report_
    report = loaded.predict_report(TABLE)
    assert report.rows == 300
    assert report.macs == fitted.fit_report_.macs.score
    assert report.weight_bytes == fitted.fit_report_.weight_bytes
    assert report.ms_per_row == pytest.approx(report.seconds * 1000 / 300)
    assert [part.rows for part in loaded.predict_report(iter([TABLE[:7], TABLE[7:]]))] == [7, 293]


@pytest.mark.slow
def test_exported_files_report_too(fitted, tmp_path):
    runtime = pytest.importorskip("lookalike.runtime")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    fitted.export(tmp_path / "m.onnx")
    report = runtime.load(tmp_path / "m.onnx").predict_report(TABLE)
    assert (report.rows, report.macs, report.parameters) == (300, None, None)
    assert report.weight_bytes > 4 * fitted.fit_report_.parameters
    assert "300 rows scored" in repr(report)


# ---- what the system tells ---------------------------------------------------------------------------------


def zone(folder, name, energy, span=1000):
    folder.mkdir()
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", span)):
        (folder / file).write_text(f"{value}\n", "ascii")


def test_energy_is_that_of_all_packages_and_counters_begin_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "POWERCAP", tmp_path)
    zone(tmp_path / "intel-rapl:0", "package-0", 900)
    zone(tmp_path / "intel-rapl:0:0", "core", 0)  # a part of it
    zone(tmp_path / "intel-rapl:1", "package-1", 0)
    with la.Meter() as meter:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("99\n", "ascii")
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("300\n", "ascii")
    assert meter.cost.joules == pytest.approx(500e-6)
    assert "0.0005 J of all processors" in repr(meter.cost)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("unreadable", "ascii")
    with la.Meter() as meter:
        pass
    assert meter.cost.joules is None
    assert "RAPL cannot be read here" in repr(meter.cost)


def test_memory_grows_by_what_is_held():
    with la.Meter() as meter:
        block = np.ones(30_000_000)
    assert meter.cost.peak_bytes > block.nbytes
    with la.Meter() as again:
        pass
    assert again.cost.peak_growth <= meter.cost.peak_growth


def test_a_system_that_tells_no_memory_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "STATUS", tmp_path / "none")
    with la.Meter() as meter:  # as on macOS
        pass
    assert meter.cost.peak_bytes > 1 << 20
    taken = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "resource":
            raise ImportError(name)
        return taken(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with la.Meter() as meter:  # as on Windows
        pass
    assert (meter.cost.peak_bytes, meter.cost.peak_growth) == (None, None)
    assert "memory      not told by this system" in repr(meter.cost)
