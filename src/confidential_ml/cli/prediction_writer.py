"""Predictions as CSV, Parquet or NPY: written batch by batch beside the file, which then takes its place at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from confidential_ml.cli.exit_status import UsageError
from confidential_ml.regular_file import replaceable
from confidential_ml.replacement import replacing
from confidential_ml.rows import FloatArray

__all__ = ["Write", "open_predictions"]

Write = Callable[[FloatArray], None]
"""Takes the next predictions, shape (rows, columns)."""


@contextlib.contextmanager
def open_predictions(path: Path, file_format: str, n_columns: int) -> Iterator[Write]:
    """Open a file for predictions of `n_columns` each; without success the file stays as it was.

    A symbolic link stays one. What is no regular file is refused: as root a device would be replaced, too.

    The file is readable to its owner alone (mode 0600): predictions are what everything else keeps secret.

    Raises
    ------
    UsageError
        If there is something that is no regular file.
    OSError
        If it cannot be written.
    """
    target = Path(replaceable(os.fspath(path)))
    if os.path.lexists(target) and not target.is_file():
        raise UsageError(f"{path} is no regular file, so no predictions can take its place; give the path of one")
    opened = {"csv": _csv, "parquet": _parquet, "npy": _npy}[file_format]
    with replacing(target, mode=0o600) as file, opened(file, n_columns) as write:
        yield write


def _names(n_columns: int) -> list[str]:
    return ["prediction"] if n_columns == 1 else [f"prediction_{number}" for number in range(n_columns)]


def _schema(n_columns: int) -> Any:
    import pyarrow as pa

    return pa.schema([pa.field(name, pa.float32(), nullable=False) for name in _names(n_columns)])


def _record_batch(values: FloatArray) -> Any:
    import pyarrow as pa

    columns = [pa.array(np.ascontiguousarray(values[:, number])) for number in range(values.shape[1])]
    return pa.record_batch(columns, schema=_schema(values.shape[1]))


@contextlib.contextmanager
def _csv(file: IO[bytes], n_columns: int) -> Iterator[Write]:
    from pyarrow import csv

    # Arrow writes the shortest text that reads back as the same float32.
    with csv.CSVWriter(file, _schema(n_columns), write_options=csv.WriteOptions(quoting_header="none")) as writer:
        yield lambda values: writer.write_batch(_record_batch(values))


@contextlib.contextmanager
def _parquet(file: IO[bytes], n_columns: int) -> Iterator[Write]:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, _schema(n_columns), compression="zstd") as writer:
        yield lambda values: writer.write_batch(_record_batch(values))


@contextlib.contextmanager
def _npy(file: IO[bytes], n_columns: int) -> Iterator[Write]:
    n_rows = 0

    def write_header() -> int:
        shape = (n_rows,) if n_columns == 1 else (n_rows, n_columns)
        # NumPy leaves room for the first dimension to grow, so both headers have the same size.
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return file.tell()

    def write(values: FloatArray) -> None:
        nonlocal n_rows
        n_rows += len(values)
        file.write(np.ascontiguousarray(values, "<f4").data)

    size = write_header()
    yield write
    file.seek(0)
    if write_header() != size:
        raise OSError("the header of an NPY file grew over its rows; use another format")
