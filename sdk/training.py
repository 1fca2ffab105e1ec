"""The only training loop.

All randomness of step k comes from a generator seeded with (seed, k), so that a run that was killed and
resumed from its checkpoint draws what the unbroken run would have drawn, and ends with the same bits.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lookalike import archive
from lookalike.errors import ArtifactError, LookalikeWarning, TrainingError
from lookalike.muon import Muon
from lookalike.networks import Pace, Stage

EMA_DECAY = 0.999
MAX_GRADIENT_NORM = 1.0
WARM_UP = 50  # steps
SHORT = 5  # a later stage, which may be short, warms up for one of so many of its steps at most
N_EVALUATIONS = 20
NOISE = 0.02  # of the gain since the first evaluation
SHUFFLED = 1 << 22  # rows up to which an epoch has an order; those of more are drawn with replacement
COUNTS = "step", "stage", "first", "end", "since_when", "told", "best_at"
"""What a checkpoint tells of where a run is."""


class Data(Protocol):
    """Training rows that give batches by index."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, generator: torch.Generator) -> Any: ...


class Trainable(Protocol):
    """What the loop needs of a model; `lookalike.models.family.Family` says what each part means."""

    @property
    def stages(self) -> Sequence[Stage]: ...

    def start_stage(self, stage: int) -> None: ...

    def pace(self, k: int) -> Pace: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def objectives(
        self, rows: Any, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]: ...

    def fidelity(self, rows: Any, generator: torch.Generator) -> Tensor: ...

    def settle(self) -> None: ...


class Peers(Protocol):
    """The processes that take the same steps, each on its share of every batch."""

    @property
    def rank(self) -> int:
        """The number of this one; the first tells what happens, and writes files."""

    def share(self, n: int) -> AbstractContextManager[slice]:
        """Which of a batch's n rows are this process's, to be drawn for and learned from inside."""

    def mean(self, tensors: Sequence[Tensor]) -> bool:
        """Put the mean over all rows of the batch in place of each; False where there is one process."""


class _Alone:
    """One process, which pays for nothing of that."""

    rank = 0

    def share(self, n: int) -> AbstractContextManager[slice]:
        return nullcontext(slice(n))

    def mean(self, tensors: Sequence[Tensor]) -> bool:
        return False


ALONE: Peers = _Alone()


@dataclass(frozen=True)
class Progress:
    """What callbacks are told after every evaluation.

    Attributes
    ----------
    step, n_steps : int
    seconds : float
        Since the fit began, earlier parts of a resumed fit counted in.
    loss : tuple of float
        Mean of each objective since the last evaluation.
    held_out : float or None
        What early stopping watches, lower is better; None without held-out rows.
    model : estimator
        As far as it is fitted: until the callback returns it has the averaged weights, and generates and
        imputes.
    """

    step: int
    n_steps: int
    seconds: float
    loss: tuple[float, ...]
    held_out: float | None
    model: Any = None


Callback = Callable[[Progress], bool | None]
"""Called with `Progress`; training stops if it returns True."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Parameters
    ----------
    n_steps : int
    batch_size : int
    learning_rate : float
        Warmed up over `WARM_UP` steps, then a cosine to zero; in each stage of the model anew.
    patience : int or None
        Stop after this many of the 20 evaluations in a row without gain, and go on to the next stage where
        there is one; None never stops early.
    max_seconds : float or None
        Budget; the pace then decides how many steps there are: it is looked at after 2, 4, 8 and so on, and
        at each evaluation, and counts evaluations, callbacks and checkpoints in.
    narrow : bool
        Multiply in bfloat16 (autocast); weights, averages and moments stay float32.
    """

    n_steps: int
    batch_size: int
    learning_rate: float
    patience: int | None = None
    max_seconds: float | None = None
    narrow: bool = False


@dataclass
class History:
    """How a run went, one entry an evaluation."""

    step: list[int] = field(default_factory=list)
    loss: list[list[float]] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    seconds: float = 0.0
    ended: str = ""


