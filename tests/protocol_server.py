"""What the tests of the protocols ask: an application with a few models, and a client of it.

The only place that knows which application it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
import xgboost
from starlette.types import ASGIApp

import confidential_ml as cml
from confidential_ml.server import create_app, load_settings

MAX_ROWS = 1000
MAX_BODY = 1 << 20


@dataclass
class Served:
    """An application; the boosters that it serves by id and version; and how to ask it."""

    app: ASGIApp
    boosters: dict[tuple[str, int], xgboost.Booster]
    headers: dict[str, str]
    run: Callable[..., Any]

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request; an exception that would become a 500 comes out here."""
        headers = {**self.headers, **arguments.pop("headers", {})}

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, headers=headers, **arguments)

        answer: httpx.Response = self.run(ask())
        return answer

    def predict(self, model_id: str, rows: Any, version: int = 1, **arguments: Any) -> np.ndarray[Any, Any]:
        """What XGBoost itself predicts."""
        booster = self.boosters[model_id, version]
        return np.asarray(booster.inplace_predict(np.asarray(rows, dtype=np.float32), **arguments))


@contextlib.contextmanager
def on_a_socket(served: Served) -> Iterator[int]:
    """The port of a real socket of this machine where the application answers."""
    server = uvicorn.Server(uvicorn.Config(served.app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def same_bits(one: Any, other: Any) -> bool:
    """Whether two arrays have the same shape and, rounded to float32, the same bits."""
    left, right = np.asarray(one, dtype=np.float32), np.asarray(other, dtype=np.float32)
    return left.shape == right.shape and left.tobytes() == right.tobytes()


def rows_or_refusal(read: Callable[[], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any] | None:
    """What a decoder reads, None if it refuses as it should."""
    from confidential_ml.server.errors import HttpError

    try:
        return read()
    except HttpError as error:
        if error.status in {400, 413}:
            return None
        raise


def rows_of(n_features: int, count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(count, n_features)).astype(np.float32)


def train(n_features: int, seed: int, **parameters: Any) -> xgboost.Booster:
    rows = rows_of(n_features, 200, seed)
    target = (rows[:, 0] * 3 + rows[:, -1] ** 2).round() % 3
    if "num_class" not in parameters:
        target = np.minimum(target, 1)
    data = xgboost.DMatrix(rows, target)
    return xgboost.train({"max_depth": 3, "nthread": 1, "seed": seed, **parameters}, data, num_boost_round=6)


def booster_set() -> dict[tuple[str, int], xgboost.Booster]:
    """``flowers``: 4 features, 3 classes, versions 1 and 2; ``risk``: 6 features; ``line``: one feature."""
    return {
        ("flowers", 1): train(4, 1, objective="multi:softprob", num_class=3),
        ("flowers", 2): train(4, 2, objective="multi:softprob", num_class=3),
        ("risk", 1): train(6, 3, objective="binary:logistic"),
        ("line", 1): train(1, 4, objective="reg:squarederror"),
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    boosters = booster_set()
    directory = tmp_path_factory.mktemp("models")
    for (model_id, version), booster in boosters.items():
        cml.seal(booster, directory / f"{model_id}-{version}.sealed", model_id=model_id, version=version)
    unsafe = {"simulation": True, "cleartext_predict": True, "anonymous": ["client", "owner", "metrics"]}
    limits = {"rows": MAX_ROWS, "body_bytes": MAX_BODY}
    app = create_app(load_settings(model_store=directory, unsafe=unsafe, limits=limits, allowed_hosts=["testserver"]))
    with asyncio.Runner() as runner:
        yield Served(app, boosters, {}, runner.run)
    app.state.serving.close()
