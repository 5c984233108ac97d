"""The examples run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from confidential_ml.xgboost_format import read_model

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, *arguments: str, directory: Path) -> str:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=300).stdout


def test_train_then_seal_and_predict(tmp_path: Path) -> None:
    assert run("train_iris.py", directory=tmp_path) == "wrote iris_model.json\n"
    output = run("seal_and_predict.py", directory=tmp_path)
    assert "iris-classifier" in output
    assert "[[0.95" in output


@pytest.mark.skipif(
    "CONFIDENTIAL_ML_TEST_IMAGES" not in os.environ,
    reason="CONFIDENTIAL_ML_TEST_IMAGES names no enclave images; `make test` builds them and sets it",
)
def test_demo_shows_equal_bits_and_both_refusals(tmp_path: Path) -> None:
    other_image = Path(os.environ["CONFIDENTIAL_ML_TEST_IMAGES"]).resolve() / "rebuilt.signed"
    output = run("demo.py", "--other-image", str(other_image), directory=tmp_path)
    assert output.count("SIMULATION: THIS PROTECTS NOTHING") == 2
    assert "same bits" in output
    assert "refused with DamagedSealedModelError" in output
    assert "refused with WrongEnclaveError" in output


def test_the_client_tells_the_name_that_the_operator_sees_and_leaves_no_model(tmp_path: Path) -> None:
    code = """
import json, subprocess, sys, urllib.request
import demo
with demo.server(sys.argv[1]) as url:
    for _ in range(2):
        subprocess.run([sys.executable, demo.Path(demo.__file__).with_name("attesting_client.py"), url], check=True)
        print(urllib.request.urlopen(url + "/models").read().decode(), flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(EXAMPLES)])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, env=environment).stdout
    sealed = re.findall(r"(iris-[0-9a-f]{8}) sealed for", shown)
    assert len(set(sealed)) == 2
    assert re.findall(r"operator sees: model ([^ ,]+), version 1", shown) == sealed
    assert re.findall(r"operator sees: that ([^ ]+) is deleted", shown) == sealed
    assert shown.count('{"models":[]}') == 2


def test_quickstart_notebook_runs_and_shows_what_its_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel of this very Python, whatever kernels are installed for the user.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    notebook = nbformat.reads((EXAMPLES / "quickstart.ipynb").read_text(), as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(EXAMPLES))
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = [output["data"]["text/html"] for output in shown if "text/html" in output.get("data", {})]
    texts = [output["data"].get("text/plain", "") for output in shown if "data" in output]
    assert len(pages) == 4
    assert all("SIMULATION" in page for page in pages)
    assert ["not authenticated" in page for page in pages] == [True, True, False, False]
    assert "(closed)" in pages[3]
    assert any(text == "[True, True]" for text in texts)
    assert any(text.startswith("array([[0.") for text in texts)


def test_the_model_in_the_repository_is_the_one_that_is_trained(tmp_path: Path) -> None:
    """Another XGBoost may train other bits; its name and about its size are the same."""
    run("train_iris.py", directory=tmp_path)
    flat, name = read_model((tmp_path / "iris_model.json").read_bytes())
    kept, kept_name = read_model((EXAMPLES / "data" / "iris_model.json").read_bytes())
    assert (name, kept_name) == ("iris-classifier", "iris-classifier")
    assert len(flat) == pytest.approx(len(kept), rel=0.5)


def test_the_smallest_http_server(tmp_path: Path) -> None:
    run("train_iris.py", directory=tmp_path)
    run("seal_and_predict.py", directory=tmp_path)
    code = """
import asyncio, sys
import httpx
sys.argv = ["http_server.py", "iris.sealed"]
import http_server
import confidential_ml as cml
from confidential_ml import simulated_platform
from confidential_ml.attestation import ANY, AttestationPolicy

async def post(path, **body):
    transport = httpx.ASGITransport(http_server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return (await client.post(path, **body)).raise_for_status()

told = asyncio.run(post("/predict", json={"features": [5.1, 3.5, 1.4, 0.2]})).json()["predictions"]
carry = lambda message: asyncio.run(post("/confidential", content=message)).content
policy = AttestationPolicy(mrenclave=ANY, model_digest=ANY, allow_debug=True)
remote = cml.RemoteModel(carry, policy, root=simulated_platform.of_this_installation().root)
assert remote.predict([[5.1, 3.5, 1.4, 0.2]]).tolist() == told
print(told)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(EXAMPLES)])}
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120, env=environment
    )
    assert shown.stdout.splitlines()[-1].startswith("[[0.95")
