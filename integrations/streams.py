"""Arrow streams of strangers: refused where they are broken, or could grow when they are opened."""

from __future__ import annotations

import struct

import pyarrow as pa

from lookalike.errors import SchemaError
from lookalike.integrations import arrow

DICTIONARY_BATCH, RECORD_BATCH = 2, 3  # kinds of messages


def read(body: bytes) -> pa.Table:
    """The table of a stream, which uses no more memory than the stream has bytes.

    Raises
    ------
    SchemaError
        If it is no stream, is compressed, or holds offsets, text or ids that are not sound.
    """
    try:
        for message in pa.ipc.MessageReader.open_stream(body):
            if _compressed(message.metadata.to_pybytes()):
                raise SchemaError("the Arrow stream is compressed. Send it as it is: its size is limited.")
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"the request is no sound Arrow stream: {error}") from error
    return table


def written(table: pa.Table) -> bytes:
    """The table as a stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=arrow.ROWS)
    return bytes(sink.getvalue())


def _compressed(metadata: bytes) -> bool:
    """Whether a message says that its buffers are compressed. pyarrow has verified what is read here."""

    def fields(table: int) -> list[int]:
        """Where the fields of a flatbuffer's table are; 0 for those left out."""
        (back,) = struct.unpack_from("<i", metadata, table)
        (size,) = struct.unpack_from("<H", metadata, table - back)
        offsets = struct.unpack_from(f"<{size // 2 - 2}H", metadata, table - back + 4)
        return [offset and table + offset for offset in offsets] + [0] * 5

    def at(field: int) -> int:
        """Where a field points to."""
        return int(field + struct.unpack_from("<I", metadata, field)[0])

    _, kind, header, *_ = fields(at(0))
    if not kind or metadata[kind] not in (DICTIONARY_BATCH, RECORD_BATCH):
        return False
    batch = fields(at(header))
    if metadata[kind] == DICTIONARY_BATCH:
        batch = fields(at(batch[1]))
    return bool(batch[3])
