"""The command line itself: statuses, errors, help, colours, extras; and the commands that need no network."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Run, run_process
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import confidential_ml as cml
from confidential_ml import simulated_platform, simulation
from confidential_ml.attestation import ANY, AttestationPolicy, TrustRoot
from confidential_ml.cli.machine import Finding, State, examine

ROOT = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "fixtures" / "xgboost"
MODEL = FIXTURES / "xgb-3.4.1.reg.ubj"
DOCUMENTATION = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
COMMANDS = [
    *["attest", "bench", "doctor", "inspect", "policy init", "policy show", "predict", "provision", "seal", "serve"],
    *["simulation root", "verify-receipt"],
]


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_version_help_and_no_arguments(run: Run) -> None:
    assert run("--version").out == f"confidential-ml {cml.__version__}\n"
    done = run("--help")
    assert done.status == 0
    assert {name.split()[0] for name in COMMANDS} <= set(re.findall(r"^\W+([a-z-]+) ", done.out, re.MULTILINE))
    done = run()
    assert "Usage: confidential-ml" in done.out
    assert (done.status, done.err) == (2, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_an_example_that_parses(run: Run, command: str) -> None:
    done = run(*command.split(), "--help")
    assert (done.status, done.err) == (0, "")
    section = re.search(rf"^### `{command}`\n(.*?)(?=^#|\Z)", DOCUMENTATION, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/command-line.md has no {command}"
    example = re.search(rf"^    confidential-ml ({command}.*?)(?<!\\)$", section[1], re.MULTILINE | re.DOTALL)
    assert example is not None, f"no example of {command}"
    options = set(re.findall(r" (--[a-z-]+)", example[1]))
    assert options <= set(re.findall(r"--[a-z-]+", done.out)), options


def test_every_option_is_documented(run: Run) -> None:
    for command in COMMANDS:
        for option in set(re.findall(r"--[a-z][a-z-]+", run(*command.split(), "--help").out)) - {"--help"}:
            assert f"`{option}" in DOCUMENTATION, f"{command} {option}"


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["--nothing"], ["seal"], ["seal", "a"], ["bench", "--trees", "x"], ["policy", "nothing"]]
)
def test_wrong_usage_is_one_line_and_status_2(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"confidential-ml: .*\(see confidential-ml.* --help\)\n", done.err), done.err


def test_each_command_is_a_file_of_its_own_and_imports_late() -> None:
    for path in (ROOT / "src" / "confidential_ml" / "cli").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        early = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        early |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        if not {"row_reader", "prediction_writer", "receipt_file"} & {path.stem}:
            packages = {str(name).split(".")[0] for name in early}
            assert not packages & {"numpy", "pyarrow", "httpcore", "httpx", "cryptography", "rich"}


def test_help_loads_nothing_heavy_and_is_quick() -> None:
    code = """
