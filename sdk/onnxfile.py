"""Exported `.onnx` files: read and judged with numpy alone, before onnxruntime sees their bytes.

The metadata of an exported file end with the SHA-256 of all that stands before:

    the model, as onnx writes it    ir_version, graph, opsets
    entries of its metadata         JSON, in which the exporter says what the graph takes and gives
    the last entry                  lookalike.sha256, the digest of all bytes before it

The digest finds damage, not a hostile author, who can compute it as well. What such a file may do is judged
from its graph (`lookalike.onnxgraph`); to know where a file is from, compare the digest of the whole of it
with one that came by a trusted way (`sha256=`). Run the bytes that were judged: do not read them again.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lookalike import protobuf
from lookalike.archive import check_sha256, load_bytes, parse_json
from lookalike.errors import ArtifactError
from lookalike.onnxgraph import Judge, Value
from lookalike.protobuf import EMPTY, Layout, Reader, WireError

DIGEST_KEY = "lookalike.sha256"

IR_VERSIONS = range(8, 11)
OPSETS = {"": range(18, 23), "ai.onnx.ml": range(3, 5)}

_MODEL = Layout("the model", {
    1: ("ir_version", "int"), 2: ("producer_name", "skip"), 3: ("producer_version", "skip"),
    4: ("domain", "skip"), 5: ("model_version", "skip"), 6: ("doc_string", "skip"),
    7: ("graph", "bytes"), 8: ("opset_import", "many"), 14: ("metadata_props", "many"),
    20: ("training_info", "refuse"), 25: ("functions", "refuse"), 26: ("configuration", "refuse"),
})  # fmt: skip
_OPSET = Layout("an opset", {1: ("domain", "bytes"), 2: ("version", "int")})
_ENTRY = Layout("an entry of the metadata", {1: ("key", "bytes"), 2: ("value", "bytes")})


@dataclass(frozen=True)
class Contents:
    """What a judged file holds.

    Attributes
    ----------
    name : str
        The file's, for messages.
    data : bytes
        The file, to be run as it is here: a path could lead to other bytes by then.
    sha256 : str
        Of the whole file.
    metadata : mapping of str to str
    inputs, outputs : tuple of Value
    optional : tuple of Value
        Inputs that have a default.
    operators : frozenset of str
    n_nodes, n_initializers, weight_bytes : int
    """

    name: str
    data: bytes = field(repr=False)
    sha256: str
    metadata: Mapping[str, str] = field(repr=False)
    inputs: tuple[Value, ...]
    optional: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: frozenset[str]
    n_nodes: int
    n_initializers: int
    weight_bytes: int

    def document(self, key: str) -> dict[str, Any]:
        """Return the JSON object kept in the metadata under a key, read as strictly as a saved model's."""
        if key not in self.metadata:
            raise ArtifactError(
                f"{self.name} has no {key!r} in its metadata. Export it again with this lookalike."
            )
        try:
            value = parse_json(self.metadata[key].encode())
        except ValueError as error:
            raise ArtifactError(f"{self.name}: its {key!r} {error}. Export it again.") from None
        if not isinstance(value, dict):
            raise ArtifactError(f"{self.name}: its {key!r} is not a JSON object. Export it again.")
        return value


def read(
    source: str | os.PathLike[str] | bytes, *, sha256: str | None = None, max_bytes: int = 1 << 30
) -> Contents:
    """Read and judge a file that lookalike has exported.

    Parameters
    ----------
    source : str, PathLike or bytes
        A path, or the content of a file.
    sha256 : str, optional
        Digest that the whole file must have: proof of where it is from, if the digest came by a trusted way.
    max_bytes : int
        Larger files are refused before they are read.

    Returns
    -------
    Contents

    Raises
    ------
    ArtifactError
        If one bit of the file is not as it was written, or its graph is not one that may be run.
    """
    name, data = load_bytes(source, max_bytes)
    check_sha256(name, data, sha256)
    if data and data[0] != 8:  # the key of ir_version, which stands first
        raise ArtifactError(
            f"{name} is not an ONNX file: it begins with {data[:8]!r}. Give one that lookalike has exported."
        )
    try:
        return _judge(name, data)
    except WireError as error:
        raise ArtifactError(
            f"{name} cannot be loaded: {error}. Export it again, or restore a copy."
        ) from None


def graph_digest(data: bytes) -> str:
    """Compute the SHA-256 of a file without the entry at its end that holds it, in hexadecimal digits."""
    sealed = len(data) >= len(_SEAL) and data[-len(_SEAL) : -64] == _SEAL[:-64]
    return hashlib.sha256(memoryview(data)[: -len(_SEAL)] if sealed else data).hexdigest()


def with_metadata(data: bytes, entries: Mapping[str, str]) -> bytes:
    """Add entries to a file's metadata, in place of those of the same keys, and seal it with its digest.

    Parameters
    ----------
    data : bytes
        A serialized `ModelProto`, sealed or not.
    entries : mapping of str to str
        For `Contents.document`, JSON text in ASCII.

    Returns
    -------
    bytes
        A file that `read` accepts if its graph is one that may be run.
    """
    if DIGEST_KEY in entries:
        raise ValueError(f"{DIGEST_KEY!r} is computed, and cannot be given.")
    reader, view, parts, start = Reader(), memoryview(data), [], 0
    for number, _, value, end in reader.fields(view):
        replaced = {*entries, DIGEST_KEY}
        if number != 14 or protobuf.text(reader.message(value, _ENTRY).get("key")) not in replaced:
            parts.append(view[start:end])
        start = end
    body = b"".join([*parts, *(_entry(key, value) for key, value in entries.items())])
    return body + _entry(DIGEST_KEY, hashlib.sha256(body).hexdigest())


