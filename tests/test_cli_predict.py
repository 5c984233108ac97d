"""`confidential-ml predict` of files: XGBoost's bits in each format, bounded memory, atomic, errors without values."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Run

import confidential_ml as cml
from confidential_ml.cli import row_reader

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
MODELS = ["reg", "softprob"]
X = np.load(FIXTURES / "X.npy")
NAMES = [f"f{number}" for number in range(X.shape[1])]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    place = tmp_path_factory.mktemp("sealed")
    for name in MODELS:
        cml.seal(FIXTURES / f"xgb-3.4.1.{name}.ubj", place / f"{name}.sealed", model_id=name)
    return lambda name: place / f"{name}.sealed"


def expected(name: str) -> np.ndarray[Any, Any]:
    """What XGBoost itself predicts."""
    import xgboost

    booster = xgboost.Booster(model_file=str(FIXTURES / f"xgb-3.4.1.{name}.ubj"))
    values: np.ndarray[Any, Any] = booster.predict(xgboost.DMatrix(X))
    return values


def write_rows(path: Path, rows: np.ndarray[Any, Any], names: list[str] | None = None) -> Path:
    names = names or [f"f{number}" for number in range(rows.shape[1])]
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table([pa.array(column) for column in rows.T], names=names), path, row_group_size=100)
    else:
        lines = [",".join(names), *(",".join("" if np.isnan(v) else repr(float(v)) for v in row) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


def read_predictions(path: Path) -> np.ndarray[Any, Any]:
    if path.suffix == ".npy":
        values: np.ndarray[Any, Any] = np.load(path)
        return values
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        columns = [np.asarray(column) for column in table.columns]
        names = table.column_names
    else:
        names, *lines = path.read_text().splitlines()[0].split(","), *path.read_text().splitlines()[1:]
        columns = list(np.array([[np.float32(v) for v in line.split(",")] for line in lines], np.float32).T)
    assert names == (["prediction"] if len(names) == 1 else [f"prediction_{n}" for n in range(len(names))])
    return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)


@pytest.mark.parametrize(("taken", "given"), list(itertools.product(("csv", "parquet", "npy"), repeat=2)))
@pytest.mark.parametrize("name", MODELS)
def test_same_bits_as_xgboost_through_each_format(
    run: Run, sealed: Callable[[str], Path], tmp_path: Path, name: str, taken: str, given: str
) -> None:
    rows = write_rows(tmp_path / f"rows.{taken}", X)
    found = tmp_path / f"predictions.{given}"
    done = run("predict", sealed(name), rows, found, "--batch-rows", "100")
    assert done.status == 0, done.err
    values = read_predictions(found)
    assert values.dtype == np.float32
    assert values.tobytes() == expected(name).astype(np.float32).tobytes()
    assert done.out == ""
    assert "256 rows predicted" in done.err
    assert found.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("dtype", "order"),
    [("f8", "C"), ("f8", "F"), ("f4", "F"), (">f4", "C"), ("f2", "C"), ("i4", "C"), ("u1", "F"), ("?", "C")],
)
def test_npy_of_every_kind(run: Run, sealed: Callable[[str], Path], tmp_path: Path, dtype: str, order: str) -> None:
    rows = np.nan_to_num(X).astype(np.dtype(dtype), casting="unsafe")
    np.save(tmp_path / "rows.npy", np.asarray(rows, order=order))  # type: ignore[call-overload]
    assert run("predict", sealed("reg"), tmp_path / "rows.npy", tmp_path / "p.npy", "--batch-rows", "7").status == 0
    with cml.ConfidentialModel.load_sealed(sealed("reg")) as model:
        assert np.load(tmp_path / "p.npy").tobytes() == model.predict(rows.astype(np.float32)).tobytes()


def test_columns_are_chosen_by_name_in_the_models_order(
    run: Run, sealed: Callable[[str], Path], tmp_path: Path
) -> None:
    shuffled = [3, 0, 5, 1, 4, 2]
    rows = np.concatenate([X[:, shuffled], np.full((len(X), 1), 7, np.float32)], axis=1)
    names = [f"f{number}" for number in shuffled] + ["not a feature"]
    for kind in ("csv", "parquet"):
        path = write_rows(tmp_path / f"rows.{kind}", rows, names)
        assert run("predict", sealed("reg"), path, tmp_path / "p.npy").status == 2
        done = run("predict", sealed("reg"), path, tmp_path / "p.npy", "--columns", ",".join(NAMES))
        assert done.status == 0, done.err
        assert np.load(tmp_path / "p.npy").tobytes() == expected("reg").tobytes()
        done = run("predict", sealed("reg"), path, tmp_path / "p.npy", "--columns", "f0,none")
        assert (done.status, "has no column 'none'; it has f3, f0, f5, f1, f4, f2 and 1 more" in done.err) == (2, True)
        done = run("predict", sealed("reg"), path, tmp_path / "p.npy", "--columns", "f0,f1,f2")
        assert (done.status, "--columns names 3 columns, the model has 6 features" in done.err) == (2, True)


def test_a_row_in_place_of_names_is_not_shown(run: Run, sealed: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"{SECRET},2,3,4,5,6\n1,2,3,4,5,6\n")
    done = run("predict", sealed("reg"), tmp_path / "rows.csv", tmp_path / "p.npy", "--columns", "f0")
    assert (done.status, "has no column 'f0'; it has 6 columns" in done.err) == (2, True)
    assert SECRET not in done.err


def test_margins_rounds_and_missing(run: Run, sealed: Callable[[str], Path], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.npy", np.where(np.isnan(X), np.float32(-9), X))
    found = tmp_path / "p.npy"
    options = ["--output-margin", "--rounds", "1:3", "--missing", "-9"]
    assert run("predict", sealed("softprob"), rows, found, *options).status == 0
    with cml.ConfidentialModel.load_sealed(sealed("softprob")) as model:
        assert np.load(found).tobytes() == model.predict(X, output_margin=True, iteration_range=(1, 3)).tobytes()
    for wrong in ("3", "a:b", "1:2:3", "-1:2"):
        assert run("predict", sealed("reg"), rows, found, f"--rounds={wrong}").status == 2


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
def test_no_rows(run: Run, sealed: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    rows = write_rows(tmp_path / f"rows.{kind}", X[:0])
    for given in ("csv", "parquet", "npy"):
        done = run("predict", sealed("softprob"), rows, tmp_path / f"p.{given}")
        assert done.status == 0, done.err
    assert np.load(tmp_path / "p.npy").shape == (0, 3)
    assert (tmp_path / "p.csv").read_text() == "prediction_0,prediction_1,prediction_2\n"
    assert pq.read_table(tmp_path / "p.parquet").shape == (0, 3)


def test_csv_as_people_write_it(run: Run, sealed: Callable[[str], Path], tmp_path: Path) -> None:
    """A byte order mark, CRLF, quotes, spaces of words for missing, names twice."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbf"a, b",a,a,d,e,f\r\n1,NA,,nan,NaN,null\r\n"2",1e3,-0.0,inf,-inf,.5\r\n')
    done = run("predict", sealed("reg"), path, tmp_path / "p.npy")
    assert done.status == 0, done.err
    rows = np.array([[1, *[np.nan] * 5], [2, 1e3, -0.0, np.inf, -np.inf, 0.5]], np.float32)
    with cml.ConfidentialModel.load_sealed(sealed("reg")) as model:
        assert np.load(tmp_path / "p.npy").tobytes() == model.predict(rows).tobytes()
    path.write_text("1,2,3,4,5,6\n7,8,9,10,11,12\n")
    done = run("predict", sealed("reg"), path, tmp_path / "p.npy")
    assert (done.status, "--no-header" in done.err) == (2, True)
    assert run("predict", sealed("reg"), path, tmp_path / "p.npy", "--no-header").status == 0
    assert np.load(tmp_path / "p.npy").shape == (2,)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_pipe_of_csv_loses_no_row(sealed: Callable[[str], Path], tmp_path: Path, line_end: str) -> None:
    """More than any buffer holds, with and without a header, as `cat rows.csv | confidential-ml predict ...`."""
    rows = np.tile(X, (10, 1))
    text = line_end.join(",".join("" if np.isnan(v) else repr(float(v)) for v in row) for row in rows) + line_end
    for header, options in ((",".join(NAMES) + line_end, []), ("", ["--no-header"])):
        command = [sys.executable, "-m", "confidential_ml.cli", "predict", str(sealed("reg")), "/dev/stdin"]
        command += [str(tmp_path / "p.npy"), "--input-format", "csv", *options]
        subprocess.run(command, input=(header + text).encode(), check=True, capture_output=True)
        with cml.ConfidentialModel.load_sealed(sealed("reg")) as model:
            assert np.load(tmp_path / "p.npy").tobytes() == model.predict(rows).tobytes()


