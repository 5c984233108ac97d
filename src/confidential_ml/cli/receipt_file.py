"""Receipts as files: a receipt with the evidence of its enclave and what that was verified with (JSON)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confidential_ml.attestation import Collateral
from confidential_ml.attestation.files import read_small, replace_small
from confidential_ml.errors import ReceiptError
from confidential_ml.json_depth import is_too_deep

__all__ = ["ReceiptFile"]

_FORMAT = "confidential_ml receipt 1"
_MAX_SIZE = 8 << 20


@dataclass(frozen=True)
class ReceiptFile:
    """What it takes to verify a receipt without any connection.

    Attributes
    ----------
    receipt, evidence, collateral
        The 344 bytes; the evidence that names its key; what that is verified with.
    blind, rows
        Of predictions: 32 bytes that open the receipt's hash, and which rows of the call it is of; else None.
    """

    receipt: bytes
    evidence: bytes = field(repr=False)
    collateral: Collateral = field(repr=False)
    blind: bytes | None = field(default=None, repr=False)
    rows: tuple[int, int] | None = None

    def save(self, path: Path) -> None:
        """Write it, replacing a file at one stroke.

        Raises
        ------
        InvalidInputError
            If it cannot be written.
        """
        document: dict[str, Any] = {
            "format": _FORMAT,
            "receipt": _text(self.receipt),
            "evidence": _text(self.evidence),
            "collateral": json.loads(self.collateral.to_json()),
        }
        if self.blind is not None and self.rows is not None:
            document |= {"blind": _text(self.blind), "rows": list(self.rows)}
        replace_small(path, json.dumps(document, indent=1).encode("ascii"))

    @classmethod
    def load(cls, path: Path) -> ReceiptFile:
        """Read one; nothing in it is verified.

        Raises
        ------
        InvalidInputError
            If the file cannot be read.
        ReceiptError
            If it is none.
        """
        where, content = read_small(path, _MAX_SIZE)
        try:
            if is_too_deep(content):
                raise ValueError
            document = json.loads(content.decode("utf-8"))
            if document["format"] != _FORMAT:
                raise ValueError
            rows = document.get("rows")
            begin_end = None if rows is None else (int(rows[0]), int(rows[1]))
            blind = None if rows is None else _bytes(document["blind"])
            evidence, collateral = (
                _bytes(document["evidence"]),
                Collateral.from_json(json.dumps(document["collateral"])),
            )
            return cls(_bytes(document["receipt"]), evidence, collateral, blind, begin_end)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
            raise ReceiptError(f"{where} is no receipt that this command wrote, or is damaged") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
