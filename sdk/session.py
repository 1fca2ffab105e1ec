"""onnxruntime: a judged file opened on the device asked for, in bounded memory, and run a few rows at a time.

**Bits.** Some of onnxruntime's kernels (Log, Sin, Cos and Softplus; Exp, Tanh and Softmax in float64) take
values four at a time, or two, and the last few one by one with another last bit. Where a tensor ends, or is
divided among threads, then shows in its values. So rows always come in multiples of four, and each run has
one thread: several threads run several chunks. (ReduceSum along a row depends on where the row begins: an
exported graph has products with ones instead.)

**Outputs.** onnxruntime computes all outputs of a graph at every call. So a session is opened over what is
left of a graph without those that it will not be asked for.

**Memory.** What a graph makes grows with its rows, and a hostile one may double them forty times. All tensors
of a session come from one arena of limited size. It is registered with the whole process, where the session
about to be opened finds it and holds it from then on. Constants are not folded, for what is folded while
loading is outside the arena; the exporter has folded them.
"""

from __future__ import annotations

import ctypes
import math
import re
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import ArtifactError, DeviceError, LookalikeWarning, require
from lookalike.onnxfile import Contents
from lookalike.onnxgraph import Value
from lookalike.pruning import pruned
from lookalike.values import Array

Feeds = Callable[[int, int], Mapping[str, Array]]
"""What a graph takes for rows from the first number up to the second."""

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
DEVICES = ("auto", "cpu", "cuda")

ROWS = {CPU: 512, CUDA: 65_536}  # at once: a few hundred stay in a core's cache
CELLS = {CPU: 1 << 20, CUDA: 1 << 26}  # at once, of the inputs: fewer rows where they are wide
OF_IMAGE = 20  # cells that the value of an image counts as: convolutions make many of each
MULTIPLE = 4  # rows come in multiples of this
# With device="auto" the CPU does calls of up to so many rows: it takes microseconds a row, and a GPU
# microseconds an operator. An estimate: benchmarks/serving_gpu.py measures where a GPU overtakes.
SMALL = 64
MAX_MEMORY = 4 << 30

