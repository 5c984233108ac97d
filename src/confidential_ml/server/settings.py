"""Settings of the server: one checked object from file, environment and flags (docs/http.md 4)."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from confidential_ml.attestation import Collateral
from confidential_ml.enclave import load_core
from confidential_ml.errors import ConfidentialMLError, EnclaveError, InvalidInputError
from confidential_ml.identity import EnclaveIdentity
from confidential_ml.protocol import MAX_PROVISION_CONTENT, MAX_REQUEST_CONTENT
from confidential_ml.regular_file import checked_path
from confidential_ml.server.store import MAX_MODELS
from confidential_ml.simulation import FUSE_KEY_VARIABLE

__all__ = [
    "UNSAFE_MEANINGS",
    "CollateralSource",
    "Epoch",
    "Limits",
    "Role",
    "ServerSettings",
    "SettingsError",
    "Tls",
    "Tokens",
    "Unsafe",
    "check_enclave",
    "load_settings",
]

Role = Literal["owner", "client", "metrics"]

_PREFIX = "CONFIDENTIAL_ML_"
_CONFIG_VARIABLE = f"{_PREFIX}CONFIG"
# Of others: the simulated machine, a build, the tests, and the client's side.
_OTHER_VARIABLES = {FUSE_KEY_VARIABLE} | {
    _PREFIX + name for name in ("SIGNING_KEY", "PLATFORM", "TEST_IMAGES", "VECTORS", "TOKEN", "URL")
}
_MAX_FILE_SIZE = 1 << 20

UNSAFE_MEANINGS = {
    "simulation": "the enclave is simulated: it protects nothing, anyone on this machine can read models and rows",
    "debug": "a debugger may read the enclave's memory",
    "cleartext_predict": "rows and predictions cross this server in clear, readable by its operator",
    "cleartext_upload": "models cross this server in clear, readable by its operator",
    "anonymous": "these roles need no token",
    "plain_http": "tokens cross the network without TLS",
}
"""What each setting under ``[unsafe]`` gives up, for the banner and the console."""


class SettingsError(ConfidentialMLError):
    """The server's settings cannot be used.

    Attributes
    ----------
    faults
        Everything that is wrong, a sentence each.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n- ".join(["the server cannot start with these settings:", *faults]))
        self.faults = tuple(faults)


class _Section(BaseModel):
    # hide_input: a token pasted in the place of its hash is not repeated in the error.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _not_of_nothing(digest: str) -> str:
    # What `printf %s "$token" | sha256sum` gives if the variable is not set: everybody has that token.
    if digest == f"sha256:{hashlib.sha256(b'').hexdigest()}":
        raise ValueError("this is the SHA-256 of no token at all")
    return digest


def _no_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _a_path(value: object) -> object:
    # An empty one would be the directory that the server happens to be started in.
    if value == "":
        raise ValueError("is empty; name a file or a directory, or leave it out")
    if isinstance(value, (str, os.PathLike)):
        try:
            checked_path(value, "it")
        except InvalidInputError as error:
            raise ValueError(str(error)) from None
    return value


Whole = Annotated[int, BeforeValidator(_no_flag)]
AnyPath = Annotated[Path, BeforeValidator(_a_path)]
TokenHash = Annotated[
    str,
    BeforeValidator(_lower),
    StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$"),
    AfterValidator(_not_of_nothing),
]
# "null" is the origin of a page that was opened from disk.
Origin = Annotated[
    str,
    BeforeValidator(_lower),
    StringConstraints(pattern=r"^(null|https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?)$"),
]
# As it stands in the header Host, without a port.
Host = Annotated[
    str, BeforeValidator(_lower), StringConstraints(pattern=r"^([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])$")
]
Seconds = Annotated[float, BeforeValidator(_no_flag), Field(gt=0, le=86400, allow_inf_nan=False)]


class Tls(_Section):
    """PEM files of the server's certificate (with its chain) and of its key; both or none."""

    certificate: AnyPath | None = None
    private_key: AnyPath | None = None


class Tokens(_Section):
    """SHA-256 of the tokens of each role; nothing secret."""

    owner: list[TokenHash] = []
    client: list[TokenHash] = []
    metrics: list[TokenHash] = []


class Limits(_Section):
    """What one client may take from the others."""

    body_bytes: Whole = Field(default=MAX_REQUEST_CONTENT, ge=1024, le=1 << 30)
    model_bytes: Whole = Field(default=MAX_PROVISION_CONTENT, ge=1024, le=1 << 30)
    rows: Whole = Field(default=100_000, ge=1, le=(1 << 31) - 1)
    requests: Whole = Field(default=64, ge=1, le=4096)
    request_seconds: Seconds = 30.0
    shutdown_seconds: Seconds = 30.0
    provisioned_models: Whole = Field(default=64, ge=0, le=MAX_MODELS)


class Epoch(_Section):
    """How long the enclave's key for requests lives, and how much longer it opens requests under way."""

    # Shorter ones would keep the enclave busy with making keys.
    seconds: Annotated[Seconds, Field(ge=0.1)] = 3600.0
    grace_seconds: float = Field(default=300.0, ge=0, le=86400, allow_inf_nan=False)


