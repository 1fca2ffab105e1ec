"""CUDA: where the work is done, what is said where there is none, and a GPU's numbers where there is one."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import lookalike as la
from lookalike import runtime
from lookalike import session as sessions
from lookalike.schema import Schema

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from handmade import made  # noqa: E402

RNG = np.random.default_rng(0)
N = 700
FRAME = pd.DataFrame({"amount": RNG.normal(size=N), "kind": RNG.choice(["a", "b"], N)})
SCHEMA = Schema.fit(FRAME)
FILE = made(SCHEMA)


def refused(call, *words):
    with pytest.raises(la.DeviceError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ---- where there is none, or it is simulated ----

no_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA"
)


@no_cuda
def test_cuda_is_never_silently_something_else(monkeypatch):
    words = ['device="cuda" was asked for', 'pip install "lookalike[gpu]"']
    refused(lambda: runtime.load(FILE, device="cuda"), *words, "that for the CPU")
    assert runtime.load(FILE, device="auto").info()["provider"] == "CPUExecutionProvider"
    monkeypatch.setattr(sessions, "_both_installed", lambda ort: True)
    refused(lambda: runtime.load(FILE, device="cuda"), *words, "are both installed")
    with pytest.warns(la.LookalikeWarning, match="CUDA is not used, for onnxruntime and onnxruntime-gpu are"):
        runtime.load(FILE)


class Driver:
    """What ctypes finds of NVIDIA's libraries; `gives` is what cuInit returns."""

    def __init__(self, *libraries, gives=0):
        self.libraries, self.gives = libraries, gives

    def __call__(self, name):
        if not name.startswith(self.libraries):
            raise OSError(name)
        return self

    def cuInit(self, flags):
        return self.gives


