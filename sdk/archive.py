"""The container of saved models and checkpoints: JSON and safetensors in one sealed zip, nothing executable.

A file is an uncompressed zip of `manifest.json`, `weights.safetensors` and, where one was given, `card.md`,
in that order, so that anybody can look inside with the tools at hand. The zip's comment is the SHA-256 of all
bytes before it, which covers every bit against damage. And as there is one way only to write given members,
`read` does not interpret the zip's fields: it compares them with what `write` would have put there.

    local header, manifest.json     {"format", "lookalike", "kind", "members", "content"}
    local header, weights.safetensors
    [local header, card.md]
    central directory
    "sha256:" and 64 digits         the seal: of everything above

The seal detects damage, not a hostile author, who can seal as well. Such a file still runs no code and takes
no more memory than a small multiple of its size; to know where a file is from, compare its digest with one
that came by a trusted way (`sha256=`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from lookalike._version import __version__
from lookalike.errors import ArtifactError, require

FORMAT = 1

_MANIFEST, _WEIGHTS, _CARD = "manifest.json", "weights.safetensors", "card.md"
_SEAL = b"sha256:"
_SEAL_SIZE = len(_SEAL) + 64

_MAX_FILE = 1 << 31  # sizes and offsets of a plain zip have 32 bits
# What a hostile file may cost. A column of 100,000 categories takes a few megabytes and nests to about ten.
_MAX_MANIFEST = 64 << 20
_MAX_VALUES = 1 << 22  # an empty list is 3 bytes of text and 64 of memory: together 300 MB at most
_MAX_DEPTH = 64
_MAX_TENSOR_HEADER = 16 << 20  # some 100,000 tensors

_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?",
    "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip

# Fields that all zip headers share: version 2.0, no flags, stored, and midnight of 1 January 1980, so that
# equal content gives equal bytes.
_COMMON = (20, 0, 0, 0, 0x21)
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4sH5H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_FILE_MODE = (stat.S_IFREG | 0o644) << 16


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that takes its place whole, or not at all.

    What is written goes to a temporary file in the same folder, reaches the disk, and is then renamed. After
    an error, of whatever kind, the temporary is gone and an older file of that name is as it was.

    Parameters
    ----------
    path : str or PathLike
        Where the file goes. A link is followed; the permissions of an older file are kept.

    Yields
    ------
    binary file
        For writing. For text, wrap it in an `io.TextIOWrapper` and detach that at the end.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a rename would put a file where /dev/null was
        raise FileExistsError(errno.EEXIST, "Not a regular file, so it is not replaced", os.fspath(path))
    temporary = target.with_name(f".lookalike-{secrets.token_hex(8)}.tmp")
    try:
        with _create(temporary, path) as file:
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:  # KeyboardInterrupt must not leave the temporary behind either
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def write(
    path: str | os.PathLike[str],
    *,
    kind: str,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    card: str | None = None,
) -> str:
    """Write one file, atomically. Equal arguments give equal bytes.

    Parameters
    ----------
    path : str or PathLike
    kind : str
        What the file holds, such as "model"; `read` asks for the same.
    manifest : mapping
        JSON values only: dict with text keys, list, text, finite number, bool and None.
    tensors : mapping of str to ndarray
        Booleans, integers and floats. Floats must be finite.
    card : str, optional
        Markdown for people who open the file.

    Returns
    -------
    str
        SHA-256 of the file, for `read(..., sha256=)`.

    Raises
    ------
    ValueError, TypeError
        For what could not be read again. Nothing has been written then.
    OSError
        If there is no room, or no such folder. An older file is as it was.
    """
    members = {_WEIGHTS: _pack_tensors(tensors)}
    if card is not None:
        members[_CARD] = card.encode("utf-8", "backslashreplace")
    members = {_MANIFEST: _pack_manifest(kind, manifest, members)} | members
    if sum(map(len, members.values())) > _MAX_FILE - (1 << 16):
        raise ValueError(f"{os.fspath(path)} would exceed 2 GiB, the most that a file of this format holds.")

    parts = [part for name, payload in members.items() for part in (_local_header(name, payload), payload)]
    parts.append(_directory(members))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    parts.append(_SEAL + digest.hexdigest().encode())
    digest.update(parts[-1])
    with atomic_write(path) as file:
        file.writelines(parts)
    return digest.hexdigest()


def read(
    source: str | os.PathLike[str] | bytes, *, kind: str, sha256: str | None = None, max_bytes: int = 1 << 30
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read and verify a file that `write` has written.

    Parameters
    ----------
    source : str, PathLike or bytes
        A path, or the content of a file.
    kind : str
        What the file must hold.
    sha256 : str, optional
        Digest that the whole file must have: proof of where it is from, if the digest came by a trusted way.
    max_bytes : int
        Larger files are refused before they are read.

    Returns
    -------
    manifest : dict
    tensors : dict of str to ndarray

    Raises
    ------
    ArtifactError
        If one bit of the file is not as it was written, or it is foreign, too large or of another version or
        kind.
    """
    name, data = load_bytes(source, max_bytes)
    check_sha256(name, data, sha256)
    _check_seal(name, data)
    body = memoryview(data)[:-_SEAL_SIZE]
    payload, position = _next_member(name, body, 0, _MANIFEST, _LOCAL.unpack_from(body)[8])
    header = _header(name, payload)
    members = {_MANIFEST: payload}
    for member, size, digest in _stated_members(name, header):
        payload, position = _next_member(name, body, position, member, size)
        if hashlib.sha256(payload).hexdigest() != digest:
            _refuse(name, f"its {member} does not have the checksum stated in the manifest")
        members[member] = payload
    if body[position:] != _directory(members):
        _refuse(name, "it holds more than its manifest states")
    if header["kind"] != kind:
        found = header["kind"][:40]
        raise ArtifactError(
            f"{name} holds a {found!r} and a {kind!r} is needed. Give the path of a {kind!r} file."
        )
    return header["content"], _unpack_tensors(name, bytes(members[_WEIGHTS]))


