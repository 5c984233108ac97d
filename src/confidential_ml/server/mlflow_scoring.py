"""The protocol of MLflow's scoring server (docs/http.md 3.2)."""

from __future__ import annotations

import csv
import functools
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np
from starlette.responses import Response
from starlette.routing import Route

import confidential_ml
from confidential_ml.rows import FloatArray
from confidential_ml.server import arrow_stream, json_bodies, large_bodies, predict_parameters
from confidential_ml.server.access import guarded
from confidential_ml.server.body import media_type, read_body
from confidential_ml.server.errors import HttpError
from confidential_ml.server.json_bodies import Cell
from confidential_ml.server.openapi import BINARY, JSON, Parameter, RouteDescription
from confidential_ml.server.predict_parameters import PredictParameters

if TYPE_CHECKING:
    from starlette.requests import Request

    from confidential_ml.server.serving import Serving

__all__ = ["descriptions", "error_form", "routes"]

CSV = "text/csv"
_SPARE_LISTS = 1000  # brackets besides those of rows: of columns, of the frame, inside names
# What pandas reads as missing, besides what Python reads as NaN.
_CSV_MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "None"]
) | {"n/a", "null"}
_CSV_FLAGS = {"True": 1.0, "TRUE": 1.0, "true": 1.0, "False": 0.0, "FALSE": 0.0, "false": 0.0}
# As MLflow's clients know them by the status.
_ERROR_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}

Record = dict[str, Cell]
Columns = dict[str, Cell | list[Cell | list[Cell]]]
Tensor = list[Cell | list[Cell] | Record] | Columns


class SplitFrame(msgspec.Struct, forbid_unknown_fields=True):
    """What ``pandas.DataFrame.to_dict(orient="split")`` gives."""

    data: list[list[Cell]]
    columns: list[str | int | float | bool | None] | msgspec.UnsetType = msgspec.UNSET
    index: list[Any] | msgspec.UnsetType = msgspec.UNSET


