"""MLflow scoring: what MLflow's own client and pandas send, and what is refused."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_server import MAX_BODY, MAX_ROWS, Served, on_a_socket, rows_of, rows_or_refusal, same_bits, served

import confidential_ml as cml

__all__ = ["served"]

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
pd = pytest.importorskip("pandas")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's import warns of its own types
    mlflow_models = pytest.importorskip("mlflow.models")
    mlflow_server = pytest.importorskip("mlflow.pyfunc.scoring_server")
    mlflow_client = pytest.importorskip("mlflow.pyfunc.scoring_server.client")

FLOWERS = {"model_id": "flowers", "version": 1}


def frame(n_features: int = 4, count: int = 5) -> Any:
    result = pd.DataFrame(rows_of(n_features, count), columns=[f"feature {i}" for i in range(n_features)])
    result.iloc[0, 0] = np.nan
    return result


def invoke(served: Served, body: str | bytes | dict[str, Any], **arguments: Any) -> np.ndarray[Any, Any]:
    content = json.dumps(body) if isinstance(body, dict) else body
    arguments.setdefault("headers", {"Content-Type": "application/json"})
    answer = served.ask("POST", "/invocations", content=content, **arguments)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"predictions"}
    return np.array(answer.json()["predictions"], dtype=np.float32)


def refusal(served: Served, body: str | bytes | dict[str, Any], kind: str = "application/json", **more: Any) -> Any:
    content = json.dumps(body) if isinstance(body, dict) else body
    answer = served.ask("POST", "/invocations", content=content, headers={"Content-Type": kind}, **more)
    assert set(answer.json()) == {"error_code", "message"}
    return answer.status_code, answer.headers["Confidential-ML-Error"]


# ---- MLflow's client over a socket -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    with on_a_socket(served) as port:
        yield mlflow_client.ScoringServerClient("127.0.0.1", port)


def test_mlflow_asks_whether_the_server_is_there(client: Any) -> None:
    client.ping()
    assert client.get_version() == cml.__version__


def test_mlflow_predicts(client: Any, served: Served) -> None:
    rows = frame()
    expected = served.predict("flowers", rows)
    for data in (rows, rows.to_numpy(), rows.to_numpy().tolist()):
        answer = client.invoke(data, params=FLOWERS)
        assert same_bits(answer["predictions"], expected)
    margins = client.invoke(rows, params={**FLOWERS, "output_margin": True})
    assert same_bits(margins["predictions"], served.predict("flowers", rows, predict_type="margin"))
    risk = client.invoke(frame(6), params={"model_id": "risk"})
    assert same_bits(risk["predictions"], served.predict("risk", frame(6)))


def test_mlflow_sees_errors(client: Any) -> None:
    with pytest.raises(Exception, match=r"error code 400, response: .*BAD_REQUEST.*columns"):
        client.invoke(frame(3), params=FLOWERS)
    with pytest.raises(Exception, match="error code 404"):
        client.invoke(frame(), params={"model_id": "weeds"})


# ---- what MLflow's own server reads from the same body ---------------------------------------------------------------


def with_params(body: str) -> str:
    return json.dumps({**json.loads(body), "params": FLOWERS})


RECORDS: list[dict[str, Any]] = [{"a": 1.5, "b": 2, "c": True, "d": None}, {"a": 0.5, "b": -2, "c": False, "d": 7.25}]
TABLE: dict[str, list[Any]] = {"a": [1.5, 0.5], "b": [2, -2], "c": [True, False], "d": [3, 7.25]}
ROWS = [[1.5, 2, 3, -1], [0.5, -2, 0, 7.25]]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": list("abcd"), "index": [7, 9], "data": ROWS}},
        {"dataframe_split": {"columns": [0, 1, 2, 3], "data": ROWS}},
        {"dataframe_split": {"data": ROWS}},
        {"dataframe_records": RECORDS},
        {"dataframe_records": [RECORDS[0], dict(reversed(RECORDS[1].items()))]},
        {"dataframe_records": [RECORDS[0], {"d": 3, "a": 5}]},
        {"instances": ROWS},
        {"instances": RECORDS},
        {"instances": TABLE},
        {"inputs": ROWS},
        {"inputs": TABLE},
        {"inputs": {name: [[cell] for cell in column] for name, column in TABLE.items()}},
    ],
)
def test_a_body_means_what_it_means_to_mlflow(served: Served, body: dict[str, Any]) -> None:
    read = mlflow_server.infer_and_parse_data(json.loads(json.dumps(body)))
    if isinstance(read, dict):
        columns = [np.asarray(column, dtype=object).reshape(-1) for column in read.values()]
        read = np.stack(columns, axis=1)
    rows = np.asarray(read, dtype=np.float64)
    assert rows.shape == (2, 4)
    assert same_bits(invoke(served, {**body, "params": FLOWERS}), served.predict("flowers", rows))


@pytest.mark.parametrize(
    "example",
    [
        frame(),
        frame().to_numpy(),
        frame().to_numpy().tolist(),
        frame().to_dict(orient="records"),
        {name: column.to_numpy() for name, column in frame().items()},
        pd.DataFrame({"a": [1.5, 2], "b": [True, False], "c": [1, 2], "d": [np.nan, 3]}),
        pd.DataFrame({"a": [1], "b": [2], "c": [3], "d": [4]}, index=["only"]),
        {"a": 1.5, "b": 2.5, "c": 3.5, "d": 4.5},
    ],
)
def test_input_examples_of_mlflow(served: Served, example: Any) -> None:
    """With NaN as MLflow writes it, which is no JSON."""
    table = pd.DataFrame(example, index=[0]) if isinstance(example, dict) and "a" in example else pd.DataFrame(example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MLflow does with pandas is deprecated
        body = mlflow_models.convert_input_example_to_serving_input(example)
    assert same_bits(invoke(served, with_params(body)), served.predict("flowers", table.to_numpy(dtype=np.float64)))


def test_pandas_writes_split_and_records(served: Served) -> None:
    rows = frame()
    expected = served.predict("flowers", rows)
    for orient in ("split", "records"):
        by_method = rows.to_dict(orient=orient)  # NaN
        by_text = json.loads(rows.to_json(orient=orient, double_precision=15))  # null
        for value in (by_method, by_text):
            assert same_bits(invoke(served, {f"dataframe_{orient}": value, "params": FLOWERS}), expected)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_csv_as_pandas_writes_it(served: Served, line_end: str) -> None:
    rows = frame(count=20)
    text = rows.to_csv(index=False, lineterminator=line_end)
    answer = invoke(served, text, headers={"Content-Type": "text/csv; charset=utf-8"}, params=FLOWERS)
    assert same_bits(answer, served.predict("flowers", rows))


@pytest.mark.parametrize(
    "text",
    [
        'a,b,c,d\n1,2,3,4\n\n"5",6,7,8\n',
        "\ufeffa,b,c,d\n1,2,3,4\n5,6,7,8",
        '"a,\n","b""",c,d\n1,,NA,nan\nTrue,False,1e3,-.5\n',
        "a,b,c,d\n 1, 2,inf,-inf\n+5,6.,NULL,N/A\n",
    ],
)
def test_csv_means_what_it_means_to_mlflow(served: Served, text: str) -> None:
    import io

    read = mlflow_server.parse_csv_input(io.StringIO(text))
    rows = read.map(lambda cell: {"True": 1.0, "False": 0.0}.get(str(cell).strip(), cell)).to_numpy(dtype=np.float64)
    answer = invoke(served, text.encode(), headers={"Content-Type": "text/csv"}, params=FLOWERS)
    assert same_bits(answer, served.predict("flowers", rows))