def _refuse(name: str, why: str) -> NoReturn:
    raise ArtifactError(f"{name} cannot be loaded: {why}. Save it again, or restore a copy.")


# -- the zip -----------------------------------------------------------------------------------------------


def _local_header(name: str, payload: bytes | memoryview) -> bytes:
    sizes = (zlib.crc32(payload), len(payload), len(payload))
    return _LOCAL.pack(b"PK\x03\x04", *_COMMON, *sizes, len(name), 0) + name.encode("ascii")


def _directory(members: Mapping[str, bytes | memoryview]) -> bytes:
    """Write all that follows the members, up to the comment."""
    directory, offset = b"", 0
    for name, payload in members.items():
        sizes = (zlib.crc32(payload), len(payload), len(payload))
        unix = 3 << 8 | 20  # so that unzip restores ordinary permissions
        tail = (len(name), 0, 0, 0, 0, _FILE_MODE, offset)
        directory += _CENTRAL.pack(b"PK\x01\x02", unix, *_COMMON, *sizes, *tail) + name.encode("ascii")
        offset += _LOCAL.size + len(name) + len(payload)
    n = len(members)
    return directory + _END.pack(b"PK\x05\x06", 0, 0, n, n, len(directory), offset, _SEAL_SIZE)


def _next_member(name: str, body: memoryview, start: int, member: str, size: int) -> tuple[memoryview, int]:
    """Return the payload of the member that must begin here, and where it ends."""
    first = start + _LOCAL.size + len(member)
    payload = body[first : first + size]
    if len(payload) != size or body[start:first] != _local_header(member, payload):
        _refuse(name, f"its manifest and its {member} do not fit together")
    return payload, first + size


# -- the file ----------------------------------------------------------------------------------------------


def load_bytes(source: str | os.PathLike[str] | bytes, max_bytes: int) -> tuple[str, bytes]:
    """Return the source's name for messages, and its bytes, no more of them than allowed."""
    if isinstance(source, bytes):
        name, size, data = "The file", len(source), source
    else:
        name = os.fspath(source)
        if os.path.exists(name) and not os.path.isfile(name):  # a pipe or a device might never end
            raise ArtifactError(f"{name} is not a file. Give the path of a file that lookalike has saved.")
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size) if size <= min(max_bytes, _MAX_FILE) else b""
    if size > _MAX_FILE:
        _refuse(name, f"it has {size:,} bytes, and no file of this format has more than {_MAX_FILE:,}")
    if size > max_bytes:
        raise ArtifactError(
            f"{name} has {size:,} bytes, more than the limit of {max_bytes:,}. "
            f"If that is what you expect, pass max_bytes={size}."
        )
    return name, data


def check_sha256(name: str, data: bytes, sha256: str | None) -> None:
    """Refuse data that do not have the digest asked for, if one was."""
    if sha256 is None:
        return
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}.")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256.lower():
        raise ArtifactError(
            f"{name} has the SHA-256 {found}, not the {sha256.lower()} asked for. "
            "It is not the file that digest was made of: get it again from where the digest is from."
        )


def _check_seal(name: str, data: bytes) -> None:
    # Every later format keeps the first name and the seal, so that its files are told from damaged ones.
    if not data:
        _refuse(name, "it is empty")
    if data[:4] != b"PK\x03\x04" or data[_LOCAL.size :][: len(_MANIFEST)] != _MANIFEST.encode():
        start = data[:8]
        raise ArtifactError(
            f"{name} is not a lookalike file: it begins with {start!r}. "
            "Give one that lookalike has saved; pickles and other formats are never opened."
        )
    body = memoryview(data)[:-_SEAL_SIZE]
    if data[-_SEAL_SIZE:] != _SEAL + hashlib.sha256(body).hexdigest().encode():
        _refuse(name, "it is damaged or not whole, its checksum does not match")


