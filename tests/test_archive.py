"""The container of saved models: every bit is checked, nothing is run, an old file is never lost."""

import copy
import hashlib
import io
import json
import os
import pickle  # noqa: TID251 - to make a file that must be refused
import stat
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lookalike import archive
from lookalike.errors import ArtifactError

posix = pytest.mark.skipif(os.name != "posix", reason="needs resource limits and signals")

MANIFEST = {"columns": [{"name": "größe", "levels": ["a", "b, c"]}], "seed": 3, "offset": -1.5, "none": None}
TENSORS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scale": np.array(2.5),
    "empty": np.zeros((0, 4), np.float16),
    "mask": np.array([True, False]),
    "state": np.arange(4, dtype=np.uint8),
}


def save(path, *, kind="model", manifest=MANIFEST, tensors=TENSORS, card="# Card"):
    return archive.write(path, kind=kind, manifest=manifest, tensors=tensors, card=card)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "m.lookalike"
    save(path)
    return path


def refusal(source, **arguments):
    """Read what must be refused and return the message, checked for what every message has."""
    with pytest.raises(ArtifactError) as caught:
        archive.read(source, **{"kind": "model"} | arguments)
    message = str(caught.value)
    name = "The file" if isinstance(source, bytes) else str(source)
    assert message.startswith(name)
    assert "\n" not in message
    assert len(message) < len(name) + 400
    return message


# -- what is written is read -------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
dtypes = st.sampled_from(
    ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", ">i8"]
)


@st.composite
def tensors(draw):
    dtype = np.dtype(draw(dtypes))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    array = draw(
        hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4), elements=elements or None)
    )
    return draw(st.sampled_from([array, array.T, array[..., ::-1] if array.ndim else array]))


@settings(max_examples=80, deadline=None)
@given(
    manifest=st.dictionaries(st.text(), json_values, max_size=4),
    arrays=st.dictionaries(st.text(max_size=8).filter(lambda s: s.isprintable()), tensors(), max_size=4),
    card=st.none() | st.text(),
)
def test_reading_undoes_writing(tmp_path_factory, manifest, arrays, card):
    path = tmp_path_factory.getbasetemp() / "round.lookalike"
    digest = save(path, manifest=manifest, tensors=arrays, card=card)
    again, loaded = archive.read(path, kind="model", sha256=digest)
    assert again == manifest
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype.newbyteorder("=")
        assert loaded[name].shape == array.shape
        assert np.array_equal(loaded[name], array)
        assert loaded[name].flags.writeable