def with_default(data: bytes, name: str, value: float) -> bytes:
    """Change the default of an input that is one float64.

    Parameters
    ----------
    data : bytes
        A file, of which the seal is lost: `with_metadata` seals it again.
    name : str
        One of `Contents.optional`, of shape ().
    value : float

    Returns
    -------
    bytes
    """
    reader, view, parts, start, found = Reader(), memoryview(data), [], 0, 0
    for number, _, graph, end in reader.fields(view):
        if number == _GRAPH:
            inside, begin = [], 0
            for kind, _, tensor, stop in reader.fields(graph):
                part = graph[begin:stop]
                if kind == _INITIALIZER and _tensor_name(reader, tensor) == name:
                    part, found = memoryview(protobuf.field(_INITIALIZER, _scalar(name, value))), found + 1
                inside.append(part)
                begin = stop
            parts += [memoryview(protobuf.header(_GRAPH, sum(map(len, inside)))), *inside]
        else:
            parts.append(view[start:end])
        start = end
    if found != 1:
        raise ValueError(f"the graph has no single initializer {name!r}.")
    return b"".join(parts)


# Numbers of fields in onnx.proto: of a model, of a graph, and of a tensor.
_GRAPH, _INITIALIZER = 7, 5
_DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 2, 8, 9
_FLOAT64 = 11


def _tensor_name(reader: Reader, tensor: memoryview) -> str:
    return next((protobuf.text(v) for n, _, v, _ in reader.fields(tensor) if n == _TENSOR_NAME), "")


def _scalar(name: str, value: float) -> bytes:
    """A tensor without dimensions."""
    return (
        bytes([_DATA_TYPE << 3 | protobuf.VARINT, _FLOAT64])
        + protobuf.field(_TENSOR_NAME, name.encode())
        + protobuf.field(_RAW_DATA, struct.pack("<d", value))
    )


def _entry(key: str, value: str) -> bytes:
    return protobuf.field(14, protobuf.field(1, key.encode()) + protobuf.field(2, value.encode()))


_SEAL = _entry(DIGEST_KEY, "0" * 64)


def _judge(name: str, data: bytes) -> Contents:
    reader = Reader()
    if not data:
        raise WireError("it is empty")
    try:
        model = reader.message(memoryview(data), _MODEL)
    except WireError as error:
        raise WireError(f"it is damaged or not whole, or no ONNX file ({error})") from None
    metadata = dict(_distinct(reader, _ENTRY, model.get("metadata_props", ())))
    if DIGEST_KEY not in metadata:
        raise WireError(
            "it was not exported by lookalike, or its end is missing: it holds no digest of itself"
        )
    digest = hashlib.sha256(memoryview(data)[: -len(_SEAL)])
    seal = data[-len(_SEAL) :]
    if seal != _entry(DIGEST_KEY, digest.hexdigest()):
        raise WireError("it is damaged or was changed, the digest it holds is not its own")
    _check_versions(reader, model)
    digest.update(seal)  # now that of the whole file
    judge = Judge(reader, len(data))
    inputs, outputs = judge.graph(model.get("graph", EMPTY))
    if not outputs:
        raise WireError("its graph has no outputs")
    return Contents(
        name=name,
        data=data,
        sha256=digest.hexdigest(),
        metadata=metadata,
        inputs=tuple(v for v in inputs if v.name not in judge.constants),
        optional=tuple(v for v in inputs if v.name in judge.constants),
        outputs=tuple(outputs),
        operators=frozenset(judge.operators),
        n_nodes=judge.n_nodes,
        n_initializers=judge.n_initializers,
        weight_bytes=judge.weight_bytes,
    )


def _distinct(reader: Reader, layout: Layout, views: Sequence[memoryview]) -> Iterator[tuple[str, Any]]:
    """Yield the first field of each message, a key that comes once, and its second."""
    (first, _), (second, kind) = layout.fields.values()
    seen = set()
    for view in views:
        found = reader.message(view, layout)
        key = protobuf.text(found.get(first))
        if key in seen:
            raise WireError(f"{layout.name} {key[:60]!r} comes twice")
        seen.add(key)
        yield key, found.get(second, 0) if kind == "int" else protobuf.text(found.get(second))


def _check_versions(reader: Reader, model: Mapping[str, Any]) -> None:
    stated = [("the version of its format", model.get("ir_version", 0), IR_VERSIONS)]
    opsets = dict(_distinct(reader, _OPSET, model.get("opset_import", ())))
    for domain, version in ({"": 0} | opsets).items():
        if domain not in OPSETS:
            raise WireError(
                f"it uses operators of the domain {domain[:60]!r}, and only those of ONNX are run"
            )
        stated.append((f"the opset of {domain or 'ai.onnx'}", version, OPSETS[domain]))
    for what, version, known in stated:
        if version not in known:
            raise WireError(f"{what} is {version}, and {known[0]} to {known[-1]} can be run")