class CollateralSource(_Section):
    """Where collateral comes from: a file, or the URL of a PCS or PCCS; at most one."""

    file: AnyPath | None = None
    service: str | None = None


class Unsafe(_Section):
    """What lowers the protection, all off unless spelled out."""

    simulation: bool = False
    debug: bool = False
    cleartext_predict: bool = False
    cleartext_upload: bool = False
    anonymous: list[Role] = []
    plain_http: bool = False

    def in_force(self) -> list[str]:
        """Names of those that are on."""
        return [name for name in UNSAFE_MEANINGS if getattr(self, name)]


class ServerSettings(BaseSettings):
    """Every setting of the server. Made by :func:`load_settings`, which names all faults at once."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    host: str = Field(default="127.0.0.1", min_length=1)
    port: Whole = Field(default=8080, ge=0, le=65535)
    model_store: AnyPath
    image: AnyPath | None = None
    policy: Literal["mrenclave", "mrsigner"] = "mrenclave"
    tls: Tls = Tls()
    tokens: Tokens = Tokens()
    limits: Limits = Limits()
    epoch: Epoch = Epoch()
    collateral: CollateralSource = CollateralSource()
    console: bool = True
    allowed_hosts: list[Host] = []
    allowed_origins: list[Origin] = []
    unsafe: Unsafe = Unsafe()

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # pydantic-settings hands all of them over by name
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        **_: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what :func:`load_settings` hands over, which has read the environment itself."""
        del settings_cls
        return (init_settings,)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def load_settings(config: str | os.PathLike[str] | None = None, **flags: Any) -> ServerSettings:
    """Read, merge and check the settings of file, environment and flags, the later before the earlier.

    Parameters
    ----------
    config
        A TOML file; by default the one that ``CONFIDENTIAL_ML_CONFIG`` names, if it is set.
    **flags
        Settings by name, those of a section as a mapping: ``port=0, unsafe={"simulation": True}``.

    Returns
    -------
    ServerSettings

    Raises
    ------
    SettingsError
        If anything is unknown, malformed, missing, does not fit together, or lowers the protection without being
        spelled out under ``[unsafe]``; it names everything at once.
    """
    faults: list[str] = []
    merged: dict[str, Any] = {}
    for source in (_from_file(config, faults), _from_environment(faults), flags):
        _merge(merged, source)
    settings, broken = _validated(merged, faults)
    for sections, check in _CHECKS:
        if settings is not None and not broken.intersection(sections):
            faults += check(settings)
    if faults or settings is None:
        raise SettingsError(faults)
    return settings


def check_enclave(settings: ServerSettings, identity: EnclaveIdentity) -> None:
    """Raise `SettingsError` if the enclave protects less than the settings say."""
    faults = _platform_faults(settings, identity.platform)
    if identity.debug and not (settings.unsafe.debug or settings.unsafe.simulation):
        faults.append(
            "the enclave has the debug attribute, so a debugger may read its memory: build it without Debug=1 in "
            "enclave.conf, or say unsafe.debug = true"
        )
    if faults:
        raise SettingsError(faults)


# ---- sources --------------------------------------------------------------------------------------------------------


def _from_file(config: str | os.PathLike[str] | None, faults: list[str]) -> dict[str, Any]:
    path = config if config is not None else os.environ.get(_CONFIG_VARIABLE)
    if path is None:
        return {}
    try:
        if os.path.getsize(path) > _MAX_FILE_SIZE:
            faults.append(f"{os.fspath(path)}: no file of settings has more than {_MAX_FILE_SIZE} bytes")
            return {}
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        faults.append(f"{os.fspath(path)} cannot be read: {error.strerror or error}")
    except RecursionError:
        faults.append(f"{os.fspath(path)} is not TOML: it is nested too deeply")
    except ValueError as error:  # also of bytes that are no UTF-8, of numbers too long for Python, of an odd path
        faults.append(f"{os.fspath(path)} is not TOML: {error}")
    return {}


def _from_environment(faults: list[str]) -> dict[str, Any]:
    sections = {name.upper(): _is_section(field) for name, field in ServerSettings.model_fields.items()}
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(_PREFIX) or upper in _OTHER_VARIABLES or upper == _CONFIG_VARIABLE:
            continue
        first, *rest = upper.removeprefix(_PREFIX).split("__")
        # What is deeper than settings go would be passed over; unknown names in a section are found with the others.
        if first not in sections or len(rest) > sections[first]:
            faults.append(f"the environment variable {name} is no setting; correct or unset it")
    try:
        return EnvSettingsSource(ServerSettings)()
    except SourceError as error:
        faults.append(f"the environment: {error}; lists are written as JSON")
        return {}


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, _Section)


def _merge(into: dict[str, Any], source: Mapping[str, Any]) -> None:
    for name, value in source.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value