# On CUDA these do the work; others, such as those of text and of shapes, may stay on the CPU.
_WORKING = {
    *("Conv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulInteger", "LayerNormalization", "Scan"),
    *("Erf", "Exp", "IsNaN", "Log", "LogSoftmax", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh"),
}

_registering = threading.Lock()


class Session:
    """A file that is ready to run for some of its outputs.

    Parameters
    ----------
    contents : Contents
        Judged.
    outputs : sequence of str, optional
        What it will be asked for; all if not given.
    device : {"auto", "cpu", "cuda"}
        "auto" on CUDA keeps a session on the CPU beside it, for calls of up to `SMALL` rows.
    threads : int
        Chunks that run at once on a CPU.
    max_memory : int
        Bytes that the tensors of all runs may take together, weights among them; on CUDA, those on the GPU.
    tf32 : bool
        Whether CUDA may round the factors of products to 10 bits.

    Raises
    ------
    ArtifactError
        If onnxruntime does not take the graph.
    DeviceError
        If CUDA was asked for and is not to be had.
    MissingExtraError
        Without onnxruntime.
    """

    def __init__(
        self,
        contents: Contents,
        outputs: Sequence[str] | None = None,
        *,
        device: str = "auto",
        threads: int = 1,
        max_memory: int = MAX_MEMORY,
        tf32: bool = False,
    ) -> None:
        self._ort: Any = require("onnxruntime", "cpu", "running an exported file")
        self._contents, self.threads = contents, threads
        self._outputs = {value.name: value for value in contents.outputs}
        graph = pruned(contents.data, self._outputs.keys() if outputs is None else outputs)
        opened = None
        if device != "cpu":
            opened = self._on_cuda(graph, asked=device == "cuda", max_memory=max_memory, tf32=tf32)
        self.provider = CUDA if opened is not None else CPU
        self._session: Any = opened if opened is not None else self._open(graph, [CPU], max_memory)
        self.small = SMALL if opened is not None and device == "auto" else 0
        self._beside: Any = self._open(graph, [CPU], max_memory) if self.small else self._session
        taken = {value.name for value in self._session.get_inputs()}
        # Of some inputs these outputs are no function.
        self._unused = {value.name for value in contents.inputs} - taken
        self._options: Any = self._ort.RunOptions()
        self._options.log_severity_level = 4
        width = sum(_width(value.dims) for value in contents.inputs)
        rows = max(CELLS[self.provider] // max(width, 1), 16)
        self.rows = min(1 << rows.bit_length() - 1, ROWS[self.provider])

    def run(self, outputs: Sequence[str], n: int, feeds: Feeds) -> list[NDArray[Any]]:
        """Run the graph on n rows and return what these outputs hold; safe from several threads.

        A row's result does not depend on the rows that it is run with, on a CPU to the last bit.
        """
        session = self._beside if n <= self.small else self._session

        def at(start: int) -> list[NDArray[Any]]:
            return self._chunk(session, outputs, feeds, start, min(start + self.rows, n))

        if n <= self.rows:
            return at(0)
        starts = range(0, n, self.rows)
        if self.threads == 1 or self.provider != CPU:
            chunks = list(map(at, starts))
        else:
            from concurrent.futures import ThreadPoolExecutor  # which imports logging, and more

            with ThreadPoolExecutor(min(self.threads, len(starts))) as pool:
                chunks = list(pool.map(at, starts))
        return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]

    def _chunk(
        self, session: Any, outputs: Sequence[str], feeds: Feeds, start: int, stop: int
    ) -> list[NDArray[Any]]:
        n = stop - start
        if not n:
            return [_empty(self._outputs[name]) for name in outputs]
        given, more = feeds(start, stop), -n % MULTIPLE
        if self._unused:
            given = {name: array for name, array in given.items() if name not in self._unused}
        if more:
            given = {name: _longer(array, more) for name, array in given.items()}
        try:
            found: list[NDArray[Any]] = session.run(outputs, given, self._options)
        except Exception as error:  # onnxruntime's own have no common class
            raise DeviceError(
                f"onnxruntime could not run {self._contents.name}: {_first_line(error)}. If memory is short, "
                "pass a larger max_memory."
            ) from error
        return [array[:n] for array in found] if more else found

    def placement(self) -> dict[str, dict[str, int]]:
        """Count the operators that each provider runs; empty where this onnxruntime does not tell."""
        nodes = _nodes(self._session)
        return {
            provider: dict(sorted(Counter(op for where, op in nodes if where == provider).items()))
            for provider in sorted({where for where, _ in nodes})
        }

    def versions(self) -> dict[str, str]:
        """Which onnxruntime, and which numpy, run here."""
        return {"onnxruntime": self._ort.__version__, "numpy": np.__version__}

    # ---- opening ---------------------------------------------------------------------------------------

    def _open(self, graph: bytes, providers: list[Any], max_memory: int) -> Any:
        ort = self._ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # starts none, so none can spin
        options.log_severity_level = 4  # all that is an error is raised
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        with _registering:  # a session takes the arena that was registered last
            ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"max_mem": max_memory}))
            try:
                session = ort.InferenceSession(
                    graph,
                    options,
                    providers=providers,
                    disabled_optimizers=["ConstantFolding"],
                    enable_fallback=0,
                )
            except Exception as error:
                if len(providers) > 1:
                    raise
                raise ArtifactError(
                    f"{self._contents.name} cannot be loaded: onnxruntime says, {_first_line(error)}. Export "
                    "it again."
                ) from error
        session.disable_fallback()
        session._model_bytes = None  # which it would keep, to begin again with other providers
        return session

    def _on_cuda(self, graph: bytes, *, asked: bool, max_memory: int, tf32: bool) -> Any:
        """A session that is on CUDA indeed; None where there is none and "auto" was asked for."""
        session, ort = None, self._ort
        both = _both_installed(ort)
        if CUDA in ort.get_available_providers():
            wrong = _no_gpu()
        elif asked or both:
            wrong = _BOTH if both else _WRONG
        else:
            return None
        if not wrong:
            if hasattr(ort, "preload_dlls"):  # those of pip's nvidia packages
                ort.preload_dlls()
            options = {"use_tf32": str(int(tf32)), "gpu_mem_limit": str(max_memory)}
            try:
                session = self._open(graph, [(CUDA, options), CPU], max_memory)
                wrong = _not_used(ort, session)
            except Exception as error:  # onnxruntime's own have no common class
                said = re.search("CUDA failure [^;]*[^; ]", str(error))  # after lines of templates
                wrong = f"{_what_is_missing(ort)} ({said[0] if said else _first_line(error)})"
        if not wrong:
            return session
        if asked:
            raise DeviceError(f'device="cuda" was asked for, but {wrong}.')
        warnings.warn(f"CUDA is not used, for {wrong}.", LookalikeWarning, stacklevel=4)
        return None