import sys
from confidential_ml.cli import main
main(["--help"])
heavy = {"numpy", "pyarrow", "httpx", "anyio", "cryptography", "confidential_ml._core", "xgboost", "pydantic"}
sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)
"""
    start = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.process_time() - start < 10


def test_without_the_extra_one_sentence_and_status_2() -> None:
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {"typer", "rich"} else find(name, package)
from confidential_ml.cli import main
sys.exit(main(["--version"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "confidential-ml needs typer, rich; install it with: pip install 'confidential_ml[cli]'\n"


def test_without_the_servers_extra_serve_says_so() -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "starlette":
            raise ImportError
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "starlette" else find(name, package)
from confidential_ml.cli import main
sys.exit(main(["serve"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'confidential_ml[server]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_script_is_the_one_that_is_installed() -> None:
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"confidential-ml": "confidential_ml.cli:main"}
    done = run_process("--version")
    assert (done.status, done.out) == (0, f"confidential-ml {cml.__version__}\n")


def test_no_colour_where_nobody_wants_it() -> None:
    import pty

    for env, expected in (({}, True), ({"NO_COLOR": "1"}, False)):
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "confidential_ml.cli", "doctor"]
        kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        with subprocess.Popen(
            command, stdout=slave, env={**kept, "TERM": "xterm-256color", **env}, start_new_session=True
        ):
            os.close(slave)
            shown = b""
            while True:
                try:
                    shown += os.read(master, 1 << 16)
                except OSError:
                    break
        os.close(master)
        assert b"CPU features" in shown
        assert bool(re.search(rb"\x1b\[[0-9;]*3[0-9]m", shown)) is expected


def test_a_pipe_gets_whole_lines_without_colours_or_spaces_at_their_ends(run: Run) -> None:
    lines = run("doctor").out.splitlines()
    assert lines
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)


def test_who_stops_reading_gets_no_traceback() -> None:
    command = f"{sys.executable} -m confidential_ml.cli doctor --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("seconds_later", [0, 0.05, 1])  # in turn: loading, importing XGBoost, measuring
def test_interrupted_is_130_and_one_line(seconds_later: float) -> None:
    command = [sys.executable, "-m", "confidential_ml.cli", "bench", "--seconds", "30", "--trees", "2", "--depth", "2"]
    # A shell's background ignores SIGINT, and so would what is started from there.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert "SIMULATION" in process.stderr.readline()
        time.sleep(seconds_later)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert err == "confidential-ml: interrupted\n"
        assert process.returncode == 130


def test_interrupted_while_a_text_is_run_is_130_too(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text("""
import sys
from confidential_ml.cli import app, main
def command(*_, **__):
    exec("raise KeyboardInterrupt")
