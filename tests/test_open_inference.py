"""The Open Inference Protocol: what tritonclient sends and expects, and what is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protocol_server import MAX_BODY, MAX_ROWS, Served, on_a_socket, rows_of, rows_or_refusal, same_bits, served

from confidential_ml.server import json_bodies
from confidential_ml.server.errors import HttpError

__all__ = ["served"]

triton = pytest.importorskip("tritonclient.http")
INFER = "/v2/models/flowers/versions/1/infer"
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}


def tensor(rows: Any, datatype: str = "FP32", name: str = "input") -> dict[str, Any]:
    array = np.asarray(rows)
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.tolist()}


def infer(served: Served, body: dict[str, Any], path: str = INFER) -> Any:
    answer = served.ask("POST", path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def predictions(answer: Any) -> np.ndarray[Any, Any]:
    output = answer["outputs"][0]
    assert (output["name"], output["datatype"]) == ("predict", "FP32")
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def refusal(served: Served, **arguments: Any) -> tuple[int, str]:
    answer = served.ask("POST", arguments.pop("path", INFER), **arguments)
    body = answer.json()
    assert set(body) == {"error"}
    assert isinstance(body["error"], str)
    return answer.status_code, answer.headers["Confidential-ML-Error"]


# ---- tritonclient over a socket ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    with on_a_socket(served) as port:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        yield client
        client.close()


def test_triton_reads_what_the_server_and_its_models_are(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flowers")
    assert client.is_model_ready("flowers", "2")
    assert not client.is_model_ready("flowers", "3")
    assert not client.is_model_ready("weeds")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("flowers")
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [{"name": "predict", "datatype": "FP32", "shape": [-1, 3]}]
    index = client.get_model_repository_index()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
        ("flowers", "1", "READY"),
        ("flowers", "2", "READY"),
        ("line", "1", "READY"),
        ("risk", "1", "READY"),
    ]


@pytest.mark.parametrize("is_binary_in", [True, False])
@pytest.mark.parametrize("is_binary_out", [True, False, None])
def test_triton_predicts(client: Any, served: Served, is_binary_in: bool, is_binary_out: bool | None) -> None:
    rows = rows_of(4, 7)
    rows[2, 1] = np.nan
    given = triton.InferInput("x", [7, 4], "FP32").set_data_from_numpy(rows, binary_data=is_binary_in)
    outputs = None
    if is_binary_out is not None:
        outputs = [triton.InferRequestedOutput("predict", binary_data=is_binary_out)]
    answer = client.infer("flowers", [given], model_version="2", outputs=outputs, request_id="seven")
    assert same_bits(answer.as_numpy("predict"), served.predict("flowers", rows, 2))
    header = answer.get_response()
    assert (header["id"], header["model_name"], header["model_version"]) == ("seven", "flowers", "2")
    assert ("data" in header["outputs"][0]) == (is_binary_out is False)


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("is_binary", [True, False])
def test_triton_sends_every_datatype(client: Any, served: Served, datatype: str, is_binary: bool) -> None:
    rows = (rows_of(4, 5) * 10).astype(DTYPES[datatype])
    given = triton.InferInput("x", [5, 4], datatype).set_data_from_numpy(rows, binary_data=is_binary)
    answer = client.infer("flowers", [given], model_version="1")
    assert same_bits(answer.as_numpy("predict"), served.predict("flowers", rows.astype(np.float32)))


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("is_binary", [True, False])
def test_triton_sends_columns(client: Any, served: Served, shape: tuple[int, ...], is_binary: bool) -> None:
    rows = rows_of(4, 6)
    columns = []
    for index in range(4):
        column = np.ascontiguousarray(rows[:, index]).reshape(shape)
        # Some in the JSON and some after it.
        in_binary = is_binary and index != 1
        given = triton.InferInput(f"column {index}", list(shape), "FP32")
        columns.append(given.set_data_from_numpy(column, binary_data=in_binary))
    answer = client.infer("flowers", columns, model_version="1")
    assert same_bits(answer.as_numpy("predict"), served.predict("flowers", rows))


def test_triton_passes_parameters(client: Any, served: Served) -> None:
    rows = rows_of(6, 3)
    given = triton.InferInput("x", [3, 6], "FP32").set_data_from_numpy(rows)
    wanted = {"output_margin": True, "iteration_begin": 1, "iteration_end": 4}
    answer = client.infer("risk", [given], parameters=wanted, priority=3, timeout=1000)
    expected = served.boosters["risk", 1].inplace_predict(
        rows, predict_type="margin", iteration_range=(1, 4), strict_shape=True
    )
    assert same_bits(answer.as_numpy("predict"), expected)


def test_triton_sees_errors_as_its_own(client: Any) -> None:
    given = triton.InferInput("x", [1, 3], "FP32").set_data_from_numpy(rows_of(3, 1))
    error = pytest.importorskip("tritonclient.utils").InferenceServerException
    with pytest.raises(error) as caught:
        client.infer("flowers", [given])
    assert caught.value.status() == "400"
    assert "3 columns, the model has 4 features" in caught.value.message()
    with pytest.raises(error) as caught:
        client.infer("weeds", [given])
    assert caught.value.status() == "404"


# ---- what the client does not send -----------------------------------------------------------------------------------


def test_health_metadata_and_index_in_plain_json(served: Served) -> None:
    assert served.ask("GET", "/v2/health/live").json() == {"live": True}
    assert served.ask("GET", "/v2/health/ready").json() == {"ready": True}
    assert served.ask("GET", "/v2/models/risk/ready").json() == {"name": "risk", "ready": True}
    assert len(served.ask("POST", "/v2/repository/index", json={"ready": True}).json()) == 4
    assert refusal(served, path="/v2/repository/index", json={"ready": 1}) == (400, "body_malformed")


@pytest.mark.parametrize("version", ["3", "x", "-1", "1.0", "9" * 30, "٣"])
def test_a_version_that_is_none_is_not_found(served: Served, version: str) -> None:
    path = f"/v2/models/flowers/versions/{version}/infer"
    assert refusal(served, path=path, json={"inputs": [tensor(rows_of(4, 1))]}) == (404, "model_unknown")


def test_the_current_version_is_the_highest(served: Served) -> None:
    rows = rows_of(4, 3)
    answer = infer(served, {"inputs": [tensor(rows)]}, "/v2/models/flowers/infer")
    assert answer["model_version"] == "2"
    assert same_bits(predictions(answer), served.predict("flowers", rows, 2))


def test_one_row_flat_data_and_one_feature(served: Served) -> None:
    row = rows_of(4, 1)
    expected = served.predict("flowers", row)
    assert same_bits(predictions(infer(served, {"inputs": [tensor(row[0])]})), expected)
    flat = {**tensor(row), "data": row[0].tolist()}
    assert same_bits(predictions(infer(served, {"inputs": [flat]})), expected)
    column = rows_of(1, 5)
    for rows in (column, column[:, 0]):
        answer = infer(served, {"inputs": [tensor(rows)]}, "/v2/models/line/infer")
        assert same_bits(predictions(answer), served.predict("line", column).reshape(5, 1))


@pytest.mark.parametrize("text", ["null", "NaN", '"NaN"'])
def test_missing_values(served: Served, text: str) -> None:
    body = '{"inputs": [{"name": "a NaN, \\"Infinity", "shape": [1, 4], "datatype": "FP32", "data": [1, %s, 2, 3]}]}'
    answer = served.ask("POST", INFER, content=body % text)
    assert same_bits(predictions(answer.json()), served.predict("flowers", [[1, np.nan, 2, 3]]))


@pytest.mark.parametrize(("text", "value"), [("Infinity", np.inf), ('"-Infinity"', -np.inf), ("1e39", np.inf)])
def test_infinities(served: Served, text: str, value: float) -> None:
    body = '{"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, %s, 2, 3]}]}'
    answer = served.ask("POST", INFER, content=body % text)
    assert same_bits(predictions(answer.json()), served.predict("flowers", [[1, value, 2, 3]]))


def test_a_raw_body_is_one_tensor(served: Served) -> None:
    rows = rows_of(4, 3)
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    answer = served.ask("POST", INFER, content=rows.tobytes(), headers=headers)
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 36}
    assert answer.content[length:] == served.predict("flowers", rows).tobytes()
    assert refusal(served, content=rows.tobytes()[:-1], headers=headers) == (400, "input_invalid")
    assert refusal(served, content=b"", headers=headers) == (400, "input_invalid")


def rows_seen(served: Served, datatype: str, values: Any, n_features: int) -> np.ndarray[Any, Any]:
    """The float32 that a tensor is read as."""
    from confidential_ml.server import json_bodies, tensors

    header = json.dumps({"inputs": [tensor(values, datatype)]}).encode() if not isinstance(values, bytes) else values
    inputs = json_bodies.decode(header, dict[str, list[tensors.InputTensor]])["inputs"]
    return tensors.read_rows(inputs, header, b"", n_features, MAX_ROWS)


def test_numbers_are_rounded_once(served: Served) -> None:
    large = [2**63 - 1, 2**53 + 1, 2**60 + 2**36 + 1, -(2**63)]
    assert same_bits(rows_seen(served, "INT64", [large], 4), np.array([large], dtype=np.int64).astype(np.float32))
    doubles = np.random.default_rng(5).normal(size=(1, 64)) * 10.0 ** np.arange(-50, 14)
    assert same_bits(rows_seen(served, "FP64", doubles, 64), doubles.astype(np.float32))
    floats = np.random.default_rng(6).integers(0, 0x7F800000, (1, 500), dtype=np.uint32).view(np.float32)
    assert same_bits(rows_seen(served, "FP32", floats.astype(np.float64), 500), floats)
    # Just above halfway between two float32, and by float64 exactly there.
    text = "16777217.0000000001"
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "%s", "data": [%s]}]}'
    assert rows_seen(served, "", body % (b"FP32", text.encode()), 1)[0, 0] == 16777218
    assert rows_seen(served, "", body % (b"FP64", text.encode()), 1)[0, 0] == 16777216


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"shape": [1, 5]}, "input_invalid"),
        ({"shape": [2, 4]}, "input_invalid"),
        ({"shape": [1, 4, 1]}, "input_invalid"),
        ({"shape": []}, "input_invalid"),
        ({"shape": [0, 4]}, "input_invalid"),
        ({"shape": [4, 0]}, "input_invalid"),
        ({"shape": [-1, 4]}, "body_malformed"),
        ({"shape": [1.0, 4]}, "body_malformed"),
        ({"shape": [2**62, 4]}, "too_many_rows"),
        ({"shape": [2**70, 4]}, "too_many_rows"),
        ({"shape": [MAX_ROWS + 1, 4]}, "too_many_rows"),
        ({"datatype": "FP16"}, "body_malformed"),
        ({"datatype": "BYTES"}, "body_malformed"),
        ({"datatype": "INT32"}, "input_invalid"),
        ({"datatype": "BOOL"}, "input_invalid"),
        ({"datatype": "UINT8", "data": [1, 2, 3, 256]}, "input_invalid"),
        ({"datatype": "UINT64", "data": [1, 2, 3, -1]}, "input_invalid"),
        ({"datatype": "INT64", "data": [1, 2, 3, 2**63]}, "input_invalid"),
        ({"datatype": "INT64", "data": [1, 2, 3, True]}, "input_invalid"),
        ({"datatype": "INT64", "data": [1, 2, 3, None]}, "input_invalid"),
        ({"datatype": "FP32", "data": [1, 2, 3, True]}, "input_invalid"),
        ({"datatype": "FP32", "data": [1, 2, 3, 10**400]}, "input_invalid"),
        ({"data": [1, 2, 3]}, "input_invalid"),
        ({"data": [1, 2, 3, 4, 5]}, "input_invalid"),
        ({"data": [[1, 2, 3]]}, "input_invalid"),
        ({"data": [[1, 2], [3, 4]]}, "input_invalid"),
        ({"data": [1, 2, 3, [4]]}, "input_invalid"),
        ({"data": [[1, 2, 3, 4], 5]}, "input_invalid"),
        ({"data": [[[1, 2, 3, 4]]]}, "body_malformed"),
        ({"data": []}, "input_invalid"),
        ({"data": "1234"}, "body_malformed"),
        ({"data": [1, 2, 3, "4"]}, "body_malformed"),
        ({"data": {"0": 1}}, "body_malformed"),
        ({"parameters": {"binary_data_size": 16}}, "input_invalid"),
        ({"parameters": {"shared_memory_region": "x"}}, "input_invalid"),
        ({"parameters": []}, "body_malformed"),
        ({"name": 5}, "body_malformed"),
    ],
)
def test_tensors_that_are_refused(served: Served, change: dict[str, Any], code: str) -> None:
    body = {"inputs": [{**tensor(rows_of(4, 1)), **change}]}
    assert refusal(served, json=body) == (413 if code == "too_many_rows" else 400, code)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"inputs": []}, "body_malformed"),
        ({"inputs": None}, "body_malformed"),
        ({"id": 5}, "body_malformed"),
        ({"parameters": {"output_margin": 1}}, "parameter_invalid"),
        ({"parameters": {"output_margn": True}}, "parameter_invalid"),
        ({"parameters": {"iteration_end": 1.5}}, "parameter_invalid"),
        ({"parameters": {"iteration_end": 99}}, "parameter_invalid"),
        ({"parameters": {"iteration_begin": 2**70}}, "parameter_invalid"),
        ({"parameters": {"iteration_begin": -1}}, "parameter_invalid"),
        ({"parameters": {"sequence_id": 4}}, "parameter_invalid"),
        ({"parameters": {"binary_data_output": "yes"}}, "parameter_invalid"),
        ({"outputs": [{"name": "class"}]}, "input_invalid"),
        ({"outputs": [{"name": "predict"}, {"name": "predict"}]}, "input_invalid"),
        ({"outputs": [{"name": "predict", "parameters": {"binary_data": 1}}]}, "parameter_invalid"),
        ({"outputs": [{"name": "predict", "parameters": {"classification": 2}}]}, "parameter_invalid"),
        ({"outputs": [{"name": "predict", "parameters": {"shared_memory_region": "r"}}]}, "parameter_invalid"),
    ],
)
def test_requests_that_are_refused(served: Served, change: dict[str, Any], code: str) -> None:
    body = {"inputs": [tensor(rows_of(4, 1))], **change}
    assert refusal(served, json=body) == (400, code)


def test_fields_of_others_are_passed_over(served: Served) -> None:
    """Triton's documentation sends model_name, MLServer's clients content_type, and so on."""
    body = {
        "inputs": [{**tensor(rows_of(4, 1)), "parameters": {"content_type": "np"}}],
        "model_name": "flowers",
        "parameters": {"content_type": "np"},
        "outputs": [{"name": "predict", "parameters": {"content_type": "np"}}],
    }
    assert same_bits(predictions(infer(served, body)), served.predict("flowers", rows_of(4, 1)))
    empty = {**body, "parameters": None, "outputs": []}
    assert same_bits(predictions(infer(served, empty)), served.predict("flowers", rows_of(4, 1)))


def test_many_small_inputs_are_not_read_at_all(served: Served) -> None:
    body = {"inputs": [tensor([1.0], name=f"{i}") for i in range(200)]}
    answer = served.ask("POST", INFER, json=body)
    assert answer.status_code == 400
    assert "too many inputs" in answer.json()["error"]


COLUMNS = [tensor([1.0, 2.0], name=name) for name in "abcd"]


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        (COLUMNS[:3], "input_invalid"),
        ([*COLUMNS, COLUMNS[0]], "input_invalid"),
        ([*COLUMNS[:3], COLUMNS[0]], "input_invalid"),
        ([*COLUMNS[:3], tensor([1.0], name="d")], "input_invalid"),
        ([*COLUMNS[:3], tensor([[1.0, 2.0]], name="d")], "input_invalid"),
        ([tensor(np.zeros(0), name=name) for name in "abcd"], "input_invalid"),
        ([{**column, "shape": [2**40]} for column in COLUMNS], "too_many_rows"),
    ],
)
def test_columns_that_are_refused(served: Served, columns: list[Any], code: str) -> None:
    assert refusal(served, json={"inputs": columns}) == (413 if code == "too_many_rows" else 400, code)


def binary_request(sizes: list[Any], tail: bytes, **change: Any) -> dict[str, Any]:
    inputs = [
        {"name": f"{i}", "shape": [2, 2], "datatype": "FP64", "parameters": {"binary_data_size": size}, **change}
        for i, size in enumerate(sizes)
    ]
    header = json.dumps({"inputs": inputs}).encode()
    return {"content": header + tail, "headers": {"Inference-Header-Content-Length": str(len(header))}}


@pytest.mark.parametrize(
    "request_",
    [
        binary_request([32], bytes(32)),  # shape [2, 2] is of another model
        binary_request([64], bytes(63), shape=[2, 4]),
        binary_request([64], bytes(65), shape=[2, 4]),
        binary_request([63], bytes(63), shape=[2, 4]),
        binary_request([-1], bytes(64), shape=[2, 4]),
        binary_request([64.0], bytes(64), shape=[2, 4]),
        binary_request([True], bytes(1), shape=[2, 4]),
        binary_request(["64"], bytes(64), shape=[2, 4]),
        binary_request([2**80], bytes(64), shape=[2, 4]),
        binary_request([8], b"\0\1\0\1\0\1\0\2", shape=[2, 4], datatype="BOOL"),
        binary_request([64], bytes(64), shape=[2, 4], data=[0] * 8),
        binary_request([0], b"", shape=[0, 4]),
        binary_request([16, 16, 16, 16], bytes(63), shape=[2]),
        binary_request([16, 16, 16, 16], bytes(65), shape=[2]),
        binary_request([16, 16, 16, 8], bytes(56), shape=[2]),
    ],
)
def test_binary_tensors_that_lie(served: Served, request_: dict[str, Any]) -> None:
    assert refusal(served, **request_) == (400, "input_invalid")


@pytest.mark.parametrize(
    ("length", "code"),
    [
        ("99999", "body_malformed"),
        ("10", "body_malformed"),
        ("-1", "parameter_invalid"),
        ("1e2", "parameter_invalid"),
        ("", "parameter_invalid"),
        ("9" * 25, "parameter_invalid"),
        ("²", "parameter_invalid"),
    ],
)
def test_header_lengths_that_lie(served: Served, length: str, code: str) -> None:
    request = binary_request([64], bytes(64), shape=[2, 4])
    headers = {"Inference-Header-Content-Length": length.encode("utf-8")}
    assert refusal(served, content=request["content"], headers=headers) == (400, code)
    twice = [("Inference-Header-Content-Length", "5")] * 2
    answer = served.run(_ask_twice(served, request["content"], twice))
    assert (answer.status_code, answer.headers["Confidential-ML-Error"]) == (400, "parameter_invalid")


async def _ask_twice(served: Served, content: bytes, headers: list[tuple[str, str]]) -> Any:
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(served.app), base_url="http://localhost") as client:
        return await client.post(INFER, content=content, headers=[*headers, *served.headers.items()])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"inputs": [], "inputs": []}',
        b'{"inputs": [{"name": "x", "shape": [4], "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}',
        b'{"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}], "x": {"y": 1, "y": 2}}',
        b'{"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}], "id": "\xff"}',
        b'{"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}]} {}',
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"NaN": ' + b'"\\"' * 100_000,
        b"\xef\xbb\xbf{}",
        '{"inputs": []}'.encode("utf-16"),
        b'{"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, -NaN]}]}',
        b'{"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 1e999]}]}',
        b'{"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4,]}]}',
        b'{"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 04]}]}',
    ],
)
def test_bodies_that_are_not_json(served: Served, body: bytes) -> None:
    assert refusal(served, content=body) == (400, "body_malformed")


@given(
    st.lists(st.sampled_from([b"NaN", b"Infinity", b"-", b'"', b"\\", b"1,", b" ", b"\0", b"I", b"N"])).map(b"".join)
)
@settings(max_examples=500, derandomize=True)
@example(b"")
def test_constants_are_quoted_outside_of_texts_alone(body: bytes) -> None:
    in_turn = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|-Infinity|Infinity|NaN', re.DOTALL)
    expected = in_turn.sub(lambda match: match[0] if match[0][:1] == b'"' else b'"%b"' % match[0], body)
    assert (json_bodies._with_quoted_constants(body) or body) == expected


def test_the_search_for_constants_has_an_end() -> None:
    start = time.thread_time()
    for body in (b"[" + b"NaN" * 5_000_000, b"[NaN" + b',""' * 5_000_000):
        with pytest.raises(HttpError, match=r"JSON"):
            json_bodies.decode(body, list)
    assert time.thread_time() - start < 5  # twenty seconds and more before there was one


def test_a_field_passed_over_does_not_stop_the_second_reading(served: Served) -> None:
    """The midpoint is read again by Python's reader, which also looks at what no Struct has."""
    tensor = b'{"name": "x", "shape": [4], "datatype": "FP32", "data": [16777217, 2, 3, 4]}'
    for other in (b"1" * 5000, b'"\xff"'):
        body = b'{"inputs": [%b], "other": %b}' % (tensor, other)
        answer = served.ask("POST", INFER, content=body)
        assert answer.status_code in {200, 400}
        assert answer.status_code == 200 or answer.headers["Confidential-ML-Error"] == "body_malformed"