def _width(dims: Sequence[int | str | None]) -> int:
    """Values of a row, as `CELLS` counts them."""
    width = math.prod(d for d in dims[1:] if isinstance(d, int))
    return max(1, width * OF_IMAGE if len(dims) > 2 else width)


def _longer(array: Array, more: int) -> Array:
    """Repeat the last row."""
    if len(array) == 1:
        return array.repeat(1 + more, 0)
    return np.concatenate([array, array[-1:].repeat(more, 0)])


def _empty(value: Value) -> NDArray[Any]:
    """The result of no rows."""
    shape = [size for size in value.dims[1:] if isinstance(size, int)]
    return np.empty([0, *shape], object if value.dtype == "string" else value.dtype)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500]


def _nodes(session: Any) -> list[tuple[str, str]]:
    """The provider and the operator of each node."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


# ---- why there is no CUDA ----------------------------------------------------------------------------------


def _not_used(ort: Any, session: Any) -> str:
    """Say why a session that should be on CUDA is not; nothing where it is."""
    if CUDA not in session.get_providers():
        return _what_is_missing(ort)
    idle = _WORKING & {op for provider, op in _nodes(session) if provider != CUDA}
    return f"onnxruntime would run {', '.join(sorted(idle))} on the CPU" if idle else ""


_WRONG = (
    "the onnxruntime installed is that for the CPU. Replace it: pip uninstall onnxruntime, then: pip install "
    '"lookalike[gpu]"'
)
_BOTH = (
    "onnxruntime and onnxruntime-gpu are both installed, and share one folder, where one has written over "
    'the other. Remove both: pip uninstall onnxruntime onnxruntime-gpu. Then: pip install "lookalike[gpu]"'
)


def _both_installed(ort: Any) -> bool:
    """Whether the packages for the CPU and for CUDA are; importlib.metadata would take 60 ms to say so."""
    site = Path(ort.__file__).parents[1]
    return all(any(site.glob(f"{name}-*.dist-info")) for name in ("onnxruntime", "onnxruntime_gpu"))


def _no_gpu() -> str:
    """Say that there is no driver, or no GPU that this process may use; nothing where there is one."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        failed = ctypes.CDLL(library).cuInit(0)
    except OSError:
        return f"no NVIDIA driver is found ({library})"
    return f"the NVIDIA driver has no GPU for this process (cuInit gives {failed})" if failed else ""


def _what_is_missing(ort: Any) -> str:
    """Say why CUDA cannot be used where there is a GPU."""
    major = str(getattr(ort, "cuda_version", "")).partition(".")[0]
    library = f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}"
    try:
        ctypes.CDLL(library)
    except OSError:
        return f"cuBLAS of CUDA {major} is not found; it comes with lookalike[gpu] ({library})"
    if _both_installed(ort):
        return _BOTH
    return "onnxruntime could not use it: see what onnxruntime.print_debug_info() finds"