app.app = command
sys.exit(main([]))
""")
    # With -m alone Python looks for an earlier interrupt when it ends.
    command = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "confidential-ml: interrupted\n"
    assert done.returncode == 130


def test_completion_is_offered() -> None:
    env = {
        **os.environ,
        "_CONFIDENTIAL_ML_COMPLETE": "complete_bash",
        "COMP_WORDS": "confidential-ml po",
        "COMP_CWORD": "1",
    }
    done = run_process(env=env)
    assert done.out.split() == ["policy"]


# ---- seal, inspect --------------------------------------------------------------------------------------------------


def test_seal_and_inspect(run: Run, tmp_path: Path, enclave: cml.Enclave) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sealed = tmp_path / "m.sealed"
    options = [
        "--model-id",
        "credit",
        "--version",
        7,
        "--owner-key",
        tmp_path / "key.pem",
        "--sealing-policy",
        "mrsigner",
    ]
    document = run("seal", MODEL, sealed, *options, "--json").json()
    assert document == run("inspect", sealed, "--json").json()
    assert (document["model_id"], document["policy"], document["model_version"]) == ("credit", "mrsigner", 7)
    assert (document["owner"], document["mrenclave"]) == (cml.owner_id(key), enclave.identity.mrenclave)
    with cml.ConfidentialModel.load_sealed(sealed, owner=cml.owner_id(key), min_version=7) as model:
        assert model.info.model_id == "credit"
    shown = run("inspect", sealed).out
    assert all(str(value) in shown for value in (cml.owner_id(key), enclave.identity.mrenclave, "credit"))
    assert max(map(len, shown.splitlines()[1:])) <= 80


def test_seal_with_another_image(run: Run, tmp_path: Path, image_path: object) -> None:
    image = image_path("rebuilt")  # type: ignore[operator]
    document = run("seal", MODEL, tmp_path / "m.sealed", "--image", image, "--json").json()
    with cml.Enclave(image) as other:
        assert document["mrenclave"] == other.identity.mrenclave
    done = run("seal", MODEL, tmp_path / "m.sealed", "--image", MODEL)
    assert (done.status, done.out) == (3, "")


def test_what_cannot_be_sealed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "no-model.json").write_text("{}")
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "other.pem").write_bytes(other)
    sealed = tmp_path / "m.sealed"
    for arguments, status in (
        ([tmp_path / "no-model.json", sealed], 1),
        ([tmp_path / "none.json", sealed], 2),
        ([MODEL, tmp_path / "none" / "m.sealed"], 3),
        ([MODEL, sealed, "--model-id", "a b"], 2),
        ([MODEL, sealed, "--sealing-policy", "both"], 2),
        ([MODEL, sealed, "--owner-key", tmp_path / "other.pem"], 2),
        ([MODEL, sealed, "--owner-key", tmp_path / "none.pem"], 2),
        ([MODEL, sealed, "--version", -1], 2),
    ):
        done = run("seal", *arguments)
        assert (done.status, done.out, "Traceback" in done.err) == (status, "", False), done
        assert not sealed.exists()


def test_what_cannot_be_inspected(run: Run, tmp_path: Path) -> None:
    assert run("inspect", MODEL).status == 1
    assert run("inspect", tmp_path / "none").status == 3
    cml.seal(MODEL, tmp_path / "m.sealed")
    damaged = bytearray((tmp_path / "m.sealed").read_bytes())
    damaged[100] ^= 1
    (tmp_path / "m.sealed").write_bytes(damaged)
    assert run("inspect", tmp_path / "m.sealed").status == 1


# ---- policy, simulation ---------------------------------------------------------------------------------------------


def test_policy_init_and_show(run: Run, tmp_path: Path, enclave: cml.Enclave) -> None:
    cml.seal(MODEL, tmp_path / "m.sealed")
    file = tmp_path / "policy.toml"
    arguments = ["--this-image", "--mrenclave", "ab" * 32, "--sealed", tmp_path / "m.sealed", "--max-age", "60"]
    arguments += [
        "--accept-tcb",
        "UpToDate",
        "--accept-tcb",
        "SWHardeningNeeded",
        "--accept-advisory",
        "INTEL-SA-00615",
    ]
    done = run("policy", "init", file, *arguments)
    assert (done.status, done.out) == (0, "")
    assert AttestationPolicy.load(file) == AttestationPolicy(
        mrenclave=[enclave.identity.mrenclave, "ab" * 32],
        model_digest=cml.inspect_sealed(tmp_path / "m.sealed").model_digest,
        accepted_tcb=["UpToDate", "SWHardeningNeeded"],
        accepted_advisories=["INTEL-SA-00615"],
        max_age=60,
    )
    again = run("policy", "init", file, *arguments)
    assert (again.status, "exists" in again.err) == (2, True)
    document = run("policy", "show", file, "--json").json()
    assert (document["max_age"], document["allow_debug"]) == (60, False)
    shown = run("policy", "show", file)
    assert "ab" * 32 in shown.out
    assert max(map(len, shown.out.splitlines()[1:-1])) <= 80
    assert shown.err == ""


def test_policy_by_signer_and_owner_and_anything(run: Run, tmp_path: Path) -> None:
    done = run(
        *["policy", "init", "--mrsigner", "cd" * 32, "--isv-prod-id", "1", "--min-isv-svn", "2"],
        *["--model-owner", "ef" * 32, "--min-model-version", "3", "--ppid", "00" * 16],
    )
    assert AttestationPolicy.from_toml(done.out) == AttestationPolicy(
        mrsigner="cd" * 32, isv_prod_id=1, min_isv_svn=2, model_owner="ef" * 32, min_model_version=3, ppids="00" * 16
    )
    done = run("policy", "init", "--mrenclave", "ANY", "--model-digest", "ANY", "--allow-debug", "--isv-prod-id", "ANY")
    policy = AttestationPolicy.from_toml(done.out)
    assert (policy.mrenclave, policy.model_digest, policy.isv_prod_id, policy.allow_debug) == (ANY, ANY, ANY, True)
    file = tmp_path / "p.toml"
    file.write_text(done.out)
    assert "accepts enclaves whose memory can be read" in run("policy", "show", file).err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--mrenclave", "ab" * 32],
        ["--model-digest", "ANY"],
        ["--mrenclave", "ab", "--model-digest", "ANY"],
        ["--mrenclave", "ANY", "--mrenclave", "ab" * 32, "--model-digest", "ANY"],
        ["--mrsigner", "ab" * 32, "--model-digest", "ANY"],
        ["--mrenclave", "ANY", "--model-digest", "ANY", "--isv-prod-id", "one"],
        ["--mrenclave", "ANY", "--model-digest", "ANY", "--accept-tcb", "Revoked"],
    ],
)
def test_policies_that_pin_nothing_are_not_written(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    done = run("policy", "init", tmp_path / "p.toml", *arguments)
    assert (done.status, done.out) == (2, "")
    assert not (tmp_path / "p.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give --mrenclave or --mrsigner, or ANY"),
        (["--mrenclave", "ANY"], "give --model-digest or --model-owner, or --model-digest ANY if any will do"),
        (["--mrsigner", "ab" * 32, "--model-digest", "ANY"], "needs --isv-prod-id (or ANY) and --min-isv-svn (0 for"),
    ],
)
def test_policy_init_names_its_options(run: Run, arguments: list[str], problem: str) -> None:
    done = run("policy", "init", *arguments)
    assert (done.status, problem in done.err) == (2, True), done.err


def test_policies_that_cannot_be_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("mrenclave = 1\n")
    for name in ("p.toml", "none.toml"):
        assert run("policy", "show", tmp_path / name).status == 2


def test_simulation_root(run: Run, tmp_path: Path) -> None:
    expected = simulated_platform.of_this_installation().root.public_key
    assert TrustRoot.from_certificate(run("simulation", "root").out, name="x").public_key == expected
    done = run("simulation", "root", tmp_path / "root.pem")
    assert (done.status, done.out) == (0, "")
    assert "enclaves that protect nothing" in done.err
    assert TrustRoot.from_certificate((tmp_path / "root.pem").read_bytes(), name="x").public_key == expected
    assert run("simulation", "root", tmp_path / "none" / "root.pem").status == 2


# ---- bench ----------------------------------------------------------------------------------------------------------


def test_bench_of_a_generated_model_has_the_same_bits(run: Run) -> None:
    pytest.importorskip("xgboost")
    small = ["--trees", "3", "--depth", "3", "--features", "5", "--seconds", "0.02"]
    document = run("bench", *small, "--json").json()
    assert (document["trees"], document["depth"], document["features"]) == (3, 3, 5)
    assert [one["rows"] for one in document["batches"]] == [1, 32, 1024, 32768]
    for one in document["batches"]:
        assert one["same_bits"] is True
        for name in ("enclave", "xgboost"):
            assert one[name]["calls"] >= 1
            product = one[name]["rows_per_second"] * one[name]["microseconds_per_row"]
            assert product == pytest.approx(1e6)
    table = run("bench", *small).out
    assert "DIFFER" not in table
    assert table.count("same") == 4


def test_bench_of_models(run: Run, tmp_path: Path) -> None:
    cml.seal(MODEL, tmp_path / "m.sealed", model_id="mine")
    document = run("bench", tmp_path / "m.sealed", "--seconds", "0.02", "--json").json()
    assert document["model"] == "mine"
    assert all("xgboost" not in one for one in document["batches"])
    document = run("bench", MODEL, "--seconds", "0.02", "--json").json()
    assert all(one["same_bits"] for one in document["batches"])
    assert run("bench", tmp_path / "none", "--seconds", "0.02").status == 3


# ---- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_here(run: Run, enclave: cml.Enclave) -> None:
    document = run("doctor", "--json").json()
    done = run("doctor")
    assert done.status == (0 if document["ready"] else 1)
    assert done.err == ""
    names = [one["name"] for one in document["findings"]]
    assert names[0] == "confidential_ml"
    assert {"CPU features", "SGX", "kernel", "/dev/sgx_enclave", "EPC", "AESM", "quote provider"} <= set(names)
    assert (document["findings"][0]["state"] == "good") == (enclave.identity.platform == "openenclave")
    key = next(simulation.state_directory().glob("simulation-fuse-key")).read_text().strip()
    assert key not in json.dumps(document)


def machine(root: Path, **files: str) -> dict[str, Finding]:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {one.name: one for one in examine(root)}


GOOD = {
    "proc__cpuinfo": "processor : 0\nflags\t\t: fpu avx2 fma aes pclmulqdq sgx sgx_lc\n",
    "proc__sys__kernel__osrelease": "5.15.0-1050-azure\n",
    "dev__sgx_enclave": "",
    "dev__sgx_provision": "",
    "sys__devices__system__node__node0__x86__sgx_total_bytes": f"{512 << 20}\n",
    "sys__devices__system__node__node1__x86__sgx_total_bytes": f"{512 << 20}\n",
    "var__run__aesmd__aesm.socket": "",
    "usr__lib__x86_64-linux-gnu__libdcap_quoteprov.so": "",
    "etc__sgx_default_qcnl.conf": '{\n  // text\n  "pccs_url": "https://pccs:8081/v4/",\n  "use_secure_cert": true\n}',
    "opt__openenclave__bin__oesign": "",
    "etc__os-release": "ID=ubuntu\nID_LIKE=debian\n",
}


def test_a_machine_that_has_everything(tmp_path: Path) -> None:
    found = machine(tmp_path, **GOOD)
    assert {one.state for one in found.values()} == {State.GOOD}
    assert found["EPC"].found == "1,024 MiB"
    assert found["its configuration"].found == "PCCS https://pccs:8081/v4/"
    assert not any(one.remedy for one in found.values())


@pytest.mark.parametrize(
    ("changes", "name", "state", "said"),
    [
        ({"proc__cpuinfo": "flags : fma aes pclmulqdq sgx sgx_lc"}, "CPU features", State.MISSING, "no AVX2"),
        ({"proc__cpuinfo": "flags : avx2 fma aes pclmulqdq sgx"}, "SGX", State.MISSING, "no flexible launch control"),
        ({"proc__cpuinfo": "Features : neon"}, "CPU", State.UNSURE, "not told"),
        ({"proc__sys__kernel__osrelease": "5.4.0"}, "kernel", State.MISSING, "Linux 5.4.0"),
        ({"dev__sgx_enclave": None}, "/dev/sgx_enclave", State.MISSING, "not there"),
        ({"dev__sgx_provision": None}, "/dev/sgx_provision", State.NOTE, "not there"),
        ({"sys__devices__system__node__node1__x86__sgx_total_bytes": "0"}, "EPC", State.MISSING, "512 MiB"),
        ({"var__run__aesmd__aesm.socket": None}, "AESM", State.MISSING, "sudo apt-get install sgx-aesm-service"),
        ({"usr__lib__x86_64-linux-gnu__libdcap_quoteprov.so": None}, "quote provider", State.MISSING, "az-dcap-client"),
        ({"etc__sgx_default_qcnl.conf": "{}"}, "its configuration", State.MISSING, "names no PCCS"),
        ({"etc__sgx_default_qcnl.conf": None}, "its configuration", State.NOTE, "not on Azure"),
        (
            {"etc__sgx_default_qcnl.conf": "PCCS_URL=https://p/\nUSE_SECURE_CERT=FALSE\n"},
            "its configuration",
            State.NOTE,
            "unchecked",
        ),
        ({"opt__openenclave__bin__oesign": None}, "Open Enclave SDK", State.NOTE, "not found"),
    ],
)
def test_what_a_machine_lacks(
    tmp_path: Path, changes: dict[str, str | None], name: str, state: State, said: str
) -> None:
    files = {**GOOD, **changes}
    found = machine(tmp_path, **{key: text for key, text in files.items() if text is not None})[name]
    assert found.state is state
    assert said in found.found + found.remedy
    if state is State.MISSING:
        assert found.remedy


def test_the_library_under_another_name_and_other_distributions(tmp_path: Path) -> None:
    files = {**GOOD, "usr__lib64__libdcap_quoteprov.so.1": "", "etc__os-release": 'ID="rhel"\n'}
    del files["usr__lib__x86_64-linux-gnu__libdcap_quoteprov.so"], files["var__run__aesmd__aesm.socket"]
    found = machine(tmp_path, **files)
    assert found["quote provider"].remedy == "sudo ln -s libdcap_quoteprov.so.1 /usr/lib64/libdcap_quoteprov.so"
    assert found["AESM"].remedy.startswith("sudo dnf install")
    found = machine(tmp_path, **{"etc__os-release": "ID=opensuse-leap\nID_LIKE='suse opensuse'\n"})
    assert "install sgx-aesm-service" in found["AESM"].remedy


def test_a_device_that_is_not_open_to_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = machine(tmp_path, **GOOD)
    assert found["/dev/sgx_enclave"].state is State.MISSING
    assert "usermod -aG sgx $USER" in found["/dev/sgx_enclave"].remedy
    assert found["/dev/sgx_provision"].state is State.NOTE
