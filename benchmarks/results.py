"""What a run finds, and its JSON form."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Cell:
    """One library predicting one number of rows of one model.

    Attributes
    ----------
    status
        ``"ok"``, ``"cannot"`` (the library cannot run the model), ``"wrong"`` (its predictions differ from XGBoost's)
        or ``"slow"`` (left out, since one call would take too long).
    reason
        Why it is not ``"ok"``.
    rounds
        Seconds per call, one number per round; a round of another library of the same table was measured beside it.
    low, median, high, p99
        Quartiles and 99th percentile of the seconds per call; `p99` only where each call was timed.
    difference
        Largest difference from XGBoost's predictions.
    """

    status: str
    reason: str = ""
    rounds: list[float] = field(default_factory=list)
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    p99: float | None = None
    difference: float = 0.0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The reverse of ``dataclasses.asdict``."""
        return cls(**value)


@dataclass
class ModelTimes:
    """All cells of one model with one number of threads: rows, then library."""

    n_features: int
    n_trees: int
    n_nodes: int
    depth: int
    cells: dict[int, dict[str, Cell]]

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The reverse of `as_json`, after a round trip through JSON, which makes text of row counts."""
        cells = {
            int(rows): {name: Cell.from_json(cell) for name, cell in row.items()}
            for rows, row in value["cells"].items()
        }
        return cls(**{**value, "cells": cells})


@dataclass
class Ratio:
    """How many times faster one library is than another: median and quartiles over rounds measured side by side."""

    low: float
    median: float
    high: float


def ratio(of: Cell, to: Cell) -> Ratio:
    """How many times faster `of` is than `to`.

    Parameters
    ----------
    of, to
        Two cells of one table.
    """
    low, median, high = quartiles([other / own for own, other in zip(of.rounds, to.rounds, strict=True)])
    return Ratio(low, median, high)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def fastest_peer(cells: dict[str, Cell], ours: str) -> str | None:
    """The fastest library besides ours whose predictions were right."""
    peers = {name: cell.median for name, cell in cells.items() if name != ours and cell.status == "ok"}
    return min(peers, key=lambda name: peers[name]) if peers else None