class Invocation(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /invocations``: parameters, and rows in exactly one of four forms."""

    dataframe_split: SplitFrame | msgspec.UnsetType = msgspec.UNSET
    dataframe_records: list[Record] | msgspec.UnsetType = msgspec.UNSET
    instances: Tensor | msgspec.UnsetType = msgspec.UNSET
    inputs: Tensor | msgspec.UnsetType = msgspec.UNSET
    params: PredictParameters | msgspec.UnsetType | None = msgspec.UNSET


class Predictions(msgspec.Struct):
    """Answer of ``POST /invocations``: a number for each row, or a list of numbers."""

    predictions: list[Cell | list[Cell]]


class ScoringError(msgspec.Struct):
    """The body of an error."""

    error_code: str
    message: str


def error_form(error: HttpError) -> bytes:
    """The body of an error on these routes."""
    return msgspec.json.encode(ScoringError(_ERROR_CODES.get(error.status, "BAD_REQUEST"), error.message))


def routes(serving: Serving) -> list[Route]:
    """The routes of the protocol."""
    scoring = _Scoring(serving)
    return [
        Route("/ping", guarded(scoring.ping, role="open"), methods=["GET"]),
        Route("/version", guarded(scoring.version, role="open"), methods=["GET"]),
        Route(
            "/invocations",
            guarded(scoring.invocations, role="client", clear="cleartext_predict"),
            methods=["POST"],
        ),
    ]


class _Scoring:
    """The endpoints."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def ping(self, _: Request) -> Response:
        return Response(b"\n", media_type=JSON)

    async def version(self, _: Request) -> Response:
        # Not JSON, whatever MLflow's own server says of it.
        return Response(confidential_ml.__version__, media_type="text/plain")

    async def invocations(self, request: Request) -> Response:
        kind = media_type(request.scope["headers"])
        if kind not in (JSON, CSV, arrow_stream.MEDIA_TYPE):
            raise HttpError(415, "media_type_wrong", f"send {JSON}, {CSV} or {arrow_stream.MEDIA_TYPE}")
        limits = self._serving.settings.limits
        body = await read_body(request, limits.body_bytes)
        if kind == arrow_stream.MEDIA_TYPE:
            return await arrow_stream.respond(self._serving, request, body)
        query = request.query_params.multi_items()
        if kind == CSV:
            parameters = predict_parameters.from_query(query)
            matrix = await large_bodies.run(len(body), functools.partial(_from_csv, body, limits.rows))
            return await self._predict(matrix, parameters)
        if query:
            raise HttpError(400, "parameter_invalid", 'JSON takes its parameters in "params", not in the query')
        rows, parameters = await large_bodies.run(len(body), functools.partial(_from_json, body, limits.rows))
        return await self._predict(rows, parameters)

    async def _predict(self, rows: FloatArray | _Column, parameters: PredictParameters) -> Response:
        with self._serving.lease(parameters.id_or_none, parameters.version_or_none) as live:
            matrix = rows.as_rows(live.entry.n_features) if isinstance(rows, _Column) else rows
            predictions = await self._serving.predict_with(live, matrix, output_margin=parameters.output_margin)

        def content() -> bytes:
            return msgspec.json.encode(Predictions(json_bodies.values(predictions)))

        return Response(await large_bodies.run(predictions.nbytes, content), media_type=JSON)


class _Column:
    """Numbers without a list for each row, which are rows only of a model with one feature."""

    def __init__(self, values: FloatArray) -> None:
        self._values = values

    def as_rows(self, n_features: int) -> FloatArray:
        """Rows of one feature, or a refusal."""
        if n_features != 1:
            _refuse(f"a list of numbers is no rows of {n_features} features; send a list of numbers for each row")
        return self._values.reshape(-1, 1)


def _refuse(message: str) -> NoReturn:
    raise HttpError(400, "input_invalid", message)


def _check_count(rows: int, max_rows: int) -> None:
    if rows == 0:
        _refuse("the request has no rows; send at least one")
    if rows > max_rows:
        raise HttpError(413, "too_many_rows", f"more than {max_rows} rows; send them in several requests")


def _from_json(body: bytes, max_rows: int) -> tuple[FloatArray | _Column, PredictParameters]:
    # Each list and object takes far more memory than the few bytes it has in the body. A frame's index may have lists.
    if body.count(b"[") + body.count(b"{") > 2 * max_rows + _SPARE_LISTS:
        raise HttpError(413, "too_many_rows", f"more than {max_rows} rows; send them in several requests")
    invocation = json_bodies.decode(body, Invocation)
    forms = [invocation.dataframe_split, invocation.dataframe_records, invocation.instances, invocation.inputs]
    given = [form for form in forms if form is not msgspec.UNSET]
    if len(given) != 1:
        _refuse(
            "send the rows in exactly one of dataframe_split, dataframe_records, instances and inputs; "
            f"this body has {len(given)} of them"
        )
    parameters = invocation.params if isinstance(invocation.params, PredictParameters) else PredictParameters()
    form = given[0]
    if isinstance(form, SplitFrame):
        return _from_split(form, max_rows), parameters
    if isinstance(form, dict):
        return _from_columns(form, max_rows), parameters
    return _from_list(form, max_rows), parameters


def _from_split(frame: SplitFrame, max_rows: int) -> FloatArray:
    if frame.columns is not msgspec.UNSET:
        if len(set(frame.columns)) != len(frame.columns):
            _refuse("dataframe_split has two columns of one name; rename one of them")
        if frame.data and len(frame.data[0]) != len(frame.columns):
            _refuse(f"dataframe_split has {len(frame.columns)} columns, but {len(frame.data[0])} values in a row")
    if frame.index is not msgspec.UNSET and len(frame.index) != len(frame.data):
        _refuse(f"dataframe_split has {len(frame.index)} index values, but {len(frame.data)} rows")
    return _from_lists(frame.data, max_rows)


def _from_list(rows: Sequence[Any], max_rows: int) -> FloatArray | _Column:
    """Rows as lists or records; or numbers, a column."""
    _check_count(len(rows), max_rows)
    kinds = set(map(type, rows))
    if kinds == {dict}:
        return _from_records(rows)
    if kinds == {list}:
        return _from_lists(rows, max_rows)
    if kinds & {dict, list}:
        _refuse("the rows are of different kinds; send a list of lists, or a list of objects")
    return _Column(_float32(rows))


def _from_lists(rows: Sequence[list[Cell]], max_rows: int) -> FloatArray:
    _check_count(len(rows), max_rows)
    width = len(rows[0])
    for index, row in enumerate(rows):
        if len(row) != width:
            _refuse(f"row {index} has {len(row)} values, row 0 has {width}")
    return _float32(rows)


def _from_records(records: Sequence[Record]) -> FloatArray:
    """Names in the order they first appear, as in a data frame; a name that a record does not have is missing there."""
    names = tuple(records[0])
    if all(tuple(record) == names for record in records):
        return _float32([list(record.values()) for record in records])
    names = tuple(dict.fromkeys(itertools.chain.from_iterable(records)))
    # A name each: the matrix would have the square of what the body has.
    if len(names) * len(records) > 2 * sum(map(len, records)) + _SPARE_LISTS:
        _refuse("most records leave out most names; send every name in each, null where there is no value")
    return _float32([[record.get(name) for name in names] for record in records])


def _from_columns(columns: Columns, max_rows: int) -> FloatArray:
    """Columns by name: lists of numbers, or of lists with one number; or one row of numbers by name."""
    if columns and not any(isinstance(column, list) for column in columns.values()):
        return _float32([list(columns.values())])
    lists = [_flat_column(index, column) for index, column in enumerate(columns.values())]
    _check_count(len(lists[0]) if lists else 0, max_rows)
    for index, column in enumerate(lists):
        if len(column) != len(lists[0]):
            _refuse(f"column {index} has {len(column)} values, column 0 has {len(lists[0])}")
    return json_bodies.float32_array(_float32(lists).T)


def _flat_column(index: int, column: Cell | list[Cell | list[Cell]]) -> list[Any]:
    if isinstance(column, list):
        if not any(isinstance(cell, list) for cell in column):
            return column
        if all(isinstance(cell, list) and len(cell) == 1 for cell in column):
            return list(itertools.chain.from_iterable(column))  # type: ignore[arg-type]
    _refuse(f"column {index} must be a list of numbers, or of lists with one number")


def _float32(cells: Sequence[Any]) -> FloatArray:
    return json_bodies.float32_array(np.array(cells, dtype=np.float64))


def _from_csv(body: bytes, max_rows: int) -> FloatArray:
    try:
        text = body.decode("utf-8-sig")
        lines = _csv_lines(text)
        names = next(lines, [])
        if len(set(names)) != len(names):
            _refuse("the CSV has two columns of one name; rename one of them")
        rows: list[list[float]] = []
        for line in lines:
            if len(line) != len(names):
                _refuse(f"CSV row {len(rows)} has {len(line)} values, the header line has {len(names)}")
            rows.append(_csv_row(line))
            _check_count(len(rows), max_rows)
    except (csv.Error, UnicodeDecodeError):
        raise HttpError(400, "body_malformed", "the body is not CSV in UTF-8") from None
    if not rows:
        _refuse("the CSV has no rows: its first line is taken as the header; send names there, and a row after it")
    _check_count(len(rows), max_rows)
    return _float32(rows)


def _csv_lines(text: str) -> Iterator[list[str]]:
    """The lines that are not empty."""
    return filter(None, csv.reader(io.StringIO(text, newline=""), strict=True))


def _csv_row(line: list[str]) -> list[float]:
    if "_" not in "".join(line):  # which Python takes between digits
        try:
            return list(map(float, line))
        except ValueError:
            pass
    return [_csv_cell(cell) for cell in line]


def _csv_cell(cell: str) -> float:
    word = cell.strip()
    if word in _CSV_MISSING:
        return float("nan")
    flag = _CSV_FLAGS.get(word)
    if flag is not None:
        return flag
    try:
        if "_" not in word:
            return float(word)
    except ValueError:
        pass
    _refuse("the CSV has a value that is no number; columns of text have to be left out")


def descriptions() -> list[RouteDescription]:
    """What /openapi.json says of these routes."""
    names = ("model_id", "version", "output_margin")
    summaries = ("the model's id", "the model's version", "margins instead of values")
    types = (str, int, bool)
    query = tuple(
        Parameter(name, "query", kind, f"{summary}; for CSV and Arrow only")
        for name, kind, summary in zip(names, types, summaries, strict=True)
    )
    return [
        RouteDescription("/ping", "get", "Whether the server answers", "open", {200: {JSON: BINARY}}, ScoringError),
        RouteDescription(
            "/version", "get", "The version of the package", "open", {200: {"text/plain": str}}, ScoringError
        ),
        RouteDescription(
            "/invocations",
            "post",
            "Predict",
            "client",
            {200: {JSON: Predictions, arrow_stream.MEDIA_TYPE: BINARY}},
            ScoringError,
            request={JSON: Invocation, CSV: BINARY, arrow_stream.MEDIA_TYPE: BINARY},
            parameters=query,
            codes=(
                "body_malformed",
                "input_invalid",
                "parameter_invalid",
                "model_id_missing",
                "model_unknown",
                "too_many_rows",
            ),
            clear="cleartext_predict",
        ),
    ]