@no_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_build_for_cuda_without_a_gpu_is_not_taken_for_one(monkeypatch):
    """As onnxruntime-gpu behaves on such a machine: the session opens, on the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(sessions.Session, "_open", as_on_the_cpu(sessions.Session._open))
    for driver, words in {
        Driver(): "no NVIDIA driver is found (libcuda",
        Driver("libcuda", gives=100): "the NVIDIA driver has no GPU for this process (cuInit gives 100)",
        Driver("libcuda"): "cuBLAS of CUDA",
        Driver("libcuda", "libcublas"): "onnxruntime could not use it: see",
    }.items():
        monkeypatch.setattr(sessions.ctypes, "CDLL", driver)
        refused(lambda: runtime.load(FILE, device="cuda"), words)
        with pytest.warns(la.LookalikeWarning, match="CUDA is not used, for ") as caught:
            model = runtime.load(FILE)
        assert words in str(caught[0].message)
        assert model.info()["provider"] == "CPUExecutionProvider"


@no_cuda
def test_what_onnxruntime_says_of_cuda_is_passed_on(monkeypatch):
    def fails(self, graph, providers, max_memory):
        raise RuntimeError("int CudaCall(T) [with T = int]\nCUDA failure 35: an old driver ; GPU=-1 ; h=x")

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(sessions.ctypes, "CDLL", Driver("libcu"))
    monkeypatch.setattr(sessions.Session, "_open", fails)
    words = "could not use it", "(CUDA failure 35: an old driver)."
    refused(lambda: runtime.load(FILE, device="cuda"), *words)


def as_on_the_cpu(opening):
    return lambda self, graph, providers, memory: opening(self, graph, ["CPUExecutionProvider"], memory)


class OnCuda:
    """A session of the CPU that passes for one on CUDA, and notes how many rows it was run with."""

    def __init__(self, session):
        self._session, self.ran = session, []

    def run(self, outputs, feeds, options):
        self.ran.append(len(next(iter(feeds.values()))))
        return self._session.run(outputs, feeds, options)

    def get_inputs(self):
        return self._session.get_inputs()

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


@no_cuda
def test_auto_leaves_small_batches_to_the_cpu(monkeypatch):
    opening = sessions.Session._open

    def opened(self, graph, providers, max_memory):
        session = opening(self, graph, ["CPUExecutionProvider"], max_memory)
        return session if providers == ["CPUExecutionProvider"] else OnCuda(session)

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(sessions.ctypes, "CDLL", Driver("libcu"))
    monkeypatch.setattr(sessions.Session, "_open", opened)
    asked, auto = (runtime.load(FILE, device=device) for device in ("cuda", "auto"))
    scores = runtime.load(FILE, device="cpu").score_samples(FRAME)
    small = sessions.SMALL
    for n in (0, 1, small, small + 1, N):
        for model in (asked, auto):
            assert_array_equal(model._session.run(["score"], n, feeds_of(model, n))[0], scores[:n])
    assert asked._session._session.ran == [4, small, small + 4, N]  # in fours
    assert auto._session._session.ran == [small + 4, N]
    assert [model.info()["provider"] for model in (asked, auto)] == ["CUDAExecutionProvider"] * 2
    assert auto.info()["small_batches"] == f"up to {small} rows on CPUExecutionProvider"
    assert "small_batches" not in asked.info()


def feeds_of(model, n):
    return model._feeds(model._rows(FRAME.head(n))) if n else None


def test_work_that_stays_on_the_cpu_is_seen():
    class Node:
        op_type = "Gemm"

    class Part:
        ep_name = "CPUExecutionProvider"

        def get_nodes(self):
            return [Node()]

    class Session:
        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_provider_graph_assignment_info(self):
            return [Part()]

    assert sessions._not_used(ort, Session()) == "onnxruntime would run Gemm on the CPU"
    Node.op_type = "LabelEncoder"
    assert sessions._not_used(ort, Session()) == ""


# ---- where there is a GPU ----

CPU, CUDA = sessions.CPU, sessions.CUDA
NO_GPU = "this onnxruntime is not built for it"
if CUDA in ort.get_available_providers():
    NO_GPU = sessions._no_gpu()
on_gpu = pytest.mark.skipif(bool(NO_GPU), reason=f"CUDA cannot be tried: {NO_GPU}")

# Text, and the shapes of tensors.
STAYS = {
    "Cast",
    "Concat",
    "Equal",
    "Gather",
    "LabelEncoder",
    "Shape",
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Where",
}


@pytest.fixture(params=["columns", "core"])
def opened(request, model, tmp_path):
    """Opens an export of any task on any device; what is on CUDA is there with all that works."""

    def opens(task, device, **options):
        path = tmp_path / f"{task}.onnx"
        if not path.exists():
            model.export(path, task=task, inputs=request.param)
        served = runtime.load(path, device=device, **options)
        info = served.info()
        assert info["provider"] == (CPU if device == "cpu" else CUDA)
        assert device == "cpu" or set(info["nodes"].get(CPU, ())) <= STAYS
        served.verify()
        return served

    return opens


@on_gpu
@pytest.mark.slow
def test_scores_on_a_gpu_are_those_of_the_cpu(opened, others):
    here, there, fast = (
        opened("score", "cpu"), opened("score", "cuda"), opened("score", "cuda", tf32=True)
    )  # fmt: skip
    want, spread = here.score_samples(others), here.calibration_.scores.std()
    assert_allclose(there.score_samples(others), want, rtol=1e-5, atol=1e-5 * spread)
    assert_allclose(fast.score_samples(others), want, rtol=1e-3, atol=1e-3 * spread)
    shares = here.explain(others).shares
    assert_allclose(there.explain(others).shares, shares, rtol=1e-5, atol=1e-5 * spread)


@on_gpu
@pytest.mark.slow
def test_rows_drawn_on_a_gpu_are_those_of_the_cpu(opened, others):
    here, there = opened("generate", "cpu"), opened("generate", "cuda")
    assert (
        cells_apart(*(m.generate(500, given={"city": "Oslo"}, random_state=1) for m in (here, there))) < 0.001
    )
    here, there = opened("impute", "cpu"), opened("impute", "cuda")
    holey = others.mask(np.arange(others.size).reshape(others.shape) % 3 == 0).drop(columns="key")
    assert cells_apart(*(m.impute(holey.assign(key="k"), random_state=1) for m in (here, there))) < 0.001


def cells_apart(one, other):
    """Share of the cells that differ, numbers by more than a 10,000th."""
    apart = []
    for name, a in one.items():
        b = other[name]
        if a.dtype.kind in "iuf":
            a, b = (side.astype("Float64") for side in (a, b))
            differ = (a - b).abs() > 1e-4 * b.abs()
        else:
            differ = a != b
        apart.append((differ.fillna(False) & a.notna()) | (a.isna() != b.isna()))
    return float(np.mean(apart))


@on_gpu
@pytest.mark.slow
def test_auto_takes_the_gpu_for_large_batches(opened, others):
    here, auto = opened("score", "cpu"), opened("score", "auto")
    few = others.head(sessions.SMALL)
    assert_array_equal(auto.score_samples(few), here.score_samples(few))
    assert_allclose(auto.score_samples(others), here.score_samples(others), rtol=1e-4)


@on_gpu
def test_a_gpu_that_is_hidden_is_missed(tmp_path):
    (tmp_path / "model.onnx").write_bytes(FILE)
    code = "import sys; from lookalike import runtime; runtime.load(sys.argv[1], device='cuda')"
    command = [sys.executable, "-c", code, tmp_path / "model.onnx"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=hidden)
    assert "the NVIDIA driver has no GPU for this process" in done.stderr