def train(
    model: Trainable,
    data: Data,
    held_out: Any,
    schedule: Schedule,
    seed: int,
    *,
    callbacks: Sequence[Callback] = (),
    shown: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    fingerprint: str = "",
    verbose: bool = False,
    peers: Peers = ALONE,
) -> History:
    """Train a model in place; it ends with the averaged weights that were best on the rows held out.

    Parameters
    ----------
    held_out : Rows or None
        Rows for early stopping; None trains all steps.
    shown : optional
        What callbacks are told of as `Progress.model`.
    checkpoint : path, optional
        Written at every evaluation; where it exists, the run goes on from it.
    fingerprint : str
        What makes runs the same; a checkpoint of another run is refused.
    peers : Peers
        Processes that train together: each calls this with the same arguments, and ends with equal weights.

    Raises
    ------
    TrainingError
        If the loss is no longer finite.
    ArtifactError
        If the checkpoint is damaged or belongs to another run.
    """
    run, first = _Run(model, data, schedule, seed, peers), peers.rank == 0
    if checkpoint is not None and Path(checkpoint).exists():
        run.load(checkpoint, fingerprint)
    bar = tqdm(total=run.n_steps, initial=run.step, disable=not (verbose and first), unit="step", leave=True)
    try:
        while not run.history.ended:
            run.advance()
            bar.update()
            if run.is_due():
                progress = replace(run.evaluate(held_out), model=shown)
                bar.total = run.n_steps
                bar.set_postfix(loss=" ".join(f"{value:.4g}" for value in progress.loss))
                stops = first and run.tell(callbacks, progress)
                if run.agreed(stops) and not run.history.ended:
                    run.history.ended = f"by a callback at step {run.step} of {run.n_steps}"
                if run.goes_on and not run.history.ended:
                    run.start(run.stage + 1)
                if checkpoint is not None and first:
                    run.save(checkpoint, fingerprint)
                run.plan()
    except KeyboardInterrupt:
        if run.step == 0 or peers is not ALONE:  # others may be a step further
            raise
        run.history.ended = f"interrupted at step {run.step} of {run.n_steps}"
        warnings.warn(
            f"fit was {run.history.ended}; the best weights so far are kept.", LookalikeWarning, stacklevel=4
        )
    finally:
        bar.close()
    run.settle()
    return run.history


def seeded(seed: int, purpose: str, k: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator of its own for each purpose and step; hashing keeps neighbouring seeds apart."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{k}".encode(), digest_size=7).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