def test_csv_numbers_are_rounded_correctly() -> None:
    from confidential_ml.server.mlflow_scoring import _from_csv

    values = np.random.default_rng(0).integers(0, 0x7F800000, (200, 3), dtype=np.uint32).view(np.float32)
    text = pd.DataFrame(values.astype(np.float64)).to_csv(index=False)
    assert same_bits(_from_csv(text.encode(), MAX_ROWS), values)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "input_invalid"),
        ({"instances": ROWS, "inputs": ROWS}, "input_invalid"),
        ({"instances": ROWS, "signature_name": "x"}, "body_malformed"),
        ({"instances": None}, "body_malformed"),
        ({"instances": []}, "input_invalid"),
        ({"instances": [[]]}, "input_invalid"),
        ({"instances": [{}]}, "input_invalid"),
        ({"instances": {}}, "input_invalid"),
        ({"instances": {"a": []}}, "input_invalid"),
        ({"instances": [1, 2, 3, 4]}, "input_invalid"),
        ({"instances": [[1, 2, 3, 4], 5]}, "input_invalid"),
        ({"instances": [[1, 2, 3, 4], {"a": 5}]}, "input_invalid"),
        ({"instances": [[1, 2, 3, 4], [1, 2, 3]]}, "input_invalid"),
        ({"instances": [[1, 2, 3]]}, "input_invalid"),
        ({"instances": [[[1, 2, 3, 4]]]}, "body_malformed"),
        ({"instances": [["1", "2", "3", "4"]]}, "body_malformed"),
        ({"instances": [["a", 2, 3, 4]]}, "body_malformed"),
        ({"instances": [[10**400, 2, 3, 4]]}, "body_malformed"),
        ({"inputs": {"a": [1, 2], "b": [1], "c": [1, 2], "d": [1, 2]}}, "input_invalid"),
        ({"inputs": {"a": [1], "b": [1], "c": [1], "d": 1}}, "input_invalid"),
        ({"inputs": {"a": [[1]], "b": [[1]], "c": [[1]], "d": [[1, 2]]}}, "input_invalid"),
        ({"inputs": {"a": [1, [1]], "b": [1, 2], "c": [1, 2], "d": [1, 2]}}, "input_invalid"),
        ({"inputs": "1,2,3,4"}, "body_malformed"),
        ({"dataframe_records": {"a": [1]}}, "body_malformed"),
        ({"dataframe_records": []}, "input_invalid"),
        ({"dataframe_records": [{"a": 1, "b": 2, "c": 3, "d": 4}, {"e": 5}]}, "input_invalid"),
        ({"x": [[]] * (2 * MAX_ROWS + 2000)}, "too_many_rows"),  # not read at all
        ({"dataframe_split": {"columns": list("abcd")}}, "body_malformed"),
        ({"dataframe_split": {"columns": list("abcd"), "data": ROWS, "dtype": "f"}}, "body_malformed"),
        ({"dataframe_split": {"columns": list("abca"), "data": ROWS}}, "input_invalid"),
        ({"dataframe_split": {"columns": list("abc"), "data": ROWS}}, "input_invalid"),
        ({"dataframe_split": {"columns": list("abcd"), "data": []}}, "input_invalid"),
        ({"dataframe_split": {"columns": list("abcd"), "data": ROWS, "index": [1]}}, "input_invalid"),
        ({"dataframe_split": {"columns": [["a", "b"]], "data": ROWS}}, "body_malformed"),
        ({"instances": [[1, 2, 3, 4]] * (MAX_ROWS + 1)}, "too_many_rows"),
        ({"instances": [[]] * (2 * MAX_ROWS + 2000)}, "too_many_rows"),
        ({"dataframe_records": [{"a": 1}] * (MAX_ROWS + 1)}, "too_many_rows"),
        ({"inputs": {"a": [1] * (MAX_ROWS + 1)}}, "too_many_rows"),
    ],
)
def test_rows_that_are_refused(served: Served, body: dict[str, Any], code: str) -> None:
    assert refusal(served, {**body, "params": FLOWERS}) == (413 if code == "too_many_rows" else 400, code)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"model_id": "weeds"}, (404, "model_unknown")),
        ({"model_id": "flowers", "version": 3}, (404, "model_unknown")),
        ({"model_id": "flowers", "version": 2**70}, (404, "model_unknown")),
        ({"model_id": "flowers", "version": -1}, (400, "body_malformed")),
        ({"model_id": "flowers", "version": "1"}, (400, "body_malformed")),
        ({"model_id": 5}, (400, "body_malformed")),
        ({**FLOWERS, "output_margin": 1}, (400, "body_malformed")),
        ({**FLOWERS, "output_margn": True}, (400, "body_malformed")),
        ({}, (400, "model_id_missing")),
        (None, (400, "model_id_missing")),
    ],
)
def test_params_that_are_refused(served: Served, params: Any, code: tuple[int, str]) -> None:
    assert refusal(served, {"instances": ROWS, "params": params}) == code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[[1, 2, 3, 4]]",
        b'{"instances": [[1, 2, 3, 4]], "instances": [[1, 2, 3, 4]]}',
        b'{"instances": [{"a": 1, "a": 2, "c": 3, "d": 4}]}',
        b'{"instances": [{"a": 1, "\\u0061": 2, "c": 3, "d": 4}]}',
        b'{"instances": {"a": [1], "a": [2], "c": [3], "d": [4]}}',
        b'{"instances": [[1, 2, 3, 4]], "params": {"model_id": "x", "model_id": "flowers"}}',
        b'{"instances": [[1, 2, 3, 4]]} x',
        b'{"dataframe_split": {"data": [[1, 2, 3, 4]], "index": [{"a": 1, "a": 1}]}}',
        b'{"instances": [[1, 2, 3, nan]]}',
        b'{"instances": [[1, 2, 3, "\xff"]]}',
    ],
)
def test_bodies_that_are_not_json(served: Served, body: bytes) -> None:
    assert refusal(served, body) == (400, "body_malformed")


