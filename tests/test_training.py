"""The training loop: killed and resumed it ends as the unbroken run; it keeps the best and stops in time."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

import lookalike as la
from lookalike import archive, estimator, training
from lookalike.networks import WHOLE, Pace, Stage
from lookalike.training import Schedule, train


class Rows:
    """Numbers, handed out by index."""

    def __init__(self, values):
        self.values = torch.as_tensor(values, dtype=torch.float32)

    def __len__(self):
        return len(self.values)

    def batch(self, index, generator):
        return self.values[index]


class Mean(nn.Module):
    """Learns the mean of numbers; `spoil` and `script` stand in for losses that go wrong or up and down."""

    stages = (WHOLE,)

    def __init__(self, script=(), spoil=None):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.script, self.spoil, self.seen, self.batches = iter(script), spoil, [], []

    def start_stage(self, stage):
        self.stage = stage

    def pace(self, k):
        return Pace((0.9, 0.99))

    def objectives(self, rows, generator):
        self.batches.append(rows)
        loss = (rows - self.w).square().mean()
        yield loss if len(self.batches) != self.spoil else loss * torch.nan, [self.w]

    def fidelity(self, rows, generator):
        self.seen.append(self.w.item())
        assert self.settled == self.w.item()  # what follows from the weights follows from these
        return torch.tensor(next(self.script))

    def settle(self):
        self.settled = self.w.item()


def run(model, n_steps=400, held_out=None, values=None, **options):
    values = np.random.default_rng(0).normal(3, 1, 100) if values is None else values
    known = {k: options.pop(k) for k in ("patience", "max_seconds") if k in options}
    return train(model, Rows(values), held_out, Schedule(n_steps, 10, 0.05, **known), 0, **options)


class Copied(Mean):
    """Learns the mean, and then to be what it was then, from far off."""

    stages = (Stage(0.6, 0.5), Stage(0.4, 0.5))

    def __init__(self, **options):
        super().__init__(**options)
        self.copy = nn.Parameter(torch.zeros(1))

    def start_stage(self, stage):
        super().start_stage(stage)
        if stage == 1:
            with torch.no_grad():
                self.copy.copy_(self.w - 1)

    def objectives(self, rows, generator):
        ((loss, moved),) = super().objectives(rows, generator)
        yield ((self.copy - self.w).square().sum(), [self.copy]) if self.stage else (loss, moved)


# ---- the loop itself ----


def test_it_finds_the_minimum_and_leaves_averaged_weights():
    model = Mean()
    history = run(model)
    assert model.w.item() == pytest.approx(np.random.default_rng(0).normal(3, 1, 100).mean(), abs=0.1)
    assert history.step == list(range(20, 401, 20))
    assert history.ended == "after 400 steps"
    assert history.loss[0][0] > history.loss[-1][0]
    assert model.settled == model.w.item()


def test_every_epoch_shows_every_row_once():
    model = Mean()
    run(model, n_steps=20)
    for epoch in (model.batches[:10], model.batches[10:]):
        assert torch.unique(torch.cat(epoch)).numel() == 100
    assert not torch.equal(torch.cat(model.batches[:10]), torch.cat(model.batches[10:]))


def test_a_batch_larger_than_the_data_goes_round():
    model = Mean()
    run(model, n_steps=3, values=np.arange(4))
    assert [len(batch) for batch in model.batches] == [10, 10, 10]
    assert sorted(torch.bincount(torch.cat(model.batches).long()).tolist()) == [7, 7, 8, 8]


def test_the_best_weights_on_rows_held_out_are_kept():
    model = Mean(script=[5.0, 4.0, 1.0, *np.linspace(3, 6, 17)])
    history = run(model, held_out=True, patience=5)
    assert history.held_out[:3] == [5.0, 4.0, 1.0]
    assert len(history.held_out) == 8
    assert history.ended == "early at step 160 of 400: no gain on held-out rows"
    assert model.w.item() == model.seen[2]


def test_without_patience_all_steps_are_taken_and_the_best_weights_kept():
    model = Mean(script=[5.0, 1.0, *np.linspace(3, 6, 18)])
    history = run(model, held_out=True)
    assert history.ended == "after 400 steps"
    assert model.w.item() == model.seen[1]


@pytest.mark.parametrize("spoil", [1, 7, 399])
def test_a_loss_that_is_no_number_is_an_error(spoil):
    with pytest.raises(
        la.TrainingError, match=r"the loss is nan at step \d+: .* Lower learning_rate \(it is 0.05\)"
    ):
        run(Mean(spoil=spoil))


def test_a_held_out_loss_that_is_no_number_is_an_error():
    with pytest.raises(la.TrainingError, match="the loss of held-out rows is nan at step 20"):
        run(Mean(script=[np.nan]), held_out=True)


def test_time_turns_into_steps(monkeypatch):
    clock = itertools.count(0, 0.01)
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    model = Mean()
    history = run(model, n_steps=10**6, max_seconds=10)
    assert len(model.batches) == history.step[-1] < 2000
    assert history.ended.startswith(("after max_seconds", f"after {history.step[-1]} steps"))


def test_all_callbacks_are_told_and_any_of_them_may_stop():
    told = []

    def stop_at_60(progress):
        told.append(progress)
        return progress.step >= 60

    history = run(Mean(), callbacks=[stop_at_60, lambda progress: told.append(progress)])
    assert history.ended == "by a callback at step 60 of 400"
    assert [p.step for p in told] == [20, 20, 40, 40, 60, 60]
    assert told[0].n_steps == 400
    assert told[0].held_out is None
    assert told[0].loss == tuple(history.loss[0])


def test_stages_follow_one_another_from_the_best_weights():
    model, told = Copied(), []
    assert run(Copied(), n_steps=1).ended == "after 1 steps"  # too few for both
    history = run(model, n_steps=401, callbacks=[lambda progress: told.append(progress)])
    assert model.w.item() == pytest.approx(3, abs=0.2)
    assert model.copy.item() == pytest.approx(model.w.item(), abs=0.05)
    assert history.ended == "after 401 steps"
    assert {progress.n_steps for progress in told} == {401}
    assert 241 in history.step  # both rates come to zero: an evaluation ends each stage
    assert len(model.batches) == 401


def test_a_stage_that_gains_no_more_gives_way_to_the_next():
    model = Copied(script=[5.0, *[9.0] * 5, *range(60, 0, -1)])
    history = run(model, held_out=Rows(np.zeros(3)), patience=3)
    assert 120 in history.step  # an evaluation in 20 steps, the sixth the first after the warm-up
    assert history.ended == "after 280 steps"  # 160 are the second stage's, whenever it begins


def test_a_run_that_is_stopped_leaves_later_stages_where_they_begin():
    model = Copied()
    run(model, callbacks=[lambda progress: True])
    assert model.stage == 2
    assert model.copy.item() == pytest.approx(model.w.item() - 1)


@pytest.mark.parametrize("step", [3, 12, 17])
def test_a_run_killed_in_any_stage_goes_on_to_the_same_bits(step, tmp_path):
    def killed(progress):
        if progress.step == step:
            raise InterruptedError

    unbroken, model = Copied(), Copied()
    history = run(unbroken, n_steps=20)
    with pytest.raises(InterruptedError):
        run(model, n_steps=20, callbacks=[killed], checkpoint=tmp_path / "c")
    model = Copied()
    resumed = run(model, n_steps=20, checkpoint=tmp_path / "c")
    assert resumed.step == history.step
    assert resumed.loss == history.loss
    assert (model.w, model.copy) == (unbroken.w, unbroken.copy)


# ---- in an estimator ----

TABLE = np.random.default_rng(0).normal(size=(1000, 2)) * [1, 1000]


def state(model):
    """All that must be equal of two models that are the same."""
    return {
        **{name: tensor.numpy() for name, tensor in model.model_.state_dict().items()},
        "scores": model.score_samples(TABLE[:50]),
        "rows": model.generate(20, random_state=0),
        "losses": np.array(model.loss_curve_),
        "watched": np.array(model.history_.held_out),
        "offset": np.array(model.offset_),
    }


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert_array_equal(value, b[name], err_msg=name)


@pytest.fixture(scope="module", autouse=True)
def patience():
    """So few steps may gain nothing at first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimator, "PATIENCE", 20)
        yield


