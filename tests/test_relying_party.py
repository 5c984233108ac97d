"""The relying-party half: what `pip install` gives where there is no enclave, and that it asks for nothing POSIX."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from confidential_ml.simulated_platform import SimulatedPlatform
from confidential_ml.xgboost_format import to_flat_model

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "confidential_ml"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
ONE_SENTENCE = "this installation of confidential_ml has no enclave"


def run(command: list[object], cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, so that nothing is built in the working tree."""
    pytest.importorskip("scikit_build_core", reason="needs scikit-build-core: pip install 'confidential_ml[test]'")
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(PACKAGE, copy / "src" / "confidential_ml", ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def without_tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which no compiler, CMake or make is found."""
    kept = {name: value for name, value in os.environ.items() if name not in {"CC", "CXX", "PYTHONPATH"}}
    return {**kept, "PATH": str(tmp_path_factory.mktemp("no-programs"))}


@pytest.fixture(scope="module")
def wheel(sources: Path, without_tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `-C wheel.cmake=false` makes."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    built = run([*command, "-C", "wheel.cmake=false", "-w", place, sources], sources, without_tools)
    assert built.returncode == 0, built.stderr + built.stdout
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, without_tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with that wheel and, from the environment of the tests, with what it depends on."""
    place = tmp_path_factory.mktemp("installed")
    assert run([sys.executable, "-m", "venv", "--without-pip", place], place).returncode == 0
    python = place / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    done = run(command, place, without_tools)
    assert done.returncode == 0, done.stderr
    (packages,) = place.glob("lib/python*/site-packages")
    # Searched after the packages of its own.
    (packages / "dependencies.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith(("site-packages", "dist-packages"))), encoding="utf-8"
    )
    return python


# What a relying party does: verify, refuse, keep collateral, ask for it.
VERIFY = """
import os, pathlib, sys
from confidential_ml.attestation import AttestationError, Collateral, TrustRoot, verify_quote
from confidential_ml.attestation.collateral_service import CollateralService
quote, collateral, key, directory = sys.argv[1:]
quote, collateral = pathlib.Path(quote).read_bytes(), Collateral.load(collateral)
root = TrustRoot("the root of the test", bytes.fromhex(key))
print(verify_quote(quote, collateral, root=root, allow_debug=True).tcb_status)
for changed, believed in ((quote, {}), (quote[:100] + b"x" + quote[101:], {"root": root})):
    try:
        verify_quote(changed, collateral, **believed)
    except AttestationError as error:
        print(error.reason)
collateral.save(os.path.join(directory, "kept"))
assert Collateral.load(os.path.join(directory, "kept")) == collateral
CollateralService(cache_directory=directory)
"""
VERIFIED = ["UpToDate", "root-untrusted", "quote-signature"]


@pytest.fixture(scope="module")
def verification(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The arguments of VERIFY."""
    place = tmp_path_factory.mktemp("verification")
    platform = SimulatedPlatform(place)
    report = bytearray(384)
    report[48] = 0x7  # INIT, DEBUG, MODE64
    (place / "quote").write_bytes(platform.quote(bytes(report)))
    platform.collateral().save(place / "collateral.json")
    return [place / "quote", place / "collateral.json", platform.root.public_key.hex(), place]


# ---- the wheel ------------------------------------------------------------------------------------------------------


def test_the_wheel_is_for_every_platform_and_holds_the_python_files_alone(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (description,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        fields = archive.read(description).decode().splitlines()
    assert "Root-Is-Purelib: true" in fields
    here = [path for path in PACKAGE.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert {path.suffix for path in here} == {".py", ".pyi", ".typed", ".css", ".html", ".js"}  # the console is a page
    packaged = {path.relative_to(PACKAGE.parent).as_posix() for path in here}
    assert {name for name in names if ".dist-info/" not in name} == packaged


HOOK = """
import platform, sys, sysconfig
import scikit_build_core.build as backend
import scikit_build_core.build.wheel
sys.modules["cmake"] = sys.modules["ninja"] = None
sysconfig.get_config_vars()  # read for the Python that this is
sys.platform, machine = sys.argv[1:]
platform.machine = lambda: machine
print(*backend.get_requires_for_build_wheel({}))
"""


@pytest.mark.parametrize(
    ("system", "machine", "compiles"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", False),
        ("linux", "i686", False),
        ("linux", "riscv64", False),
        ("darwin", "arm64", False),
        ("darwin", "x86_64", False),
        ("win32", "AMD64", False),
        ("win32", "ARM64", False),
        ("freebsd14", "amd64", False),
    ],
)
def test_only_x86_64_linux_compiles(
    sources: Path, without_tools: dict[str, str], system: str, machine: str, compiles: bool
) -> None:
    """The backend asks for CMake, of which there is none in reach, exactly where it would compile."""
    asked = run([sys.executable, "-c", HOOK, system, machine], sources, without_tools)
    assert asked.returncode == 0, asked.stderr
    assert ("cmake" in asked.stdout) == compiles, asked.stdout


# ---- installed ------------------------------------------------------------------------------------------------------

USE = f"""
import hashlib, importlib, os, sys
import confidential_ml as cml
assert os.path.commonpath([cml.__file__, sys.prefix]) == sys.prefix, cml.__file__
for name in {MODULES!r}:
    importlib.import_module(name)
assert "confidential_ml._core" not in sys.modules
model, sealed = sys.argv[1:]
open(sealed, "wb").write(b"CMLSEAL")
for attempt in (cml.Enclave, lambda: cml.seal(model, sealed), lambda: cml.ConfidentialModel.load_sealed(sealed)):
    try:
        attempt()
    except cml.EnclaveError as error:
        print(error)
from confidential_ml.xgboost_format import to_flat_model
print(hashlib.sha256(to_flat_model(model)).hexdigest())
"""


def test_the_installed_half_works_and_says_what_it_lacks(installed: Path, tmp_path: Path) -> None:
    model = ROOT / "tests" / "fixtures" / "xgboost" / "xgb-3.4.1.reg.ubj"
    used = run([installed, "-I", "-W", "error", "-c", USE, model, tmp_path / "model.sealed"], tmp_path)
    assert used.returncode == 0, used.stderr
    *refusals, digest = used.stdout.splitlines()
    assert len(refusals) == 3
    assert all(line.startswith(ONE_SENTENCE) and "docs/building.md" in line for line in refusals)
    assert digest == hashlib.sha256(to_flat_model(model)).hexdigest()


def test_the_installed_half_verifies(installed: Path, verification: list[object], tmp_path: Path) -> None:
    done = run([installed, "-I", "-W", "error", "-c", VERIFY, *verification], tmp_path)
    assert (done.stdout.splitlines(), done.stderr) == (VERIFIED, "")


# ---- Windows --------------------------------------------------------------------------------------------------------


def imported_from_elsewhere() -> Iterator[str]:
    """The modules of others that the package imports at its top level."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield str(node.module)


# What Python lacks on Windows ("Availability: Unix" in its library reference).
MODULES_OF_POSIX = [
    "crypt",
    "fcntl",
    "grp",
    "nis",
    "posix",
    "pty",
    "pwd",
    "resource",
    "spwd",
    "syslog",
    "termios",
    "tty",
]
NAMES_OF_POSIX = {
    "os": """
        O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NDELAY O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_RSYNC
        O_SYNC O_TMPFILE WNOHANG chown chroot confstr ctermid fchdir fchmod fchown fdatasync fork forkpty fpathconf
        fstatvfs getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getresuid getsid getuid
        getxattr initgroups killpg lchown lockf major makedev memfd_create mkfifo mknod nice openpty pathconf
        posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev readv register_at_fork sched_getaffinity
        sched_yield sendfile setgid setpgid setsid setuid setxattr statvfs sync sysconf tcgetpgrp ttyname uname wait
        wait3 wait4 writev
        """,
    "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 alarm pthread_sigmask setitimer",
    "socket": "AF_UNIX SO_REUSEPORT",
    "time": "CLOCK_MONOTONIC CLOCK_REALTIME clock_gettime pthread_getcpuclockid tzset",
}
AS_ON_WINDOWS = f"""
import importlib, os, sys
# What others need at import they bring themselves on Windows.
for name in {sorted({name for name in imported_from_elsewhere() if name.split(".")[0] != "confidential_ml"})!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        assert name.split(".")[0] in sys.stdlib_module_names, name
# And what is imported only when it is used.
import encodings.idna, http.client, importlib.metadata, stringprep, tempfile, urllib.request, uuid
for name in {MODULES_OF_POSIX!r} + ["confidential_ml._core"]:
    sys.modules[name] = None
for module, names in {NAMES_OF_POSIX!r}.items():
    for name in names.split():
        vars(importlib.import_module(module)).pop(name, None)
import ssl
ssl.SSLContext.load_default_certs = lambda *_, **__: None  # of the store of Windows
sys.platform = "win32"
"""


def test_every_module_imports_on_windows_as_far_as_can_be_told_here(tmp_path: Path) -> None:
    code = AS_ON_WINDOWS + "\n".join(f"import {name}" for name in MODULES)
    assert len(MODULES) > 15
    done = run([sys.executable, "-W", "error", "-c", code], tmp_path, {**os.environ, "PYTHONPATH": str(PACKAGE.parent)})
    assert (done.returncode, done.stderr) == (0, "")


def test_verifying_asks_nothing_of_posix(verification: list[object], tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = run([sys.executable, "-W", "error", "-c", AS_ON_WINDOWS + VERIFY, *verification], tmp_path, env)
    assert (done.stdout.splitlines(), done.stderr) == (VERIFIED, "")


def test_the_emulation_of_windows_notices_what_is_posix(tmp_path: Path) -> None:
    for line in ("import fcntl", "import os; os.O_NOFOLLOW", "import signal; signal.SIGKILL"):
        done = run([sys.executable, "-c", AS_ON_WINDOWS + line], tmp_path, {**os.environ})
        assert done.returncode == 1, line
        assert done.stderr.splitlines()[-1].startswith(("ModuleNotFoundError", "ImportError", "AttributeError"))
