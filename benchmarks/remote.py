"""Confidential requests against plain predictions in the same process, and the verification of evidence.

Usage: python -m benchmarks.remote MODELS ROUNDS OUTPUT [AES_GCM_BENCH]

AES_GCM_BENCH is the C++ program that times AES-256-GCM as the enclave does it. Without it the enclave's end is taken to
be as fast as the client's library.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import confidential_ml as cml
from benchmarks.bare_client import BareClient
from benchmarks.models import TrainedModel, trained
from benchmarks.results import quartiles
from confidential_ml import simulated_platform
from confidential_ml.answer import open_answer
from confidential_ml.attestation import ANY, AttestationPolicy, attest
from confidential_ml.attestation.collateral import checked_collateral
from confidential_ml.attestation.verify import _checked_pck
from confidential_ml.request import Request, encapsulation_to, predict_request

ROWS = (1, 1000)
SAMPLE_SECONDS = 0.05
FLOOR_ROUNDS = 5
VERIFICATIONS = 200

Action = Callable[[], object]


def sample(actions: dict[str, Action], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each action, `rounds` times in turn; every sample takes about `SAMPLE_SECONDS`."""
    counts = {}
    for name, action in actions.items():
        start = time.perf_counter()
        action()
        counts[name] = max(1, int(SAMPLE_SECONDS / max(1e-9, time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                action()
            times[name].append((time.perf_counter() - start) / counts[name])
    return times


def aes_gcm_alone(request: Request, program: Path | None) -> dict[str, float]:
    """Seconds that both ends take for AES-256-GCM of a request's and its answer's bytes, and for nothing else.

    Parameters
    ----------
    request
        Tells how many bytes.
    program
        `aes_gcm_bench`; None to take the client's library for the enclave's end, too.

    Raises
    ------
    RuntimeError
        If the program fails.
    """
    aead, nonce, header = AESGCM(os.urandom(32)), bytes(12), request.head[:56]
    plaintext = bytes(len(request.sealed) - 16)
    answer = aead.encrypt(nonce, bytes(request.answer_size), header)
    actions: dict[str, Action] = {
        "encrypt": partial(aead.encrypt, nonce, plaintext, header),
        "decrypt": partial(aead.decrypt, nonce, answer, header),
    }
    if program is None:
        actions["enclave: decrypt"] = partial(aead.decrypt, nonce, aead.encrypt(nonce, plaintext, header), header)
        actions["enclave: encrypt"] = partial(aead.encrypt, nonce, bytes(request.answer_size), header)
    times = {name: statistics.median(taken) for name, taken in sample(actions, FLOOR_ROUNDS).items()}
    client = times["encrypt"] + times["decrypt"]
    if program is None:
        return {"client": client, "enclave": times["enclave: decrypt"] + times["enclave: encrypt"]}
    command = [str(program), str(len(plaintext)), str(request.answer_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"aes_gcm_bench failed with status {done.returncode}")
    return {"client": client, "enclave": json.loads(done.stdout)["median_ns"] / 1e9}


def measure_requests(
    model: TrainedModel, rounds: int, enclave: cml.Enclave, directory: Path, program: Path | None
) -> list[dict[str, Any]]:
    """One model: plain calls, whole remote calls over a function call as transport, and what each end takes."""
    platform = simulated_platform.of_this_installation()
    path = directory / f"{model.name}.sealed"
    info = cml.seal(model.ubjson, path, enclave=enclave)
    endpoint = cml.ConfidentialEndpoint(enclave, collateral=platform.collateral())
    policy = AttestationPolicy(mrenclave=enclave.identity.mrenclave, model_digest=info.model_digest, allow_debug=True)
    found = []
    with cml.ConfidentialModel.load_sealed(path, enclave=enclave) as local:
        remote = cml.RemoteModel(endpoint.handle, policy, root=platform.root)
        claims = remote.attestation.claims
        columns = claims.models[-1].n_values
        encapsulation = encapsulation_to(claims)  # as a client keeps it while its attestation holds
        bare = BareClient(enclave, claims, info.model_digest)
        for count in ROWS:
            rows = model.rows(count)
            expected = local.predict(rows, n_threads=1).tobytes()
            if remote.predict(rows).tobytes() != expected or bare.predict(rows).tobytes() != expected:
                raise RuntimeError(f"model {model.name}: the remote predictions have other bits")

            build = partial(
                predict_request, claims, info.model_digest, rows, columns=columns, encapsulation=encapsulation
            )

            def ask(build: Callable[[], Request] = build) -> tuple[Request, bytes]:
                request = build()
                return request, enclave.answer_request(request.message)

            def decrypt(ask: Callable[[], tuple[Request, bytes]] = ask) -> object:
                return open_answer(*ask())

            times = sample(
                {
                    "plain": partial(local.predict, rows, n_threads=1),
                    "remote": partial(remote.predict, rows),
                    "bare": partial(bare.predict, rows),
                    "client: encrypt": build,
                    "enclave": ask,
                    "client: decrypt": decrypt,
                },
                rounds,
            )
            found.append({**_row(model.name, count, times), "aes_gcm": aes_gcm_alone(build(), program)})
    return found


def _row(model: str, rows: int, times: dict[str, list[float]]) -> dict[str, Any]:
    # A request is opened only once, so the enclave's and the decryption's share are what they add.
    encrypt, ask, whole = (times[name] for name in ("client: encrypt", "enclave", "client: decrypt"))
    shares = {
        "client: encrypt": encrypt,
        "enclave": [b - a for a, b in zip(encrypt, ask, strict=True)],
        "client: decrypt": [b - a for a, b in zip(ask, whole, strict=True)],
    }
    return {
        "model": model,
        "rows": rows,
        "plain": quartiles(times["plain"]),
        "remote": quartiles(times["remote"]),
        "ratio": _ratio(times["remote"], times["plain"]),
        "bare_ratio": _ratio(times["bare"], times["plain"]),
        "shares": {name: statistics.median(values) for name, values in shares.items()},
    }


def _ratio(times: list[float], plain: list[float]) -> tuple[float, float, float]:
    return quartiles([own / other for own, other in zip(times, plain, strict=True)])


def measure_verification(enclave: cml.Enclave) -> dict[str, Any]:
    """Verification and appraisal of evidence: the first time, and with collateral and platform seen before."""
    platform = simulated_platform.of_this_installation()
    policy = AttestationPolicy(mrenclave=enclave.identity.mrenclave, model_digest=ANY, allow_debug=True)
    evidence = enclave.evidence(bytes(32))
    published = platform.collateral()

    def cached() -> None:
        attest(evidence, published, policy, nonce=bytes(32), root=platform.root)

    def first() -> None:
        checked_collateral.cache_clear()
        _checked_pck.cache_clear()
        cached()

    times: dict[str, list[float]] = {"cached": [], "first": []}
    for _ in range(VERIFICATIONS):
        for name, action in (("first", first), ("cached", cached)):
            start = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start)
    return {name: quartiles(values) for name, values in times.items()}


def main() -> None:
    letters, rounds, output, *others = sys.argv[1:]
    program = Path(others[0]) if others else None
    warnings.simplefilter("ignore", cml.SimulationWarning)
    with tempfile.TemporaryDirectory() as name, cml.Enclave() as enclave:
        requests = [
            row
            for letter in letters.split(",")
            for row in measure_requests(trained(letter), int(rounds), enclave, Path(name), program)
        ]
        found = {
            "requests": requests,
            "verification": measure_verification(enclave),
            "rounds": int(rounds),
            "enclave_aes_gcm": "the enclave's libcrypto" if program else "the client's library",
        }
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