def test_predictions_never_replace_their_rows(run: Run, sealed: Callable[[str], Path], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", X)
    content = path.read_bytes()
    (tmp_path / "link.csv").symlink_to(path)
    for found in (path, tmp_path / "link.csv", tmp_path / ".." / tmp_path.name / "rows.csv"):
        done = run("predict", sealed("reg"), path, found)
        assert (done.status, "name another" in done.err) == (2, True)
    assert path.read_bytes() == content


def test_only_regular_files_are_replaced(run: Run, sealed: Callable[[str], Path], tmp_path: Path) -> None:
    """Not what might be a device, which root could replace; and a link stays one."""
    rows = write_rows(tmp_path / "rows.npy", X)
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "to_pipe.npy").symlink_to("pipe.npy")
    (tmp_path / "directory.npy").mkdir()
    for name in ("pipe.npy", "to_pipe.npy", "directory.npy"):
        done = run("predict", sealed("reg"), rows, tmp_path / name)
        assert (done.status, "no regular file" in done.err) == (2, True), name
    assert (tmp_path / "pipe.npy").is_fifo()
    (tmp_path / "link.npy").symlink_to("found.npy")
    assert run("predict", sealed("reg"), rows, tmp_path / "link.npy").status == 0
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "found.npy").shape == (len(X),)
    assert not list(tmp_path.glob(".confidential_ml-*"))