def test_names_with_quotes_and_colons_are_no_repetition(served: Served) -> None:
    rows = [{'a":': 1, 'a" :': 2, "\\": 3, "NaN": float("nan")}]
    body = {"dataframe_records": rows, "params": FLOWERS}
    assert same_bits(invoke(served, body), served.predict("flowers", [[1, 2, 3, np.nan]]))


def test_records_of_different_names_do_not_make_a_square(served: Served) -> None:
    body = json.dumps({"dataframe_records": [{f"{i}": i} for i in range(200)]})
    answer = served.ask("POST", "/invocations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "leave out most names" in answer.json()["message"]


def test_a_list_of_numbers_is_a_column(served: Served) -> None:
    column = rows_of(1, 4)
    for body in ({"inputs": column[:, 0].tolist()}, {"instances": column.tolist()}, {"inputs": {"x": [1, 2]}}):
        rows = [[1], [2]] if body.get("inputs") == {"x": [1, 2]} else column
        assert same_bits(invoke(served, {**body, "params": {"model_id": "line"}}), served.predict("line", rows))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "input_invalid"),
        (b"a,b,c,d\n", "input_invalid"),
        (b"a,b,c,d\n1,2,3\n", "input_invalid"),
        (b"a,b,c,d\n1,2,3,4,5\n", "input_invalid"),
        (b"a,b,c,a\n1,2,3,4\n", "input_invalid"),
        (b"a,b,c\n1,2,3\n", "input_invalid"),
        (b"a,b,c,d\n1,2,3,x\n", "input_invalid"),
        (b"a,b,c,d\n1,2,3,1_0\n", "input_invalid"),
        (b"a,b,c,d\n1,2,3,0x10\n", "input_invalid"),
        (b'a,b,c,d\n1,2,3,"4\n', "body_malformed"),
        (b'a,b,c,d\n1,2,3,"4"5\n', "body_malformed"),
        (b"a,b,c,d\n1,2,3,\xff\n", "body_malformed"),
        (b"a,b,c,d\n1,2,3," + b"4" * 200_000, "body_malformed"),
        (b"a,b,c,d\n" + b"1,2,3,4\n" * (MAX_ROWS + 1), "too_many_rows"),
        (b"1,2,3,4", "input_invalid"),
    ],
)
def test_csv_that_is_refused(served: Served, text: bytes, code: str) -> None:
    expected = (413 if code == "too_many_rows" else 400, code)
    assert refusal(served, text, "text/csv", params=FLOWERS) == expected