def multiplies_narrow(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 several times as fast as float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    told = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return device.type == "cpu" and bool(told.get("amx_bf16"))


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient as the fused optimizer reads it, which asks not how its memory is laid out."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


class _Run:
    """State of a run: what a checkpoint holds."""

    def __init__(
        self, model: Trainable, data: Data, schedule: Schedule, seed: int, peers: Peers = ALONE
    ) -> None:
        self.model, self.data, self.schedule, self.seed, self.peers = model, data, schedule, seed, peers
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self.best = [p.detach().clone() for p in self.parameters]
        self.step, self.history = 0, History()
        self.since = 0
        self.started = time.monotonic()
        self.epoch: tuple[int, Tensor] = (-1, torch.empty(0))
        self.start(0)

    def start(self, stage: int) -> None:
        """Begin a stage: a run of its own from the best weights, but rows, noise and history go on."""
        self._put(self.best)
        self.model.start_stage(stage)
        self.stage, self.goes_on = stage, False
        self.first, self.since_when, self.told = self.step, self.seconds, len(self.history.held_out)
        self.end = self.first + self._length
        self.average = [p.detach().clone() for p in self.parameters]
        self.best, self.best_at = self.average, self.told  # the evaluation, counted from 1
        self.optimizers: list[torch.optim.Adam] = []
        self.resumed: dict[str, Tensor] = {}  # moments of optimisers that are yet to be made
        self.losses: list[Tensor] = []
        self.clocked: tuple[int, float] | None = None  # a step, and the seconds then

    def _planned(self, stage: int) -> int:
        """Steps of all stages before this one, if nothing cuts them short."""
        share = sum(before.steps for before in self.model.stages[:stage])
        return math.ceil(self.schedule.n_steps * share - 1e-9)

    @property
    def _length(self) -> int:
        """Steps of this stage, at most."""
        return self._planned(self.stage + 1) - self._planned(self.stage)

    @property
    def n_steps(self) -> int:
        """Of all stages, if later ones come to as much of their length as this one."""
        later = self.schedule.n_steps - self._planned(self.stage + 1)
        return self.end + round(later * (self.end - self.first) / self._length)

    @property
    def seconds(self) -> float:
        return self.history.seconds + time.monotonic() - self.started

    @property
    def _deadline(self) -> float | None:
        """Second at which this stage is over: its share of what is left to it and to later ones."""
        limit, left = self.schedule.max_seconds, self.model.stages[self.stage :]
        if limit is None:
            return None
        share = left[0].seconds / sum(stage.seconds for stage in left)
        return self.since_when + (limit - self.since_when) * share

    def _rows_of_step(self) -> Tensor:
        """Positions of this step's rows in an endless run of shuffled epochs; of very many, random ones."""
        n, size = len(self.data), self.schedule.batch_size
        if n > SHUFFLED:  # an order of all would take memory, and few runs would come to its end
            return torch.randint(n, (size,), generator=seeded(self.seed, "rows", self.step))
        start, stop = self.step * size, (self.step + 1) * size
        parts = []
        for epoch in range(start // n, (stop - 1) // n + 1):
            if self.epoch[0] != epoch:
                self.epoch = (epoch, torch.randperm(n, generator=seeded(self.seed, "epoch", epoch)))
            parts.append(self.epoch[1][max(start - epoch * n, 0) : stop - epoch * n])
        return torch.cat(parts)

    def _learning_rate(self) -> float:
        k, n = self.step - self.first, self.end - self.first
        warm = min(1.0, (k + 1) / (min(WARM_UP, max(n // SHORT, 1)) if self.stage else WARM_UP))
        return self.schedule.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * k / n))

    def _optimizer(self, k: int, parameters: list[nn.Parameter]) -> torch.optim.Adam:
        if k == len(self.optimizers):
            betas, _, orthogonal = self.model.pace(k)
            optimizer = (
                Muon(parameters, betas)
                if orthogonal
                else torch.optim.Adam(parameters, betas=betas, fused=True)
            )
            for i, p in enumerate(parameters):
                prefix = f"optimizer.{k}.{i}."
                state = {
                    name.removeprefix(prefix): value.to(p.device)
                    for name, value in self.resumed.items()
                    if name.startswith(prefix)
                }
                if state:
                    optimizer.state[p] = state
            self.optimizers.append(optimizer)
        return self.optimizers[k]

    def advance(self) -> None:
        """Take one step."""
        index = self._rows_of_step()
        narrow = torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.narrow)
        with self.peers.share(len(index)) as part, narrow:
            self._learn(index[part].to(self.device), seeded(self.seed, "step", self.step, self.device))
        # The average starts short, so that it forgets the random start.
        k = self.step - self.first
        decay = min(EMA_DECAY, (k + 1) / (k + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1
        self.since += 1
        if not k & (k + 1):
            self.plan()

    def plan(self) -> None:
        """Make as many steps of the time that is left as the pace allows."""
        deadline, now = self._deadline, self.seconds
        if deadline is None or self.history.ended:
            return
        if self.clocked is None:  # the first step takes longer: much is allocated once
            self.clocked = self.step, now
            return
        step, then = self.clocked
        left = self.agreed((deadline - now) * (self.step - step) / max(now - then, 1e-9))
        self.end = self.step + int(min(max(left, 0), self.first + self._length - self.step))

    def _learn(self, index: Tensor, generator: torch.Generator) -> None:
        rows = self.data.batch(index, generator)
        for k, (loss, parameters) in enumerate(self.model.objectives(rows, generator)):
            if k == len(self.losses):
                self.losses.append(torch.zeros((), device=self.device))
            self.losses[k] += loss.detach()
            if not parameters:  # the model has moved itself, by means over its rows
                if self.peers.mean(self.parameters):
                    self.model.settle()
                continue
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = None if gradient is None else _laid_out_as(p, gradient)
            self.peers.mean([p.grad for p in parameters if p.grad is not None])
            nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimizer = self._optimizer(k, parameters)
            optimizer.param_groups[0]["lr"] = self._learning_rate() * self.model.pace(k).times
            optimizer.step()
            optimizer.zero_grad()

    def agreed(self, value: float) -> float:
        """The mean of a number that processes may see differently."""
        if self.peers is ALONE:  # which then waits for no device
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        self.peers.mean([shared])
        return shared.item()

    def _is_late(self) -> bool:
        deadline = self._deadline
        return deadline is not None and self.agreed(self.seconds - deadline) > 0

    def is_due(self) -> bool:
        """Whether to evaluate now: 20 times in a run, at the end of a stage, and when its time is over."""
        late = self._is_late()
        return self.since >= max(self.n_steps // N_EVALUATIONS, 1) or self.step >= self.end or late

    def evaluate(self, held_out: Any) -> Progress:
        """Look at the losses and, with the averaged weights, at the rows held out."""
        history = self.history
        self.peers.mean(self.losses)
        means = [float(total) / self.since for total in self.losses]
        for mean in means:
            self._check_finite(mean, "loss")
        self.losses, self.since = [], 0
        history.step.append(self.step)
        history.loss.append(means)
        watched, ended = None, ""
        if held_out is not None:
            with self._averaged():
                lost = self.model.fidelity(held_out, seeded(self.seed, "held out", 0, self.device)).item()
            watched = self.agreed(lost)
            self._check_finite(watched, "loss of held-out rows")
            history.held_out.append(watched)
            first, best = history.held_out[self.told], min(history.held_out[self.told :])
            # The slower the rate the better the weights: of equals within the noise, the last is the best.
            if watched <= best + NOISE * (first - best):
                self.best = [a.clone() for a in self.average]
                self.best_at = len(history.held_out)
            waited = len(history.held_out) - self.best_at
            patience = self.schedule.patience
            # While the rate warms up there is little to gain yet.
            if patience is not None and waited >= patience and self.step - self.first > 2 * WARM_UP:
                ended = f"early at step {self.step} of {self.n_steps}: no gain on held-out rows"
        else:
            self.best = self.average
        if self.step >= self.end:
            cut = ", as many as max_seconds allows" if self.end < self.first + self._length else ""
            ended = f"after {self.step} steps{cut}"
        elif self._is_late():
            ended = f"after max_seconds at step {self.step} of {self.n_steps}"
        self.goes_on = bool(ended) and self._planned(self.stage + 1) < self.schedule.n_steps
        if not self.goes_on:
            history.ended = ended
        return Progress(self.step, self.n_steps, self.seconds, tuple(means), watched)

    def _check_finite(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the {what} is {loss} at step {self.step}: training has diverged. Lower learning_rate "
                f"(it is {self.schedule.learning_rate:g})."
            )

    def tell(self, callbacks: Sequence[Callback], progress: Progress) -> bool:
        """Tell callbacks, who find the averaged weights in the model; whether one wants the run to stop."""
        if not callbacks:
            return False
        with self._averaged():
            answers = [callback(progress) for callback in callbacks]  # all, whoever stops
        return any(answers)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the model, and then again those that learn."""
        live = [p.detach().clone() for p in self.parameters]
        try:
            self._put(self.average)
            yield
        finally:
            self._put(live)

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(list[Tensor](self.parameters), values)
        self.model.settle()

    def settle(self) -> None:
        """Leave the best weights in the model; of stages that it never came to, those they begin with."""
        self._put(self.best)
        for stage in range(self.stage + 1, len(self.model.stages) + 1):
            self.model.start_stage(stage)
        self.model.settle()
        self.history.seconds = self.seconds

    def save(self, path: str | os.PathLike[str], fingerprint: str) -> None:
        groups: dict[str, Sequence[Tensor]] = {
            "weight": self.parameters,
            "average": self.average,
            "best": self.best,
            "buffer": list(self.model.buffers()),
        }
        tensors = {f"{group}.{i}": t for group, ts in groups.items() for i, t in enumerate(ts)}
        for k, optimizer in enumerate(self.optimizers):
            for i, p in enumerate(optimizer.param_groups[0]["params"]):
                tensors |= {f"optimizer.{k}.{i}.{name}": t for name, t in optimizer.state[p].items()}
        manifest = {
            "fingerprint": fingerprint,
            **{name: getattr(self, name) for name in COUNTS},
            "history": asdict(self.history) | {"seconds": self.seconds},
        }
        arrays = {name: t.detach().cpu().numpy() for name, t in tensors.items()}
        archive.write(path, kind="checkpoint", manifest=manifest, tensors=arrays)

    def load(self, path: str | os.PathLike[str], fingerprint: str) -> None:
        manifest, arrays = archive.read(path, kind="checkpoint")
        if manifest.get("fingerprint") != fingerprint:
            raise ArtifactError(
                f"checkpoint {os.fspath(path)} is of a fit with other data, parameters or random_state. "
                "Delete it, or give another path."
            )
        tensors = {name: torch.from_numpy(a.copy()).to(self.device) for name, a in arrays.items()}
        try:
            self.step, self.history = manifest["step"], History(**manifest["history"])
            self.start(manifest["stage"])
            for name in COUNTS:
                setattr(self, name, manifest[name])
            own: dict[str, list[Tensor]] = {
                **{name: list[Tensor](self.parameters) for name in ("weight", "average", "best")},
                "buffer": list(self.model.buffers()),
            }
            groups = {name: [tensors[f"{name}.{i}"] for i in range(len(held))] for name, held in own.items()}
            for name, group in groups.items():
                for p, t in zip(own[name], group, strict=True):
                    if (p.shape, p.dtype) != (t.shape, t.dtype):
                        raise ValueError(f"a {name} has shape {tuple(t.shape)}, not {tuple(p.shape)}")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(
                f"checkpoint {os.fspath(path)} does not fit this model: {error}. "
                "Delete it, or give another path."
            ) from error
        for buffer, value in zip(self.model.buffers(), groups["buffer"], strict=True):
            buffer.copy_(value)
        self._put(groups["weight"])
        self.average, self.best = groups["average"], groups["best"]
        self.resumed = {name: t for name, t in tensors.items() if name.startswith("optimizer.")}
