"""Arrow streams: rows in and predictions out, and streams that lie."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
from protocol_server import MAX_BODY, MAX_ROWS, Served, rows_of, rows_or_refusal, same_bits, served

from confidential_ml.server import arrow_stream

__all__ = ["served"]

pa = pytest.importorskip("pyarrow")
PATH = "/invocations"
FLOWERS = {"model_id": "flowers", "version": "1"}


def stream(*batches: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def batch(rows: np.ndarray[Any, Any]) -> Any:
    columns = [pa.array(np.ascontiguousarray(column)) for column in rows.T]
    return pa.record_batch(columns, names=[f"f{i}" for i in range(len(columns))])


def columns_of(*columns: Any) -> Any:
    return pa.record_batch(list(columns), names=[f"f{i}" for i in range(len(columns))])


def ask(served: Served, body: bytes, **query: str) -> Any:
    headers = {"Content-Type": arrow_stream.MEDIA_TYPE}
    return served.ask("POST", PATH, content=body, headers=headers, params=query or FLOWERS)


def table(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == arrow_stream.MEDIA_TYPE
    return pa.ipc.open_stream(answer.content).read_all()


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.headers["Confidential-ML-Error"]


def test_predictions_come_back_as_columns(served: Served) -> None:
    rows = rows_of(4, 9)
    answer = table(ask(served, stream(batch(rows[:3]), batch(rows[3:3]), batch(rows[3:]))))
    assert answer.column_names == ["prediction_0", "prediction_1", "prediction_2"]
    assert {str(field.type) for field in answer.schema} == {"float"}
    assert same_bits(np.stack([column.to_numpy() for column in answer.columns], 1), served.predict("flowers", rows))


def test_one_value_a_row_and_margins(served: Served) -> None:
    rows = rows_of(6, 4)
    answer = table(ask(served, stream(batch(rows)), model_id="risk"))
    assert answer.column_names == ["prediction"]
    assert same_bits(answer["prediction"].to_numpy(), served.predict("risk", rows))
    margins = table(ask(served, stream(batch(rows)), model_id="risk", output_margin="true"))
    assert same_bits(margins["prediction"].to_numpy(), served.predict("risk", rows, predict_type="margin"))


def test_types_nulls_and_slices(served: Served) -> None:
    made = columns_of(
        pa.array([2**60 + 2**36 + 1, None, -5], pa.int64()),
        pa.array([None, True, False]),
        pa.array([1.5, float("nan"), 1e300], pa.float64()),
        pa.array([255, 0, None], pa.uint8()),
    )
    expected = [[2**60 + 2**36 + 1, np.nan, 1.5, 255], [np.nan, 1, np.nan, 0], [-5, 0, np.inf, np.nan]]
    with np.errstate(over="ignore"):
        rows = np.array([np.array(row, dtype=object) for row in expected], dtype=np.float32)
    rows[0, 0] = np.int64(2**60 + 2**36 + 1).astype(np.float32)
    seen = arrow_stream.decode(stream(made), 4, max_rows=9, max_bytes=99)
    assert same_bits(np.nan_to_num(seen, nan=-7), np.nan_to_num(rows, nan=-7))
    assert same_bits(np.isnan(seen), np.isnan(rows))
    sliced = arrow_stream.decode(stream(made.slice(1, 2)), 4, max_rows=9, max_bytes=99)
    assert same_bits(np.isnan(sliced), np.isnan(rows[1:]))
    halves = columns_of(pa.array(np.array([1.5, -2], dtype=np.float16)))
    assert same_bits(arrow_stream.decode(stream(halves), 1, max_rows=9, max_bytes=99), [[1.5], [-2]])


def test_pandas_frames(served: Served) -> None:
    pd = pytest.importorskip("pandas")
    rows = pd.DataFrame(rows_of(4, 5), columns=list("abcd"))
    body = stream(*pa.Table.from_pandas(rows, preserve_index=False).to_batches())
    answer = table(ask(served, body)).to_pandas()
    assert same_bits(answer.to_numpy(), served.predict("flowers", rows))


F = pa.array(np.zeros(2, dtype=np.float32))


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (columns_of(F, F, F), "input_invalid"),
        (columns_of(F, F, F, F, F), "input_invalid"),
        (pa.record_batch([F] * 4, names=["a", "b", "c", "a"]), "input_invalid"),
        (columns_of(F, F, F, pa.array(["1", "2"])), "input_invalid"),
        (columns_of(F, F, F, pa.array([[1.0], [2.0]])), "input_invalid"),
        (columns_of(F, F, F, pa.array([{"a": 1}, {"a": 2}])), "input_invalid"),
        (columns_of(F, F, F, pa.nulls(2)), "input_invalid"),
        (columns_of(F, F, F, pa.array([1, 2], pa.timestamp("s"))), "input_invalid"),
        (columns_of(F, F, F, pa.array([1, 2], pa.decimal128(5))), "input_invalid"),
        (columns_of(F, F, F, pa.array([1, 2]).dictionary_encode()), "input_invalid"),
        (columns_of(F[:0], F[:0], F[:0], F[:0]), "input_invalid"),
        (columns_of(*[pa.array(np.zeros(MAX_ROWS + 1, dtype=np.int8))] * 4), "too_many_rows"),
    ],
)
def test_streams_that_are_refused(served: Served, made: Any, code: str) -> None:
    assert refusal(ask(served, stream(made))) == (413 if code == "too_many_rows" else 400, code)


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_compressed_streams_are_refused_before_they_are_unpacked(served: Served, kind: str) -> None:
    """A small body may unpack to any size."""
    big = pa.array(np.zeros(4_000_000, dtype=np.float64))
    body = stream(columns_of(big, big, big, big), compression=kind)
    assert len(body) < MAX_BODY
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    assert refusal(ask(served, body)) == (400, "input_invalid")
    assert pa.total_allocated_bytes() - before < MAX_BODY
    assert pa.default_memory_pool().max_memory() == peak
    assert not arrow_stream._has_compression(_metadata(stream(columns_of(F))))
    assert arrow_stream._has_compression(_metadata(stream(columns_of(F), compression=kind)))


def _metadata(body: bytes) -> bytes:
    """Of the record batch, the second message."""
    reader = pa.ipc.MessageReader.open_stream(body)
    reader.read_next_message()
    return bytes(reader.read_next_message().metadata)


def test_a_matrix_much_larger_than_the_body_is_refused() -> None:
    flags = pa.array(np.zeros(1000, dtype=bool))
    body = stream(columns_of(*[flags] * 20))
    with pytest.raises(Exception, match="1000 rows of 20 features are too many"):
        arrow_stream.decode(body, 20, max_rows=1000, max_bytes=len(body))
    assert arrow_stream.decode(body, 20, max_rows=1000, max_bytes=20_000).shape == (1000, 20)


def test_broken_streams(served: Served) -> None:
    whole = stream(batch(rows_of(4, 50)))
    for body in (b"", b"\0", whole[:-9], whole[:100], whole[1:], whole + b"\0", whole + whole, b"ARROW1\0\0" + whole):
        assert refusal(ask(served, body)) == (400, "body_malformed")


def test_streams_that_are_cut_between_batches(served: Served) -> None:
    """Also where the last bytes of a batch look like the mark of the end."""
    numbers = columns_of(*[pa.array([-1, 0], pa.int32())] * 4)
    whole = stream(numbers, numbers)
    mark = b"\xff\xff\xff\xff\0\0\0\0"
    assert whole.endswith(mark + mark)
    assert ask(served, whole).status_code == 200
    assert ask(served, stream(numbers, use_legacy_format=True)).status_code == 200
    for cut in (whole[:-8], whole[: -8 - (len(whole) - len(stream(numbers)))]):
        assert pa.ipc.open_stream(cut).read_all().num_rows in (2, 4)
        assert refusal(ask(served, cut)) == (400, "body_malformed")


def test_more_rows_than_bytes_are_refused() -> None:
    """Else memory beyond the body would be read as rows."""
    rows = rows_of(3, 5)
    whole = stream(batch(rows))
    lying = whole.replace((5).to_bytes(8, "little"), (60).to_bytes(8, "little"))
    assert lying != whole
    assert len(pa.ipc.open_stream(lying).read_next_batch()) == 60
    assert same_bits(arrow_stream.decode(whole, 3, max_rows=100, max_bytes=MAX_BODY), rows)
    with pytest.raises(Exception, match="no whole Arrow IPC stream"):
        arrow_stream.decode(lying, 3, max_rows=100, max_bytes=MAX_BODY)


def test_changed_streams_give_rows_or_a_refusal() -> None:
    """Bytes of real streams, a few changed; the length words and the FlatBuffers' offsets are hit often."""
    mixed = columns_of(F, pa.array([1, None], pa.int64()), pa.array([True, False]), pa.array([1, 2], pa.uint16()))
    whole = stream(mixed, mixed)
    chance = random.Random(7)
    counts = {"rows": 0, "refused": 0}
    for _ in range(4000):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(body))
            body[place] = chance.choice([0, 1, 4, 127, 128, 255, chance.randrange(256)])
        if chance.random() < 0.1:
            del body[chance.randrange(len(body)) :]
        changed = bytes(body)
        rows = rows_or_refusal(lambda: arrow_stream.decode(changed, 4, max_rows=100, max_bytes=MAX_BODY))  # noqa: B023
        counts["refused" if rows is None else "rows"] += 1
        if rows is not None:
            assert rows.dtype == np.float32
            assert rows.shape[1] == 4
            assert 1 <= len(rows) <= 100
    assert min(counts.values()) > 100


def test_parameters_that_are_refused(served: Served) -> None:
    body = stream(batch(rows_of(4, 2)))
    assert refusal(ask(served, body, model_id="weeds")) == (404, "model_unknown")
    assert refusal(ask(served, body, model_id="flowers", version="-1")) == (400, "parameter_invalid")
    assert refusal(ask(served, body, model_id="flowers", output_margin="maybe")) == (400, "parameter_invalid")
    assert refusal(ask(served, body, model_id="flowers", margin="true")) == (400, "parameter_invalid")


def test_without_pyarrow(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    body = stream(batch(rows_of(4, 2)))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(ask(served, body)) == (415, "media_type_wrong")
