"""Deep JSON is refused by all that read it, also where the recursion limit would let it overflow the stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confidential_ml import json_depth
from confidential_ml.json_depth import MAX_DEPTH, is_too_deep

if TYPE_CHECKING:
    from conftest import RunPython

TEXTS = st.text(st.sampled_from('[]{}"\\,: aü'), max_size=6)


def depth_of(value: Any) -> int:
    """Nesting of a value that was read; iterative, as it may be deep."""
    deepest, left = 0, [(value, 0)]
    while left:
        one, depth = left.pop()
        deepest = max(deepest, depth)
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        left += [(each, depth + 1) for each in inner]
        if isinstance(one, (dict, list)) and not one:
            deepest = max(deepest, depth + 1)
    return deepest


@st.composite
def deep_values(draw: st.DrawFn) -> Any:
    """Values of about the depth that matters, with texts that look like nesting all over."""
    value: Any = draw(TEXTS | st.integers())
    for _ in range(draw(st.integers(MAX_DEPTH - 3, MAX_DEPTH + 3))):
        before, after = draw(TEXTS), draw(TEXTS)
        value = {before: value, after + "!": after} if draw(st.booleans()) else [before, value, [after]]
    return value


@given(deep_values(), st.booleans(), st.sampled_from([1, 2, 3, 7, 64, 1 << 20]))
def test_it_counts_what_a_reader_finds(value: Any, ascii_only: bool, block: int) -> None:
    document = json.dumps(value, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_depth, "_BLOCK", block)
        assert is_too_deep(document) == (depth_of(json.loads(document)) > MAX_DEPTH)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b"[" * 64 + b"]" * 64, False),
        (b"[" * 65 + b"]" * 65, True),
        (b"[" * 65, True),
        (b"[]," * 1000, False),
        (b'{"a":' * 65, True),
        (b'"' + b"[" * 1000 + b'"', False),
        (b'"]]]]]]]]"' + b'["]",' * 65, True),
        (rb'"\"' + b"[" * 1000 + b'"', False),
        (rb'"\\"' + b"[" * 65, True),
        (rb'"\\\"' + b"[" * 65, False),
        (rb'"\\\\"' + b"[" * 65, True),
        (b"]" * 100 + b"[" * 100, False),  # where reading ends at the first character
        (b'"' + b"[" * 1000, False),
        (b"", False),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else None,
)
def test_nesting_and_what_looks_like_it(document: bytes, expected: bool) -> None:
    assert is_too_deep(document) == expected


READERS = """
import sys
from pathlib import Path
from confidential_ml import strict_json
from confidential_ml.attestation import AttestationError, Collateral
from confidential_ml.cli.receipt_file import ReceiptFile
from confidential_ml.client import calls
from confidential_ml.errors import ModelFormatError, ReceiptError, RemoteError
from confidential_ml.server import json_bodies
from confidential_ml.server.errors import HttpError
from confidential_ml.xgboost_format import to_flat_model

sys.setrecursionlimit(10**9)
ARRAYS = b'{"a":' + b"[" * 700_000 + b"]" * 700_000 + b"}"
OBJECTS = b'{"a":' * 300_000 + b"1" + b"}" * 300_000
path = Path(sys.argv[1])
for deep in (ARRAYS, OBJECTS):
    path.write_bytes(deep)
    for error, read in (
        (ModelFormatError, lambda: strict_json.parse(deep)),
        (ModelFormatError, lambda: strict_json.parse(deep, exact_float32=True, unread=("a",))),
        (ModelFormatError, lambda: to_flat_model(deep)),
        (AttestationError, lambda: Collateral.from_json(deep)),
        (ReceiptError, lambda: ReceiptFile.load(path)),
        (RemoteError, lambda: calls._parsed(deep)),
        (HttpError, lambda: json_bodies.decode(deep, dict[str, int])),
    ):
        try:
            read()
        except error:
            continue
        raise AssertionError("it was read")
print("all refused")
"""


def test_no_reader_overflows_the_stack(tmp_path: Path, run_python: RunPython) -> None:
    result = run_python(READERS, tmp_path / "deep.json", timeout=100)
    assert (result.returncode, result.stdout, result.stderr) == (0, "all refused\n", "")


def test_a_reader_overflows_the_stack_if_it_is_not_asked_before(tmp_path: Path, run_python: RunPython) -> None:
    """Or the test above shows nothing; newer Pythons stop by themselves."""
    code = "import json, sys; sys.setrecursionlimit(10**9); json.loads('[' * 700_000 + ']' * 700_000)"
    result = run_python(code, timeout=100)
    assert result.returncode < 0 or "RecursionError" in result.stderr
