"""The results as Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.contenders import CONTENDERS, OURS, REFERENCE
from benchmarks.engine import EngineTime
from benchmarks.loading import Loading
from benchmarks.models import RECIPES
from benchmarks.results import Cell, ModelTimes, Ratio, fastest_peer, ratio


@dataclass
class Run:
    """All that one run of the benchmark found.

    Attributes
    ----------
    date, command, seconds
        When, how and how long.
    machine, versions, absent
        What it ran on and with, and which libraries are missing, with the reason.
    times
        Threads, then model.
    loading
        Model, then library.
    sealing
        What ``benchmarks.sealing`` wrote, if it ran.
    remote
        What ``benchmarks.remote`` wrote, if it ran.
    engine, engine_reason
        What `engine_bench` printed, or why nothing.
    """

    date: str
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    absent: dict[str, str]
    seconds: float = 0.0
    times: dict[int, dict[str, ModelTimes]] = field(default_factory=dict)
    loading: dict[str, dict[str, Loading]] = field(default_factory=dict)
    sealing: dict[str, Any] | None = None
    remote: dict[str, Any] | None = None
    engine: list[EngineTime] = field(default_factory=list)
    engine_reason: str = ""


class Footnotes:
    """Numbered reasons, each of which is told once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, reason: str) -> str:
        """The number of a reason, raised."""
        number = self._numbers.setdefault(reason, len(self._numbers) + 1)
        return f"<sup>{number}</sup>"

    def lines(self) -> list[str]:
        """The list of them."""
        return [f"{number}. {reason}" for reason, number in self._numbers.items()]


def markdown(run: Run, plots: list[tuple[str, str]]) -> str:
    """The report.

    Parameters
    ----------
    run
        What to report.
    plots
        Title and file name of each picture.
    """
    notes = Footnotes()
    lines = [
        "# Benchmarks",
        "",
        f"Measured on {run.date} in {run.seconds / 60:.0f} minutes; to repeat:",
        "",
        f"    {run.command}",
        "",
        f"The enclave was of the platform `{run.sealing['platform']}`." if run.sealing else "",
        "All figures are of one run on one machine; the ratios carry over to others better than the times do.",
        "The same figures and more, for programs: [benchmarks.json](benchmarks.json).",
        "",
        *_ratios(run, notes),
        *[line for title, name in plots for line in (f"![{title}]({name})", "")],
        *_how(run),
        *_models(run),
        *_forest(run),
        *_figures(run, notes),
        *_loading(run, notes),
        *_sealing(run),
        *_remote(run),
        *_engine(run),
    ]
    if notes.lines():
        lines += ["## Notes", "", *notes.lines(), ""]
    # Two empty lines in a row come from sections that had nothing to say.
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip() + "\n"


def _table(header: list[str], rows: list[list[str]], align: str = "---:") -> list[str]:
    if not rows:
        return []
    line = ["---"] + [align] * (len(header) - 1)
    return ["| " + " | ".join(cells) + " |" for cells in [header, line, *rows]] + [""]


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _counts(times: dict[str, ModelTimes]) -> list[int]:
    return sorted({rows for model in times.values() for rows in model.cells})


def _times(value: Ratio, bold: bool = True) -> str:
    digits = 1 if value.median < 99.5 else 0
    mark = "**" if bold else ""
    return f"{mark}{value.median:.{digits}f}{mark} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _ratios(run: Run, notes: Footnotes) -> list[str]:
    lines = [
        "## How many times faster",
        "",
        f"Times as fast as the other library: the median over rounds, in which all were measured in turn, and its "
        f"quartiles. Every prediction of {OURS} had the same bits as XGBoost's. Under 1 is slower.",
        "",
    ]
    for threads, times in sorted(run.times.items()):
        counts = _counts(times)
        for to_peer in (False, True):
            rows = []
            for name, model in sorted(times.items()):
                line = [name]
                for count in counts:
                    line.append(_ratio_cell(model.cells.get(count), to_peer))
                rows.append(line)
            against = "the fastest other library" if to_peer else REFERENCE
            lines += [f"### Against {against}, {_threads(threads)}", ""]
            lines += _table(["model", *map(_count, counts)], rows)
    excluded = {
        f"{other} on model {name}: {cell.reason}"
        for times in run.times.values()
        for name, model in times.items()
        for row in model.cells.values()
        for other, cell in row.items()
        if cell.status == "wrong"
    }
    if excluded:
        lines += ["Not counted among the other libraries, for wrong predictions:", ""]
        lines += [f"- {text}" for text in sorted(excluded)] + [""]
    for name, reason in run.absent.items():
        lines += [f"{name} did not take part{notes.mark(reason)}.", ""]
    return lines


def _ratio_cell(cells: dict[str, Cell] | None, to_peer: bool) -> str:
    if cells is None:
        return ""
    other = fastest_peer(cells, OURS) if to_peer else REFERENCE
    if other is None:
        return ""
    text = _times(ratio(cells[OURS], cells[other]))
    return f"{text} {other}" if to_peer else text


