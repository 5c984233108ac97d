"""How deep JSON is nested, without reading it: what reads it may follow the nesting with the stack of the process.

Python's readers stop at the recursion limit, which a program may have raised beyond what its stack holds.
"""

from __future__ import annotations

import numpy as np

__all__ = ["MAX_DEPTH", "is_too_deep"]

MAX_DEPTH = 64
"""XGBoost's documents have 8 levels, those of the protocols fewer."""

_BLOCK = 1 << 20
_QUOTE = ord('"')
_NO_TOKENS = bytes(set(range(256)) - set(b'"[]{}'))
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


def is_too_deep(document: bytes) -> bool:
    """Whether some value lies inside more than `MAX_DEPTH` arrays and objects.

    Of text that is no JSON: whether a reader would get that deep before it finds out.
    """
    if document.count(b"[") + document.count(b"{") <= MAX_DEPTH:
        return False
    if b"\\" in document:
        document = document.replace(b"\\\\", b"").replace(b'\\"', b"")  # quotes that end no text
    depth, quotes = 0, 0
    for start in range(0, len(document), _BLOCK):
        tokens = np.frombuffer(document[start : start + _BLOCK].translate(None, _NO_TOKENS), np.uint8)
        quotes_so_far = quotes + np.cumsum(tokens == _QUOTE)
        steps = np.where(quotes_so_far & 1, 0, _STEPS[tokens])  # within texts brackets are none
        depths = depth + np.cumsum(steps)
        if len(tokens):
            if depths.max() > MAX_DEPTH:
                return True
            depth, quotes = int(depths[-1]), int(quotes_so_far[-1])
    return False
