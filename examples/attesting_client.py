"""An owner and a client of `make serve`, neither of whom trusts the server: attest, provision, predict, verify, delete.

Usage: python attesting_client.py [URL]      (http://127.0.0.1:8080; a token from CONFIDENTIAL_ML_TOKEN, if set)
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import confidential_ml as cml
from confidential_ml import simulated_platform
from confidential_ml.attestation import ANY, AttestationError, AttestationPolicy, attest
from confidential_ml.client import ConfidentialClient

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
URL = "http://127.0.0.1:8080"


def paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def operator_sees(text: str) -> None:
    print(paint(f"   operator sees: {text}", "33"))


@contextmanager
def step(number: int, text: str) -> Iterator[None]:
    print(f"\n{paint(f'{number}. {text}', '1')}", flush=True)
    start = time.perf_counter()
    yield
    print(f"   ({time.perf_counter() - start:.2f} s)")


def installed_mrenclave() -> str:
    """What a client gets from whoever built the image; here from the image that is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said below, louder
        with cml.Enclave() as enclave:
            if enclave.identity.platform != "openenclave":
                print(paint("SIMULATION: this shows what happens, and protects nothing.", "1;31"))
            return enclave.identity.mrenclave


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else URL
    token = os.environ.get("CONFIDENTIAL_ML_TOKEN")
    mrenclave = installed_mrenclave()
    root = simulated_platform.of_this_installation().root
    print(f"Root handed over on purpose, from this installation: {root.name}. Without it Intel's alone is believed.")

    anything = AttestationPolicy(mrenclave=mrenclave, model_digest=ANY, allow_debug=True)
    owner_key = Ed25519PrivateKey.generate()
    # Versions order the models of one owner; the store takes each once, and this owner is new each time.
    name = f"iris-{cml.owner_id(owner_key)[:8]}"
    with ConfidentialClient(url, anything, root=root, token=token) as client:
        with step(1, f"Who is there? {url} must prove which code it runs"):
            result = client.attest()
            print(f"   MRENCLAVE {result.mrenclave}, as pinned; TCB {result.tcb_status}; epoch {result.claims.epoch}")
            operator_sees("that somebody asked; a random nonce")

        with step(2, "The owner trains iris and sends it, encrypted to that enclave"):
            receipt = provision(client, name, owner_key)
            operator_sees(
                f"model {name}, version {receipt.model_version}, digest {receipt.model_digest[:12]}..., its size"
            )

    policy = AttestationPolicy(
        mrenclave=mrenclave, model_digest=receipt.model_digest, model_owner=cml.owner_id(owner_key), allow_debug=True
    )
    with ConfidentialClient(url, policy, root=root, token=token) as client:
        with step(3, "A client who accepts that enclave with that model of that owner alone sends flowers"):
            flowers = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], dtype=np.float32)
            predictions, receipts = client.predict(flowers, receipt=True)
            for flower, classes in zip(flowers, predictions, strict=True):
                print(f"   {flower} -> {classes}")
            operator_sees("a message and its answer, padded and unreadable, and for which model")

        with step(4, "The receipt is verified, with no connection"):
            one = receipts[0]
            accepted = attest(one.evidence, one.collateral, policy, root=root)
            content = predictions[one.rows].tobytes()
            cml.verify_receipt(one.receipt, accepted, answer=content, blind=one.blind)
            print(f"   receipt {one.receipt.counter} of this enclave is of these predictions: its signature is right")
            operator_sees("nothing")

    with step(5, "A client who is not told of the simulation refuses"):
        try:
            with ConfidentialClient(url, policy, token=token) as wary:
                wary.predict(flowers)
        except AttestationError as refusal:
            print(f"   {paint('refused', '32')}: {refusal}")
            operator_sees("that somebody asked, and went away: no row was sent")
        else:
            sys.exit("   The simulation was NOT refused. This is a bug, please report it.")

    with step(6, "The owner takes the model away again"):
        delete(url, name, token)
        operator_sees(f"that {name} is deleted")


def provision(client: ConfidentialClient, name: str, owner_key: Ed25519PrivateKey) -> cml.Receipt:
    from train_iris import train

    receipt = client.provision(train(), model_id=name, version=1, owner_key=owner_key)
    print(f"   {name} sealed for {str(receipt.policy).upper()}; receipt {receipt.counter}, signed by the enclave")
    return receipt


def delete(url: str, name: str, token: str | None) -> None:
    """Ask the server to forget a model; that is the operator's to do, so the enclave has no say in it."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    response = httpx.delete(f"{url.rstrip('/')}/models/{name}", headers=headers, timeout=60.0, trust_env=False)
    if not response.is_success:
        sys.exit(f"   {name} could not be deleted: HTTP {response.status_code}: {response.text}")
    print(f"   {name} is deleted; other models at {url} are as they were")


if __name__ == "__main__":
    try:
        main()
    except cml.RemoteError as error:
        sys.exit(f"{error}\nIs the server running? make serve")