def _how(run: Run) -> list[str]:
    calls = ", ".join(
        f"{contender.name} `{contender.call}`" for contender in CONTENDERS.values() if contender.name not in run.absent
    )
    return [
        "## How it is measured",
        "",
        "- One process for each number of threads, bound to as many processors; all libraries loaded in it, each told "
        "that number of threads. They take turns, another one first in each round, after a short pause and one call "
        "that does not count.",
        "- One row: the clock is read around every call; thousands of calls, with up to 1,000 different rows in turn, "
        "so that no branch predictor knows a row by heart. Median, quartiles and 99th percentile are of single calls.",
        "- More rows: as many calls as take 20 ms are one sample; seven samples or more (three for model h). Median "
        "and quartiles are of samples.",
        "- A call takes a float32 array and gives an array, whatever the library needs in between: " + calls + ".",
        "- Before it is timed, each library predicts all batches: another bit than XGBoost's ends the benchmark if it "
        f"is {OURS}'s; a difference over 0.001 (relative over 1) of another library is shown as *wrong*.",
        f"- Left out, shown as *slow*: calls that would take over 2 seconds, except of {OURS}, {REFERENCE} and the "
        "fastest of the others.",
        "",
        *_table(["machine", ""], [[name, value] for name, value in run.machine.items()], "---"),
        *_table(["package", "version"], [[name, value] for name, value in sorted(run.versions.items())], "---"),
    ]


def _models(run: Run) -> list[str]:
    rows = []
    for name, times in sorted(_any_times(run).items()):
        leaves = (times.n_nodes + times.n_trees) / 2 / times.n_trees
        rows.append(
            [
                f"{name}: {RECIPES[name].description}",
                f"{times.n_features:,}",
                f"{times.n_trees:,}",
                f"{times.n_nodes:,}",
                f"{leaves:,.0f}",
                str(times.depth),
            ]
        )
    header = ["model", "features", "trees", "nodes", "leaves per tree", "depth"]
    return ["## Models", "", "Made with fixed seeds by `benchmarks/models.py`.", "", *_table(header, rows)]


def _any_times(run: Run) -> dict[str, ModelTimes]:
    return {name: model for times in run.times.values() for name, model in times.items()}


def _forest(run: Run) -> list[str]:
    """The cost per node: what tells whether the price grows with the model alone."""
    if not run.times:
        return []
    threads = min(run.times)
    rows = []
    for name, model in sorted(run.times[threads].items()):
        line = [name, f"{model.n_nodes:,}"]
        for count in (1, 1000):
            cell = model.cells.get(count, {}).get(OURS)
            line.append(f"{cell.median / count / model.n_nodes * 1e12:,.1f}" if cell else "")
        rows.append(line)
    return [
        f"## Cost per node, {_threads(threads)}",
        "",
        f"{OURS} looks at every node for every row: picoseconds per row and node. Model h, the deep forest, shows "
        "what that costs where a walk from root to leaf would visit few of the nodes.",
        "",
        *_table(["model", "nodes", "1 row at a time", "1,000 rows at a time"], rows),
    ]


def _figures(run: Run, notes: Footnotes) -> list[str]:
    lines = ["## All figures", "", "Medians [quartiles]. One row: microseconds; more rows: rows per second.", ""]
    for name in sorted(_any_times(run)):
        counts = sorted({rows for times in run.times.values() if name in times for rows in times[name].cells})
        header = ["library", "threads"]
        for count in counts:
            header += ["1 row, µs", "99th percentile, µs"] if count == 1 else [f"{_count(count)}, rows/s"]
        rows = []
        for library in CONTENDERS:
            if library in run.absent:
                continue
            for threads, times in sorted(run.times.items()):
                line = [library, str(threads)]
                for count in counts:
                    cell = times[name].cells[count][library]
                    line += _figure(cell, count, notes)
                rows.append(line)
        lines += [f"### Model {name}: {RECIPES[name].description}", "", *_table(header, rows)]
    return lines


def _figure(cell: Cell, count: int, notes: Footnotes) -> list[str]:
    if cell.status != "ok":
        shown = {"cannot": "-", "wrong": "*wrong*", "slow": "*slow*"}[cell.status]
        text = shown + ("" if cell.status == "slow" else notes.mark(cell.reason))
        return [text, ""] if count == 1 else [text]
    if count == 1:
        micros = [_three_digits(value * 1e6) for value in (cell.median, cell.low, cell.high, cell.p99 or 0.0)]
        return [f"{micros[0]} [{micros[1]}, {micros[2]}]", micros[3]]
    median, low, high = (_rate(count / value) for value in (cell.median, cell.high, cell.low))
    return [f"{median} [{low}, {high}]"]


