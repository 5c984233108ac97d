"""Requests per second and latency of the server's routes beside an empty route, by wrk on this machine.

Usage: python -m benchmarks.load ROUNDS SECONDS OUTPUT

Needs `wrk` (Debian's package) and the extra `server`. The routes take turns, another one first in each round.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import confidential_ml as cml
from benchmarks.models import trained
from benchmarks.results import quartiles
from benchmarks.serving_process import ServingProcess, serving
from confidential_ml import simulated_platform
from confidential_ml.attestation import AttestationPolicy, Claims
from confidential_ml.protocol import Operation
from confidential_ml.request import encapsulation_to, predict_request

CONNECTIONS = 16
ROWS = (1, 100)
# A confidential request is answered once: as many are made beforehand as the fastest server could take.
REQUESTS_PER_SECOND = {1: 26000, 100: 22000}
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
_LATENCY = re.compile(r"^\s+(50|99)%\s+([0-9.]+)(us|ms|s)$", re.MULTILINE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

# Sends the bodies of a file, in which each follows its size, one after the other and then again.
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "{media_type}"
local bodies, at = {{}}, 0
local file = io.open("{path}", "rb")
local data = file:read("*a")
file:close()
local position = 1
while position <= #data do
  local size = 0
  for i = 3, 0, -1 do size = size * 256 + data:byte(position + i) end
  bodies[#bodies + 1] = data:sub(position + 4, position + 3 + size)
  position = position + 4 + size
end
request = function()
  at = at % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[at])
end
"""


@dataclass(frozen=True)
class Target:
    """A route to be asked.

    Attributes
    ----------
    name, rows
        What it is called in the results; rows per request.
    server, path, media_type
        Whom to ask.
    bodies
        Makes the bodies for one measurement of so many seconds.
    """

    name: str
    rows: int
    server: ServingProcess
    path: str
    media_type: str
    bodies: Callable[[float], list[bytes]]

    def count(self, seconds: float) -> int:
        """How many confidential requests are made for a measurement."""
        return int(REQUESTS_PER_SECOND[self.rows] * seconds)


def ask(target: Target, seconds: float, scratch: Path) -> dict[str, float]:
    """One measurement: requests per second, and the median and 99th percentile of their seconds."""
    bodies, script = scratch / "bodies", scratch / "script.lua"
    bodies.write_bytes(b"".join(len(body).to_bytes(4, "little") + body for body in target.bodies(seconds)))
    script.write_text(_SCRIPT.format(media_type=target.media_type, path=bodies))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    found = subprocess.run([*command, target.server.url + target.path], check=True, capture_output=True, text=True)
    output = found.stdout
    taken = re.search(r"(\d+) requests in", output)
    if target.path == "/confidential" and (taken is None or int(taken[1]) + CONNECTIONS > target.count(seconds)):
        raise RuntimeError("the server took all confidential requests that were made; make more (REQUESTS_PER_SECOND)")
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"{target.name}, {target.rows} rows: requests failed\n{output}")
    rate = _RATE.search(output)
    latency = {percentile: float(value) * _SECONDS[unit] for percentile, value, unit in _LATENCY.findall(output)}
    if rate is None or latency.keys() != {"50", "99"}:
        raise RuntimeError(f"wrk printed something else:\n{output}")
    return {"rate": float(rate[1]), "p50": latency["50"], "p99": latency["99"]}


def _json_bodies(content: dict[str, Any]) -> Callable[[float], list[bytes]]:
    body = json.dumps(content).encode()
    return lambda _seconds: [body]


def _confidential_bodies(claims: Claims, digest: str, rows: Any, columns: int) -> Callable[[float], list[bytes]]:
    prefix = b"\x01\x00" + Operation.REQUEST.to_bytes(2, "little")

    def make(seconds: float) -> list[bytes]:
        count = int(REQUESTS_PER_SECOND[len(rows)] * seconds)
        # Of as many clients as there are connections: each keeps its encapsulation while its attestation holds.
        clients = itertools.cycle([encapsulation_to(claims) for _ in range(CONNECTIONS)])
        return [
            prefix + predict_request(claims, digest, rows, columns=columns, encapsulation=next(clients)).message
            for _ in range(count)
        ]

    return make


def targets_of(server: ServingProcess, empty: ServingProcess, document: bytes) -> list[Target]:
    """Upload the model and attest the enclave; the routes to be compared."""
    upload = urllib.request.Request(f"{server.url}/model/upload?model_id=iris", document, method="POST")
    upload.add_header("Content-Type", "application/octet-stream")
    with urllib.request.urlopen(upload) as answer:
        digest = json.load(answer)["model_digest"]

    def transport(message: bytes) -> bytes:
        request = urllib.request.Request(f"{server.url}/confidential", message, method="POST")
        request.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(request) as reply:
            return bytes(reply.read())

    with cml.Enclave() as enclave:
        policy = AttestationPolicy(mrenclave=enclave.identity.mrenclave, model_digest=digest, allow_debug=True)
    remote = cml.RemoteModel(transport, policy, root=simulated_platform.of_this_installation().root)
    claims = remote.attestation.claims
    columns = next(model.n_values for model in claims.models if model.model_digest == digest)
    found = [Target("empty route", 1, empty, "/empty", "application/json", _json_bodies({}))]
    for count in ROWS:
        rows = np.random.default_rng(1).normal(3, 2, (count, 4)).astype(np.float32).round(1)
        values = [float(value) for value in rows.ravel()]
        tensor = {"name": "rows", "shape": [count, 4], "datatype": "FP32", "data": values}
        features = rows.tolist() if count > 1 else values
        found += [
            Target(
                "/model/predict",
                count,
                server,
                "/model/predict",
                "application/json",
                _json_bodies({"features": features}),
            ),
            Target(
                "/v2 infer",
                count,
                server,
                "/v2/models/iris/infer",
                "application/json",
                _json_bodies({"inputs": [tensor]}),
            ),
            Target(
                "/confidential",
                count,
                server,
                "/confidential",
                "application/octet-stream",
                _confidential_bodies(claims, digest, rows, columns),
            ),
        ]
    return found


def measure(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Quartiles over the rounds, and the rate in relation to the empty route's of the same round."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(scratch / "models", scratch))
        empty = stack.enter_context(serving(None, scratch))
        targets = targets_of(server, empty, trained("a").ubjson.read_bytes())
        times: list[list[dict[str, float]]] = [[] for _ in targets]
        for number in range(rounds):
            for place in range(len(targets)):
                which = (place + number) % len(targets)
                times[which].append(ask(targets[which], seconds, scratch))
    reference = [one["rate"] for one in times[0]]
    return [
        {
            "route": target.name,
            "rows": target.rows,
            "rate": quartiles([one["rate"] for one in found]),
            "ratio": quartiles([one["rate"] / other for one, other in zip(found, reference, strict=True)]),
            "p50": statistics.median(one["p50"] for one in found),
            "p99": statistics.median(one["p99"] for one in found),
        }
        for target, found in zip(targets, times, strict=True)
    ]


def main() -> None:
    rounds, seconds, output = sys.argv[1:]
    warnings.simplefilter("ignore", cml.SimulationWarning)
    found = measure(int(rounds), float(seconds))
    for one in found:
        print(
            f"{one['route']:<16} {one['rows']:>4} rows  {one['rate'][1]:>8.0f} /s  x {one['ratio'][1]:.2f} of empty  "
            f"p50 {one['p50'] * 1e3:.2f} ms  p99 {one['p99'] * 1e3:.2f} ms"
        )
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
