"""Rows of CSV, Parquet and NPY files as float32 batches, never more of a file in memory than a batch or a block."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from confidential_ml.cli.exit_status import UsageError
from confidential_ml.errors import InvalidInputError
from confidential_ml.rows import FloatArray

__all__ = ["FORMATS", "Rows", "format_of", "open_rows", "read_all"]

FORMATS = ("csv", "parquet", "npy")
BATCH_BYTES = 4 << 20
_BLOCK_SIZE = 1 << 20
_LONGEST_HEADER = 16 << 20
_SHOWN, _LONGEST_SHOWN = 6, 40  # names of columns in a message, characters of each
_NUMBER_KINDS = "fiub"
# What pandas reads as missing, without the words that are numbers to Arrow.
_MISSING = ["", "NA", "N/A", "n/a", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "None", "<NA>", "#N/A", "#NA"]


@dataclass(frozen=True)
class Rows:
    """Rows of a file.

    Attributes
    ----------
    n_columns
        Columns of every batch.
    batches
        float32, C-contiguous; may be taken once.
    size, progress
        What the file has in all and how much of that is read, in rows or in bytes.
    """

    n_columns: int
    batches: Iterator[FloatArray]
    size: int
    progress: Callable[[], int] = field(repr=False)


def format_of(path: Path, given: str | None) -> str:
    """The format of a file, by its name unless it is given."""
    found = path.suffix.lower().removeprefix(".") if given is None else given
    found = {"pq": "parquet"}.get(found, found)
    if found not in FORMATS:
        raise UsageError(f"{path}: the format is not told by the name; give one of {', '.join(FORMATS)}")
    return found


@contextlib.contextmanager
def open_rows(
    path: Path, file_format: str, *, columns: list[str] | None = None, has_header: bool = True, batch_rows: int | None
) -> Iterator[Rows]:
    """Open a file of rows.

    Parameters
    ----------
    columns
        Names of the columns to take, in this order; by default all in theirs.
    has_header
        Whether the first line of a CSV file has names.
    batch_rows
        Rows of a batch; by default as many as make 4 MiB.

    Raises
    ------
    InvalidInputError
        If a value is no number, or the file is none of its format; never with a value in it.
    OSError
        If it cannot be read.
    """
    if file_format == "npy" and columns is not None:
        raise UsageError("columns of an NPY file have no names; leave out --columns")
    with open(path, "rb") as file:
        opened = {"csv": _csv, "parquet": _parquet, "npy": _npy}[file_format]
        with _said(path):
            rows = opened(path, file, columns, has_header, batch_rows)
        yield Rows(rows.n_columns, _saying(path, rows.batches), rows.size, rows.progress)


def read_all(path: Path) -> FloatArray:
    """All rows of a file, for small ones."""
    with open_rows(path, format_of(path, None), batch_rows=None) as rows:
        parts = list(rows.batches)
        return np.concatenate(parts) if parts else np.empty((0, rows.n_columns), np.float32)


def _rows_of(n_columns: int, batch_rows: int | None) -> int:
    return batch_rows or max(1, BATCH_BYTES // (4 * max(1, n_columns)))


# ---- errors ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InvalidInputError(f"{path}: {_without_values(str(error))}") from None
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path} is not UTF-8") from None


def _saying(path: Path, batches: Iterator[FloatArray]) -> Iterator[FloatArray]:
    with _said(path):
        yield from batches


def _without_values(message: str) -> str:
    """What Arrow says, without the line or the value that it quotes."""
    row = re.search(r"Row #(\d+)", message)
    where = f"line {row[1]}: " if row else ""
    if wrong := re.search(r"Expected (\d+) columns, got (\d+)", message):
        return f"{where}it has {wrong[2]} columns, the first line has {wrong[1]}"
    if wrong := re.search(r"CSV column #(\d+)", message):
        return f"{where}column {int(wrong[1]) + 1} holds something that is no number; choose others with --columns"
    if "straddling" in message or "block size" in message:
        return f"a line is longer than {_BLOCK_SIZE} bytes"
    return "it cannot be read as a file of this format; it is damaged, or of another"


# ---- formats --------------------------------------------------------------------------------------------------------


def _csv(path: Path, file: Any, columns: list[str] | None, has_header: bool, batch_rows: int | None) -> Rows:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    # Kept and handed on: of a pipe nothing can be read twice.
    beginning = file.readline(_LONGEST_HEADER)
    names = _first_line(path, beginning)
    if not names:
        raise InvalidInputError(f"{path} is empty, or its first line is")
    if has_header and names and all(_is_number(name) for name in names):
        raise UsageError(f"{path}: the first line holds numbers, not names; say --no-header if there are none")
    if not has_header:
        names = [str(number) for number in range(len(names))]
    wanted = _chosen(path, names, columns)
    # Positions as names: a file may have the same name twice.
    positions = [str(number) for number in range(len(names))]
    options = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(positions, pa.float64()),
        null_values=_MISSING,
        include_columns=[str(number) for number in wanted],
    )
    counted = _Counted(file, beginning)
    reader = arrow_csv.open_csv(
        pa.PythonFile(counted, mode="r"),
        read_options=arrow_csv.ReadOptions(
            block_size=_BLOCK_SIZE, column_names=positions, skip_rows=int(has_header), use_threads=False
        ),
        convert_options=options,
    )
    batches = _cut((_matrix(batch.columns) for batch in reader), _rows_of(len(wanted), batch_rows))
    return Rows(len(wanted), batches, os.path.getsize(path), lambda: counted.count)


class _Counted:
    """A file that counts what is read, with the beginning that was read from it already."""

    def __init__(self, file: Any, beginning: bytes) -> None:
        self._file, self._beginning, self.count, self.closed = file, beginning, 0, False

    def read(self, size: int = -1) -> bytes:
        end = len(self._beginning) if size < 0 else size
        first, self._beginning = self._beginning[:end], self._beginning[end:]
        rest: bytes = self._file.read(size if size < 0 else size - len(first))
        self.count += len(first) + len(rest)
        return first + rest

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _first_line(path: Path, beginning: bytes) -> list[str]:
    line = re.split(rb"[\r\n]", beginning, maxsplit=1)[0].decode("utf-8-sig")
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        raise InvalidInputError(f"{path} is not CSV: its first line cannot be read") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _chosen(path: Path, names: list[str], columns: list[str] | None) -> list[int]:
    if columns is None:
        return list(range(len(names)))
    for name in columns:
        if names.count(name) != 1:
            if name in names:
                raise UsageError(f"{path} has more than one column {name!r}")
            raise UsageError(f"{path} has no column {name!r}; it has {_some(names)}")
    return [names.index(name) for name in columns]


def _some(names: list[str]) -> str:
    """The first few names of columns; how many there are, if the line of names may be a row."""
    if any(_is_number(name) for name in names):
        return f"{len(names)} columns"
    shown = ", ".join(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..." for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _parquet(path: Path, file: Any, columns: list[str] | None, _: bool, batch_rows: int | None) -> Rows:
    import pyarrow.parquet as pq

    # Pages are read as they are needed; a whole row group may be larger than memory.
    parquet = pq.ParquetFile(file, buffer_size=_BLOCK_SIZE, pre_buffer=False)
    names = parquet.schema_arrow.names
    wanted = [names[number] for number in _chosen(path, names, columns)]
    if len(set(wanted)) != len(wanted):
        raise InvalidInputError(f"{path} has a column name more than once")
    for name in wanted:
        _check_type(parquet.schema_arrow.field(name).type, name, path)
    done = 0

    def batches() -> Iterator[FloatArray]:
        nonlocal done
        size = _rows_of(len(wanted), batch_rows)
        for batch in parquet.iter_batches(batch_size=size, columns=wanted, use_threads=False):
            done += batch.num_rows
            # Arrow gives them in the order of the file.
            yield _matrix([batch.column(name) for name in wanted])

    return Rows(len(wanted), batches(), parquet.metadata.num_rows, lambda: done)


def _check_type(kind: Any, name: str, path: Path) -> None:
    import pyarrow as pa

    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InvalidInputError(f"{path}: column {name!r} is of type {kind}, no number; choose others with --columns")


def _matrix(columns: list[Any]) -> FloatArray:
    import pyarrow as pa

    matrix = np.empty((len(columns[0]) if columns else 0, len(columns)), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for number, column in enumerate(columns):
            if pa.types.is_boolean(column.type):
                column = column.cast(pa.uint8())
            if column.null_count == 0 or not pa.types.is_integer(column.type):
                matrix[:, number] = column.to_numpy(zero_copy_only=False)
                continue
            # Not by to_numpy, which makes float64 of integers with nulls: large ones would be rounded twice.
            matrix[:, number] = column.fill_null(0).to_numpy(zero_copy_only=False)
            matrix[column.is_null().to_numpy(zero_copy_only=False), number] = np.nan
    return matrix


def _cut(matrices: Iterator[FloatArray], size: int) -> Iterator[FloatArray]:
    for matrix in matrices:
        for start in range(0, len(matrix), size):
            yield matrix[start : start + size]


def _npy(path: Path, file: Any, _: list[str] | None, __: bool, batch_rows: int | None) -> Rows:
    shape, is_fortran, dtype = _npy_header(path, file)
    n_rows, n_columns = shape if len(shape) == 2 else (shape[0], 1)
    start, step, done = file.tell(), _rows_of(n_columns, batch_rows), 0
    if os.path.getsize(path) - start != n_rows * n_columns * dtype.itemsize:
        raise InvalidInputError(f"{path} is cut short, or longer than its header says")

    def batches() -> Iterator[FloatArray]:
        nonlocal done
        for begin in range(0, n_rows, step):
            count = min(step, n_rows - begin)
            if is_fortran:
                matrix = np.empty((count, n_columns), dtype)
                for column in range(n_columns):
                    file.seek(start + (column * n_rows + begin) * dtype.itemsize)
                    matrix[:, column] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
            else:
                matrix = np.frombuffer(file.read(count * n_columns * dtype.itemsize), dtype)
            done += count
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                yield np.ascontiguousarray(matrix.reshape(count, n_columns), np.float32)

    return Rows(n_columns, batches(), n_rows, lambda: done)


def _npy_header(path: Path, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    except (ValueError, SyntaxError, tokenize.TokenError):  # NumPy reads the header as Python's tokens
        raise InvalidInputError(f"{path} is no NPY file") from None
    if dtype.kind not in _NUMBER_KINDS or dtype.hasobject or len(shape) not in (1, 2):
        raise InvalidInputError(f"{path} holds {len(shape)} dimensions of {dtype}; rows are 2 dimensions of numbers")
    return shape, is_fortran, dtype