OPTIONS = {"max_steps": 60, "early_stopping": True, "batch_size": 64}


@pytest.fixture(scope="module")
def unbroken(family):
    model = family(**OPTIONS).fit(TABLE)
    assert len(model.history_.held_out) == 20
    return state(model)


def test_a_checkpoint_changes_nothing(family, unbroken, tmp_path):
    assert_same(state(family(**OPTIONS, checkpoint=tmp_path / "c").fit(TABLE)), unbroken)


def test_a_fit_that_is_over_is_not_repeated(family, unbroken, tmp_path):
    family(**OPTIONS, checkpoint=tmp_path / "c").fit(TABLE)
    steps = []
    again = family(**OPTIONS, checkpoint=tmp_path / "c", callbacks=[lambda p: steps.append(p.step)]).fit(
        TABLE
    )
    assert steps == []
    assert_same(state(again), unbroken)


KILLER = """
    import os, signal, sys
    import numpy as np
    import lookalike as la
    from lookalike import estimator, training

    sys.path.insert(0, {tests!r})
    from test_training import TABLE, state

    def fit():
        return la.{name}(**{options!r}, checkpoint={path!r}).fit(TABLE)

    estimator.PATIENCE = 20
    la.{name}(max_steps=2).fit(TABLE)  # loads what every copy of this process would load again
    advance, replace = training._Run.advance, os.replace

    def killed_in_step(run, step):
        if run.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(run)

    def killed_in_writing(count=[0]):
        def stop(*args):
            count[0] += 1
            if count[0] == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*args)
        return stop

    for step in {steps!r}:
        pid = os.fork()
        if not pid:
            if step == "writing":
                os.replace = killed_in_writing()
            else:
                training._Run.advance = lambda run: killed_in_step(run, step)
            fit()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, step
    np.savez({out!r}, **state(fit()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of the process")
@pytest.mark.parametrize(
    "family", ["GAN", "Hybrid", "Mixture"], indirect=True
)  # the VAE's state is part of theirs
def test_killed_at_any_step_and_resumed_it_ends_as_the_unbroken_fit(family, unbroken, tmp_path):
    rng = np.random.default_rng(len(unbroken["scores"]))
    steps = np.sort(rng.choice(np.arange(1, 60), 5, replace=False)).tolist()
    code = KILLER.format(
        tests=str(Path(__file__).parent),
        name=family.func.__name__,
        options={**family.keywords, **OPTIONS},
        path=str(tmp_path / "c.lookalike"),
        out=str(tmp_path / "out.npz"),
        steps=[0, *steps[:3], "writing", *steps[3:]],
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a pool of threads does not survive a fork
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert_same(dict(np.load(tmp_path / "out.npz")), unbroken)


@pytest.mark.parametrize(
    "change",
    [
        {"random_state": 1},
        {"learning_rate": 1e-3},
        {"max_steps": 61},
        {"width": 16},
        {"early_stopping": False},
        {"data": TABLE + 1},
        {"data": TABLE[:-1]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_checkpoint_of_another_fit_is_refused(family, tmp_path, change):
    change = dict(change)
    data = change.pop("data", TABLE)
    if not change.keys() <= family().get_params().keys():
        pytest.skip("the family has no such parameter")
    family(**OPTIONS, checkpoint=tmp_path / "c").fit(TABLE)
    with pytest.raises(
        la.ArtifactError, match=r"is of a fit with other data, parameters or random_state\. Delete it"
    ):
        family(**{**OPTIONS, **change}, checkpoint=tmp_path / "c").fit(data)


def test_the_checkpoint_of_another_family_is_refused(tmp_path):
    la.VAE(max_steps=3, random_state=0, checkpoint=tmp_path / "c").fit(TABLE)
    with pytest.raises(la.ArtifactError, match="is of a fit with other data"):
        la.Diffusion(max_steps=3, random_state=0, checkpoint=tmp_path / "c").fit(TABLE)


def test_a_damaged_checkpoint_is_refused(family, tmp_path):
    path = tmp_path / "c"
    again = family(**OPTIONS, checkpoint=path)
    again.fit(TABLE)
    whole = path.read_bytes()
    for content, words in (
        (whole[:-9], "damaged or not whole"),
        (whole[:900] + bytes([whole[900] ^ 1]) + whole[901:], "damaged"),
        (b"", "empty"),
        (b"PK, but no more", "not a lookalike file"),
    ):
        path.write_bytes(content)
        with pytest.raises(la.ArtifactError, match=words):
            again.fit(TABLE)
    path.write_bytes(whole)
    manifest, tensors = archive.read(path, kind="checkpoint")
    weight = next(name for name, values in tensors.items() if name.startswith("weight.") and values.size > 1)
    for bad_manifest, bad_tensors in (
        (manifest, {}),
        (manifest, {**tensors, weight: tensors[weight].ravel()[:1]}),
        ({**manifest, "history": {"colour": "red"}}, tensors),
        ({"fingerprint": manifest["fingerprint"]}, tensors),
    ):
        archive.write(path, kind="checkpoint", manifest=bad_manifest, tensors=bad_tensors)
        with pytest.raises(
            la.ArtifactError, match=r"does not fit this model: .* Delete it, or give another path"
        ):
            again.fit(TABLE)
    archive.write(path, kind="checkpoint", manifest={}, tensors={})
    with pytest.raises(la.ArtifactError, match="is of a fit with other data"):
        again.fit(TABLE)
    model = tmp_path / "m"
    family(max_steps=3).fit(TABLE).save(model)
    with pytest.raises(la.ArtifactError, match="model"):
        family(**OPTIONS, checkpoint=model).fit(TABLE)


def test_a_checkpoint_asks_for_a_seed(family, tmp_path):
    with pytest.raises(ValueError, match="checkpoint needs a random_state, got None"):
        family(random_state=None, checkpoint=tmp_path / "c").fit(TABLE)


def interrupt_at(step):
    def callback(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return callback


def test_an_interrupted_fit_keeps_the_best_weights_and_says_so(family, tmp_path):
    words = "fit was interrupted at step 30 of 60; the best weights so far are kept"
    with pytest.warns(la.LookalikeWarning, match=words) as caught:
        model = family(**OPTIONS, callbacks=[interrupt_at(30)]).fit(TABLE)
    assert caught[0].filename == __file__
    assert model.n_iter_ == 30
    assert model.history_.ended == "interrupted at step 30 of 60"
    assert np.isfinite(model.score_samples(TABLE)).all()
    stopped = family(**OPTIONS, callbacks=[lambda progress: progress.step == 30]).fit(TABLE)
    assert_same(state(model), state(stopped))


def test_an_interrupted_fit_goes_on_from_its_checkpoint(family, unbroken, tmp_path):
    path = tmp_path / "c"
    with pytest.warns(la.LookalikeWarning, match="interrupted at step 30"):
        family(**OPTIONS, checkpoint=path, callbacks=[interrupt_at(30)]).fit(TABLE)
    assert_same(state(family(**OPTIONS, checkpoint=path).fit(TABLE)), unbroken)


def test_an_interruption_before_the_first_step_is_passed_on(family, monkeypatch):
    def interrupted(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(training._Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        family().fit(TABLE)


def test_a_callback_may_stop_a_fit(family):
    model = family(**OPTIONS, callbacks=[lambda progress: progress.step >= 9]).fit(TABLE)
    assert model.n_iter_ == 9
    assert model.history_.ended == "by a callback at step 9 of 60"


def test_an_error_in_a_callback_comes_out(family):
    with pytest.raises(ZeroDivisionError):
        family(callbacks=[lambda progress: 1 / 0]).fit(TABLE)


def test_a_budget_of_time_ends_a_fit(family):
    model = family(max_steps=10**6, max_seconds=0.5).fit(TABLE)
    assert 0 < model.n_iter_ < 10**6
    assert np.isfinite(model.score_samples(TABLE)).all()


def test_few_rows_are_not_watched(family):
    model = family(early_stopping=True).fit(TABLE[:900])
    assert model.history_.held_out == []
    assert model.n_train_ == 720  # a tenth calibrates, another weighs the energies


def test_progress_is_shown_when_asked_for(family, capsys):
    family(verbose=True, early_stopping=False).fit(TABLE)
    shown = capsys.readouterr().err
    assert "40/40" in shown
    assert "loss=" in shown
    family().fit(TABLE)
    assert capsys.readouterr().err == ""


def test_a_checkpoint_can_be_read_by_people(family, tmp_path):
    family(**OPTIONS, checkpoint=tmp_path / "c").fit(TABLE)
    manifest, _ = archive.read(tmp_path / "c", kind="checkpoint")
    assert manifest["step"] == manifest["end"] == 60
    assert manifest["history"]["ended"] == "after 60 steps"
    json.dumps(manifest)
