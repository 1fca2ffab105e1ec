"""What work takes: time, memory, energy; and what a model computes for a row.

All of it is of the whole process, for systems tell no less: work of other threads at the same time counts in.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

POWERCAP = Path("/sys/class/powercap")  # where Linux tells the energy of processors
STATUS = Path("/proc/self/status")


class Macs(NamedTuple):
    """Multiplications, each with an addition, in products of matrices and convolutions, for one row.

    Attributes
    ----------
    train, score, draw : int or None
        Of a row in a training step, its gradients counted in; of one that is scored; of one that is drawn,
        all of its steps. None for what the model cannot do. Lookups and sums, of which mixtures are made, do
        not count.
    """

    train: int | None
    score: int | None
    draw: int | None


@dataclass(frozen=True, repr=False)
class Cost:
    """What some work took, of the whole process.

    Attributes
    ----------
    seconds : float
        By the clock.
    cpu_seconds : float
        Of all processors and threads together, the system's work for them counted in.
    peak_bytes : int or None
        Most memory that was resident, from the start of the process to the end of the work; none of a GPU's.
        None where the system does not tell, such as on Windows.
    peak_growth : int or None
        By how much the work raised that; 0 if it stayed below an earlier peak.
    joules : float or None
        Of the processor packages, other processes counted in: by RAPL, which Linux lets root alone read by
        default. None where it cannot be read.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    peak_growth: int | None
    joules: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        return "\n".join(
            [f"{self._title}: {self.seconds:.4g} s, {self.cpu_seconds:.4g} CPU s", *self._lines()]
        )

    @property
    def _title(self) -> str:
        return "work"

    def _lines(self) -> list[str]:
        if self.peak_bytes is None:
            memory = "not told by this system"
        else:
            memory = (
                f"{_bytes(self.peak_bytes)} at the peak, {_bytes(self.peak_growth or 0)} above what it was"
            )
        energy = (
            "RAPL cannot be read here" if self.joules is None else f"{self.joules:.4g} J of all processors"
        )
        return [f"  memory      {memory}", f"  energy      {energy}"]


@dataclass(frozen=True, repr=False)
class FitReport(Cost):
    """What `fit` took, all of it: encoding, training, calibration.

    Attributes
    ----------
    steps : int
        Of training; of a fit that was resumed those before count in, and here alone.
    rows_seen : int
        Rows of all batches.
    parameters : int
        Numbers that were learned by training.
    weight_bytes : int
        All that the model holds, remembered rows counted in.
    macs : Macs
    ended : str
        Why training ended.
    """

    steps: int
    rows_seen: int
    parameters: int
    weight_bytes: int
    macs: Macs
    ended: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON."""
        return asdict(self) | {"macs": self.macs._asdict()}

    @property
    def _title(self) -> str:
        return "fit"

    def _lines(self) -> list[str]:
        macs = [f"{_short(n)} to {verb}" for verb, n in self.macs._asdict().items() if n is not None]
        return [
            f"  training    {self.steps:,} steps, {self.rows_seen:,} rows seen; ended {self.ended}",
            f"  model       {self.parameters:,} parameters, {_bytes(self.weight_bytes)}",
            f"  MACs a row  {', '.join(macs)}",
            *super()._lines(),
        ]


@dataclass(frozen=True, repr=False)
class PredictReport(Cost):
    """What scoring took.

    Attributes
    ----------
    rows : int
    weight_bytes : int
        All that the model holds, remembered rows counted in; of an exported file the constants of its graph.
    parameters : int or None
        Numbers that were learned by training; None for exported files, which do not tell them from others.
    macs : int or None
        Multiplications a row, as of `Macs`; None for exported files.
    """

    rows: int
    weight_bytes: int
    parameters: int | None
    macs: int | None

    @property
    def ms_per_row(self) -> float:
        """Milliseconds a row, by the clock."""
        return 1e3 * self.seconds / max(self.rows, 1)

    @property
    def _title(self) -> str:
        return f"{self.rows:,} rows scored, {self.ms_per_row:.4g} ms each"

    def _lines(self) -> list[str]:
        learned = "" if self.parameters is None else f"{self.parameters:,} parameters, "
        counted = [] if self.macs is None else [f"  MACs a row  {_short(self.macs)}"]
        return [f"  model       {learned}{_bytes(self.weight_bytes)}", *counted, *super()._lines()]


class Meter:
    """Measure what work takes: all of it between `with` and the end of the block.

    Attributes
    ----------
    cost : Cost
        Up to now inside the block; of all of it afterwards.

    Examples
    --------
    >>> import numpy as np
    >>> with Meter() as meter:
    ...     product = np.ones((100, 100)) @ np.ones(100)
    >>> meter.cost.seconds > 0 and sorted(meter.cost.to_dict())
    ['cpu_seconds', 'joules', 'peak_bytes', 'peak_growth', 'seconds']
    """

    def __init__(self) -> None:
        self._before = _Reading.now()
        self._after: _Reading | None = None

    def __enter__(self) -> Self:
        self._before, self._after = _Reading.now(), None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after = _Reading.now()

    @property
    def seconds(self) -> float:
        """Since the start, by the clock."""
        return time.monotonic() - self._before.seconds

    @property
    def cost(self) -> Cost:
        """What the work has taken."""
        return (self._after or _Reading.now()).since(self._before)


class _Reading(NamedTuple):
    """What clocks and counters say at one moment."""

    seconds: float
    cpu_seconds: float
    peak: int | None
    energy: list[tuple[int, int]]  # microjoules of each package, and the number from which it begins anew

    @classmethod
    def now(cls) -> _Reading:
        return cls(time.monotonic(), time.process_time(), _peak(), _energy())

    def since(self, before: _Reading) -> Cost:
        """What was taken between both."""
        pairs = zip(self.energy, before.energy, strict=False)
        used = [(now - then) % span for (now, span), (then, _) in pairs]
        return Cost(
            self.seconds - before.seconds,
            self.cpu_seconds - before.cpu_seconds,
            self.peak,
            None if self.peak is None or before.peak is None else max(self.peak - before.peak, 0),
            sum(used) / 1e6 if used else None,
        )


def _peak() -> int | None:
    """Most bytes that this process ever held."""
    try:  # getrusage on Linux begins with what the process that started this one held
        lines = STATUS.read_text("ascii", "ignore").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # of Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _energy() -> list[tuple[int, int]]:
    """Counters of the processor packages; none unless all can be read."""
    try:
        zones = [z for z in sorted(POWERCAP.glob("*-rapl:*")) if _text(z / "name").startswith("package")]
        return [(int(_text(z / "energy_uj")), int(_text(z / "max_energy_range_uj")) + 1) for z in zones]
    except (OSError, ValueError):
        return []


def _text(path: Path) -> str:
    return path.read_text("ascii").strip()


def _short(n: float) -> str:
    for unit in ("", " k", " M", " G"):
        if n < 1000:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} T"


def _bytes(n: float) -> str:
    return f"{n / 1e6:,.1f} MB"
