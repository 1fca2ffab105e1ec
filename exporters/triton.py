"""An exported file as a model of Triton Inference Server, run by its onnxruntime backend.

    <folder>/<name>/config.pbtxt            what the model takes and gives, and how it is run
    <folder>/<name>/<version>/model.onnx    the file as it was exported, byte for byte

Triton batches rows of several requests, so every tensor of a request has the rows as its first dimension and
at least one more: a column of n values is sent as (n, 1), which ``reshape`` makes (n,) again for the graph.
Outputs of one value a row come back as (n, 1).

What the backend accepts was read in its sources (``ValidateInputs``, ``CompareDimsSupported``):

- An input with a default, as ``threshold`` is, has no rows: a model that batches must not name it, and it
  always has its default. With ``max_batch_size=0`` it is an optional input of shape (1,).
- Dimensions of zero cannot be stated. An output with one is left out, which the backend allows; an input with
  one no exported file has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from lookalike import archive, onnxfile
from lookalike.exported import read_exported
from lookalike.onnxfile import Contents
from lookalike.onnxgraph import Value
from lookalike.parameters import Range

__all__ = ["write_repository"]

_RANGES = {
    "version": Range(1, 2**31 - 1, whole=True),
    "max_batch_size": Range(0, 2**31 - 1, whole=True),
    "instances": Range(1, 1024, whole=True),
    "threads": Range(0, 1024, whole=True),
    "max_queue_delay_us": Range(0, 60_000_000, whole=True),
}
_KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
_TYPES = {
    "bool": "BOOL", "string": "STRING", "bfloat16": "BF16", "float16": "FP16", "float32": "FP32",
    "float64": "FP64", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip


def write_repository(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    version: int = 1,
    max_batch_size: int = 1024,
    device: Literal["cpu", "gpu"] = "cpu",
    instances: int = 1,
    threads: int = 1,
    dynamic_batching: bool = True,
    preferred_batch_sizes: Sequence[int] = (),
    max_queue_delay_us: int = 0,
    sha256: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an exported file into a model repository of Triton.

    Triton serves the version that was written last; others stay in their folders. The model is in its place
    before the configuration that names its version.

    Parameters
    ----------
    path : str or PathLike
        A file that `export` has written.
    folder : str or PathLike
        The repository, which may hold other models. It is made where there is none.
    name : str, optional
        Of the model; by default that of the file, without its suffix.
    version : int
    max_batch_size : int
        Rows of a request, and of requests run together, at most. 0 turns batching off: a request is a whole
        table of any length, its columns are of shape (n,), and ``threshold`` may be given.
    device : {"cpu", "gpu"}
        On GPUs, what has no kernel there, such as all that concerns text, runs on the CPU.
    instances : int
        Copies of the model that run at once, on each GPU where the device is one.
    threads : int
        For one request on a CPU; 0 takes all processors. More instances of one thread do more in all.
    dynamic_batching : bool
        Run requests that wait as one batch.
    preferred_batch_sizes : sequence of int
        Rows at which a batch is sent off before the delay is over; by default ``max_batch_size``.
    max_queue_delay_us : int
        Microseconds that a request may wait for others to share its batch. With 0 those are taken that wait
        anyway.
    sha256 : str, optional
        Digest that the file must have, as `export` returned it.
    overwrite : bool
        Replace another model of the same version.

    Returns
    -------
    Path
        Folder of the model.

    Raises
    ------
    ArtifactError
        If the file is damaged, or not one that `export` wrote.
    FileExistsError
        If there is another model of that name and version. Nothing has been written then.
    """
    given = {"version": version, "max_batch_size": max_batch_size, "instances": instances}
    for word, value in (given | {"threads": threads, "max_queue_delay_us": max_queue_delay_us}).items():
        _RANGES[word].check(word, value)
    for size in preferred_batch_sizes:
        Range(1, max_batch_size, whole=True).check("each of preferred_batch_sizes", size)
    if device not in _KINDS:
        raise ValueError(f"device must be one of {', '.join(map(repr, _KINDS))}, got {device!r}.")
    name = Path(path).stem if name is None else name
    if not name.isprintable() or name.startswith(".") or {"/", "\\"} & {*name} or not name:
        raise ValueError(f"name must be that of a folder, such as 'fraud', got {name!r}.")
    contents = onnxfile.read(path, sha256=sha256)
    read_exported(contents)  # refuses what export did not write

    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
        f"version_policy {{ specific {{ versions: [{version}] }} }}",
        *_tensors(contents, batched=max_batch_size > 0),
        f"instance_group {{ count: {instances} kind: {_KINDS[device]} }}",
        f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}',
    ]
    if dynamic_batching and max_batch_size:
        sizes = f"preferred_batch_size: [{', '.join(map(str, preferred_batch_sizes))}]"
        lines.append(f"dynamic_batching {{ {sizes} max_queue_delay_microseconds: {max_queue_delay_us} }}")

    home = Path(folder) / name
    model = home / str(version) / "model.onnx"
    if model.exists() and not overwrite and model.read_bytes() != contents.data:
        raise FileExistsError(
            f"{model} is another model. Give this one another version, or pass overwrite=True."
        )
    with _place_of(model), archive.atomic_write(home / "config.pbtxt") as config:
        config.write("".join(f"{line}\n" for line in lines).encode())
        config.flush()  # a full disk shows itself before the model is replaced
        with archive.atomic_write(model) as file:
            file.write(contents.data)
    return home


def _tensors(contents: Contents, batched: bool) -> Iterator[str]:
    """Say what the model takes and gives."""
    for value in contents.inputs:
        yield f"input {{ {_tensor(value, batched)} }}"
    if not batched:
        for value in contents.optional:
            yield f"input {{ {_tensor(value, batched)} optional: true }}"
    for value in contents.outputs:
        if 0 not in value.dims:
            yield f"output {{ {_tensor(value, batched)} }}"


def _tensor(value: Value, batched: bool) -> str:
    """Name, type and dimensions; where rows are batched they are not counted among those."""
    dims = [size if isinstance(size, int) else -1 for size in value.dims[batched:]]
    shape = ", ".join(map(str, dims)) or "1"
    scalar = " reshape { shape: [] }" if batched and not dims else ""
    return f"name: {_quoted(value.name)} data_type: TYPE_{_TYPES[value.dtype]} dims: [{shape}]{scalar}"


def _quoted(text: str) -> str:
    """Write a string of the text format: bytes of UTF-8, those that are not plain as three octal digits."""
    plain = {*range(0x20, 0x7F)} - {*b'"\\'}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


@contextmanager
def _place_of(file: Path) -> Iterator[None]:
    """Make the folders of a file; after an error remove what was made."""
    made = [folder for folder in file.parents if not folder.exists()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # somebody else may have put something there
            if made:
                file.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
        raise
