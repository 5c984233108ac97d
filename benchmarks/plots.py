"""The two pictures of the report."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.report import Run
from benchmarks.results import Cell

# Colours that most kinds of colour-blindness tell apart (Okabe and Ito); shapes for the rest.
_STYLES = {
    "confidential_ml": ("#D55E00", "o"),
    "xgboost": ("#000000", "s"),
    "onnxruntime": ("#0072B2", "^"),
    "daal4py": ("#009E73", "D"),
    "tl2cgen": ("#CC79A7", "v"),
    "treelite gtil": ("#E69F00", "P"),
}


def draw(run: Run, directory: Path) -> list[tuple[str, str]]:
    """Write the pictures.

    Parameters
    ----------
    run
        What to show.
    directory
        Where they go.

    Returns
    -------
    list
        Title and file name of each; those for which nothing was measured are left out.
    """
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "benchmarks", "font.size": 10, "axes.axisbelow": True})
    written = []
    pictures: list[tuple[str, str, str, int, Callable[[Cell, int], tuple[float, float, float]]]] = [
        (
            "benchmarks-latency.svg",
            "Latency of one row",
            "microseconds: median, line to the 99th percentile (less is better)",
            1,
            _latency,
        ),
        (
            "benchmarks-throughput.svg",
            "Throughput at 1,000 rows a call",
            "rows per second: median, line between quartiles (more is better)",
            1000,
            _throughput,
        ),
    ]
    for name, title, label, count, figures in pictures:
        if not any(count in model.cells for times in run.times.values() for model in times.values()):
            continue
        figure = _dots(run, title, label, count, figures)
        figure.savefig(directory / name, metadata={"Date": None})
        importlib.import_module("matplotlib.pyplot").close(figure)
        written.append((title, name))
    return written


def _latency(cell: Cell, count: int) -> tuple[float, float, float]:
    return cell.median / count * 1e6, cell.median / count * 1e6, (cell.p99 or cell.median) / count * 1e6


def _throughput(cell: Cell, count: int) -> tuple[float, float, float]:
    return count / cell.median, count / cell.high, count / cell.low


def _dots(
    run: Run, title: str, label: str, count: int, figures: Callable[[Cell, int], tuple[float, float, float]]
) -> Any:
    """A panel for each number of threads, a line for each model, a dot for each library."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    ticker = importlib.import_module("matplotlib.ticker")
    # One row is one thread's work for nearly every library: more panels would show the same.
    panels = sorted(run.times)[: 1 if count == 1 else None]
    models = sorted({name for times in run.times.values() for name, model in times.items() if count in model.cells})
    libraries = [name for name in CONTENDERS if name not in run.absent]
    # In inches, so that the same room is left for words however many models there are.
    top, bottom, left, right, width = 0.95, 1.0, 0.75, 0.2, max(8.0, 5.0 * len(panels))
    height = top + bottom + 0.75 * len(models)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(width, height), sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, wspace=0.06)
    for axis, threads in zip(axes[0], panels, strict=True):
        for line, model in enumerate(models):
            if line % 2:
                axis.axhspan(line - 0.5, line + 0.5, color="#f2f2f2", linewidth=0)
            if model not in run.times[threads]:
                continue
            for place, library in enumerate(libraries):
                cell = run.times[threads][model].cells.get(count, {}).get(library)
                if cell is None or cell.status != "ok":
                    continue
                middle, low, high = figures(cell, count)
                # One below the other within the line, or near values would hide each other.
                y = line + (place - (len(libraries) - 1) / 2) * 0.8 / len(libraries)
                color, marker = _STYLES[library]
                axis.plot([low, high], [y, y], color=color, linewidth=1.2, solid_capstyle="butt")
                axis.plot(
                    [middle],
                    [y],
                    color=color,
                    marker=marker,
                    markersize=7 if library == OURS else 5,
                    linestyle="none",
                    label=library if axis is axes[0][0] else None,
                )
        axis.set_xscale("log")
        axis.set_yticks(range(len(models)), [f"model {name}" for name in models])
        axis.set_ylim(len(models) - 0.5, -0.5)
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(_plain_number))
        axis.grid(axis="x", which="major", color="#c8c8c8", linewidth=0.8)
        axis.grid(axis="x", which="minor", color="#e6e6e6", linewidth=0.4)
        axis.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.set_title("1 thread" if threads == 1 else f"{threads} threads", fontsize=10)
        axis.set_xlabel("logarithmic scale", fontsize=8, color="#555555")
    handles: dict[str, Any] = {}
    for handle, name in zip(*axes[0][0].get_legend_handles_labels(), strict=True):
        handles.setdefault(name, handle)
    names = [name for name in libraries if name in handles]
    figure.text(0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=12, fontweight="bold")
    figure.text(0.5, 1 - 0.4 / height, label, ha="center", va="top", fontsize=10)
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="lower center",
        ncols=len(names),
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
        bbox_to_anchor=(0.5, 0.05 / height),
    )
    return figure


def _plain_number(value: float, _position: int) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
