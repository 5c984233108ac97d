"""Rows and predictions as streams of Arrow record batches (docs/http.md 3.3)."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import Response

from confidential_ml.rows import FloatArray
from confidential_ml.server import large_bodies, predict_parameters
from confidential_ml.server.errors import HttpError

if TYPE_CHECKING:
    from starlette.requests import Request

    from confidential_ml.server.serving import Serving

__all__ = ["MEDIA_TYPE", "decode", "encode", "respond"]

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

# Columns may share bytes and booleans are bits: a small body can mean a large matrix. One that uses its bytes once
# takes at most four times its size as float32.
_MATRIX_TO_BODY = 4
_HEADER_TYPE, _HEADER = 1, 2  # fields of Arrow's Message table, Message.fbs
_COMPRESSION = 3  # field of its RecordBatch table
_RECORD_BATCH = 3  # number of that table in the union of headers


async def respond(serving: Serving, request: Request, body: bytes) -> Response:
    """Answer a stream of rows with a stream of predictions; parameters are in the request's query.

    Raises
    ------
    HttpError
        415 ``media_type_wrong`` without pyarrow; 400 and 413 for parameters and bodies that cannot be used; and what
        `Serving` raises.
    """
    parameters = predict_parameters.from_query(request.query_params.multi_items())
    limits = serving.settings.limits
    # To the end: the version that was current may be deleted meanwhile, which must not fail who named none.
    with serving.lease(parameters.id_or_none, parameters.version_or_none) as live:
        n_features = live.entry.n_features
        rows = await large_bodies.run(
            len(body), lambda: decode(body, n_features, max_rows=limits.rows, max_bytes=limits.body_bytes)
        )
        predictions = await serving.predict_with(live, rows, output_margin=parameters.output_margin)
    content = await large_bodies.run(predictions.nbytes, lambda: encode(predictions))
    return Response(content, media_type=MEDIA_TYPE)


def decode(body: bytes, n_features: int, *, max_rows: int, max_bytes: int) -> FloatArray:
    """Read the rows of a stream.

    Parameters
    ----------
    body
        An Arrow IPC stream: columns of integers, floats or booleans; nulls are missing values. Neither compressed nor
        dictionary encoded.
    n_features
        Columns that it must have.
    max_rows, max_bytes
        Rows that it may have, and the size of bodies that the server takes.

    Returns
    -------
    numpy.ndarray
        float32, C-contiguous, shape (rows, `n_features`), at least one row.

    Raises
    ------
    HttpError
        400 ``body_malformed`` or ``input_invalid``, 413 ``too_many_rows``, 415 ``media_type_wrong`` without pyarrow.
    """
    pa = _pyarrow()
    try:
        _refuse_compression(pa, body)
        reader = pa.ipc.open_stream(pa.py_buffer(body))
        _check_schema(pa, reader.schema, n_features)
        batches = list(_checked_batches(reader, max_rows))
        count = sum(batch.num_rows for batch in batches)
        if count * n_features * 4 > _MATRIX_TO_BODY * max_bytes:
            raise HttpError(413, "too_many_rows", f"{count} rows of {n_features} features are too many for one request")
        if count == 0:
            raise HttpError(400, "input_invalid", "the Arrow stream has no rows; send at least one")
        return _as_matrix(pa, batches, count, n_features)
    except (pa.ArrowException, struct.error, OSError, ValueError, LookupError, TypeError, MemoryError):
        pass
    raise _malformed()


def encode(predictions: FloatArray) -> bytes:
    """Write predictions, shape (n,) or (n, values), as a stream with one record batch.

    Returns
    -------
    bytes
        One float32 column ``prediction``, or columns ``prediction_0``, ``prediction_1`` and so on.
    """
    pa = _pyarrow()
    if predictions.ndim == 1:
        names, columns = ["prediction"], [predictions]
    else:
        columns = list(np.ascontiguousarray(predictions.T))
        names = [f"prediction_{index}" for index in range(len(columns))]
    batch = pa.record_batch([pa.array(column, type=pa.float32()) for column in columns], names=names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _pyarrow() -> Any:
    try:
        pyarrow = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.ipc")
    except ImportError:
        raise HttpError(
            415, "media_type_wrong", f"this server has no pyarrow, which {MEDIA_TYPE} needs; send JSON"
        ) from None
    return pyarrow


def _malformed() -> HttpError:
    return HttpError(400, "body_malformed", "the body is no whole Arrow IPC stream; it was cut short or changed")


def _refuse_compression(pa: Any, body: bytes) -> None:
    """Refuse compressed buffers before anything is unpacked, bytes after the stream, and a stream without its end."""
    source = pa.BufferReader(body)
    reader = pa.ipc.MessageReader.open_stream(source)
    last = 0
    for message in _messages(reader):
        if _has_compression(bytes(message.metadata)):
            raise HttpError(400, "input_invalid", "the Arrow stream is compressed; write it without compression")
        last = source.tell()
    # pyarrow takes a stream that was cut between two batches for a whole one; its mark of the end is more bytes.
    if source.tell() == last or source.tell() != len(body):
        raise _malformed()


def _messages(reader: Any) -> Iterator[Any]:
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _has_compression(metadata: bytes) -> bool:
    """Whether a message's metadata, a FlatBuffer that pyarrow has verified, is a record batch with compression.

    pyarrow does not tell, and no option of it keeps it from unpacking.
    """
    message = struct.unpack_from("<I", metadata, 0)[0]
    kind, header = _field(metadata, message, _HEADER_TYPE), _field(metadata, message, _HEADER)
    if kind is None or header is None or metadata[kind] != _RECORD_BATCH:
        return False
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _field(metadata, batch, _COMPRESSION) is not None


def _field(metadata: bytes, table: int, number: int) -> int | None:
    """Where a field of a FlatBuffer's table lies; None if it is absent."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, vtable)[0]
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, vtable + slot)[0] if slot + 2 <= size else 0
    return table + offset if offset else None


