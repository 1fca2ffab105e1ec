"""An exported file in a model repository of Triton: what the server would read there, without the server."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import lookalike as la
from lookalike import archive, onnxfile, runtime
from lookalike.exporters.triton import write_repository
from lookalike.schema import Schema

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("tritonclient")
text_format = pytest.importorskip("google.protobuf.text_format")

import handmade  # noqa: E402

ODD = 'a "b" \\ü\n\tß'  # the name of a column may be anything
NUMPY = {"TYPE_FP64": "f8", "TYPE_INT64": "i8", "TYPE_FP32": "f4", "TYPE_BOOL": "?", "TYPE_STRING": "O"}


@pytest.fixture(scope="module")
def messages():
    """The one file of tritonclient that is needed: its package for gRPC asks for more than is installed."""
    path = importlib.metadata.distribution("tritonclient").locate_file(
        "tritonclient/grpc/model_config_pb2.py"
    )
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    city = rng.choice(["Oslo", "Rome"], 300)
    celsius = np.where(city == "Oslo", 5.0, 16.0) + rng.normal(size=300)
    return pd.DataFrame({ODD: city, "celsius": celsius}).mask(rng.random((300, 2)) < 0.1)


@pytest.fixture(scope="module")
def exported(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "weather.onnx"
    la.VAE(max_steps=20, width=16, depth=1, random_state=0).fit(frame).export(path)
    return path


@pytest.fixture
def parsed(messages):
    """The configuration in a model's folder, as Triton parses it."""

    def parse(home):
        text = (home / "config.pbtxt").read_text("ascii")
        return text_format.Parse(text, messages.ModelConfig())

    return parse


def type_of(tensor):
    return tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name


def shape_of(tensor):
    return [*(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)]


def check_as_the_server_does(config, session):
    """The rules of Triton's core (ValidateIOShape) and of its onnxruntime backend (CompareDimsSupported)."""
    batched = config.max_batch_size > 0
    required = [tensor.name for tensor in config.input if not tensor.optional]
    assert sorted(required) == sorted(value.name for value in session.get_inputs())
    values = [*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs()]
    graph = {value.name: value for value in values}
    types = {"TYPE_FP64": "double", "TYPE_FP32": "float", "TYPE_STRING": "string", "TYPE_BOOL": "bool"}
    for tensor in (*config.input, *config.output):
        assert tensor.dims
        assert all(size >= 1 or size == -1 for size in (*tensor.dims, *tensor.reshape.shape))
        assert batched or not tensor.HasField("reshape")
        if tensor.HasField("reshape"):
            assert [*tensor.dims] == [1]
            assert shape_of(tensor) == []
        of_graph = graph[tensor.name]
        wanted = types.get(type_of(tensor), type_of(tensor)[5:].lower())
        assert of_graph.type == f"tensor({wanted})"
        shape = [size if isinstance(size, int) else -1 for size in of_graph.shape]
        if shape:
            assert [*([-1] if batched else []), *shape_of(tensor)] == shape
        else:
            assert not batched
            assert {*tensor.dims} == {1}


def served(config, session, request):
    """Answer a request as the server would: shapes by the configuration, values by the graph."""
    feeds = {}
    for tensor in config.input:
        if tensor.name in request:
            array = np.asarray(request[tensor.name], NUMPY[type_of(tensor)])
            n = [len(array)] if config.max_batch_size else []
            assert array.shape == (*n, *(size if size != -1 else len(array) for size in tensor.dims))
            if tensor.optional:  # of the graph's inputs only a scalar has a default
                array = array.reshape(())
            feeds[tensor.name] = array.reshape(len(array)) if tensor.HasField("reshape") else array
    names = [tensor.name for tensor in config.output]
    return dict(zip(names, session.run(names, feeds), strict=True))


