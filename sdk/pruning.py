"""Graphs without what only other outputs need.

onnxruntime computes each node of a graph at every call, whichever outputs are fetched, and even nodes that
lead to none. So what is not wanted has to go before a session is opened.

Whole fields of a judged file are left out, and nothing is added: operators, weights and sizes of what is left
were judged with the rest (`lookalike.onnxgraph`), so it may be run as the file may.
"""

from __future__ import annotations

from collections.abc import Collection

from lookalike.protobuf import Reader, header

# Numbers of fields in onnx.proto.
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_NODE, _OUTPUT = 1, 12  # of a graph
_NAME = {5: 8, 11: 1, _OUTPUT: 1, 13: 1, 14: 1}  # in the other parts of a graph that have one
_TAKES, _MAKES, _ATTRIBUTE = 1, 2, 5  # of a node
_BODY = 6  # of an attribute


def pruned(data: bytes, outputs: Collection[str]) -> bytes:
    """Leave of a judged file what some of its outputs need.

    Nodes, initializers and inputs of which none of these outputs is a function go, and the metadata.

    Parameters
    ----------
    data : bytes
        Judged by `onnxfile.read`.
    outputs : collection of str
        The outputs of the graph to keep.

    Returns
    -------
    bytes
        A model for onnxruntime; it has no digest, and is not for `onnxfile.read`.
    """
    reader, model = Reader(), memoryview(data)
    parts: list[bytes | memoryview] = []
    start = 0
    for number, _, value, end in reader.fields(model):
        if number == _MODEL_GRAPH:
            graph = _kept(reader, value, {name.encode() for name in outputs})
            parts += [header(_MODEL_GRAPH, sum(map(len, graph))), *graph]
        elif number != _MODEL_METADATA:
            parts.append(model[start:end])
        start = end
    return b"".join(parts)


def _kept(reader: Reader, graph: memoryview, outputs: set[bytes]) -> list[memoryview]:
    """The fields of a graph that these outputs need, as they are written."""
    nodes: list[tuple[int, memoryview, memoryview]] = []
    others: list[tuple[int, memoryview, memoryview]] = []
    start = 0
    for number, _, value, end in reader.fields(graph):
        (nodes if number == _NODE else others).append((number, value, graph[start:end]))
        start = end
    needed, kept = set(outputs), []
    for _, node, field in reversed(nodes):  # each stands after those that make what it takes
        takes, makes = _names(reader, node)
        if needed & makes:
            needed |= takes
            kept.append(field)
    kept.reverse()
    for number, value, field in others:
        wanted = outputs if number == _OUTPUT else needed
        if number not in _NAME or _name(reader, number, value) in wanted:
            kept.append(field)
    return kept


def _names(reader: Reader, node: memoryview) -> tuple[set[bytes], set[bytes]]:
    """What a node takes, in the body of a Scan as well, and what it makes."""
    takes, makes = set(), set()
    for number, _, value, _ in reader.fields(node):
        if number == _TAKES:
            takes.add(bytes(value))
        elif number == _MAKES:
            makes.add(bytes(value))
        elif number == _ATTRIBUTE:
            for inner, _, body, _ in reader.fields(value):
                if inner == _BODY:
                    takes |= _named_in(reader, body)
    return takes - {b""}, makes - {b""}  # an input or output that is left out has no name


def _named_in(reader: Reader, body: memoryview) -> set[bytes]:
    """What a body takes from outside, and values of its own, whose names nothing before it has."""
    names = set()
    for number, _, value, _ in reader.fields(body):
        if number == _NODE:
            names |= _names(reader, value)[0]
        elif number == _OUTPUT:
            names.add(_name(reader, number, value))
    return names


def _name(reader: Reader, number: int, part: memoryview) -> bytes:
    return next((bytes(value) for n, _, value, _ in reader.fields(part) if n == _NAME[number]), b"")