def _validated(merged: dict[str, Any], faults: list[str]) -> tuple[ServerSettings | None, set[str]]:
    """The settings, and the names of those that had to be left out as they are broken."""
    try:
        return ServerSettings(**merged), set()
    except ValidationError as error:
        faults += [_sentence(one) for one in error.errors(include_url=False, include_input=False)]
        broken = {str(one["loc"][0]) for one in error.errors(include_url=False, include_input=False)}
    rest = {name: value for name, value in merged.items() if name not in broken}
    if "model_store" in broken:
        rest["model_store"] = Path()
    try:
        return ServerSettings(**rest), broken
    except ValidationError:
        return None, broken


def _sentence(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name} is no setting; see docs/http.md 4"
    if error["type"] == "missing":
        return f"{name} is missing; see docs/http.md 4"
    if name.startswith("allowed_origins"):
        return f"{name} must be null or the scheme, host and port of a page, such as https://example.org; never *"
    if name.startswith("allowed_hosts"):
        return f"{name} must be a name or an address without scheme and port, such as models.example.org or [::1]"
    if name.startswith("tokens") and error["type"] != "value_error":
        return f"{name} must be sha256: and the 64 hexadecimal digits of a token's SHA-256, never the token itself"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message[0].lower()}{message[1:]}"


# ---- what must fit together -----------------------------------------------------------------------------------------


def _platform_faults(settings: ServerSettings, platform: str) -> list[str]:
    if platform == "openenclave" or settings.unsafe.simulation:
        return []
    return [
        f"this installation is a {platform}, which protects nothing: build for SGX (docs/building.md), or say "
        "unsafe.simulation = true"
    ]


def _installed_platform(settings: ServerSettings) -> list[str]:
    try:
        return _platform_faults(settings, load_core().platform)
    except EnclaveError as error:
        return [str(error)]


def _anonymous(settings: ServerSettings) -> list[str]:
    without = [role for role in Tokens.model_fields if not getattr(settings.tokens, role)]
    both = [role for role in settings.unsafe.anonymous if role not in without]
    return [
        f"the role {role} has tokens under tokens.{role}, and unsafe.anonymous says it needs none: leave one out"
        for role in both
    ] + [
        f"the role {role} has no tokens: put sha256:HEX of some under tokens.{role}, or name it in unsafe.anonymous"
        for role in without
        if role not in settings.unsafe.anonymous
    ]


def _plain_http(settings: ServerSettings) -> list[str]:
    has_tokens = any(getattr(settings.tokens, role) for role in Tokens.model_fields)
    if not has_tokens or settings.tls.certificate or settings.is_loopback or settings.unsafe.plain_http:
        return []
    return [
        f"tokens would cross the network to {settings.host} unencrypted: set tls.certificate and tls.private_key, "
        "listen on 127.0.0.1 behind a proxy that has TLS, or say unsafe.plain_http = true"
    ]


def _tls(settings: ServerSettings) -> list[str]:
    certificate, key = settings.tls.certificate, settings.tls.private_key
    if (certificate is None) != (key is None):
        return ["tls.certificate and tls.private_key belong together; set both or none"]
    if certificate is None:
        return []
    try:
        # No password is ever asked for: the server starts without a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        return [f"tls: {error.reason or 'not PEM'}; certificate and private key must be PEM files that fit each other"]
    except (OSError, ValueError) as error:
        return [f"tls: {getattr(error, 'strerror', None) or error}; check tls.certificate and tls.private_key"]
    return []


def _no_password() -> str:
    raise ValueError("the private key is encrypted, and there is nobody to ask for its password")


def _epoch(settings: ServerSettings) -> list[str]:
    if settings.epoch.grace_seconds < settings.epoch.seconds:
        return []
    return ["epoch.grace_seconds must be less than epoch.seconds"]


def _files(settings: ServerSettings) -> list[str]:
    faults = []
    if settings.image is not None and not settings.image.is_file():
        faults.append(f"image: {settings.image} is no file")
    store = settings.model_store
    if store.exists() and not store.is_dir():
        faults.append(f"model_store: {store} is no directory")
    if not store.exists() and not store.absolute().parent.is_dir():
        faults.append(f"model_store: {store.absolute().parent} does not exist, so no directory can be made in it")
    return faults


def _collateral(settings: ServerSettings) -> list[str]:
    source = settings.collateral
    if source.file is not None and source.service is not None:
        return ["collateral.file and collateral.service exclude each other"]
    try:
        if source.file is not None:
            Collateral.load(source.file)
        if source.service is not None:
            from confidential_ml.attestation.collateral_service import CollateralService

            CollateralService(source.service)
    except (OSError, ConfidentialMLError) as error:
        return [f"collateral: {error}"]
    return []


# What each check reads: one that concerns a setting which is broken anyway would only add noise.
_CHECKS: list[tuple[set[str], Callable[[ServerSettings], list[str]]]] = [
    ({"unsafe"}, _installed_platform),
    ({"tokens", "unsafe"}, _anonymous),
    ({"host", "tokens", "tls", "unsafe"}, _plain_http),
    ({"tls"}, _tls),
    ({"epoch"}, _epoch),
    ({"image", "model_store"}, _files),
    ({"collateral"}, _collateral),
]