def _stated_members(name: str, header: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Yield the members after the manifest, with their sizes and digests, or refuse the header."""
    match header:
        case {
            "format": int(),
            "lookalike": str(),
            "kind": str(),
            "members": dict(members),
            "content": dict(),
        } if len(header) == 5 and list(members) in ([_WEIGHTS], [_WEIGHTS, _CARD]):
            for member, stated in members.items():
                match stated:
                    case {"size": int(size), "sha256": str(digest)} if size >= 0 and len(stated) == 2:
                        yield member, size, digest
                    case _:
                        _refuse(name, f"its manifest does not state the size and checksum of {member}")
        case _:
            _refuse(name, "its manifest is not one that lookalike writes")


def _create(temporary: Path, path: str | os.PathLike[str]) -> BinaryIO:
    try:
        return open(temporary, "xb")
    except OSError as error:
        error.filename = os.fspath(path)  # the name that the caller knows
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse; the file is in its place all the same
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- the manifest ------------------------------------------------------------------------------------------


def _pack_manifest(kind: str, content: Mapping[str, Any], members: Mapping[str, bytes]) -> bytes:
    header = {
        "format": FORMAT,
        "lookalike": __version__,
        "kind": kind,
        "members": {m: {"size": len(b), "sha256": hashlib.sha256(b).hexdigest()} for m, b in members.items()},
        "content": content,
    }
    payload = json.dumps(header, allow_nan=False, separators=(",", ":")).encode("ascii")
    try:  # what is written must be readable, so the limits hold here too
        again = parse_json(payload)
    except ValueError as error:
        raise ValueError(f"The manifest {error}.") from None
    if again != header:
        raise TypeError("manifest must hold JSON values only: text for keys, lists where it has tuples.")
    return payload


def _header(name: str, payload: memoryview) -> dict[str, Any]:
    """Parse a manifest whose format this version reads."""
    try:
        header = parse_json(bytes(payload[: _MAX_MANIFEST + 1]))
    except ValueError as error:
        _refuse(name, f"its manifest {error}")
    if not isinstance(header, dict) or type(header.get("format")) is not int:
        _refuse(name, "its manifest states no format")
    if header["format"] != FORMAT:
        maker = f"lookalike {header.get('lookalike')} (format {header['format']})"
        raise ArtifactError(
            f"{name} was made by {maker:.60}; lookalike {__version__} reads format {FORMAT}. "
            "Upgrade with: pip install --upgrade lookalike"
        )
    return header


def parse_json(payload: bytes) -> Any:
    """Parse JSON without what parsers disagree on, or what takes far more memory than its length."""
    if len(payload) > _MAX_MANIFEST:
        raise ValueError(f"has more than {_MAX_MANIFEST:,} bytes")
    if sum(payload.count(mark) for mark in b"[{,") > _MAX_VALUES:  # counted before they are made
        raise ValueError(f"holds more than {_MAX_VALUES:,} values")
    too_deep = f"nests more than {_MAX_DEPTH} levels deep"
    try:
        text = payload.decode("ascii")
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError(too_deep) from None
    except ValueError as error:
        raise ValueError(f"is not strict JSON ({str(error)[:80]})") from None
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [v for v in level if isinstance(v, dict | list)]
        if not level:
            return value
        level = [child for v in level for child in (v.values() if isinstance(v, dict) else v)]
    raise ValueError(too_deep)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


# -- the tensors -------------------------------------------------------------------------------------------


def _pack_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    known = [np.dtype(code) for code in _DTYPES.values()]
    arrays = {}
    for name in sorted(tensors):
        # safetensors takes the buffer as it lies: strided or transposed arrays would be saved scrambled.
        tensor = np.asarray(tensors[name], order="C")
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
        if name == "__metadata__":  # safetensors keeps this name for itself
            raise ValueError("'__metadata__' cannot be the name of a tensor.")
        if tensor.dtype not in known:
            raise TypeError(
                f"tensor {name!r} has dtype {tensor.dtype}; booleans, integers and floats can be saved."
            )
        if not np.isfinite(tensor).all():
            raise ValueError(f"tensor {name!r} holds NaN or infinity, which would be refused on loading.")
        arrays[name] = tensor
    payload: bytes = require("safetensors.numpy", "train", "Saving").save(arrays)
    return payload


def _unpack_tensors(name: str, payload: bytes) -> dict[str, NDArray[Any]]:
    safetensors = require("safetensors", "train", "Loading a saved file")
    if int.from_bytes(payload[:8], "little") > _MAX_TENSOR_HEADER:
        _refuse(name, f"its tensors have a header of more than {_MAX_TENSOR_HEADER:,} bytes")
    tensors = {}
    try:
        for key, entry in safetensors.deserialize(payload):
            tensor = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            if tensor.dtype == bool and (tensor.view(np.uint8) > 1).any():
                raise ValueError(f"{key[:80]!r} holds what is neither true nor false")
            if not np.isfinite(tensor).all():
                raise ValueError(f"{key[:80]!r} holds NaN or infinity")
            tensors[key] = tensor
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        _refuse(name, f"its tensors are not as lookalike writes them ({str(error)[:200]})")
    return tensors
