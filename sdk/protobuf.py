"""The wire format of Protocol Buffers: read strictly, in linear time and without copies; fields written.

A message is a sequence of fields, and a field is a key (number and wire type) before its value. Parsers are
lenient: they skip what they do not know, take the last of two values and merge two messages. Whoever judges
a file that another parser will then load must not read it otherwise than that one. So this reader refuses
what is not in its layout, what comes twice, and every way of writing a value but the ordinary ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# What a field may be. A repeated number may be packed, all values in one field, or not.
_WIRES = {
    "int": (VARINT,),  # a signed number of 64 bits
    "ints": (VARINT, BYTES),  # repeated
    "float": (FIXED32,),  # its 4 bytes
    "floats": (FIXED32, BYTES),  # repeated: the bytes of all
    "doubles": (FIXED64, BYTES),
    "bytes": (BYTES,),  # text, bytes or a message
    "many": (BYTES,),  # repeated
    "sizes": (BYTES,),  # repeated, and of each only how long it is: of labels there may be millions
    "skip": (),  # not needed, whatever it is
    "refuse": (),  # must not be there
}
EMPTY = memoryview(b"")
_MAX_MANY = 1 << 18  # views of 200 bytes each, so that a few bytes of file do not become gigabytes


class WireError(ValueError):
    """Bytes that are not the message expected."""


class Layout(NamedTuple):
    """The fields of one kind of message: by its number, each field's name and kind, a key of `_WIRES`."""

    name: str
    fields: Mapping[int, tuple[str, str]]


class Reader:
    """Reads the messages of one file.

    Parameters
    ----------
    limit : int
        How many fields and packed numbers are read at most, in all messages together: a bound on the time,
        which no bound on the file's size gives where a field takes two bytes.
    """

    def __init__(self, limit: int = 1 << 21) -> None:
        self._left = limit

    def fields(self, data: memoryview) -> Iterator[tuple[int, int, Any, int]]:
        """Yield the number, wire type, value (an int, or a view) and end of each field of a message."""
        position, size = 0, len(data)
        while position < size:
            self._spend()
            key, position = _varint(data, position)
            number, wire = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise WireError(f"{number} is not the number of a field")
            if wire == VARINT:
                value, position = _varint(data, position)
                yield number, wire, value - (1 << 64) if value >> 63 else value, position
                continue
            if wire == BYTES:
                length, position = _varint(data, position)
            elif wire == FIXED64:
                length = 8
            elif wire == FIXED32:
                length = 4
            else:  # groups, which nothing writes any more, and what was never defined
                raise WireError(f"field {number} has the wire type {wire}")
            if length > size - position:
                raise WireError(f"field {number} ends {length - size + position:,} bytes after its message")
            yield number, wire, data[position : position + length], position + length
            position += length

    def message(self, data: memoryview, layout: Layout) -> dict[str, Any]:
        """Read one message.

        Parameters
        ----------
        data : memoryview
        layout : Layout

        Returns
        -------
        dict
            By name what is there of the layout: an int, a view or, for what is repeated, a list of ints or of
            views; for "floats" and "doubles" a bytearray.

        Raises
        ------
        WireError
            If the data are damaged, or hold what the layout does not.
        """
        found: dict[str, Any] = {}
        fields, refused = layout.fields, ""
        for number, wire, value, _ in self.fields(data):
            name, kind = fields.get(number, ("", ""))
            if kind == "skip":
                continue
            if not kind:
                raise WireError(f"{layout.name} has a field {number}, which is not known")
            if kind == "refuse":
                refused = name
            elif wire not in _WIRES[kind]:
                raise WireError(f"{name} of {layout.name} has the wire type {wire}")
            match kind:
                case "int" | "bytes" | "float":
                    if name in found:
                        raise WireError(f"{layout.name} has two fields {name}")
                    found[name] = value
                case "many":
                    views = found.setdefault(name, [])
                    if len(views) == _MAX_MANY:
                        raise WireError(f"{layout.name} has more than {_MAX_MANY:,} of {name}")
                    views.append(value)
                case "sizes":
                    found.setdefault(name, []).append(len(value))
                case "ints":
                    found.setdefault(name, []).extend(self._packed(value) if wire == BYTES else [value])
                case "floats" | "doubles":
                    found.setdefault(name, bytearray()).extend(value)
        if refused:  # said last, when the name of what holds it is known
            which = f" {text(found['name'])[:60]!r}" if "name" in found else ""
            raise WireError(f"{layout.name}{which} holds {refused}, which no exported model does")
        return found

    def _packed(self, data: memoryview) -> Iterator[int]:
        position = 0
        while position < len(data):
            self._spend()
            value, position = _varint(data, position)
            yield value - (1 << 64) if value >> 63 else value

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise WireError("there are more fields than any model needs")


def text(data: memoryview | None) -> str:
    """Decode what must be UTF-8; a field that is absent is the same as an empty one."""
    if data is None:
        return ""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise WireError(f"{bytes(data[:60])!r} is not UTF-8") from None


def field(number: int, payload: bytes) -> bytes:
    """Write one field that holds bytes, text or a message."""
    return header(number, len(payload)) + payload


def header(number: int, length: int) -> bytes:
    """Write what stands before the bytes of a field."""
    return _written(number << 3 | BYTES) + _written(length)


def _written(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(data: memoryview, start: int) -> tuple[int, int]:
    """Return the number of 7 bits a byte, the lowest first, that begins here, and where it ends."""
    if start < len(data) and data[start] < 128:  # as almost all are
        return data[start], start + 1
    value = shift = 0
    for position in range(start, min(start + 10, len(data))):
        byte = data[position]
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64 or (not byte and shift):
                raise WireError("a number is written longer than it is")
            return value, position + 1
        shift += 7
    raise WireError("a number does not end" if start + 10 > len(data) else "a number has more than 64 bits")