def test_csv_without_a_header_is_told_that_the_first_line_is_one(served: Served) -> None:
    headers = {"Content-Type": "text/csv"}
    answer = served.ask("POST", "/invocations", content=b"5.1,3.5,1.4,0.2\n", headers=headers, params=FLOWERS)
    assert answer.status_code == 400
    assert "first line is taken as the header" in answer.json()["message"]


def test_the_query_is_for_csv_and_arrow(served: Served) -> None:
    assert refusal(served, {"instances": ROWS}, params=FLOWERS) == (400, "parameter_invalid")
    text = frame().to_csv(index=False)
    for query in ("model_id=flowers&x=1", "model_id=flowers&model_id=risk", "model_id=flowers&version=a"):
        path = f"/invocations?{query}"
        answer = served.ask("POST", path, content=text, headers={"Content-Type": "text/csv"})
        assert (answer.status_code, answer.headers["Confidential-ML-Error"]) == (400, "parameter_invalid")
    path = "/invocations?model_id=flowers&version=1&output_margin=true"
    answer = served.ask("POST", path, content=text, headers={"Content-Type": "text/csv"})
    expected = served.predict("flowers", frame(), predict_type="margin")
    assert same_bits(answer.json()["predictions"], expected)


def test_media_types(served: Served) -> None:
    for kind in ("", "text/plain", "application/vnd.apache.parquet", "application/json; charset=latin-1"):
        assert refusal(served, {"instances": ROWS}, kind) == (415, "media_type_wrong")
    assert refusal(served, b" " * (MAX_BODY + 1)) == (413, "body_too_large")