def _rate(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{_three_digits(value / limit)}{unit}"
    return _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _megabytes(value: float) -> str:
    return _three_digits(value / 1e6)


def _loading(run: Run, notes: Footnotes) -> list[str]:
    if not run.loading:
        return []
    lines = [
        "## Loading",
        "",
        "Each library alone in a process, from the file in its own form; converting (compiling, for tl2cgen) is not "
        "counted. Milliseconds are medians [quartiles] of up to seven loads. Memory is what the process had more after "
        "one load and one prediction, and at worst meanwhile, as the system sees it (resident pages).",
        "",
    ]
    rows = []
    for name, libraries in sorted(run.loading.items()):
        for library, found in libraries.items():
            if library in run.absent:
                continue
            if found.reason:
                rows.append([name, library, "-" + notes.mark(found.reason), "", "", ""])
                continue
            low, median, high = (_three_digits(value * 1e3) for value in (found.low, found.median, found.high))
            rows.append(
                [
                    name,
                    library,
                    f"{median} [{low}, {high}]",
                    _megabytes(found.resident),
                    _megabytes(found.peak) if found.peak else "?",
                    _megabytes(found.file_size),
                ]
            )
    return lines + _table(["model", "library", "ms", "memory, MB", "at worst, MB", "file, MB"], rows)


def _sealing(run: Run) -> list[str]:
    if run.sealing is None:
        return []
    found = run.sealing
    rows = []
    for name, taken in found["actions"].items():
        low, median, high = (_three_digits(value * 1e3) for value in taken["seconds"])
        rows.append([name, f"{median} [{low}, {high}]", f"{taken['of_json_load']:.3g}"])
    return [
        "## Sealing",
        "",
        f"Model {found['model']}, {_megabytes(found['json_size'])} MB as JSON, {_megabytes(found['ubjson_size'])} MB "
        f"as UBJSON, {_megabytes(found['sealed_size'])} MB sealed; {found['runs']} interleaved runs.",
        "",
        *_table(["", "ms", "times XGBoost's loading of JSON"], rows),
    ]


def _remote(run: Run) -> list[str]:
    if run.remote is None:
        return []
    rows = []
    for found in run.remote["requests"]:
        line = [found["model"], f"{found['rows']:,}"]
        for name in ("plain", "remote"):
            low, median, high = (_three_digits(value * 1e6) for value in found[name])
            line.append(f"{median} [{low}, {high}]")
        for name in ("ratio", "bare_ratio"):
            low, median, high = found[name]
            line.append(f"{median:.2f} [{low:.2f}, {high:.2f}]")
        line += [_three_digits(value * 1e6) for value in found["shares"].values()]
        rows.append([*line, _three_digits(sum(found["aes_gcm"].values()) * 1e6)])
    names = list(run.remote["requests"][0]["shares"])
    times = {
        name: [_three_digits(value * 1e3) for value in taken] for name, taken in run.remote["verification"].items()
    }
    return [
        "## Confidential requests",
        "",
        "`RemoteModel.predict` over a transport that is a function call, beside `ConfidentialModel.predict` with one "
        f"thread, in one process and {run.remote['rounds']} interleaved rounds: microseconds a call, and what the "
        "parts of a call take on their own. The predictions have the same bits.",
        "",
        "AES-256-GCM: of exactly these bytes, request and answer, on both ends, without anything else; no remote call "
        f"can take less than plain and this. Measured with `cryptography` and {run.remote['enclave_aes_gcm']}.",
        "",
        "Bare: the calls of `cryptography` and the enclave in a straight line, without a session, an endpoint or any "
        "check (`benchmarks/bare_client.py`): no client in Python can add much less.",
        "",
        *_table(["model", "rows", "plain", "remote", "remote / plain", "bare / plain", *names, "AES-256-GCM"], rows),
        f"Verification and appraisal of evidence: {times['cached'][1]} ms [{times['cached'][0]}, {times['cached'][2]}] "
        f"with collateral that was seen before, {times['first'][1]} ms [{times['first'][0]}, {times['first'][2]}] the "
        "first time.",
        "",
    ]


def _engine(run: Run) -> list[str]:
    lines = ["## The price of the enclave", ""]
    if not run.engine:
        return [*lines, f"Not measured: {run.engine_reason}.", ""] if run.engine_reason else []
    found = {(time.model, time.rows, time.threads, time.path): time for time in run.engine}
    rows = []
    for model, count, threads in sorted({key[:3] for key in found}):
        cells = [found.get((model, count, threads, path)) for path in ("function", "enclave")]
        line = [model, f"{count:,}", str(threads)]
        line += [
            f"{cell.median_ns / 1e3:.4g} [{cell.p25_ns / 1e3:.4g}, {cell.p75_ns / 1e3:.4g}]" if cell else ""
            for cell in cells
        ]
        function, enclave = cells
        line.append(f"{enclave.median_ns / function.median_ns:.2f}" if function and enclave else "")
        predict = _cell(run, threads, model, count)
        line.append(f"{predict.median * 1e6:.4g}" if predict else "")
        rows.append(line)
    return [
        *lines,
        "The engine called by a C++ program as a plain function and through the enclave's boundary, and the whole call "
        "from Python of the tables above; microseconds a call.",
        "",
        *_table(["model", "rows", "threads", "function", "enclave", "enclave / function", "from Python"], rows),
    ]


def _cell(run: Run, threads: int, model: str, count: int) -> Cell | None:
    times = run.times.get(threads, {}).get(model)
    return times.cells.get(count, {}).get(OURS) if times else None
