"""`confidential-ml predict`: rows of a file to predictions in a file, in this machine's enclave or in one elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from confidential_ml.cli import options
from confidential_ml.cli.exit_status import UsageError
from confidential_ml.cli.output import console, note, print_json

if TYPE_CHECKING:
    from confidential_ml.cli.row_reader import Rows
    from confidential_ml.rows import FloatArray

__all__ = ["predict"]


@dataclass(frozen=True)
class _Predictor:
    """What makes predictions of rows, shape (rows, columns), and where."""

    n_features: int
    n_columns: int
    where: str
    predict: Callable[[FloatArray], FloatArray]


def predict(
    source: Annotated[str, typer.Argument(metavar="SEALED|URL", help="A sealed model, or a server.")],
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="CSV, Parquet or NPY.")],
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="CSV, Parquet or NPY.")],
    input_format: Annotated[str | None, typer.Option("--input-format", metavar="csv|parquet|npy")] = None,
    output_format: Annotated[str | None, typer.Option("--output-format", metavar="csv|parquet|npy")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B,...", help="Columns in the model's order; all by default.")
    ] = None,
    no_header: Annotated[bool, typer.Option("--no-header", help="The first line of the CSV file holds a row.")] = False,
    output_margin: Annotated[bool, typer.Option("--output-margin", help="Margins instead of values.")] = False,
    rounds: Annotated[
        str | None, typer.Option("--rounds", metavar="BEGIN:END", help="Boosting rounds; all by default.")
    ] = None,
    missing: Annotated[
        float, typer.Option("--missing", metavar="NUMBER", help="A number that means missing, too.", show_default=False)
    ] = float("nan"),
    batch_rows: Annotated[int | None, typer.Option("--batch-rows", metavar="N", min=1, help="At a time.")] = None,
    receipts: Annotated[
        Path | None, typer.Option("--receipts", metavar="DIR", help="Keep the receipts of a server's enclave.")
    ] = None,
    policy: options.PolicyFile = None,
    root: options.RootFile = None,
    collateral: options.CollateralFile = None,
    model_digest: options.ModelDigest = None,
    token_file: options.TokenFile = None,
    ca_file: options.CaFile = None,
    timeout: options.Timeout = 60.0,
    allow_plain_http: options.AllowPlainHttp = False,
    json: options.Json = False,
) -> None:
    """Predict the rows of a file, here or elsewhere.

    A server gets the rows only once its enclave is verified, and encrypted to that enclave alone.
    """
    from confidential_ml.cli import row_reader
    from confidential_ml.cli.prediction_writer import open_predictions

    taken = row_reader.format_of(rows, input_format)
    given = row_reader.format_of(predictions, output_format)
    if predictions.exists() and rows.exists() and predictions.samefile(rows):
        raise UsageError(f"{predictions} is the file of rows, which the predictions would replace; name another")
    choice = {"output_margin": output_margin, "iteration_range": _rounds(rounds), "missing": missing}
    names = None if columns is None else columns.split(",")
    remote = {
        "policy": policy,
        "root": root,
        "collateral": collateral,
        "model_digest": model_digest,
        "token_file": token_file,
        "ca_file": ca_file,
        "timeout": timeout,
        "allow_plain_http": allow_plain_http,
    }
    with (
        row_reader.open_rows(rows, taken, columns=names, has_header=not no_header, batch_rows=batch_rows) as read,
        _predictor(source, choice, receipts, remote) as predictor,
    ):
        _check_columns(rows, names, read.n_columns, predictor.n_features)
        start, count = time.perf_counter(), 0
        with open_predictions(predictions, given, predictor.n_columns) as write:
            for batch in _watched(read):
                write(predictor.predict(batch))
                count += len(batch)
        seconds = time.perf_counter() - start
    if json:
        print_json({"rows": count, "columns": predictor.n_columns, "seconds": seconds, "predictions": str(predictions)})
    else:
        note(f"{count:,} rows predicted in {seconds:.1f} s by {predictor.where}: {predictions}")


def _rounds(text: str | None) -> tuple[int, int]:
    if text is None:
        return (0, 0)
    begin, colon, end = text.partition(":")
    if not colon or not all(part == "" or (part.isascii() and part.isdecimal()) for part in (begin, end)):
        raise UsageError("--rounds must be BEGIN:END, such as 0:50")
    return (int(begin or 0), int(end or 0))


def _check_columns(path: Path, names: list[str] | None, found: int, needed: int) -> None:
    if found == needed:
        return
    if names is None:
        raise UsageError(f"{path} has {found} columns, the model has {needed} features; choose them with --columns")
    raise UsageError(f"--columns names {found} column{'' if found == 1 else 's'}, the model has {needed} features")


@contextlib.contextmanager
def _predictor(
    source: str, choice: dict[str, Any], receipts: Path | None, remote: dict[str, Any]
) -> Iterator[_Predictor]:
    if options.is_url(source):
        with _elsewhere(source, choice, receipts, remote) as predictor:
            yield predictor
        return
    if receipts is not None or remote["policy"] is not None:
        raise UsageError("--receipts and --policy are for servers; a sealed model is opened by this machine's enclave")
    import confidential_ml as cml

    with cml.ConfidentialModel.load_sealed(source) as model:
        n_columns = model.info.n_groups if choice["output_margin"] else model.info.n_values
        yield _Predictor(
            model.info.n_features,
            n_columns,
            f"{model.info.model_id} in this machine's enclave ({model.info.platform})",
            lambda batch: model.predict(batch, strict_shape=True, **choice),
        )


@contextlib.contextmanager
def _elsewhere(url: str, choice: dict[str, Any], receipts: Path | None, remote: dict[str, Any]) -> Iterator[_Predictor]:
    from confidential_ml.errors import EnclaveError

    policy = options.needed_policy(remote.pop("policy"))
    if receipts is not None:
        receipts.mkdir(mode=0o700, exist_ok=True)
    with options.connect(url, policy, **remote) as client:
        digest = remote["model_digest"]
        found = [one for one in client.attestation.models if digest in (None, one.model_digest)]
        if len({one.model_digest for one in found}) > 1:
            raise UsageError(f"{url} has {len(found)} models that the policy accepts; say which with --model-digest")
        if not found:
            raise EnclaveError(f"{url} has loaded no model that the policy accepts")
        kept = _Receipts(receipts)

        def predict(batch: FloatArray) -> FloatArray:
            if receipts is None:
                plain: FloatArray = client.predict(batch, strict_shape=True, **choice)
                return plain
            values, signed = client.predict(batch, strict_shape=True, receipt=True, **choice)
            kept.add(signed, len(batch))
            return values

        one = found[0]
        n_columns = one.n_groups if choice["output_margin"] else one.n_values
        yield _Predictor(one.n_features, n_columns, f"{one.model_id} at {url}", predict)


class _Receipts:
    """A directory of receipts, named after the first row that each is of."""

    def __init__(self, directory: Path | None) -> None:
        self._directory, self._n_rows = directory, 0

    def add(self, signed: tuple[Any, ...], n_rows: int) -> None:
        from confidential_ml.cli.receipt_file import ReceiptFile

        assert self._directory is not None
        for one in signed:
            begin, end = self._n_rows + one.rows.start, self._n_rows + one.rows.stop
            kept = ReceiptFile(one.receipt.data, one.evidence, one.collateral, one.blind, (begin, end))
            kept.save(self._directory / f"receipt-{begin:012d}.json")
        self._n_rows += n_rows


def _watched(rows: Rows) -> Iterator[FloatArray]:
    """The batches, with a bar on standard error if somebody may be looking."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield from rows.batches
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("predicting"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[done]:,} rows"),
        TimeRemainingColumn(),
        console=out,
        transient=True,
    )
    with bar:
        task, done = bar.add_task("", total=rows.size, done=0), 0
        for batch in rows.batches:
            yield batch
            done += len(batch)
            bar.update(task, completed=rows.progress(), done=done)