def open_session(home, version=1):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    path = str(home / str(version) / "model.onnx")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_the_server_gets_the_file_and_how_to_run_it(exported, tmp_path, parsed, frame):
    home = write_repository(
        exported,
        tmp_path / "new" / "models",
        instances=3,
        threads=2,
        max_batch_size=64,
        preferred_batch_sizes=(8, 16),
        max_queue_delay_us=100,
    )
    assert home == tmp_path / "new" / "models" / "weather"
    written = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert written == {"config.pbtxt", "1/model.onnx"}
    assert (home / "1" / "model.onnx").read_bytes() == exported.read_bytes()

    config = parsed(home)
    assert (config.name, config.backend, config.max_batch_size) == ("weather", "onnxruntime", 64)
    assert [*config.version_policy.specific.versions] == [1]
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (3, "KIND_CPU")
    assert [*config.dynamic_batching.preferred_batch_size] == [8, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert {tensor.name: type_of(tensor) for tensor in config.input} == {
        "celsius": "TYPE_FP64",
        ODD: "TYPE_STRING",
    }

    session = open_session(home)
    check_as_the_server_does(config, session)
    text, numbers = frame[ODD].fillna("").to_numpy(object), frame["celsius"].to_numpy()
    got = served(config, session, {ODD: text[:, None], "celsius": numbers[:, None]})
    model = runtime.load(exported, threads=1)
    assert_allclose(got["score"], model.score_samples(frame), rtol=1e-6)
    assert_array_equal(got["label"], model.predict(frame))


def test_without_batches_whole_tables_and_a_threshold_are_taken(exported, tmp_path, parsed):
    home = write_repository(exported, tmp_path, max_batch_size=0, device="gpu", name="Wetter 1")
    config, session = parsed(home), open_session(home)
    assert config.name == home.name == "Wetter 1"
    assert not config.HasField("dynamic_batching")
    assert config.instance_group[0].Kind.Name(config.instance_group[0].kind) == "KIND_GPU"
    check_as_the_server_does(config, session)
    rows = {ODD: ["Oslo", ""], "celsius": [5.0, np.nan]}
    assert_array_equal(served(config, session, {**rows, "threshold": [-1e9]})["label"], [1, 1])
    assert_array_equal(served(config, session, {**rows, "threshold": [1e9]})["label"], [-1, -1])


def test_requests_need_not_wait_for_each_other(exported, tmp_path, parsed):
    config = parsed(write_repository(exported, tmp_path, dynamic_batching=False))
    assert not config.HasField("dynamic_batching")
    assert config.max_batch_size == 1024


def test_a_version_is_replaced_only_if_that_is_asked_for(exported, tmp_path, parsed):
    home = write_repository(exported, tmp_path)
    write_repository(exported, tmp_path, instances=2)  # the same file: only the configuration changes
    assert parsed(home).instance_group[0].count == 2
    model, config = home / "1" / "model.onnx", (home / "config.pbtxt").read_bytes()
    model.write_bytes(b"another")
    with pytest.raises(FileExistsError, match=r"another version, or pass overwrite=True") as error:
        write_repository(exported, tmp_path)
    assert str(model) in str(error.value)
    assert (model.read_bytes(), (home / "config.pbtxt").read_bytes()) == (b"another", config)
    write_repository(exported, tmp_path, version=2)
    assert [*parsed(home).version_policy.specific.versions] == [2]
    assert model.read_bytes() == b"another"
    write_repository(exported, tmp_path, overwrite=True)
    assert [*parsed(home).version_policy.specific.versions] == [1]
    assert model.read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("given, words", [
    ({"version": 0}, "version must be a whole number from 1 to 2,147,483,647, got 0"),
    ({"max_batch_size": -1}, "max_batch_size must be a whole number from 0 .* got -1"),
    ({"max_batch_size": 1.5}, "max_batch_size must be .* got 1.5"),
    ({"instances": 0}, "instances must be a whole number from 1 to 1,024, got 0"),
    ({"threads": -1}, "threads must be a whole number from 0 to 1,024, got -1"),
    ({"max_queue_delay_us": True}, "max_queue_delay_us must be a whole number from 0 to .* got True"),
    ({"max_batch_size": 8, "preferred_batch_sizes": [4, 16]}, "preferred_batch_sizes .* from 1 to 8, got 16"),
    ({"device": "cuda"}, "device must be one of 'cpu', 'gpu', got 'cuda'"),
    ({"name": ""}, "name must be that of a folder, such as 'fraud', got ''"),
    ({"name": "../up"}, "name must be .* got '../up'"),
    ({"name": ".hidden"}, "name must be .* got '.hidden'"),
    ({"name": "a\nb"}, "name must be"),
])  # fmt: skip
def test_what_cannot_be_is_refused(given, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_repository(tmp_path / "m.onnx", tmp_path / "models", **given)
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_exported_is_refused(exported, tmp_path):
    graph = onnx.load_from_string(exported.read_bytes())
    del graph.metadata_props[:]
    files = {
        "foreign": graph.SerializeToString(),
        "unnamed": onnxfile.with_metadata(graph.SerializeToString(), {}),
        "flipped": exported.read_bytes().replace(b"Oslo", b"Osla"),
        "empty": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(la.ArtifactError, match=name):
            write_repository(tmp_path / name, tmp_path / "models")
    with pytest.raises(la.ArtifactError, match="SHA-256"):
        write_repository(exported, tmp_path / "models", sha256="0" * 64)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("columns", [["celsius"], [ODD], ["celsius", ODD]])
def test_a_core_is_served_without_what_has_no_columns(columns, frame, tmp_path, parsed):
    schema, path = Schema.fit(frame[columns]), tmp_path / "m.onnx"
    path.write_bytes(handmade.made(schema, inputs="core"))
    home = write_repository(path, tmp_path / "models")
    config, session = parsed(home), open_session(home)
    check_as_the_server_does(config, session)
    table = schema.encode(frame[columns])
    sent = {"numbers": table.numbers - 1, "ids": table.ids}  # less the centre of files made by hand
    assert [tensor.name for tensor in config.input] == [name for name in sent if sent[name].size]
    got = served(config, session, sent)
    assert_array_equal(got["label"], runtime.load(path, device="cpu").predict(frame[columns]))


@pytest.mark.parametrize("failing", ["model.onnx", "config.pbtxt"])
def test_nothing_half_written_is_left(failing, exported, tmp_path, monkeypatch):
    replace = archive.os.replace

    def fails(source, target):
        if Path(target).name == failing:
            raise OSError("no room")
        replace(source, target)

    monkeypatch.setattr(archive.os, "replace", fails)
    with pytest.raises(OSError, match="no room"):
        write_repository(exported, tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_serving_with_onnxruntime_takes_nothing_of_ours(exported, tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text("utf-8")
    (code,) = (part for part in text.split("```")[1::2] if "InferenceSession" in part)
    lines = code.removeprefix("python\n").strip().splitlines()
    assert len([line for line in lines if line]) == 5
    renamed = code.removeprefix("python\n").replace('{"city":', f"{{{ODD!r}:")
    absent = "import sys; sys.modules.update(dict.fromkeys(['lookalike', 'torch', 'onnx', 'pandas']))\n"
    done = subprocess.run(
        [sys.executable, "-c", absent + renamed], cwd=exported.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip("[]\n").split()) == 3