def test_values_that_json_has_no_number_for() -> None:
    from confidential_ml.server import json_bodies

    given = np.array([[1.5, np.nan], [np.inf, -np.inf]], dtype=np.float32)
    assert json_bodies.values(given) == [[1.5, None], ["Infinity", "-Infinity"]]
    floats = np.random.default_rng(1).integers(0, 0x7F800000, 5000, dtype=np.uint32).view(np.float32)
    assert same_bits(json.loads(json.dumps(json_bodies.values(floats))), floats)


# ---- any bytes -------------------------------------------------------------------------------------------------------

CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["NaN", "Infinity", "1", ""]))
NAMES = st.sampled_from(["a", "b", 'c":', "data", "columns", "index"])
VALUES = st.recursive(
    CELLS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
BODIES = st.dictionaries(
    st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]), VALUES, min_size=1, max_size=2
).map(lambda value: json.dumps(value).encode())


@settings(max_examples=300, derandomize=True, deadline=None)
@given(body=st.one_of(BODIES, st.binary(max_size=60)))
def test_any_json_gives_rows_or_a_refusal(body: bytes) -> None:

    from confidential_ml.server.mlflow_scoring import _Column, _from_json

    def read() -> np.ndarray[Any, Any]:
        rows, _ = _from_json(body, 10)
        return rows.as_rows(1) if isinstance(rows, _Column) else rows

    matrix = rows_or_refusal(read)
    if matrix is not None:
        assert matrix.dtype == np.float32
        assert matrix.flags.c_contiguous
        assert matrix.ndim == 2
        assert 1 <= len(matrix) <= 10


@settings(max_examples=300, derandomize=True, deadline=None)
@given(body=st.one_of(st.text(alphabet='a1,.-"\n\r e_n', max_size=40).map(str.encode), st.binary(max_size=40)))
def test_any_csv_gives_rows_or_a_refusal(body: bytes) -> None:

    from confidential_ml.server.mlflow_scoring import _from_csv

    rows = rows_or_refusal(lambda: _from_csv(body, 10))
    if rows is not None:
        assert rows.dtype == np.float32
        assert 1 <= len(rows) <= 10
