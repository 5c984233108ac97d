"""The most frequent body of infer is read quickly: as it is read with care, bit for bit, or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("msgspec")

import msgspec

from confidential_ml.server import json_bodies
from confidential_ml.server.open_inference import InferRequest
from confidential_ml.server.single_row_tensor import read_single_row
from confidential_ml.server.tensors import read_rows

DECIMALS = st.one_of(
    st.integers(-(10**40), 10**40).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    # Halfway between two float32, and a digit beside it.
    st.tuples(st.integers(1 << 23, (1 << 24) - 1), st.sampled_from(["5", "49999999999999999999", "50000000001"])).map(
        lambda pair: f"{pair[0]}.{pair[1]}"
    ),
    st.sampled_from(["-0.0", "1e-45", "7.006492321624085e-46", "3.5e38", "-1e999", "1.17549435e-38"]),
)


@settings(max_examples=300)
@given(
    row=st.lists(DECIMALS, min_size=1, max_size=6), name=st.text(max_size=3), request_id=st.none() | st.text(max_size=3)
)
def test_a_single_row_is_read_quickly_as_it_is_read_with_care(
    row: list[str], name: str, request_id: str | None
) -> None:
    tensor = f'{{"name": {json.dumps(name)}, "shape": [1, {len(row)}], "datatype": "FP32", "data": [{", ".join(row)}]}}'
    with_id = "" if request_id is None else f', "id": {json.dumps(request_id)}'
    body = f'{{"inputs": [{tensor}]{with_id}}}'.encode()
    found = read_single_row(body, len(row))
    if found is not None:
        request = json_bodies.decode(body, InferRequest)
        assert found[0].tobytes() == read_rows(request.inputs, body, b"", len(row), 1).tobytes()
        assert found[1] == request.id


PLAIN = '{"inputs": [{"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2.5]}]}'


def test_only_a_plain_single_row_is_read_quickly() -> None:
    found = read_single_row(PLAIN.encode(), 2)
    assert found is not None
    assert (found[0].tolist(), found[1]) == ([[1.0, 2.5]], msgspec.UNSET)
    assert read_single_row(PLAIN.encode(), 3) is None
    for old, new in [
        ('"a"', '"a", "name": "b"'),  # a name twice
        ('"a"', '"a\\""'),
        ('"a"', '"a", "parameters": {}'),
        ("[1, 2]", "[2]"),
        ("[1, 2]", "[2, 1]"),
        ("FP32", "FP64"),
        ("[1, 2.5]", "[[1, 2.5]]"),
        ("[1, 2.5]", '[1, "NaN"]'),
        ("[1, 2.5]", "[1, NaN]"),
        ("[1, 2.5]", "[1, 16777217]"),  # halfway between two float32
        ("[1, 2.5]", "[1, 1e-39]"),
        ("]}", "]}, "),
        ("}]", '}], "outputs": []'),
    ]:
        assert old in PLAIN
        assert read_single_row(PLAIN.replace(old, new, 1).encode(), 2) is None, new