def _check_schema(pa: Any, schema: Any, n_features: int) -> None:
    if len(schema) != n_features:
        raise HttpError(
            400, "input_invalid", f"the Arrow stream has {len(schema)} columns, the model has {n_features} features"
        )
    for index, field in enumerate(schema):
        kind = field.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise HttpError(
                400, "input_invalid", f"column {index} of the Arrow stream is not of integers, floats or booleans"
            )
    if len(set(schema.names)) != n_features:
        raise HttpError(400, "input_invalid", "the Arrow stream has two columns of one name; rename one of them")


def _checked_batches(reader: Any, max_rows: int) -> Iterator[Any]:
    count = 0
    for batch in reader:
        count += batch.num_rows
        if count > max_rows:
            raise HttpError(413, "too_many_rows", f"more than {max_rows} rows; send them in several requests")
        batch.validate(full=True)
        yield batch


def _as_matrix(pa: Any, batches: list[Any], count: int, n_features: int) -> FloatArray:
    matrix = np.empty((count, n_features), dtype=np.float32)
    begin = 0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for batch in batches:
            part = matrix[begin : begin + batch.num_rows]
            for index, column in enumerate(batch.columns):
                _fill(pa, part[:, index], column)
            begin += batch.num_rows
    return matrix


def _fill(pa: Any, part: FloatArray, column: Any) -> None:
    if column.null_count == 0:
        part[:] = column.to_numpy(zero_copy_only=False)
        return
    # Not by to_numpy, which makes float64 of integers with nulls: large ones would be rounded twice.
    missing = column.is_null().to_numpy(zero_copy_only=False)
    part[:] = column.fill_null(pa.scalar(False if pa.types.is_boolean(column.type) else 0, column.type)).to_numpy(
        zero_copy_only=False
    )
    part[missing] = np.nan
