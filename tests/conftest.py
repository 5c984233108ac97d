"""The machine the tests run on: simulated, made for this run, gone after it. And the enclaves they share.

Making an enclave takes seconds under the real Open Enclave runtime. So there are few, and most tests share one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

# Before anything of the package runs: the fuse key of the simulated machine is made here, not in the user's home.
_STATE = tempfile.mkdtemp(prefix="confidential_ml-tests-")
os.environ["XDG_STATE_HOME"] = _STATE
os.environ.pop("CONFIDENTIAL_ML_SIMULATION_FUSE_KEY", None)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

import confidential_ml as cml  # noqa: E402
from confidential_ml.enclave import default_enclave  # noqa: E402

if TYPE_CHECKING:
    from command_line import Run

# Tests state results: how long an example takes says more of the machine than of the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
IMAGES_VARIABLE = "CONFIDENTIAL_ML_TEST_IMAGES"
MACHINES = {"this": None, "other": "5a" * 32}


class EnclaveOf(Protocol):
    def __call__(self, image: str, machine: str = "this") -> cml.Enclave: ...


class RunPython(Protocol):
    def __call__(
        self, code: str, *arguments: object, timeout: float = 60, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


def pytest_unconfigure() -> None:
    shutil.rmtree(_STATE, ignore_errors=True)


@pytest.fixture(scope="session")
def enclave() -> cml.Enclave:
    """The enclave of the whole process, which calls without `enclave=` use too."""
    return default_enclave()


@pytest.fixture(scope="session")
def image_path() -> Callable[[str], Path]:
    """Path of a test image: base, higher_svn (SVN 7), rebuilt (another MRENCLAVE) or other_signer."""

    def path(name: str) -> Path:
        directory = os.environ.get(IMAGES_VARIABLE)
        if directory is None:
            pytest.skip(
                f"needs signed test images: `make test` builds them and sets {IMAGES_VARIABLE}; or configure with "
                f"-DCONFIDENTIAL_ML_TESTS=ON, build, and set {IMAGES_VARIABLE} to BUILD/test_images"
            )
        return Path(directory) / f"{name}.signed"

    return path


@pytest.fixture(scope="session")
def enclave_of(image_path: Callable[[str], Path]) -> Iterator[EnclaveOf]:
    """An enclave of a test image on this or the other simulated machine, made once."""
    made: dict[tuple[str, str], cml.Enclave] = {}

    def enclave_of(image: str, machine: str = "this") -> cml.Enclave:
        if (image, machine) not in made:
            with pytest.MonkeyPatch.context() as patch:
                fuse_key = MACHINES[machine]
                if fuse_key is not None:
                    patch.setenv("CONFIDENTIAL_ML_SIMULATION_FUSE_KEY", fuse_key)
                made[image, machine] = cml.Enclave(image_path(image))
        return made[image, machine]

    yield enclave_of
    for one in made.values():
        one.close()


@pytest.fixture(scope="session")
def regression_file() -> Path:
    """A small regression model: six features, one group, six rounds."""
    return FIXTURES / "xgb-3.4.1.reg.ubj"


@pytest.fixture(scope="session")
def classifier_file() -> Path:
    """A small softprob model: six features, three groups, six rounds of two trees for each group."""
    return FIXTURES / "xgb-3.4.1.softprob.ubj"


@pytest.fixture(scope="session")
def regression(regression_file: Path, tmp_path_factory: pytest.TempPathFactory) -> cml.ConfidentialModel:
    """`regression_file`, sealed and loaded into the shared enclave. Not to be closed."""
    path = tmp_path_factory.mktemp("regression") / "regression.sealed"
    cml.seal(regression_file, path, model_id="regression")
    return cml.ConfidentialModel.load_sealed(path)


@pytest.fixture(scope="session")
def classifier(classifier_file: Path, tmp_path_factory: pytest.TempPathFactory) -> cml.ConfidentialModel:
    """`classifier_file`, sealed and loaded into the shared enclave. Not to be closed."""
    path = tmp_path_factory.mktemp("classifier") / "classifier.sealed"
    cml.seal(classifier_file, path, model_id="classifier")
    return cml.ConfidentialModel.load_sealed(path)


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """Runs a program in an interpreter of its own, on the same simulated machine; its warnings are errors too."""

    def run(
        code: str, *arguments: object, timeout: float = 60, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-W", "ignore:SIMULATION", "-X", "faulthandler", "-c", code]
        command += [str(argument) for argument in arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, env={**os.environ, **(env or {})}
        )

    return run


@pytest.fixture
def run() -> Run:
    """Runs `confidential-ml` in this process."""
    from command_line import run_here

    return run_here
