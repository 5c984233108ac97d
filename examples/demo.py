"""The life of a sealed model, each step in a process of its own: train, seal, load, predict, and what is refused.

Usage: python demo.py --other-image PATH
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")  # the banner below says it louder

import confidential_ml as cml  # noqa: E402

FLOWER = np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def banner(platform: str) -> None:
    if platform == "openenclave":
        return
    lines = [
        "SIMULATION: THIS PROTECTS NOTHING",
        f"platform: {platform}",
        "It shows what happens, not that it is safe.",
    ]
    width = max(map(len, lines)) + 4
    print(paint("\n".join(["█" * width, *(line.center(width) for line in lines), "█" * width]), "1;31"))


@contextmanager
def step(number: int, text: str) -> Iterator[None]:
    print(f"\n{paint(f'{number}. {text}', '1')} ...", flush=True)
    start = time.perf_counter()
    yield
    print(f"   ({time.perf_counter() - start:.2f} s)")


def in_new_process(role: str, *arguments: str) -> None:
    subprocess.run([sys.executable, __file__, "--role", role, *arguments], check=True)


def train(model: str) -> None:
    from train_iris import train as train_booster

    booster = train_booster()
    booster.save_model(model)
    print(f"   {booster.num_boosted_rounds()} rounds, {Path(model).stat().st_size:,} bytes of JSON")


def seal(model: str, sealed: str) -> None:
    info = cml.seal(model, sealed, model_id="iris-classifier")
    print(f"   model digest   {info.model_digest}")
    print(f"   sealed for     {info.policy.upper()} {info.mrenclave}")


def predict(model: str, sealed: str) -> None:
    import xgboost as xgb

    with cml.ConfidentialModel.load_sealed(sealed) as loaded:
        print(f"   {loaded}")
        ours = loaded.predict(FLOWER)
    theirs = xgb.Booster(model_file=model).predict(xgb.DMatrix(FLOWER))
    for name, values in (("enclave", ours), (f"xgboost {xgb.__version__}", theirs)):
        bits = " ".join(f"{word:08x}" for word in values.view(np.uint32).ravel())
        print(f"   {name:<15} {' '.join(f'{value:.7f}' for value in values.ravel())}   bits {bits}")
    if ours.tobytes() != theirs.tobytes():
        sys.exit("   The bits differ. This is a bug, please report it.")
    print(paint("   same bits", "32"))


def refuse(sealed: str, other_image: str) -> None:
    def expect(error: type[Exception], what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except error as refusal:
            print(f"   {what}: {paint('refused', '32')} with {type(refusal).__name__}\n      {refusal}")
        else:
            sys.exit(f"   {what} was NOT refused. This is a bug, please report it.")

    damaged = Path(sealed).with_suffix(".damaged")
    content = bytearray(Path(sealed).read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    expect(
        cml.DamagedSealedModelError, "a copy with one byte changed", lambda: cml.ConfidentialModel.load_sealed(damaged)
    )
    with cml.Enclave(other_image) as other:
        expect(
            cml.WrongEnclaveError,
            "the file in a differently built enclave",
            lambda: cml.ConfidentialModel.load_sealed(sealed, enclave=other),
        )


@contextmanager
def server(directory: str) -> Iterator[str]:
    """The HTTP server in a process of its own; rows in clear are refused, as they are unless one says otherwise."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "CONFIDENTIAL_ML_PORT": str(port),
        "CONFIDENTIAL_ML_MODEL_STORE": f"{directory}/models",
        "CONFIDENTIAL_ML_UNSAFE__SIMULATION": "true",
        "CONFIDENTIAL_ML_UNSAFE__ANONYMOUS": '["owner", "client", "metrics"]',
    }
    command = [sys.executable, "-W", "ignore", "-m", "confidential_ml.server"]
    with open(f"{directory}/server.log", "w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url, process)
            print("   " + Path(log.name).read_text().split("\nINFO")[0].replace("\n", "\n   "))
            yield url
        finally:
            process.terminate()
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - this machine's own
                return
        except OSError:
            if process.poll() is not None:
                sys.exit("   The server ended at once. This is a bug, please report it.")
            time.sleep(0.1)
    sys.exit("   The server does not answer. This is a bug, please report it.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other-image", help="signed image of an enclave that was built differently")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        roles: dict[str, Callable[..., None]] = {"train": train, "seal": seal, "predict": predict, "refuse": refuse}
        roles[options.role](*options.arguments)
        return
    if not options.other_image:
        parser.error("--other-image is needed (make demo gives one)")

    with cml.Enclave() as enclave:
        platform = enclave.identity.platform
    banner(platform)
    with tempfile.TemporaryDirectory() as directory:
        model, sealed = f"{directory}/iris_model.json", f"{directory}/iris.sealed"
        with step(1, "Train the iris classifier with XGBoost"):
            in_new_process("train", model)
        with step(2, "Seal it: encrypted under a key that only this enclave on this machine can derive"):
            in_new_process("seal", model, sealed)
        with step(3, f"Load it in a new process and predict {[round(float(value), 1) for value in FLOWER[0]]}"):
            in_new_process("predict", model, sealed)
        with step(4, "Try what must not work"):
            in_new_process("refuse", sealed, options.other_image)
        with (
            step(5, "Start the HTTP server; an owner and a client ask it from another process"),
            server(directory) as url,
        ):
            client = Path(__file__).with_name("attesting_client.py")
            subprocess.run([sys.executable, "-W", "ignore", str(client), url], check=True)
    banner(platform)


if __name__ == "__main__":
    main()
