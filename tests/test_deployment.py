"""What deployment/ says twice agrees: image, unit, manifests, configuration, documents, and the code they start."""

from __future__ import annotations

import datetime
import fnmatch
import http.server
import importlib.util
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
DEPLOYMENT = ROOT / "deployment"
MANIFESTS = DEPLOYMENT / "kubernetes"
DOCKERFILE = re.sub(r"\\\n", " ", (DEPLOYMENT / "Dockerfile").read_text(encoding="utf-8"))
UNIT = (DEPLOYMENT / "confidential-ml.service").read_text(encoding="utf-8")
HTTP = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
SERVER = tomllib.loads((DEPLOYMENT / "server.toml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = ("server", "cli")
KEYS = {"tls.crt", "tls.key"}  # of a Secret of type kubernetes.io/tls


def documents(directory: str) -> dict[tuple[str, str], Any]:
    """Every object of a folder of manifests by kind and name; none twice."""
    found: dict[tuple[str, str], Any] = {}
    for path in sorted((MANIFESTS / directory).glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            key = (document["kind"], document.get("metadata", {}).get("name", ""))
            assert key not in found, key
            found[key] = document
    return found


BASE = documents("base")
STATEFUL_SET = BASE["StatefulSet", "confidential-ml"]
POD = STATEFUL_SET["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
MOUNTS = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
VOLUMES = {volume["name"]: volume for volume in POD["volumes"]}


def directives(text: str) -> dict[str, list[str]]:
    """The values of a unit's directives, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


UNIT_VALUES = directives(UNIT)
UNIT_ENVIRONMENT = dict(value.split("=", 1) for value in UNIT_VALUES["Environment"])


def instructions(name: str) -> list[str]:
    """The arguments of every such instruction of the Dockerfile."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def runtime() -> str:
    return DOCKERFILE.split(" AS runtime", 1)[1]


def build_arguments() -> dict[str, str]:
    return dict(argument.split("=", 1) for argument in instructions("ARG") if "=" in argument)


# ---- the same things have the same names ----------------------------------------------------------------------------


def test_the_port_is_the_same_everywhere() -> None:
    port = SERVER["port"]
    assert instructions("EXPOSE") == [str(port)]
    (named,) = CONTAINER["ports"]
    assert named["containerPort"] == port
    for name in ("confidential-ml", "confidential-ml-replicas"):
        (service_port,) = BASE["Service", name]["spec"]["ports"]
        assert service_port["targetPort"] == named["name"]
    (from_clients,) = BASE["NetworkPolicy", "confidential-ml"]["spec"]["ingress"]
    assert [allowed["port"] for allowed in from_clients["ports"]] == [port]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert CONTAINER[probe]["httpGet"]["port"] == named["name"]
        assert CONTAINER[probe]["httpGet"]["scheme"] == "HTTPS"


def test_the_paths_are_the_same_everywhere() -> None:
    store = SERVER["model_store"]
    assert instructions("VOLUME") == [store] == [MOUNTS["models"]]
    assert store == f"/var/lib/{UNIT_VALUES['StateDirectory'][0]}"
    config = re.findall(r'"--config", "([^"]+)"', runtime())
    assert config == [f"{MOUNTS['config']}/server.toml"]
    assert CONTAINER["args"] == ["serve", "--config", config[0]]
    assert UNIT_VALUES["ExecStart"] == [f"/opt/confidential-ml/bin/confidential-ml serve --config {config[0]}"]
    assert "COPY --from=builder /opt/confidential-ml /opt/confidential-ml" in DOCKERFILE
    assert {SERVER["tls"]["certificate"], SERVER["tls"]["private_key"]} == {f"{MOUNTS['tls']}/{key}" for key in KEYS}


def test_the_user_is_the_same_everywhere_and_not_root() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert re.search(r"groupadd --gid 10001 .*useradd --uid 10001 --gid 10001", DOCKERFILE)
    security = POD["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (10001, 10001, 10001)
    assert UNIT_VALUES["DynamicUser"] == ["yes"]


def test_the_objects_refer_to_each_other() -> None:
    labels = STATEFUL_SET["spec"]["template"]["metadata"]["labels"]
    assert STATEFUL_SET["spec"]["selector"]["matchLabels"] == labels
    (spread,) = POD["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    for name in ("confidential-ml", "confidential-ml-replicas"):
        assert BASE["Service", name]["spec"]["selector"] == labels
    assert BASE["PodDisruptionBudget", "confidential-ml"]["spec"]["selector"]["matchLabels"] == labels
    assert BASE["NetworkPolicy", "confidential-ml"]["spec"]["podSelector"]["matchLabels"] == labels
    assert BASE["Service", STATEFUL_SET["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
    assert ("ServiceAccount", POD["serviceAccountName"]) in BASE
    assert ("ConfigMap", VOLUMES["config"]["configMap"]["name"]) in BASE
    claims = {claim["metadata"]["name"] for claim in STATEFUL_SET["spec"]["volumeClaimTemplates"]}
    assert set(MOUNTS) == set(VOLUMES) | claims
    assert VOLUMES["tls"]["secret"]["secretName"] == "confidential-ml-tls"
    assert "create secret tls confidential-ml-tls" in GUIDE


@pytest.mark.parametrize("directory", sorted(path.name for path in MANIFESTS.iterdir()))
def test_a_folder_of_manifests_lists_its_files(directory: str) -> None:
    there = {path.name for path in (MANIFESTS / directory).glob("*.yaml")} - {"kustomization.yaml"}
    kustomization = yaml.safe_load((MANIFESTS / directory / "kustomization.yaml").read_text(encoding="utf-8"))
    listed = [*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))]
    assert {name for name in listed if name != "../base"} == there
    for document in documents(directory).values():
        if document["kind"] not in {"Namespace", "Kustomization"}:
            assert document["metadata"]["namespace"] == "confidential-ml"


def test_the_config_map_is_the_configuration() -> None:
    text = BASE["ConfigMap", "confidential-ml"]["data"]["server.toml"]
    assert text == (DEPLOYMENT / "server.toml").read_text(encoding="utf-8")


def test_the_stop_time_outs_leave_the_server_its_time() -> None:
    shutdown = SERVER["limits"]["shutdown_seconds"]
    assert POD["terminationGracePeriodSeconds"] > shutdown
    assert int(UNIT_VALUES["TimeoutStopSec"][0]) > shutdown
    assert instructions("STOPSIGNAL") == UNIT_VALUES["KillSignal"] == ["SIGTERM"]


def test_the_enclave_fits_into_the_epc_that_is_asked_for() -> None:
    conf = dict(re.findall(r"^(\w+)=(\d+)$", (ROOT / "enclave" / "enclave.conf").read_text(encoding="utf-8"), re.M))
    pages = int(conf["NumHeapPages"]) + int(conf["NumTCS"]) * int(conf["NumStackPages"])
    image = 32 << 20  # code and data: 5 MB stripped, 15 MB with symbols
    asked = CONTAINER["resources"]["limits"]["sgx.intel.com/epc"]
    assert asked.endswith("Mi")
    assert pages * 4096 + image <= int(asked.removesuffix("Mi")) << 20


# ---- the configuration ----------------------------------------------------------------------------------------------


def test_the_configuration_opens_no_route_in_clear() -> None:
    assert "unsafe" not in SERVER
    assert SERVER["console"] is False
    assert set(SERVER["tokens"]) == {"owner", "client", "metrics"}
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", token) for role in SERVER["tokens"].values() for token in role)
    assert SERVER["policy"] == "mrenclave"


def test_the_configuration_has_documented_settings_only() -> None:
    table = HTTP.split("## 4. Settings")[1].split("| unsafe setting")[0]
    for name, value in SERVER.items():
        if not isinstance(value, dict):
            assert re.search(rf"`(?:\w+, )*{name}(?:, \w+)*`|`{name}`", table), name
            continue
        (listed,) = re.findall(rf"`\[{name}\] ([^`]+)`((?: or `\w+`)*)", table)
        assert set(value) <= set(re.findall(r"\w+", " ".join(listed))) - {"or"}, name


@pytest.fixture
def load_settings() -> Any:
    try:
        from confidential_ml.server import load_settings as load  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        pytest.skip(f"needs confidential_ml[server]: {error}")
    return load


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """PEM files of a certificate, which names the service and not 127.0.0.1, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "confidential-ml.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    files = directory / "tls.crt", directory / "tls.key"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(certificate.public_bytes(pem))
    files[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


def test_the_server_takes_the_configuration(
    load_settings: Any, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("CONFIDENTIAL_ML_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    flags = {
        "model_store": tmp_path / "models",
        "tls": {"certificate": certificate[0], "private_key": certificate[1]},
    }
    settings = load_settings(DEPLOYMENT / "server.toml", unsafe={"simulation": True}, **flags)
    assert settings.port == SERVER["port"]
    assert settings.unsafe.in_force() == ["simulation"]
    from confidential_ml import ConfidentialMLError, _core

    if _core.platform != "openenclave":
        # That it runs on a simulation is then all that is wrong.
        with pytest.raises(ConfidentialMLError, match=r"unsafe\.simulation") as caught:
            load_settings(DEPLOYMENT / "server.toml", **flags)
        assert len(caught.value.faults) == 1  # type: ignore[attr-defined]


def test_variables_set_for_the_server_are_settings_of_it(load_settings: Any) -> None:
    from confidential_ml.server import ServerSettings  # type: ignore[import-not-found,unused-ignore]

    settings = set(ServerSettings.model_fields) | {"config"}
    names = {name for name in UNIT_ENVIRONMENT if name.startswith("CONFIDENTIAL_ML_")}
    names |= set(re.findall(r"\b(CONFIDENTIAL_ML_\w+)=", runtime()))
    assert len(names) >= 3
    assert {name.removeprefix("CONFIDENTIAL_ML_").split("__")[0].lower() for name in names} <= settings


def test_kubernetes_adds_no_variables_that_look_like_settings() -> None:
    # A Service of this name gives every container of its namespace CONFIDENTIAL_ML_PORT=tcp://... unless told not to.
    assert ("Service", "confidential-ml") in BASE
    assert POD["enableServiceLinks"] is False


def test_probes_ask_routes_that_need_no_token() -> None:
    table = HTTP.split("## 1. Routes")[1].split("### 2.1")[0]
    assert re.search(r"^\| `GET /health` \| open \|", table, re.MULTILINE)
    assert re.search(r"^\| `/v2\.\.\.` \| client \(`/v2/health/\*`, `/v2` open\)", table, re.MULTILINE)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = CONTAINER[probe]["httpGet"]["path"]
        assert path == "/health" or fnmatch.fnmatch(path, "/v2/health/*")


def test_the_command_line_has_the_flags_that_start_the_server() -> None:
    script = PROJECT["project"].get("scripts", {}).get("confidential-ml")
    if script is None:
        pytest.skip("needs the command line (pyproject.toml, project.scripts)")
    module, _, function = script.partition(":")
    code = f"import {module.strip()} as m; m.{function.strip()}()"
    result = subprocess.run(
        [sys.executable, "-c", code, "serve", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )
    if "pip install" in result.stderr:
        pytest.skip(f"needs confidential_ml[server,cli]: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr
    assert "--config" in result.stdout


# ---- hardening ------------------------------------------------------------------------------------------------------


def restricted_violations(pod: dict[str, Any]) -> list[str]:
    """What the Pod Security Standard "restricted" forbids (kubernetes.io, Pod Security Standards)."""
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found = [f"volume {v['name']}" for v in pod.get("volumes", []) if not (set(v) - {"name"}) <= allowed]
    found += [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    security = pod["securityContext"]
    found += [] if security.get("runAsNonRoot") and security.get("runAsUser") else ["runAsNonRoot"]
    found += [] if security.get("seccompProfile") == {"type": "RuntimeDefault"} else ["seccompProfile"]
    for container in pod["containers"]:
        own = container["securityContext"]
        found += [] if own.get("allowPrivilegeEscalation") is False else ["allowPrivilegeEscalation"]
        found += [] if own.get("capabilities") == {"drop": ["ALL"]} else ["capabilities"]
        found += ["privileged"] if own.get("privileged") else []
        found += ["hostPort"] if any("hostPort" in port for port in container["ports"]) else []
    return found


def test_the_pod_is_restricted_but_for_the_socket_of_aesm() -> None:
    assert restricted_violations(POD) == ["volume aesmd"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert POD["automountServiceAccountToken"] is False
    assert BASE["ServiceAccount", "confidential-ml"]["automountServiceAccountToken"] is False
    labels = BASE["Namespace", "confidential-ml"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/warn"] == "restricted"


def test_with_quotes_made_in_the_pod_it_is_restricted_altogether() -> None:
    patches = documents("in-process-quoting")
    labels = patches["Namespace", "confidential-ml"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    patch = patches["StatefulSet", "confidential-ml"]["spec"]["template"]["spec"]
    removed = {volume["name"] for volume in patch["volumes"] if volume["$patch"] == "delete"}
    pod = {**POD, "volumes": [volume for volume in POD["volumes"] if volume["name"] not in removed]}
    assert restricted_violations(pod) == []
    (container,) = patch["containers"]
    unmounted = {mount["mountPath"] for mount in container["volumeMounts"] if mount["$patch"] == "delete"}
    assert unmounted == {MOUNTS[name] for name in removed}
    assert container["env"] == [{"name": "SGX_AESM_ADDR", "$patch": "delete"}]
    assert set(container["resources"]["limits"]) == {"sgx.intel.com/enclave", "sgx.intel.com/provision"}


def test_aesm_makes_the_quotes_unless_the_drop_in_is_there() -> None:
    assert {variable["name"]: variable["value"] for variable in CONTAINER["env"]} == {"SGX_AESM_ADDR": "1"}
    assert UNIT_ENVIRONMENT["SGX_AESM_ADDR"] == "1"
    # Set in an image it could not be unset again, and any value counts.
    assert not re.search(r"^(?!#).*SGX_AESM_ADDR", DOCKERFILE, re.MULTILINE)
    drop_in = directives((DEPLOYMENT / "in-process-quoting.conf").read_text(encoding="utf-8"))
    assert drop_in["UnsetEnvironment"] == ["SGX_AESM_ADDR"]
    assert drop_in["DeviceAllow"] == ["/dev/sgx_provision rw"]
    assert drop_in["SupplementaryGroups"] == ["sgx_prv"]


def test_the_unit_may_use_one_device_and_little_else() -> None:
    assert UNIT_VALUES["DevicePolicy"] == ["closed"]
    assert UNIT_VALUES["DeviceAllow"] == ["/dev/sgx_enclave rw"]
    assert UNIT_VALUES["SupplementaryGroups"] == ["sgx"]
    for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "LockPersonality", "RestrictNamespaces"):
        assert UNIT_VALUES[name] == ["yes"], name
    assert UNIT_VALUES["ProtectSystem"] == ["strict"]
    assert UNIT_VALUES["CapabilityBoundingSet"] == [""]
    # These would keep the enclave from being made.
    assert not {"PrivateDevices", "MemoryDenyWriteExecute"} & set(UNIT_VALUES)


def test_the_unit_hands_over_the_certificate_and_the_key() -> None:
    given = dict(value.split(":", 1) for value in UNIT_VALUES["LoadCredential"])
    assert given == {"tls.crt": SERVER["tls"]["certificate"], "tls.key": SERVER["tls"]["private_key"]}
    credentials = "/run/credentials/confidential-ml.service"
    assert UNIT_ENVIRONMENT["CONFIDENTIAL_ML_TLS__CERTIFICATE"] == f"{credentials}/tls.crt"
    assert UNIT_ENVIRONMENT["CONFIDENTIAL_ML_TLS__PRIVATE_KEY"] == f"{credentials}/tls.key"


# ---- the image ------------------------------------------------------------------------------------------------------


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file of the repository out of the build; the last line that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!")
        if not line or line.startswith("#"):
            continue
        parts = path.split("/")
        places = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
        else:
            fits = any(
                fnmatch.fnmatchcase(place, pattern) and place.count("/") == pattern.count("/") for place in places
            )
        if fits:
            ignored = not line.startswith("!")
    return ignored


def test_stages_and_copied_files_exist() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert stages == ["uv", "keys", "base", "builder", "measurement", "runtime"]
    for source in re.findall(r"--from=(\S+)", DOCKERFILE):
        assert source in stages, source
    for line in instructions("COPY"):
        if "--from=" not in line:
            source = next(word for word in line.split() if not word.startswith("--"))
            assert (ROOT / source).exists(), source
            assert source == "." or not is_ignored(source), source
    (script,) = re.findall(r"(deployment/\w+\.sh) /output", DOCKERFILE)
    assert os.access(ROOT / script, os.X_OK)


def test_the_context_has_all_that_is_built_and_nothing_secret() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    directories = set(re.findall(r"add_subdirectory\((\w+)\)", cmake)) - {"tests/cpp", "fuzz"}
    for name in {*directories, "cmake", "common", "edl", "src"}:
        files = [path for path in (ROOT / name).rglob("*") if path.is_file()]
        assert files, name
        for path in files:
            built = path.suffix in {".so", ".signed", ".pyc"}
            assert is_ignored(str(path.relative_to(ROOT))) == built, path
    for name in (
        "pyproject.toml",
        "CMakeLists.txt",
        PROJECT["project"]["readme"],
        *PROJECT["project"]["license-files"],
    ):
        assert not is_ignored(name), name
    secret = [
        "key.pem",
        "deployment/key.pem",
        "src/tls.key",
        "credit.sealed",
        ".git/config",
        ".venv/bin/python",
        "build/x",
    ]
    assert [name for name in secret if not is_ignored(name)] == []


def test_the_signing_key_is_in_no_layer() -> None:
    lines = [line for line in DOCKERFILE.splitlines() if re.search(r"SIGNING_KEY|signing_key", line)]
    run = [line for line in lines if line.startswith("RUN ")]
    assert len(run) == 1
    assert run[0].startswith("RUN --mount=type=secret,id=signing_key,target=/run/secrets/signing_key ")
    assert [line for line in lines if not line.startswith(("RUN ", "#"))] == []
    assert "DEVELOPMENT_KEY" in build_arguments()
    assert build_arguments()["DEVELOPMENT_KEY"] == ""


def test_the_runtime_stage_has_no_tools_of_the_build() -> None:
    installed = " ".join(re.findall(r"^RUN .*$", runtime(), re.MULTILINE))
    assert "libsgx-enclave-common" in installed
    assert not re.search(r"\b(clang|cmake|g\+\+|make|ninja-build|curl|gnupg|open-enclave)\b", installed)
    assert "--no-install-recommends" in installed


def test_everything_installed_is_pinned_by_hash() -> None:
    for name in ("requirements.txt", "build-requirements.txt"):
        text = (DEPLOYMENT / name).read_text(encoding="utf-8")
        pins = re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
        assert len(pins) >= 4
        for pin in pins:
            assert re.match(r"[\w-]+==\S+ (;.* )?\\\n +--hash=sha256:[0-9a-f]{64}", pin), pin[:60]
    assert "--require-hashes" in DOCKERFILE
    assert "--require-hashes" in (DEPLOYMENT / "build_wheel.sh").read_text(encoding="utf-8")


def pinned(name: str) -> dict[str, str]:
    text = (DEPLOYMENT / name).read_text(encoding="utf-8")
    return {canonicalize_name(package): version for package, version in re.findall(r"^([\w-]+)==(\S+)", text, re.M)}


def test_the_pins_fit_what_the_project_asks_for() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {"build-requirements.txt": PROJECT["build-system"]["requires"]}
    wanted["requirements.txt"] = PROJECT["project"]["dependencies"] + [
        line for extra in EXTRAS for line in extras.get(extra, []) if not line.startswith("confidential_ml")
    ]
    for name, lines in wanted.items():
        versions = pinned(name)
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate(
                {"python_version": "3.12", "sys_platform": "linux"}
            ):
                version = versions.get(canonicalize_name(requirement.name))
                assert version is not None, f"deployment/{name} lacks {requirement.name}; its head says how it is made"
                assert requirement.specifier.contains(version, prereleases=True), f"{name}: {requirement} and {version}"


def build_wheel(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "KEY" not in name}
    # Without uv the build cannot begin, should a check ever let it.
    clean["PATH"] = "/usr/bin:/bin"
    return subprocess.run(
        [DEPLOYMENT / "build_wheel.sh", "/nonexistent/output"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**clean, **environment},
    )


def test_no_wheel_is_built_without_a_signing_key(tmp_path: Path) -> None:
    for environment in ({}, {"SIGNING_KEY": str(tmp_path / "missing.pem")}):
        result = build_wheel(**environment)
        assert result.returncode == 1
        assert "no signing key. Give one as a build secret" in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["genrsa", "2048"], "must be RSA-3072 with public exponent 3"),
        (["genrsa", "3072"], "must be RSA-3072 with public exponent 3"),
        (["genpkey", "-algorithm", "ED25519"], "is not an RSA private key"),
    ],
    ids=["short", "exponent", "kind"],
)
def test_no_wheel_is_built_with_a_key_that_sgx_does_not_take(options: list[str], sentence: str, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(subprocess.run(["openssl", *options], capture_output=True, check=True).stdout)
    result = build_wheel(SIGNING_KEY=str(key))
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "PRIVATE" not in result.stdout + result.stderr


def test_the_guide_names_the_versions_of_the_image() -> None:
    for name in ("OPEN_ENCLAVE_VERSION", "SGX_PSW_VERSION", "SGX_DCAP_VERSION", "AZ_DCAP_CLIENT_VERSION"):
        assert build_arguments()[name] in GUIDE, name
    assert "not run on SGX hardware by us yet" in GUIDE


# ---- the health check -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def healthcheck() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", DEPLOYMENT / "healthcheck.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Answer(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(params=["http", "https"])
def server_config(
    request: pytest.FixtureRequest, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A server on a free port, and the configuration that names it."""
    for name in ("CONFIDENTIAL_ML_PORT", "CONFIDENTIAL_ML_TLS__CERTIFICATE"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    text = f"port = {server.server_port}\n"
    if request.param == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        text += f'[tls]\ncertificate = "{certificate[0]}"\nprivate_key = "{certificate[1]}"\n'
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    config = tmp_path / "server.toml"
    config.write_text(text)
    yield config
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_health_check_passes_while_the_server_is_healthy(
    healthcheck: ModuleType, server_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert healthcheck.problem(str(server_config)) is None
    monkeypatch.setattr(Answer, "status", 503)
    assert healthcheck.problem(str(server_config)) == "GET /health answered 503"


def test_the_health_check_fails_without_a_server(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        port = server.server_port  # free again when it is asked
    config = tmp_path / "server.toml"
    config.write_text(f"port = {port}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONFIDENTIAL_ML_")}
    command = [sys.executable, "-I", str(DEPLOYMENT / "healthcheck.py"), str(config)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert result.returncode == 1
    assert result.stderr.startswith("no answer from the server: ")


# ---- alerts ---------------------------------------------------------------------------------------------------------

RULES = yaml.safe_load((DEPLOYMENT / "prometheus-rules.yaml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    headings = re.findall(r"^#+ (.*)$", OPERATIONS, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) >= 5
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        document, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert document == "docs/operations.md"
        assert anchor in anchors, rule["annotations"]["runbook"]


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    """The names of all samples of the server's metrics, with their labels."""
    try:
        from prometheus_client.parser import text_string_to_metric_families

        from confidential_ml.server.metrics import Metrics  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        pytest.skip(f"needs confidential_ml[server]: {error}")
    metrics = Metrics(models=lambda: 0.0, requests=lambda: 0.0, unsafe=["simulation"])
    metrics.observe("/health", "GET", 200, 0.001)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return {name: labels for name, labels in found.items() if not name.endswith("_created")}


def test_alerts_name_metrics_labels_and_routes_that_exist(samples: dict[str, set[str]]) -> None:
    table = HTTP.split("## 1. Routes")[1].split("### 2.1")[0]
    named = set()
    for rule in ALERTS:
        for name, selector in re.findall(r"\b(confidential_ml_\w+)(?:\{(.*?)\})?", rule["expr"]):
            named.add(name)
            assert name in samples, rule["alert"]
            assert set(re.findall(r"(\w+)=", selector)) <= samples[name], rule["alert"]
            for route in re.findall(r'route="([^"]+)"', selector):
                assert re.search(rf"`(?:GET|POST) {route}[?`]", table), route
    assert len(named) >= 5


def test_every_metric_is_documented(samples: dict[str, set[str]]) -> None:
    documented = set(re.findall(r"^\| `(confidential_ml_\w+)` \|", OPERATIONS, re.MULTILINE))
    assert documented == {re.sub(r"(?<=_seconds)_(bucket|count|sum)$", "", name) for name in samples}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_alerts_fire_when_they_should_and_only_then() -> None:
    command = ["promtool", "test", "rules", "alerts.yaml"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent)
    assert result.returncode == 0, result.stdout + result.stderr
