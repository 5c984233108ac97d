"""A strict reader of DER (ITU-T X.690), as much of it as certificates need whose other readers are not as strict."""

from __future__ import annotations

__all__ = [
    "BIT_STRING",
    "BOOLEAN",
    "ENUMERATED",
    "INTEGER",
    "OBJECT_IDENTIFIER",
    "OCTET_STRING",
    "SEQUENCE",
    "DerError",
    "boolean",
    "elements",
    "integer",
    "single",
]

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING = 0x01, 0x02, 0x03, 0x04
OBJECT_IDENTIFIER, ENUMERATED, SEQUENCE = 0x06, 0x0A, 0x30


class DerError(ValueError):
    """The bytes are not DER, or not of the type that was expected."""


def elements(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of the elements that follow one another in `data`, to its end."""
    found, position = [], 0
    while position < len(data):
        tag, start, end = _element(data, position)
        found.append((tag, data[start:end]))
        position = end
    return found


def single(data: bytes, tag: int) -> bytes:
    """Content of the one element that `data` is."""
    found = elements(data)
    if len(found) != 1 or found[0][0] != tag:
        raise DerError(f"expected one element of tag {tag:#04x}")
    return found[0][1]


def integer(content: bytes, limit: int) -> int:
    """Value of an INTEGER or ENUMERATED from 0 to `limit`, in its shortest form."""
    shortest = len(content) == 1 or (len(content) > 1 and (content[0] != 0 or content[1] >= 0x80))
    if not shortest or content[0] >= 0x80:
        raise DerError("an integer is negative or not in its shortest form")
    value = int.from_bytes(content, "big")
    if value > limit:
        raise DerError(f"an integer is over {limit}")
    return value


def boolean(content: bytes) -> bool:
    """Value of a BOOLEAN."""
    if content not in (b"\x00", b"\xff"):
        raise DerError("a boolean is neither 00 nor ff")
    return content == b"\xff"


def _element(data: bytes, position: int) -> tuple[int, int, int]:
    if len(data) - position < 2:
        raise DerError("an element is cut short")
    tag, size, start = data[position], data[position + 1], position + 2
    if tag & 0x1F == 0x1F:
        raise DerError("a tag number over 30")
    if size >= 0x80:
        octets = size & 0x7F
        size = int.from_bytes(data[start : start + octets], "big")
        # The shortest form only: no leading zero, and long only where short will not do.
        if not 1 <= octets <= 4 or len(data) - start < octets or size < 0x80 or size >> 8 * (octets - 1) == 0:
            raise DerError("a length is not in its shortest form")
        start += octets
    if len(data) - start < size:
        raise DerError("an element is cut short")
    return tag, start, start + size