def test_equal_content_gives_equal_bytes(tmp_path):
    save(tmp_path / "a")
    save(tmp_path / "b", tensors=dict(reversed(TENSORS.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_is_an_ordinary_zip(saved):
    with zipfile.ZipFile(saved) as z:
        assert z.testzip() is None
        assert z.namelist() == ["manifest.json", "weights.safetensors", "card.md"]
        assert {i.compress_type for i in z.infolist()} == {zipfile.ZIP_STORED}
        assert z.read("card.md") == b"# Card"
        manifest = json.loads(z.read("manifest.json"))
        for name, stated in manifest["members"].items():
            payload = z.read(name)
            assert stated == {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    assert (manifest["format"], manifest["kind"], manifest["content"]) == (1, "model", MANIFEST)


def test_bytes_are_read_like_a_path(saved):
    manifest, loaded = archive.read(saved.read_bytes(), kind="model")
    assert manifest == MANIFEST
    assert np.array_equal(loaded["weight"], TENSORS["weight"])


def test_the_digest_returned_is_that_of_the_file(saved):
    digest = save(saved)
    assert digest == hashlib.sha256(saved.read_bytes()).hexdigest()
    archive.read(saved, kind="model", sha256=digest.upper())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tensors": {"w": np.array([1, np.nan])}}, ValueError, "tensor 'w' holds NaN or infinity"),
        ({"tensors": {"w": np.array(["a"])}}, TypeError, "tensor 'w' has dtype <U1"),
        ({"tensors": {"w": np.array([None])}}, TypeError, "tensor 'w' has dtype object"),
        ({"tensors": {"__metadata__": np.ones(1)}}, ValueError, "'__metadata__' cannot be the name"),
        ({"manifest": {"a": float("nan")}}, ValueError, "not JSON compliant"),
        ({"manifest": {"a": (1, 2)}}, TypeError, "JSON values only: text for keys, lists where"),
        ({"manifest": {1: 2}}, TypeError, "JSON values only: text for keys, lists where"),
        ({"manifest": {"a": np.ones(1)}}, TypeError, "ndarray is not JSON serializable"),
        (
            {"manifest": {"a": json.loads("[" * 70 + "]" * 70)}},
            ValueError,
            "manifest nests more than 64 levels",
        ),
        ({"manifest": {"a": [0] * (1 << 22)}}, ValueError, "manifest holds more than 4,194,304 values"),
        ({"manifest": {"a": "x" * (64 << 20)}}, ValueError, "manifest has more than 67,108,864 bytes"),
    ],
)
def test_what_could_not_be_read_is_not_written(saved, arguments, error, message):
    before = saved.read_bytes()
    with pytest.raises(error, match=message):
        save(saved, **arguments)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


# -- damage ------------------------------------------------------------------------------------------------


def test_every_single_bit_flip_is_refused(tmp_path):
    path = tmp_path / "small"
    archive.write(path, kind="model", manifest={}, tensors={"w": np.ones(2)}, card="c")
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ArtifactError):
            archive.read(bytes(damaged), kind="model")


def test_a_thousand_flips_of_a_larger_file_are_refused(tmp_path):
    path = tmp_path / "large"
    noise = np.random.default_rng(0).normal(size=(300, 100)).astype(np.float32)
    save(path, tensors={"w": noise}, manifest={"levels": [f"level {i}" for i in range(2000)]})
    data = bytearray(path.read_bytes())
    for bit in map(int, np.random.default_rng(0).integers(len(data) * 8, size=1000)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ArtifactError):
            archive.read(bytes(data), kind="model")
        data[bit // 8] ^= 1 << bit % 8
    archive.read(bytes(data), kind="model")


def test_every_cut_is_refused(saved):
    data = saved.read_bytes()
    for size in range(len(data)):
        refusal(data[:size])
        refusal(data[-size:] if size else b"")


def test_junk_before_or_after_is_refused(saved):
    data = saved.read_bytes()
    for damaged in (data + b"\0", data + data, b"\0" + data, b"#!/bin/sh\n" + data, data + b"\n"):
        refusal(damaged)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data):
    refusal(data)


def test_damage_is_said_to_be_damage(saved):
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    assert "damaged or not whole" in refusal(saved)
    assert "Save it again, or restore a copy." in refusal(saved)


# -- foreign files -----------------------------------------------------------------------------------------


class Payload:
    """Runs on unpickling."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


def zipped(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as z:
        for name, payload in members:
            z.writestr(name, payload)
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Payload()),
        b"name,amount\nann,3\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        npz(),
        zipped([("data.pkl", pickle.dumps(Payload()))]),
        zipped([("../../escaped", b"x")]),
        zipped([("a", bytes(50_000_000))], compression=zipfile.ZIP_DEFLATED),
        b"PK\x05\x06" + bytes(18),
        b"PK\x03\x04",
    ],
    ids=[
        "pickle",
        "text",
        "png",
        "npz",
        "zipped pickle",
        "path traversal",
        "bomb",
        "empty zip",
        "four bytes",
    ],
)
def test_foreign_files_are_refused_and_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign"
    path.write_bytes(content)
    message = refusal(path)
    assert f"is not a lookalike file: it begins with {content[:8]!r}." in message
    assert message.endswith("Give one that lookalike has saved; pickles and other formats are never opened.")
    assert os.listdir(tmp_path) == ["foreign"]


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "m").touch()
    assert "cannot be loaded: it is empty" in refusal(tmp_path / "m")


def test_a_missing_file_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        archive.read(tmp_path / "absent", kind="model")


def test_a_folder_or_a_pipe_is_not_opened(tmp_path):
    assert "is not a file" in refusal(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "is not a file" in refusal(tmp_path / "pipe")  # opening it would wait for ever


def test_the_limit_holds_before_reading(saved):
    size = saved.stat().st_size
    assert f"more than the limit of {size - 1}" in refusal(saved, max_bytes=size - 1).replace(",", "")
    assert f"pass max_bytes={size}." in refusal(saved, max_bytes=size - 1)
    refusal(saved.read_bytes(), max_bytes=size - 1)
    archive.read(saved, kind="model", max_bytes=size)


def test_what_no_file_can_be_is_refused_under_any_limit(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate((2 << 30) + 1)
    assert "it has 2,147,483,649 bytes, and no file of this format has more" in refusal(
        path, max_bytes=1 << 40
    )


def test_another_digest_is_refused(saved):
    message = refusal(saved, sha256="0" * 64)
    assert f"not the {'0' * 64} asked for" in message
    with pytest.raises(ValueError, match="sha256 must be 64 hexadecimal digits, got 'abc'"):
        archive.read(saved, kind="model", sha256="abc")


def test_another_kind_is_refused(saved):
    message = refusal(saved, kind="checkpoint")
    assert "holds a 'model' and a 'checkpoint' is needed" in message


# -- hostile files, sealed as if they were ours ------------------------------------------------------------


def sealed(body):
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def pack(members):
    """Pack (name, payload) pairs as `write` would, whatever they are."""
    body = b"".join(archive._local_header(n, p) + p for n, p in members)
    return sealed(body + archive._directory(dict(members)))


def weights(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


GOOD_WEIGHTS = weights(
    {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, np.ones(2, "<f4").tobytes()
)


def header_of(members, /, **changes):
    stated = {n: {"size": len(p), "sha256": hashlib.sha256(p).hexdigest()} for n, p in members}
    return {"format": 1, "lookalike": "0.1.0", "kind": "model", "members": stated, "content": {}} | changes


def craft(*, w=GOOD_WEIGHTS, manifest=None, extra=(), **changes):
    members = [("weights.safetensors", w), *extra]
    if manifest is None:
        manifest = json.dumps(header_of(members, **changes)).encode()
    return pack([("manifest.json", manifest), *members])


def test_the_crafted_file_is_good_but_for_what_is_crafted():
    manifest, loaded = archive.read(craft(), kind="model")
    assert manifest == {}
    assert loaded["w"].tolist() == [1, 1]


def test_a_file_of_the_future_is_told_by_its_version():
    for extra in ((), [("model.onnx", b"")]):  # its members may be others
        message = refusal(craft(format=2, lookalike="7.1", extra=extra))
        assert "was made by lookalike 7.1 (format 2); lookalike 0.1.0 reads format 1." in message
        assert message.endswith("Upgrade with: pip install --upgrade lookalike")
    refusal(craft(format=2, lookalike=["x" * 10_000]))


MANY = b'{"format":1,"x":[' + b"[]," * (1 << 22) + b"[]]}"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"", "not strict JSON"),
        (b"[]", "states no format"),
        (b'{"format": true}', "states no format"),
        (b'{"format": 1.0}', "states no format"),
        (b'{"format": 1}', "not one that lookalike writes"),
        (b'{"format": 1, "format": 1}', r"not strict JSON \(a key occurs twice\)"),
        (b'{"format": NaN}', r"not strict JSON \(NaN is not a finite number\)"),
        (b'{"format": -Infinity}', "-Infinity is not a finite number"),
        (b'{"format": 1e999}', "1e999 is not a finite number"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not strict JSON"),
        (b'{"format": 1} x', "Extra data"),
        ('{"format": "é"}'.encode(), "not strict JSON"),
        ('{"format": 1}'.encode("utf-16"), "not strict JSON"),
        (b"[" * 65 + b"]" * 65, "nests more than 64 levels deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nests more than 64 levels deep"),
        (MANY, "holds more than 4,194,304 values"),
        (b'"' + b"x" * (64 << 20) + b'"', "has more than 67,108,864 bytes"),
    ],
    ids=lambda value: str(value[:24]),
)
def test_manifests_are_strict(manifest, message):
    with pytest.raises(ArtifactError, match=message):
        archive.read(craft(manifest=manifest), kind="model")


def test_headers_of_another_shape_are_refused():
    good = header_of([("weights.safetensors", GOOD_WEIGHTS)])
    for key, value in [
        ("lookalike", 1),
        ("kind", None),
        ("members", []),
        ("members", {}),
        ("members", {"card.md": {}}),
        ("members", {"weights.safetensors": {}}),
        ("members", {"weights.safetensors": {"size": -1, "sha256": ""}}),
        ("members", {"weights.safetensors": {"size": 1 << 62, "sha256": ""}}),
        ("members", {"weights.safetensors": {"size": "1", "sha256": ""}}),
        ("members", {"../weights.safetensors": good["members"]["weights.safetensors"]}),
        ("content", []),
        ("unknown", 1),
    ]:
        refusal(craft(**copy.deepcopy(good) | {key: value}))


def test_members_must_be_those_stated():
    card = ("card.md", b"c")
    archive.read(craft(extra=[card]), kind="model")
    listed = header_of([("weights.safetensors", GOOD_WEIGHTS)])["members"]
    for other in (("../../evil", b""), ("weights.safetensors", GOOD_WEIGHTS), ("model.pkl", b"")):
        refusal(craft(extra=[other]))
        assert "holds more than its manifest states" in refusal(craft(extra=[other], members=listed))
    assert "holds more than its manifest states" in refusal(craft(extra=[card], members=listed))
    assert "do not fit together" in refusal(
        craft(members=listed | {"card.md": {"size": 1, "sha256": hashlib.sha256(b"c").hexdigest()}})
    )
    wrong = {"weights.safetensors": {"size": len(GOOD_WEIGHTS), "sha256": "0" * 64}}
    assert "does not have the checksum stated" in refusal(craft(members=wrong))


def test_zips_that_are_not_canonical_are_refused():
    members = [("weights.safetensors", GOOD_WEIGHTS)]
    every = [("manifest.json", json.dumps(header_of(members)).encode()), *members]
    good = pack(every)[:-71]
    directory = good.index(b"PK\x01\x02")
    variants = {
        "as zipfile writes it": zipped(every),
        "deflated": zipped(every, compression=zipfile.ZIP_DEFLATED),
        "gap before the directory": good[:directory] + b"\0" + good[directory:],
        "duplicate": zipped_twice(every),
        "another comment": good[:-2] + b"\x48\0" + b" ",
    }
    for where in range(len(good)):  # any field of any zip header
        if not in_payload(where, every):
            variants[f"byte {where}"] = good[:where] + bytes([good[where] ^ 1]) + good[where + 1 :]
    for body in variants.values():
        refusal(sealed(body))
    archive.read(sealed(good), kind="model")


def zipped_twice(members):
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped([*members, members[-1]])


def in_payload(where, members):
    start = 0
    for name, payload in members:
        start += 30 + len(name)
        if start <= where < start + len(payload):
            return True
        start += len(payload)
    return False


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "header too small"),
        (struct.pack("<Q", 1 << 40), "a header of more than 16,777,216 bytes"),
        (GOOD_WEIGHTS + b"\0", "not fully covered"),
        (GOOD_WEIGHTS[:-1], ""),
        (
            weights({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0\0\xc0\x7f" * 2),
            "NaN or inf",
        ),
        (
            weights({"w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 6 + b"\xf0\x7f"),
            "NaN or inf",
        ),
        (
            weights({"w": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\2"),
            "neither true nor false",
        ),
        (weights({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"\0\0"), "BF16"),
        (
            weights({"w": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 0]}}),
            "not as lookalike writes",
        ),
        (
            weights({"w": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}),
            "not as lookalike writes",
        ),
        (
            weights({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
            "not as lookalike",
        ),
        (
            weights({"w": {"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}}, b"\0" * 4),
            "not as lookalike",
        ),
        (weights({"__metadata__": {"a": 1}}), "not as lookalike writes"),
    ],
)
def test_weights_are_strict(payload, message):
    assert message in refusal(craft(w=payload))


# -- saving never loses the old file -----------------------------------------------------------------------


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
def test_an_error_while_writing_leaves_the_old_file(saved, error):
    before = saved.read_bytes()

    def fail():
        with archive.atomic_write(saved) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_errors_name_the_path_that_was_given(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent/m\.lookalike"):
        save(tmp_path / "absent" / "m.lookalike")
    with pytest.raises(FileExistsError, match="Not a regular file"):
        save(tmp_path)
    with pytest.raises(OSError, match="x" * 300):
        save(tmp_path / ("x" * 300))
    assert os.listdir(tmp_path) == []


@posix
def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="Not a regular file, so it is not replaced"):
        save(tmp_path / "pipe")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@posix
def test_links_are_followed_and_permissions_kept(saved):
    saved.chmod(0o640)
    link = saved.parent / "link"
    link.symlink_to(saved)
    save(link, manifest={"new": 1})
    assert link.is_symlink()
    assert stat.S_IMODE(saved.stat().st_mode) == 0o640
    assert archive.read(saved, kind="model")[0] == {"new": 1}


@posix
def test_new_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "usual").touch()
    save(tmp_path / "m")
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_atomic_write_serves_text(tmp_path):
    with archive.atomic_write(tmp_path / "t.csv") as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        text.write("a,é\n")
        text.detach()
    assert (tmp_path / "t.csv").read_text("utf-8") == "a,é\n"


def run(script, *arguments):
    """Run a script of its own process, where limits and signals do no harm."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


PRELUDE = """
import os, random, resource, signal, sys, time
import numpy as np
import safetensors.numpy
from lookalike import archive
path = sys.argv[1]

def save(tag, size=200_000):
    tensors = {"w": np.full(size, tag, np.float32)}
    archive.write(path, kind="model", manifest={"tag": tag}, tensors=tensors)

def load():
    manifest, tensors = archive.read(path, kind="model")
    assert (tensors["w"] == manifest["tag"]).all()
    return manifest["tag"]

def child(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid
"""


@posix
def test_a_full_disk_leaves_the_old_file(tmp_path):
    script = """
save(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(2)
except OSError as error:
    print(error.errno, load(), len(os.listdir(os.path.dirname(path))))
"""
    assert run(script, tmp_path / "m") == ["27", "1", "1"]  # EFBIG, the old file, and no other


@posix
def test_kill_while_saving_leaves_the_old_or_the_new_file(tmp_path):
    script = """
def work():
    while True:
        for tag in range(1, 100):
            save(tag)

started = time.perf_counter()
save(0)
took = max(time.perf_counter() - started, 0.01)
draw = random.Random(0)
for _ in range(25):
    pid = child(work)
    time.sleep(draw.uniform(0.5, 6) * took)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(load())
"""
    tags = run(script, tmp_path / "m")
    assert len(tags) == 25
    assert len(set(tags)) > 1, "no save was ever finished"
    assert len(os.listdir(tmp_path)) > 1, "no kill ever met a save on its way"


@posix
def test_two_writers_and_a_reader(tmp_path):
    script = """
def write(tags):
    for tag in tags:
        save(tag)

save(0)
pids = [child(lambda: write(range(1, 60))), child(lambda: write(range(101, 160)))]
seen, reads = set(), 0
while pids:
    pids = [pid for pid in pids if not os.waitpid(pid, os.WNOHANG)[0]]
    seen.add(load())
    reads += 1
print(reads, len(seen), load() in (59, 159), len(os.listdir(os.path.dirname(path))))
"""
    reads, seen, last, files = run(script, tmp_path / "m")
    assert int(reads) > 10
    assert int(seen) > 5
    assert (last, files) == ("True", "1")


@posix
def test_hostile_files_are_refused_within_a_gigabyte(tmp_path):
    huge = tmp_path / "huge"
    with open(huge, "wb") as file:
        file.write(craft())
        file.truncate(10 << 30)  # a sparse file: 10 GB declared, nothing on disk
    body = bytearray(craft()[:-71])
    body[18:26] = struct.pack("<II", 3 << 30, 3 << 30)
    declared = {
        "manifest of 3 GB": sealed(bytes(body)),
        "member of 2**62": craft(members={"weights.safetensors": {"size": 1 << 62, "sha256": ""}}),
        "tensor of 40 GB": craft(
            w=weights({"w": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}})
        ),
        "header of 2**60": craft(w=struct.pack("<Q", 1 << 60)),
        "bomb": zipped([("manifest.json", bytes(100_000_000))], compression=zipfile.ZIP_DEFLATED),
        "lists": craft(manifest=MANY),
        "fewer lists": craft(manifest=MANY[:17] + MANY[-(3 << 22) :]),
    }
    for i, content in enumerate(declared.values()):
        (tmp_path / f"{i}").write_bytes(content)
    script = """
from lookalike.errors import ArtifactError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for name in sys.argv[1:]:
    for limit in (1 << 30, 1 << 40):
        try:
            archive.read(name, kind="model", max_bytes=limit)
        except ArtifactError:
            print("refused")
"""
    files = sorted(tmp_path.iterdir())
    assert run(script, *files) == ["refused"] * 2 * len(files)
