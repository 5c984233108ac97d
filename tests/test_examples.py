"""The examples run as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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


def test_quickstart_notebook_runs_and_shows_what_its_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel of this very Python, whatever kernels are installed for the user.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    notebook = nbformat.reads((EXAMPLES / "quickstart.ipynb").read_text(), as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(EXAMPLES))
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = [output["data"]["text/html"] for output in shown if "text/html" in output.get("data", {})]
    texts = [output["data"].get("text/plain", "") for output in shown if "data" in output]
    assert len(pages) == 2
    assert all("SIMULATION" in page for page in pages)
    assert "(closed)" in pages[1]
    assert any(text == "[True, True]" for text in texts)
    assert any(text.startswith("array([[0.") for text in texts)
