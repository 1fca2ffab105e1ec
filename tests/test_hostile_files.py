"""What a hostile file may try ends at `runtime.load`: in a sentence, at once, and not in onnxruntime."""

import os
import time

import pytest

import lookalike as la
from lookalike import onnxfile, runtime

pytest.importorskip("onnx")

from test_onnxfile import HOSTILE, external


@pytest.fixture(autouse=True)
def no_session(monkeypatch):
    monkeypatch.setattr(runtime, "Session", None)


def sealed(made):
    """Sealed as if it were ours."""
    return onnxfile.with_metadata(made.SerializeToString(), {})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_from_a_path_and_as_bytes(tmp_path, name):
    make, why = HOSTILE[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(sealed(make()))
    for source in (path, path.read_bytes()):
        started = time.perf_counter()
        with pytest.raises(la.ArtifactError) as caught:
            runtime.load(source)
        assert time.perf_counter() - started < 5
        assert why in str(caught.value)


@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "sub/../../w.bin", "{}/w.bin"])
@pytest.mark.parametrize("place", [os.link, os.symlink, None], ids=["hard link", "symlink", "file"])
def test_data_beside_a_file_are_never_read(tmp_path, location, place):
    """A hard link is one that onnxruntime itself would follow."""
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(16))
    for data in (folder / "w.bin", tmp_path / "w.bin"):
        data.write_bytes(bytes(16)) if place is None else place(tmp_path / "secret", data)
    (folder / "model.onnx").write_bytes(sealed(external(location.format(folder))))
    with pytest.raises(
        la.ArtifactError, match="tensor 'w' holds external_data, which no exported model does"
    ):
        runtime.load(folder / "model.onnx")


@pytest.mark.parametrize("begins", [b"", b"\x80\x04\x95", b"PK\x03\x04", b"x = 1\n"])
def test_other_formats_are_not_tried(tmp_path, begins):
    """No pickle, no archive, no text: there is one reader."""
    path = tmp_path / "model.onnx"
    path.write_bytes(begins + bytes(100) * bool(begins))
    with pytest.raises(la.ArtifactError, match=r"it is empty|is not an ONNX file"):
        runtime.load(path)
