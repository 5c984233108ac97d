"""`confidential-ml bench`: a quick measurement on this machine. docs/benchmarks.md has careful ones."""

from __future__ import annotations

import json as json_text
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from confidential_ml.cli import options
from confidential_ml.cli.exit_status import UsageError
from confidential_ml.cli.output import note, print_json, show

if TYPE_CHECKING:
    import confidential_ml as cml
    from confidential_ml.rows import FloatArray

__all__ = ["bench", "generated_model"]

_BATCHES = (1, 32, 1024, 32768)
_SEED = 1


def bench(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="A sealed or an XGBoost model; one is generated else.")
    ] = None,
    trees: Annotated[int, typer.Option("--trees", min=1, max=10000, help="Of the generated model.")] = 100,
    depth: Annotated[int, typer.Option("--depth", min=1, max=12, help="Of its trees.")] = 6,
    features: Annotated[int, typer.Option("--features", min=1, max=10000, help="Of its rows.")] = 32,
    threads: Annotated[int, typer.Option("--threads", min=1, help="At most.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="For each size of batch.")] = 1.0,
    json: options.Json = False,
) -> None:
    """Measure predictions, by turns with XGBoost.

    Rows a second and microseconds a row, of several sizes of batches. XGBoost takes part if it is installed.
    """
    import confidential_ml as cml

    with tempfile.TemporaryDirectory(prefix="confidential_ml-bench-") as directory:
        sealed, plain = _sealed(model, Path(directory), trees, depth, features)
        with cml.ConfidentialModel.load_sealed(sealed) as loaded:
            booster = None if plain is None else _booster(plain, threads)
            measured = [_measured(loaded, booster, size, threads, seconds) for size in _BATCHES]
            info = loaded.info
    facts = {
        "model": info.model_id,
        "trees": info.n_trees,
        "depth": info.depth,
        "features": info.n_features,
        "groups": info.n_groups,
        "threads": threads,
        "platform": info.platform,
    }
    if json:
        print_json({**facts, "batches": measured})
        return
    _print(facts, measured)
    if plain is not None and booster is None:
        note("xgboost is not installed, so there is nothing to compare with: pip install xgboost-cpu")


def _sealed(
    model: Path | None, directory: Path, trees: int, depth: int, features: int
) -> tuple[Path, Path | bytes | None]:
    """A sealed model, and the same in plain if there is one."""
    import confidential_ml as cml
    from confidential_ml.regular_file import open_regular

    if model is not None:
        with open_regular(model) as file:
            if file.read(8) == b"CMLSEAL\0":
                return model, None
    plain: Path | bytes = model if model is not None else generated_model(trees, depth, features)
    sealed = directory / "bench.sealed"
    cml.seal(plain, sealed, model_id="generated" if model is None else "bench")
    return sealed, plain


def _booster(plain: Path | bytes, threads: int) -> Any:
    try:
        import xgboost
    except ImportError:
        return None
    try:
        return xgboost.Booster(
            {"nthread": threads}, model_file=str(plain) if isinstance(plain, Path) else bytearray(plain)
        )
    except xgboost.core.XGBoostError as error:
        raise UsageError(f"this xgboost cannot read the model: {str(error).splitlines()[0]}") from None


def _measured(model: cml.ConfidentialModel, booster: Any, size: int, threads: int, seconds: float) -> dict[str, Any]:
    import numpy as np

    rows = np.random.default_rng(_SEED).normal(size=(size, model.info.n_features)).astype(np.float32)
    contenders: dict[str, Callable[[FloatArray], FloatArray]] = {
        "enclave": lambda batch: model.predict(batch, n_threads=threads)
    }
    same_bits = None
    if booster is not None:
        contenders["xgboost"] = lambda batch: booster.inplace_predict(batch)
        same_bits = contenders["enclave"](rows).tobytes() == contenders["xgboost"](rows).tobytes()
    times = _by_turns(contenders, rows, seconds)
    return {
        "rows": size,
        **{
            name: {
                "microseconds_per_row": statistics.median(taken) / size * 1e6,
                "rows_per_second": size / statistics.median(taken),
                "calls": len(taken),
            }
            for name, taken in times.items()
        },
        **({} if same_bits is None else {"same_bits": same_bits}),
    }


def _by_turns(
    contenders: dict[str, Callable[[FloatArray], FloatArray]], rows: FloatArray, seconds: float
) -> dict[str, list[float]]:
    """Seconds of each call. By turns, so that a machine that gets slower does so for all."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for predict in contenders.values():
        predict(rows)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not all(times.values()):
        for name, predict in contenders.items():
            start = time.perf_counter()
            predict(rows)
            times[name].append(time.perf_counter() - start)
    return times


def _print(facts: dict[str, Any], measured: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    protects = "" if facts["platform"] == "openenclave" else f"; {facts['platform']}: not the speed of SGX"
    title = (
        f"{facts['model']}: {facts['trees']} trees of depth {facts['depth']}, {facts['features']} features, "
        f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}{protects}"
    )
    names = [name for name in ("enclave", "xgboost") if name in measured[0]]
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("rows", *(f"{name} {unit}" for name in names for unit in ("µs/row", "rows/s"))):
        table.add_column(heading, justify="right")
    if len(names) > 1:
        table.add_column("times as fast", justify="right")
        table.add_column("bits", justify="left")
    for one in measured:
        cells = [f"{one['rows']:,}"]
        for name in names:
            cells += [f"{one[name]['microseconds_per_row']:,.2f}", f"{one[name]['rows_per_second']:,.0f}"]
        if len(names) > 1:
            ratio = one["enclave"]["rows_per_second"] / one["xgboost"]["rows_per_second"]
            cells += [f"{ratio:.2f}", "same" if one["same_bits"] else "DIFFER"]
        table.add_row(*cells)
    show(Text(title, style="bold"), table)


def generated_model(n_trees: int, depth: int, n_features: int) -> bytes:
    """A binary classifier of complete trees with random splits, as XGBoost's JSON."""
    import numpy as np

    random = np.random.default_rng(_SEED)
    n_inner, n_nodes = (1 << depth) - 1, (2 << depth) - 1
    left = [2 * node + 1 if node < n_inner else -1 for node in range(n_nodes)]
    trees = []
    for number in range(n_trees):
        splits = random.normal(size=n_inner).astype(np.float32)
        leaves = (random.normal(size=n_nodes - n_inner) * 0.1).astype(np.float32)
        values = [float(value) for value in (*splits, *leaves)]
        zeros = [0] * n_nodes
        trees.append(
            {
                "base_weights": values,
                "categories": [],
                "categories_nodes": [],
                "categories_segments": [],
                "categories_sizes": [],
                "default_left": zeros,
                "id": number,
                "left_children": left,
                "loss_changes": [0.0] * n_nodes,
                "parents": [2147483647, *((node - 1) // 2 for node in range(1, n_nodes))],
                "right_children": [child + 1 if child > 0 else -1 for child in left],
                "split_conditions": values,
                "split_indices": [*random.integers(n_features, size=n_inner).tolist(), *zeros[n_inner:]],
                "split_type": zeros,
                "sum_hessian": [1.0] * n_nodes,
                "tree_param": {
                    "num_deleted": "0",
                    "num_feature": str(n_features),
                    "num_nodes": str(n_nodes),
                    "size_leaf_vector": "1",
                },
            }
        )
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(n_trees)},
        "iteration_indptr": list(range(n_trees + 1)),
        "tree_info": [0] * n_trees,
        "trees": trees,
    }
    learner = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {
            "base_score": "5E-1",
            "boost_from_average": "1",
            "num_class": "0",
            "num_feature": str(n_features),
            "num_target": "1",
        },
        "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    return json_text.dumps({"learner": learner, "version": [3, 0, 0]}).encode()