def test_media_types(served: Served) -> None:
    body = json.dumps({"inputs": [tensor(rows_of(4, 1))]})
    for kind in ("application/json", "application/json; charset=utf-8", "application/octet-stream"):
        assert served.ask("POST", INFER, content=body, headers={"Content-Type": kind}).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"):
        assert refusal(served, content=body, headers={"Content-Type": kind}) == (415, "media_type_wrong")
    assert refusal(served, content=body, headers={"Content-Encoding": "gzip"}) == (415, "media_type_wrong")
    assert refusal(served, content=b" " * (MAX_BODY + 1)) == (413, "body_too_large")


def test_the_largest_requests(served: Served) -> None:
    rows = rows_of(4, MAX_ROWS)
    assert same_bits(predictions(infer(served, {"inputs": [tensor(rows)]})), served.predict("flowers", rows))


# ---- any bytes -------------------------------------------------------------------------------------------------------

CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["NaN", "Infinity", "1", ""]))
DATA = st.recursive(CELLS, lambda inner: st.lists(inner, max_size=5), max_leaves=12)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.text(max_size=2),
        "shape": st.lists(st.one_of(st.integers(0, 5), st.integers()), max_size=3),
        "datatype": st.sampled_from([*DTYPES, "FP16"]),
    },
    optional={
        "data": DATA,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "x"]), st.integers(-1, 70), max_size=2),
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=5)}, optional={"id": st.text(), "other": DATA}
).map(lambda value: json.dumps(value).encode())


@settings(max_examples=300, derandomize=True, deadline=None)
@given(header=st.one_of(REQUESTS, st.binary(max_size=60)), tail=st.binary(max_size=70), n_features=st.integers(1, 5))
def test_any_bytes_give_rows_or_a_refusal(header: bytes, tail: bytes, n_features: int) -> None:

    from confidential_ml.server.open_inference import _read

    rows = rows_or_refusal(lambda: _read(header + tail, len(header), n_features, 10).rows)
    if rows is not None:
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        assert rows.shape[1] == n_features
        assert 1 <= len(rows) <= 10