def test_integers_with_nulls_are_rounded_once(tmp_path: Path) -> None:
    large = (1 << 60) + (1 << 36) + 1  # float64 would make it the middle between two float32
    table = pa.table([pa.array([large, None]), pa.array([True, None]), pa.array([1.5, None])], names=["a", "b", "c"])
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = row_reader.read_all(tmp_path / "rows.parquet")
    once = np.array([large], np.int64).astype(np.float32)[0]
    assert rows[0].tolist() == [once, 1.0, 1.5]
    assert once != np.float32(np.float64(large))
    assert np.isnan(rows[1]).all()


SECRET = "s3cret"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.csv", "a,b,c,d,e,f\n1,2,3,4,5,6\n1,2,s3cret,4,5,6\n", "column 3 holds something that is no number"),
        ("rows.csv", "a,b,c,d,e,f\n1,2,3,4,5\n", "it has 5 columns, the first line has 6"),
        ("rows.csv", "a,b,c,d,e,f\n1,2,3,4,5,6\n" + "s3cret" * 400_000 + "\n", "rows.csv: "),
        ("rows.csv", b"a,b,\xff,d,e,f\n", "is not UTF-8"),
        ("rows.csv", "", "is empty"),
        ("rows.csv", "a,b\n1,2\n", "has 2 columns, the model has 6 features"),
        ("rows.npy", "s3cret", "is no NPY file"),
        ("rows.parquet", "s3cret" * 10, "cannot be read as a file of this format"),
        ("rows.xlsx", "", "the format is not told by the name"),
    ],
)
def test_rows_that_cannot_be(
    run: Run, sealed: Callable[[str], Path], tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = tmp_path / "p.csv"
    found.write_text("as it was")
    done = run("predict", sealed("reg"), path, found)
    assert done.status == 2, done
    assert problem in done.err
    assert SECRET not in done.err
    assert len(done.err.splitlines()) <= 2
    assert found.read_text() == "as it was"
    assert {one.name for one in tmp_path.iterdir()} == {name, "p.csv"}


def test_npy_that_lies(run: Run, sealed: Callable[[str], Path], tmp_path: Path) -> None:
    for array in (np.zeros((2, 3, 4)), np.array([["a"]]), np.array([[1j]]), np.array(1.0)):
        np.save(tmp_path / "rows.npy", array)
        assert run("predict", sealed("reg"), tmp_path / "rows.npy", tmp_path / "p.npy").status == 2
    (tmp_path / "rows.npy").write_bytes(b"\x93NUMPY\1\0\x10\0" + b"(" * 16)
    assert run("predict", sealed("reg"), tmp_path / "rows.npy", tmp_path / "p.npy").status == 2
    np.save(tmp_path / "rows.npy", np.array([[object()]]), allow_pickle=True)
    assert run("predict", sealed("reg"), tmp_path / "rows.npy", tmp_path / "p.npy").status == 2
    np.save(tmp_path / "rows.npy", X)
    content = (tmp_path / "rows.npy").read_bytes()
    for wrong in (content[:-1], content + b"x"):
        (tmp_path / "rows.npy").write_bytes(wrong)
        done = run("predict", sealed("reg"), tmp_path / "rows.npy", tmp_path / "p.npy")
        assert (done.status, "cut short, or longer" in done.err) == (2, True)


def test_parquet_types(run: Run, sealed: Callable[[str], Path], tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "a": pa.array([1, None], pa.int8()),
        "b": pa.array([True, None]),
        "c": pa.array([1.5, None], pa.float16()),
        "d": pa.array([2**63 - 1, 5], pa.int64()),
        "e": pa.array([1, 2], pa.uint16()),
        "f": pa.array([0.1, None], pa.float64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    assert run("predict", sealed("reg"), tmp_path / "rows.parquet", tmp_path / "p.npy").status == 0
    rows = np.array([[1, 1, 1.5, 2**63 - 1, 1, 0.1], [np.nan, np.nan, np.nan, 5, 2, np.nan]], np.float32)
    with cml.ConfidentialModel.load_sealed(sealed("reg")) as model:
        assert np.load(tmp_path / "p.npy").tobytes() == model.predict(rows).tobytes()
    for wrong in (pa.array(["1", "2"]), pa.array([1, 2], pa.timestamp("s")), pa.array([[1], [2]])):
        pq.write_table(pa.table({**columns, "c": wrong}), tmp_path / "rows.parquet")
        done = run("predict", sealed("reg"), tmp_path / "rows.parquet", tmp_path / "p.npy")
        assert (done.status, "column 'c' is of type" in done.err) == (2, True)


def test_json_and_the_output_of_an_unwritable_place(run: Run, sealed: Callable[[str], Path], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.npy", X)
    done = run("predict", sealed("reg"), rows, tmp_path / "p.npy", "--json")
    document = done.json()
    assert (document["rows"], document["columns"], document["predictions"]) == (256, 1, str(tmp_path / "p.npy"))
    done = run("predict", sealed("reg"), rows, tmp_path / "none" / "p.npy")
    assert (done.status, "No such file" in done.err) == (3, True)
    done = run("predict", sealed("reg"), tmp_path / "none.npy", tmp_path / "p.npy")
    assert (done.status, "No such file" in done.err) == (3, True)
    assert run("predict", tmp_path / "none.sealed", rows, tmp_path / "p.npy").status == 3
    assert run("predict", rows, rows, tmp_path / "p.npy").status == 1  # no sealed model


# Not by getrusage, whose maximum includes what the process was before it became this program.
MEASURE = """
import re, sys
from confidential_ml.cli import main
status = main(sys.argv[1:])
print(status, re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_memory_is_bounded_however_long_the_file_is(sealed: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    """Rows of 77 MB, as float32, in less than that beside what a single row takes."""

    def peak(path: Path) -> int:
        arguments = ["predict", sealed("reg"), path, tmp_path / "p.npy"]
        command = [sys.executable, "-W", "ignore", "-c", MEASURE, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        status, size = done.stdout.split()
        assert status == "0", done.stderr
        return int(size) >> 10

    small = peak(write_rows(tmp_path / f"small.{kind}", X[:1]))
    large = tmp_path / f"large.{kind}"
    n_rows = many_rows(large)
    taken = peak(large) - small
    assert np.load(tmp_path / "p.npy", mmap_mode="r").shape == (n_rows,)
    assert taken < 60, f"{taken} MiB more than for one row"
    large.unlink()


def many_rows(path: Path) -> int:
    block, count = np.random.default_rng(1).normal(size=(80_000, 6)).astype(np.float32), 40
    if path.suffix == ".csv":
        lines = "".join(f"{a:.5f},{b:.3f},{c:.4f},{d:.3f},{e:.3f},{f:.3f}\n" for a, b, c, d, e, f in block.tolist())
        with open(path, "w") as file:
            file.write(",".join(NAMES) + "\n")
            for _ in range(count):
                file.write(lines)
    elif path.suffix == ".parquet":
        # One row group, which as a whole would not do.
        table = pa.table([pa.array(np.tile(column, count)) for column in block.T], names=NAMES)
        pq.write_table(table, path, row_group_size=len(table), use_dictionary=False)
    else:
        with open(path, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count * len(block), 6)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(count):
                file.write(block.tobytes())
    return count * len(block)


def test_a_bar_is_drawn_on_a_terminal_alone(sealed: Callable[[str], Path], tmp_path: Path, run: Run) -> None:
    import pty

    rows = write_rows(tmp_path / "rows.npy", np.tile(X, (40, 1)))
    arguments = ["predict", sealed("reg"), rows, tmp_path / "p.npy", "--batch-rows", "1"]
    command = [sys.executable, "-W", "ignore", "-m", "confidential_ml.cli", *map(str, arguments)]
    master, slave = pty.openpty()
    with subprocess.Popen(
        command, stderr=slave, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}, start_new_session=True
    ) as process:
        os.close(slave)
        drawn = b""
        while True:
            try:
                part = os.read(master, 1 << 16)
            except OSError:
                break
            drawn += part
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(master)
    assert re.search(rb"predicting.*%.*rows", drawn), drawn
    assert b"predicting" not in run(*arguments).err.encode()


def test_the_reader_gives_batches_of_the_size_that_was_asked(tmp_path: Path) -> None:
    for kind in row_reader.FORMATS:
        path = write_rows(tmp_path / f"rows.{kind}", X)
        with row_reader.open_rows(path, kind, batch_rows=50) as rows:
            sizes = [len(batch) for batch in rows.batches]
            assert sum(sizes) == 256
            assert max(sizes) <= 50
            assert rows.progress() == rows.size
        assert row_reader.read_all(path).tobytes() == X.tobytes()
