"""Many clients for minutes while models are swapped every second: no request may fail, and memory must not grow.

Usage: python -m benchmarks.soak SECONDS [CLIENTS]

Half of the clients ask in clear for the current version, half confidentially for one of two models. Every answer is
compared, bit for bit, with what XGBoost predicts. Exit status: 0 if nothing failed and memory did not grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
import warnings
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import xgboost as xgb

import confidential_ml as cml
from benchmarks.serving_process import ServingProcess, serving
from confidential_ml import simulated_platform
from confidential_ml.answer import open_answer
from confidential_ml.attestation import ANY, AttestationPolicy, Claims, attest
from confidential_ml.protocol import Operation
from confidential_ml.request import predict_request
from confidential_ml.rows import FloatArray

KEPT_VERSIONS = 4  # both models are always among them
SWAP_SECONDS = 1.0
OCTETS = {"Content-Type": "application/octet-stream"}
EVIDENCE_SECONDS = 30.0
SAMPLES_PER_THIRD = 5
MAX_GROWTH = 0.05
ROWS = 20


def train(seed: int) -> xgb.Booster:
    """A small model of 8 features and 3 classes; another one for each seed."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(300, 8)).astype(np.float32)
    data = xgb.DMatrix(rows, random.integers(0, 3, 300))
    return xgb.train(
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 4, "nthread": 1, "seed": seed}, data, 20
    )


@dataclass
class Soak:
    """What is asked, and what came of it."""

    server: ServingProcess
    boosters: tuple[xgb.Booster, xgb.Booster]
    rows: FloatArray
    end: float
    claims: Claims | None = None
    digests: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"clear": 0, "confidential": 0, "swaps": 0})
    failures: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.expected = [booster.inplace_predict(self.rows) for booster in self.boosters]

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end or len(self.failures) > 20

    async def upload(self, client: httpx.AsyncClient, version: int) -> None:
        document = bytes(self.boosters[version % 2].save_raw("ubj"))
        answer = await client.post(f"/model/upload?model_id=soak&version={version}", content=document, headers=OCTETS)
        if answer.status_code != 201:
            self.failures.append(f"upload of version {version}: {answer.status_code} {answer.text[:200]}")
            return
        if version <= 2:
            self.digests.append(answer.json()["model_digest"])
        self.counts["swaps"] += 1

    async def swap(self, client: httpx.AsyncClient) -> None:
        """Upload a version every second, and delete the oldest."""
        kept = deque([1, 2])
        next_swap = time.monotonic()
        while not self.is_over:
            next_swap += SWAP_SECONDS
            await asyncio.sleep(max(0.0, next_swap - time.monotonic()))
            kept.append(kept[-1] + 1)
            await self.upload(client, kept[-1])
            if len(kept) > KEPT_VERSIONS:
                answer = await client.delete(f"/models/soak/versions/{kept.popleft()}")
                if answer.status_code != 204:
                    self.failures.append(f"delete: {answer.status_code}")

    async def attest(self, client: httpx.AsyncClient) -> None:
        nonce = b"soak" * 8
        message = b"\x01\x00" + Operation.EVIDENCE.to_bytes(2, "little") + nonce
        reply = (await client.post("/confidential", content=message, headers=OCTETS)).content
        size = int.from_bytes(reply[4:8], "little")
        platform = simulated_platform.of_this_installation()
        policy = AttestationPolicy(mrsigner=ANY, isv_prod_id=ANY, min_isv_svn=0, model_digest=ANY, allow_debug=True)
        found = attest(reply[8 : 8 + size], platform.collateral(), policy, nonce=nonce, root=platform.root)
        self.claims = found.claims

    async def attest_again(self, client: httpx.AsyncClient) -> None:
        while not self.is_over:
            await asyncio.sleep(EVIDENCE_SECONDS)
            await self.attest(client)

    async def ask_in_clear(self, client: httpx.AsyncClient) -> None:
        content = {"features": self.rows.tolist(), "model_id": "soak"}
        while not self.is_over:
            answer = await client.post("/model/predict", json=content)
            if answer.status_code != 200:
                self.failures.append(f"in clear: {answer.status_code} {answer.text[:200]}")
                continue
            found = answer.json()
            self.compare("clear", np.asarray(found["predictions"], dtype=np.float32), found["version"] % 2)

    async def ask_confidentially(self, client: httpx.AsyncClient, which: int) -> None:
        while not self.is_over:
            assert self.claims is not None
            request = predict_request(self.claims, self.digests[which], self.rows, columns=3)
            message = b"\x01\x00" + Operation.REQUEST.to_bytes(2, "little") + request.message
            reply = (await client.post("/confidential", content=message, headers=OCTETS)).content
            if reply[:4] != b"\x01\x00\x00\x00":
                self.failures.append(f"confidential: result {reply[2:4].hex()}")
                continue
            answer = open_answer(request, reply[4:])
            if answer.status != 0:
                self.failures.append(f"confidential: status {answer.status}")
                continue
            # Version 1 is of the second model.
            found = np.frombuffer(answer.content, dtype="<f4").reshape(ROWS, 3)
            self.compare("confidential", found, 1 - which)

    def compare(self, kind: str, found: FloatArray, which: int) -> None:
        self.counts[kind] += 1
        if found.tobytes() != self.expected[which].tobytes():
            self.failures.append(f"{kind}: other predictions than XGBoost's")

    async def watch(self) -> None:
        while not self.is_over:
            self.memory.append(self.server.resident_bytes)
            await asyncio.sleep(0.5)


async def run(soak: Soak, clients: int) -> None:
    limits = httpx.Limits(max_connections=clients + 4)
    async with httpx.AsyncClient(base_url=soak.server.url, timeout=30, limits=limits) as client:
        await soak.upload(client, 1)
        await soak.upload(client, 2)
        await soak.attest(client)
        askers = [
            soak.ask_in_clear(client) if number % 2 else soak.ask_confidentially(client, number // 2 % 2)
            for number in range(clients)
        ]
        async with asyncio.TaskGroup() as group:
            for one in (*askers, soak.swap(client), soak.watch()):
                group.create_task(one)
            again = group.create_task(soak.attest_again(client))
            while not soak.is_over:
                await asyncio.sleep(0.2)
            again.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await again


def growth(memory: list[int]) -> float:
    """How much the last third has more than the middle one; the first is warming up."""
    third = len(memory) // 3
    if third < SAMPLES_PER_THIRD:
        raise RuntimeError("too short to say anything of memory")
    return statistics.median(memory[-third:]) / statistics.median(memory[third : 2 * third]) - 1


def main() -> int:
    seconds = float(sys.argv[1])
    clients = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    warnings.simplefilter("ignore", cml.SimulationWarning)
    rows = np.random.default_rng(5).normal(size=(ROWS, 8)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "models", Path(name)) as server:
        soak = Soak(server, (train(1), train(2)), rows, time.monotonic() + seconds)
        asyncio.run(run(soak, clients))
        more = growth(soak.memory)
        counts = ", ".join(f"{count} {kind}" for kind, count in soak.counts.items())
        print(
            f"{clients} clients, {seconds:g} s: {counts}; {len(soak.failures)} failed; "
            f"memory {soak.memory[-1] >> 20} MiB, {more:+.1%} from the middle third to the last"
        )
        for failure in soak.failures[:10]:
            print(f"  {failure}", file=sys.stderr)
    return 1 if soak.failures or more > MAX_GROWTH or not all(soak.counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
